"""`python -m src export RUN [RUN ...] OUT`: finished runs as one program of torch.export, with a card.

OUT is a folder. It gets model.pt2, which `torch.export.load` reads without this code, and card.md.
"""

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.data.formats import MODALITY_KEYS
from src.errors import Parser, UserError, command
from src.files import write_whole
from src.predict.predictor import Predictor, load_model
from src.report.escapes import markdown
from src.report.read_runs import seed_folders
from src.runs.result import NOT_OF_THE_OUTCOME
from src.runs.run_folder import read_result
from src.training.machine import torch_as_found

from modules import position_embedding, sequence

CARD = """# {names} on {dataset}, {alignment}

    program = torch.export.load("model.pt2").module()
    each = program(text, audio, vision)    # (runs, N, K): {runs} runs, N clips, K = {count}
    each.mean(dim=0), each.std(dim=0)      # the answer, and its spread over runs

Each number is the {kind} of a label: {labels}. N is any number of clips.

| input, float32 | shape |
|---|---|
{inputs}

Steps of zeros are padding. Shorter clips need zeros in front, of longer ones the end is taken: the program itself does
neither.

## Trained on

The data set {dataset}, {alignment}, with the splits of {protocol}; {task}. The epoch with the lowest validation loss
was chosen: {epochs}. The runs: {folders}.

## Metrics on its test split

| | mean of {runs} runs | standard deviation | {trivial} |
|---|---|---|---|
{metrics}

## Settings

{settings}

## Limits

- The features of a step must be those of the training data: the same extractor, in the same order. Nothing checks it.
- The metrics hold for clips like those of the test split. Nothing is known of other speakers, languages or cameras.
- {of_answers}
{weak}"""


class Answers(nn.Module):
    """What runs answer, each by itself."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.models = nn.ModuleList(run.model for run in predictor.runs)
        self.answer = predictor.trained_on.task.answer
        for parameter in self.parameters():  # parts of one vector, which torch.export cannot save
            parameter.data = parameter.data.clone()
        self.requires_grad_(False)

    def forward(self, text: Tensor, audio: Tensor, vision: Tensor) -> Tensor:
        """Streams (N, T_m, d_m), in which steps of zeros are padding -> (runs, N, K)."""
        return torch.stack([self.answer(model(text, audio, vision)[0]) for model in self.models])


def export_program(predictor: Predictor) -> torch.export.ExportedProgram:
    """The program of a Predictor on a CPU, for any number of clips."""
    of = predictor.trained_on
    clips = tuple(torch.zeros(2, steps, width) for steps, width in zip(of.input_lens, of.input_dims, strict=True))
    clear_kept_tensors()
    try:
        with torch_as_found(), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The tensor attributes", UserWarning)  # an LSTM's, which it puts back
            return torch.export.export(Answers(predictor).eval(), clips,
                                       dynamic_shapes=(({0: torch.export.Dim.DYNAMIC},) * 3))
    except Exception as error:  # a model may do anything
        names = " and ".join(sorted({run.settings.model for run in predictor.runs}))
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"torch.export does not take {names}: {reason}") from error
    finally:
        clear_kept_tensors()


def clear_kept_tensors() -> None:
    """Empty the caches of the blocks: an export must find and leave no tensors there."""
    for function in (*vars(position_embedding).values(), *vars(sequence).values()):
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def card_of(predictor: Predictor) -> str:
    """The card, in Markdown."""
    results: list[dict[str, Any]] = [read_result(run.folder) or {} for run in predictor.runs]
    first, of, task = results[0], predictor.trained_on, predictor.trained_on.task
    models, datasets = (" and ".join(sorted({result[key] for result in results})) for key in ("model", "dataset"))
    weak = markdown(", ".join(sorted({name for result in results for name in result["no_better_on"]})))
    shapes = zip(MODALITY_KEYS, of.input_lens, of.input_dims, strict=True)
    return CARD.format(
        names=models, dataset=markdown(datasets),
        alignment="aligned" if first["aligned"] else "unaligned", runs=len(results), count=len(task.labels),
        kind=task.kind_of_answer, labels=markdown(", ".join(task.labels)), protocol=first["protocol"],
        inputs="\n".join(f"| {key} | (N, {steps}, {width}) |" for key, steps, width in shapes),
        task=markdown(str(task)), epochs=", ".join(f"{r['selected_epoch']} of {r['epochs']}" for r in results),
        folders=markdown(", ".join(str(run.folder) for run in predictor.runs)),
        trivial=markdown(first["trivial_baseline"]["name"]),
        metrics="\n".join(metric_row(title, name, results) for title, name in task.columns.items()),
        settings="\n".join(f"- {markdown(name)}: {markdown(', '.join(dict.fromkeys(values)))}"
                           for name, values in settings_of(results).items()),
        of_answers="A probability is the model's own. It has not been calibrated." if task.kind_of_answer != "score"
        else "A score is the model's own number, also beyond the scale of the labels.",
        weak=f"- Some runs are no better than {markdown(first['trivial_baseline']['name'])} on {weak}.\n"
        if weak else "",
    )


def metric_row(title: str, name: str, results: list[dict[str, Any]]) -> str:
    """A row of the card: '| MAE | 0.6400 | 0.0100 | 2.0120 |'."""
    values = [result["test"][name] for result in results]
    known = None not in values
    numbers = (np.mean(values) if known else None, np.std(values, ddof=1) if known and len(values) > 1 else None,
               results[0]["trivial_baseline"]["test"][name])
    return f"| {markdown(title)} | " + " | ".join("n/a" if x is None else f"{x:.4f}" for x in numbers) + " |"


def settings_of(results: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Each setting that decides the outcome, as the runs have it."""
    names = dict.fromkeys(name for result in results for name in result["settings"]
                          if name == "seed" or name not in NOT_OF_THE_OUTCOME)
    return {name: [str(result["settings"].get(name)) for result in results] for name in names}


@command
def main(argv: Sequence[str] | None) -> None:
    parser = Parser(prog="python -m src export", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path,
                        help="folder of a finished run, or of a model: all its seeds")
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder, made if it is not there")
    asked = parser.parse_args(argv)
    if (asked.out / "config.json").exists() or seed_folders(asked.out):
        raise UserError(f"OUT {asked.out} has runs; name another folder after them")
    predictor, file = load_model(*asked.runs, device="cpu", precision="float32"), io.BytesIO()
    for note in predictor.notes:
        print(f"# {note}", file=sys.stderr)
    torch.export.save(export_program(predictor), file)
    asked.out.mkdir(parents=True, exist_ok=True)
    write_whole(asked.out / "model.pt2", file.getbuffer())
    write_whole(asked.out / "card.md", card_of(predictor).encode("utf-8", "backslashreplace"))
    print(f"# wrote {asked.out / 'model.pt2'} and card.md", file=sys.stderr)
