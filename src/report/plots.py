"""Figures of finished runs: `python -m src plots --dataset demo`. Curves and bars are drawn from run folders alone.
For the gates, messages and attention of PMR, the run with the lowest seed is rebuilt from its checkpoint and evaluated
on the test split again.

For each data set, alignment and protocol:

    ..._curves.png     losses by epoch, a panel a model
    ..._bars.png       test metrics of the models beside the trivial baseline
    ..._confusion.png  of classes: how often each is predicted as each, summed over seeds
    ..._gates.png      PMR: the mean gate G of each modality over time, a line a layer
    ..._messages.png   PMR: the message weights alpha of each layer
    ..._attention.png  PMR: crossmodal attention to the hub in the last layer, for one test sample
    ..._pairs.png      MulT: crossmodal attention of each pair in the last layer, for one of the samples whose decisions
                       a run keeps; MulT-FFL's has its name added

A PMR that was trained with a --name of its own adds it to the names of its three, and so does a MulT. Pooled folds have
bars and confusion matrices alone.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from src.dataset import Split
from src.errors import Parser, UserError, command
from src.models import MODELS, PMR
from src.report.drawing import (
    STYLE,
    count_seeds,
    draw_attention,
    draw_bars,
    draw_confusion,
    draw_curves,
    draw_gates,
    draw_messages,
    draw_pairs,
    loss_curves,
    save_figure,
)
from src.report.escapes import drawn_text
from src.report.folds import FOLDS_HELP, pool
from src.report.read_runs import Group, collect, predictions_of
from src.runs.decisions import read_decisions
from src.runs.run_folder import OutdatedRunError, read_metrics
from src.runs.trained import load_trained
from src.tasks import Classification, task_of_result

from modules.multimodal import by_modality

PAIR = re.compile(r"trans_(\w)_with_(\w)\.")  # the modules of a MulT: target and source


@dataclass(frozen=True)
class Run:
    """A finished run: the content of result.json, as `collect` gives it, and the lines of metrics.jsonl."""

    result: dict
    epochs: list


def find_runs(results_dir: str | Path, dataset: str | None = None) -> tuple[dict[Group, dict[str, list]], list[str]]:
    """The groups and problems of `collect`, each run as a Run; UserError where its metrics.jsonl is damaged."""
    groups, problems = collect(results_dir, dataset)
    return {
        group: {name: [read_run(result) for result in runs] for name, runs in models.items()}
        for group, models in groups.items()
    }, problems


def find_pooled(folds: Sequence[str]) -> tuple[dict[Group, dict[str, list]], list[str]]:
    """The groups and problems of `pool`, each run as a Run without epochs."""
    groups, problems = pool(folds)
    return {group: {name: [Run(result, []) for result in runs] for name, runs in models.items()}
            for group, models in groups.items()}, problems


def read_run(result: dict[str, Any]) -> Run:
    """The Run of a result; UserError where its metrics.jsonl is missing or damaged."""
    path = result["folder"] / "metrics.jsonl"
    epochs = read_metrics(result["folder"])
    try:
        losses = np.stack(list(loss_curves(epochs).values()))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; train the run again") from error
    if len(epochs) != result["epochs"] or not np.isfinite(losses).all():
        raise UserError(f"{path} is damaged; train the run again")
    return Run(result, epochs)


@torch.no_grad()
def decisions(model: PMR, split: Split, batch_size: int) -> tuple[dict, list[np.ndarray]]:
    """The gates and message weights of a PMR on a split, computed batch by batch.

    Returns {(layer, modality): gate (N, T_m), mean over features} and [alpha (N, M) of each layer], without those
    that an ablation takes away.
    """
    device = next(model.parameters()).device
    gates: dict[tuple[int, str], list] = {}
    alphas: list[list] = [[] for _ in model.layers]
    for indices in torch.arange(len(split)).split(batch_size):
        streams, _ = split.batch(indices, device)
        record: dict[str, dict] = {"gates": {}, "alphas": {}}
        model(*streams, decisions=record)
        for i, kept in enumerate(alphas):
            for m in model.modalities:
                if (gate := record["gates"].get(f"layers.{i}.reinforce.{m}.filter")) is not None:
                    gates.setdefault((i, m), []).append(gate.mean(dim=2).cpu())
            if (alpha := record["alphas"].get(f"layers.{i}.update")) is not None:
                kept.append(alpha.cpu())
    return (
        {key: torch.cat(batches).numpy() for key, batches in gates.items()},
        [torch.cat(batches).numpy() for batches in alphas if batches],
    )


def mean_of_real_samples(values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Mean over samples of (N, T), at each step over those that have no padding there; nan where none is -> (T,)."""
    real = ~padding
    count = real.sum(axis=0)
    return np.where(count > 0, (values * real).sum(axis=0) / np.maximum(count, 1), np.nan)


def gate_curves(gates: dict, padding: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{modality: (layers, T_m)} of the gates that `decisions` returns and padding (N, T_m) by modality."""
    curves: dict[str, list] = {}
    for (_, m), gate in sorted(gates.items(), key=lambda item: item[0][0]):
        curves.setdefault(m, []).append(mean_of_real_samples(gate, padding[m]))
    return {m: np.stack(layers) for m, layers in curves.items()}


@torch.no_grad()
def attention_to_hub(model: PMR, split: Split, index: int) -> dict[str, np.ndarray]:
    """The last layer's crossmodal attention, mean over heads, for one sample: {modality: (T_m, T_C)}."""
    streams, _ = split.batch(torch.tensor([index]), next(model.parameters()).device)
    record: dict[str, dict] = {"attention": {}}
    model(*streams, decisions=record)
    last = len(model.layers) - 1
    return {m: record["attention"][f"layers.{last}.reinforce.{m}"][0].cpu().numpy() for m in model.modalities}


def hub_segments(model: PMR) -> dict[str, tuple[int, int]]:
    """{modality: (first step, step after its last)} of the hub, in its order; its tokens are one segment."""
    if model.hub is not None:
        return {"tokens": (0, len(model.hub.queries))}
    segments, start = {}, 0
    for m in model.hub_order:
        segments[m] = (start, start + model.lengths[m])
        start += model.lengths[m]
    return segments


def make_figures(results_dir: str | Path, out: str | Path, dataset: str | None = None, sample: str | None = None,
                 data_path: str | None = None, folds: Sequence[str] = ()) -> list:
    """Draw all figures, of pooled `folds` in place of `results_dir` if there are some; returns a line for each that is
    written or left out.
    """
    groups, problems = find_pooled(folds) if folds else find_runs(results_dir, dataset)
    if not groups:
        reason = f" ({problems[0]})" if problems else ""
        where = f"{' '.join(folds) or results_dir} holds no finished run{f' on {dataset}' if dataset else ''}"
        raise UserError(f"{where}{reason}; train one first")
    learned, paired = (
        [(group, name, runs[0].result) for group, models in groups.items() for name, runs in models.items()
         if issubclass(MODELS[runs[0].result["model"]], kind) and not folds] for kind in (PMR, MODELS["MulT"])
    )
    if sample is not None and not learned + paired:
        raise UserError("--sample is for the attention of PMR and MulT, and no run of them has finished; leave it out")
    lines: list = [f"# left out: {problem}" for problem in problems]
    with drawn_text(**STYLE):
        for group, models in groups.items():
            result = next(iter(models.values()))[0].result
            task, title, stem = task_of_result(result), group.title, group.stem
            if not folds:
                lines.append(save(draw_curves(title, models, task.loss_name), out, f"{stem}_curves"))
            lines.append(save(draw_bars(title, models, task, result["trivial_baseline"]), out, f"{stem}_bars"))
            if isinstance(task, Classification):
                counts = {f"{name}, {count_seeds({name: runs})}": np.sum([confusion(task, run) for run in runs], axis=0)
                          for name, runs in models.items()}
                lines.append(save(draw_confusion(f"{title}, test", counts, task.labels), out, f"{stem}_confusion"))
        for group, trial, result in paired:
            lines += draw_pairs_of(group, trial, result, out, sample)
        for group, trial, result in learned:
            lines += draw_learned(group.title, group.stem, trial, result, out, sample, data_path)
    return lines


def confusion(task: Classification, run: Run) -> np.ndarray:
    """How often each true class was predicted as each on the test split: (K, K) counts, a row a true class."""
    stored = predictions_of(run.result)
    try:
        predicted, true = task.pair(stored["predictions"], stored["labels"])
        counts = np.zeros((task.output_dim, task.output_dim), dtype=int)
        np.add.at(counts, (true, predicted), 1)
    except (ValueError, IndexError) as error:
        raise UserError(f"{run.result['folder']}/predictions.npz is damaged; train the run again") from error
    return counts


def draw_pairs_of(group: Group, trial: str, result: dict[str, Any], out: str | Path, sample: str | None) -> Iterator:
    """Draw what a MulT attends to, from the file that its run keeps; yields a line."""
    title, found = f"{group.title}, {trial}, 1 seed ({result['seed']})", read_decisions(result["folder"])
    if found is None:
        yield f"# {title}: no figure of attention, it was not recorded; train the run again"
    elif sample is not None and sample not in found.ids:
        yield f"# {title}: no attention was recorded for sample {sample!r}; there are {', '.join(found.ids)}"
    else:
        index = 0 if sample is None else found.ids.index(sample)
        pairs = {(match[1], match[2]): weights[index] for name, weights in found.attention.items()
                 if (match := PAIR.match(name))}
        figure = draw_pairs(title, found.ids[index], pairs, by_modality(found.steps))
        yield save(figure, out, f"{group.stem}_pairs{trial.removeprefix('MulT')}")


def draw_learned(group: str, stem: str, trial: str, result: dict[str, Any], out: str | Path, sample: str | None,
                 data_path: str | None) -> Iterator:
    """Draw what a PMR decides on the test split; yields a line for each figure that is written or left out."""
    moved: dict[str, Any] = {} if data_path is None else {"data_path": data_path}
    try:
        model, dataset, settings, _ = load_trained(result["folder"], device="auto", **moved)
    except OutdatedRunError as error:
        yield f"# {group}, {trial}: no figure of its decisions, {error}"
        return
    assert isinstance(model, PMR)
    split, suffix = dataset.splits["test"], trial.removeprefix("PMR")
    if sample is not None and sample not in split.ids:
        raise UserError(f"{group}, test has no sample {sample!r}; its first is {split.ids[0]!r}")
    title = f"{group}, {trial}, 1 seed ({result['seed']})"
    gates, alphas = decisions(model, split, settings.batch_size)
    if gates:
        padding = {m: mask.numpy() for m, mask in by_modality(split.padding).items()}
        yield save(draw_gates(title, gate_curves(gates, padding)), out, f"{stem}_gates{suffix}")
    else:
        yield f"# {group}, {trial}: no figure of gates, they are fixed (no_dynamic_filter)"
    if alphas:
        yield save(draw_messages(title, alphas, model.modalities), out, f"{stem}_messages{suffix}")
    else:
        yield (f"# {group}, {trial}: no figure of messages, they are not weighted (message_update "
               f"{settings.options['message_update']}, modalities {settings.options['modalities']})")
    index = 0 if sample is None else split.ids.index(sample)
    figure = draw_attention(title, split.ids[index], attention_to_hub(model, split, index), hub_segments(model))
    yield save(figure, out, f"{stem}_attention{suffix}")


def save(figure: Figure, out: str | Path, name: str) -> Path:
    """Write a figure as {out}/{name}.png; returns the path."""
    path = Path(out) / f"{name}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path)
    except OSError as error:
        raise UserError(f"figures cannot be written to {out}: {error.strerror}; see --out") from error
    return path


@command
def main(argv: Sequence[str] | None) -> None:
    """Draw the figures and print their paths."""
    parser = Parser(prog="python -m src plots", description="Draw figures of finished runs.")
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--folds", nargs="+", metavar="DIR", default=(), help=FOLDS_HELP)
    parser.add_argument("--dataset", help="its name in the results folder; without it, all that are there")
    parser.add_argument("--out", default="figures", help="folder for the figures")
    parser.add_argument("--sample", metavar="ID", help="the test sample whose attention is shown; else the first")
    parser.add_argument("--data_path", help="folder of the data files, if they have moved since training")
    print(*make_figures(**vars(parser.parse_args(argv))), sep="\n")
