"""`python -m src robustness RUN_OR_MODEL_FOLDER ...`: trained runs on a disturbed test split, without training again.

For each data set and alignment it writes {stem}_robustness.csv, with every metric of every run, and .md and .png, with
the main metric of the task, the models side by side. Strength 0 is the run's own result.
"""

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm

from src.dataset import Dataset, Split
from src.errors import Parser, UserError, command
from src.files import write_whole
from src.report.drawing import STYLE, WIDTH, line_styles, save_figure
from src.report.escapes import csv_text, drawn_text, markdown
from src.report.read_runs import finished_runs
from src.robustness.disturbances import DISTURBANCES, UNITS, disturb, feature_spreads
from src.runs.result import check_reproduced, difference_of_settings
from src.runs.run_folder import read_result
from src.runs.trained import load_trained
from src.tasks import Task, task_of_result
from src.train import evaluate
from src.training.machine import explained, find_device, torch_as_found

Curve = tuple[str, float]  # of a disturbance: its name and strength; UNDISTURBED has none
UNDISTURBED: Curve = ("none", 0.0)


@dataclass
class Run:
    """A finished run, and its metrics under each disturbance once they are measured."""

    folder: Path
    result: dict[str, Any]
    metrics: dict[Curve, dict[str, float]] = field(default_factory=dict)

    @cached_property
    def task(self) -> Task:
        return task_of_result(self.result)

    @property
    def model(self) -> str:
        """The name of its model's folder."""
        return self.folder.resolve().parent.name

    @property
    def title(self) -> str:
        """The data set and alignment."""
        return f"{self.result['dataset']}, {'aligned' if self.result['aligned'] else 'unaligned'}"

    @property
    def stem(self) -> str:
        """The same as file names have it."""
        return self.title.replace(", ", "_")

    def main(self, curve: Curve) -> float:
        """The main metric of the task."""
        return statistics.mean(self.metrics[curve][key] for key in self.task.main[1])


def measure(runs: Sequence[Run], bar: tqdm, **changes: Any) -> None:
    """Evaluate runs of one data set, which is read once, on its test split, undisturbed and under every disturbance."""
    dataset: Dataset | None = None
    splits: dict[Curve, Split] = {}
    for run in runs:
        model, dataset, settings, _ = load_trained(run.folder, dataset, **changes)
        splits = splits or disturbed(dataset)
        batch_size = math.ceil(settings.batch_size / settings.batch_chunk)
        try:
            with explained(f"a batch of {batch_size} does not fit"):
                for curve, split in splits.items():
                    evaluation = evaluate(model, split, run.task, batch_size=batch_size,
                                          by_length=settings.trim_padding, device=find_device(settings.device))
                    if curve == UNDISTURBED:
                        check_reproduced(run.result, {"test": evaluation}, run.folder)
                    run.metrics[curve] = evaluation.metrics
                    bar.update()
        except FloatingPointError as error:
            raise UserError(f"{run.folder}: {error}") from error


def disturbed(dataset: Dataset) -> dict[Curve, Split]:
    """The test split, undisturbed and under every disturbance."""
    split, spreads = dataset.splits["test"], feature_spreads(dataset.splits["train"])
    return {UNDISTURBED: split} | {(d.curve, d.strength): disturb(split, d, spreads) for d in DISTURBANCES}


def by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each model."""
    names = dict.fromkeys(run.model for run in runs)
    return {name: [run for run in runs if run.model == name] for name in names}


def as_csv(runs: Sequence[Run]) -> bytes:
    """A line for each run and disturbance, with every metric of the task's table."""
    columns = runs[0].task.columns
    rows = [[run.model, run.result["seed"], name, strength, *(metrics[key] for key in columns.values())]
            for run in runs for (name, strength), metrics in run.metrics.items()]
    return csv_text([["model", "seed", "disturbance", "strength", *columns], *rows]).encode()


def as_markdown(runs: Sequence[Run]) -> str:
    """A table of the main metric: a row a model and disturbance, a column a strength from none on."""
    title, models = runs[0].task.main[0], by_model(runs)
    counts = ", ".join(f"{markdown(name)} {len(seeds)}" for name, seeds in models.items())
    lines = [f"# {runs[0].title}: {title} on the disturbed test split", "",
             f"Mean ± standard deviation over seeds: {counts}.", ""]
    for curve, strengths in curves().items():
        rows = [[f"{curve}, {UNITS[curve.split()[0]]}", "0", *(f"{s:g}" for s in strengths)],
                ["---"] * (2 + len(strengths))]
        for name, seeds in models.items():
            points = points_of(seeds, curve, strengths)
            rows.append([markdown(name), *(f"{mean:z.3f}" + (f" ± {spread:.3f}" if len(seeds) > 1 else "")
                                           for mean, spread in points)])
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def points_of(runs: Sequence[Run], curve: str, strengths: Sequence[float]) -> list[tuple[float, float]]:
    """The mean of the main metric and its standard deviation over runs, 0 of one, from strength 0 on."""
    values = [[run.main(key) for run in runs] for key in (UNDISTURBED, *((curve, s) for s in strengths))]
    return [(statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for v in values]


def curves() -> dict[str, list[float]]:
    """The strengths of each curve, without 0."""
    found: dict[str, list[float]] = {}
    for disturbance in DISTURBANCES:
        found.setdefault(disturbance.curve, []).append(disturbance.strength)
    return found


def draw(runs: Sequence[Run]) -> Figure:
    """The main metric over the strength: a panel a disturbance, a line a model, bars over seeds."""
    figure = Figure(figsize=(WIDTH, 8), layout="constrained")
    panels, models = figure.subplots(4, 2, sharey=True), by_model(runs)
    for axes, (curve, strengths) in zip(panels.T.flat, curves().items(), strict=True):
        for (name, seeds), style in zip(models.items(), line_styles(), strict=False):
            means, spreads = zip(*points_of(seeds, curve, strengths), strict=True)
            axes.errorbar([0, *strengths], means, spreads, capsize=2.5,
                          label=f"{name}, {len(seeds)} seed{'s' * (len(seeds) > 1)}", **style)
        axes.set_title(curve)
        axes.set_xlabel(UNITS[curve.split()[0]])
    for axes in panels[:, 0]:
        axes.set_ylabel(runs[0].task.main[0])
    figure.suptitle(f"{runs[0].title}: disturbed test split, without training again")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=3.5)
    return figure


def write(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write the three files of one data set; returns their paths."""
    paths = [out / f"{runs[0].stem}_robustness.{ending}" for ending in ("csv", "md", "png")]
    out.mkdir(parents=True, exist_ok=True)
    write_whole(paths[0], as_csv(runs))
    write_whole(paths[1], as_markdown(runs).encode())
    with drawn_text(**STYLE):
        save_figure(draw(runs), paths[2])
    return paths


@command
def main(argv: Sequence[str] | None) -> None:
    """Measure the runs that the command line names."""
    parser = Parser(prog="python -m src robustness", description="Evaluate trained runs on a disturbed test split: "
                    "streams, steps missing, noise, streams shifted against each other.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER",
                        help="of a finished run, or of a model with a run for each seed")
    parser.add_argument("--out", default="robustness", type=Path, help="folder for the files")
    parser.add_argument("--data_path", help="folder of the data files, if they have moved since training")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    asked = parser.parse_args(argv)
    if asked.out.exists() and not asked.out.is_dir():
        raise UserError(f"--out {asked.out} is a file; name a folder")
    changes = {"device": asked.device} | ({"data_path": asked.data_path} if asked.data_path else {})
    folders, left_out = finished_runs(asked.folders)
    for line in left_out:
        print(f"# {line}", file=sys.stderr)
    groups: dict[str, list[Run]] = {}
    for folder in folders:
        run = Run(folder, read_result(folder) or {})
        groups.setdefault(run.stem, []).append(run)
    for runs in groups.values():
        check_comparable(runs)
    with torch_as_found(), tqdm(total=len(folders) * (1 + len(DISTURBANCES)), unit="evaluation", leave=False,
                                disable=not sys.stderr.isatty()) as bar:
        for runs in groups.values():
            measure(runs, bar, **changes)
            paths = write(runs, asked.out)
            tqdm.write("\n".join([as_markdown(runs), *(f"# wrote {path}" for path in paths)]), file=sys.stdout)


def check_comparable(runs: Sequence[Run]) -> None:
    """UserError where the runs of a data set have different labels, or those of a model are not its seeds."""
    records = [run.task.record() | {"class_weights": None} for run in runs]
    if any(record != records[0] for record in records):
        raise UserError(f"the runs on {runs[0].title} have different labels; name those of one task")
    for name, (first, *others) in by_model(runs).items():
        for run in others:
            if difference := difference_of_settings(first.result, run.result):
                raise UserError(f"the runs of {name} differ in more than their seed ({difference}); measure them apart")
        if len({run.result["seed"] for run in (first, *others)}) <= len(others):
            raise UserError(f"two runs of {name} have the same seed; measure them apart")
