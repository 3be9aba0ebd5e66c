"""Comparison tables from finished runs: `python -m src tables [--results_dir results] [--out tables]`.

Reads run folders (result.json, and predictions.npz for significance) and baselines/published.json, nothing else, and
writes a table for each data set, alignment and protocol as Markdown, CSV, LaTeX and PNG.
"""

import json
import math
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.errors import Parser, UserError, printable, run_command
from src.models import MODELS, ablations_of
from src.report.read_runs import Group, collect, read_predictions
from src.report.significance import EXCHANGES, holm, p_values
from src.report.table_formats import write_table
from src.tasks import Task, no_better_than, task_of_result

COMPARED = ("MulT", "PMR")  # the arrow and the test of significance say whether the second beats the first
PUBLISHED = Path(__file__).parents[2] / "baselines" / "published.json"
SIGNIFICANT = 0.05
NO_TEST = "No test of significance: it needs PMR and MulT on the same test samples and seeds."


@dataclass
class Cell:
    """One metric of one row. All numbers as measured; None where there is none."""

    values: list = field(default_factory=list)  # one a seed
    published: float | None = None  # in the same unit as the values
    recalled: bool = False  # the published figure was recalled, not read
    best: bool = False
    beats: bool = False  # PMR's mean is better than MulT's
    p_value: float | None = None  # of PMR against MulT, adjusted
    trivial: bool = False  # no better than the trivial baseline

    @property
    def mean(self) -> float | None:
        """The mean over seeds, None where there is no value."""
        return statistics.mean(self.values) if self.values and None not in self.values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, None of a single one."""
        return statistics.stdev(self.values) if self.mean is not None and len(self.values) > 1 else None

    @property
    def significant(self) -> bool:
        """Whether the adjusted p-value is below 5 %."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


@dataclass
class Row:
    """A model of a table: its cells by metric; its runs, for the metrics that the CSV alone shows."""

    label: str
    runs: list[dict[str, Any]]
    cells: dict[str, Cell]
    source: str = ""


@dataclass
class Table:
    """A table for `table_formats`. Its columns are those of the task."""

    name: str
    title: str
    task: Task
    rows: list[Row]
    notes: list[str]


def published_rows(group: Group, task: Task) -> dict[str, dict[str, Any]]:
    """The published figures of a table, {model: record}, in fractions where they are percentages."""
    rows = {}
    for record in json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]:
        alignment = "aligned" if record["aligned"] else "unaligned"
        if (record["dataset"], alignment, record["protocol"]) == group:
            figures = {key: value / (100 if task.definitions[key].percent else 1)
                       for key, value in record["test"].items() if key in task.definitions}
            rows[record["model"]] = {**record, "test": figures}
    return rows


def published_cell(record, key):
    """An empty cell but for the published figure."""
    return Cell(published=record["test"].get(key), recalled=record["read"] != "all" and key not in record["read"])


def build_table(group: Group, models: dict[str, list]) -> Table:
    """The comparison table of a Group: trivial baseline, published baselines, our models."""
    names = model_rows()
    runs = {name: models[name] for name in names if name in models}
    task = task_of_result(next(iter(runs.values()))[0])
    published = published_rows(group, task)
    rows = [
        Row(name, [], {key: published_cell(record, key) for key in task.columns.values()}, record["source"])
        for name, record in published.items() if name not in names
    ]
    rows += [model_row(name, runs.get(name, []), published.get(name), task) for name in names
             if name in runs or name in published]
    significance = compare_with_baseline(rows, runs, task) if set(COMPARED) <= set(runs) else NO_TEST
    return finish_table(group.stem, group.title, task, runs, rows, significance)


def model_rows() -> list[str]:
    """The models in the order of their rows: as registered, but PMR, which is compared, stands last."""
    return sorted(MODELS, key=lambda name: name == COMPARED[1])


def build_ablation_table(group: Group, models: dict[str, list], model: str) -> Table:
    """The table of a model and its ablations on a Group."""
    titles = {model: model, **{f"{model}-{name}": title for name, (title, _) in ablations_of(model).items()}}
    runs = {name: models[name] for name in titles if name in models}
    task = task_of_result(next(iter(runs.values()))[0])
    rows = [model_row(titles[name], of_model, None, task) for name, of_model in runs.items()]
    stem = group.stem + ("" if model == COMPARED[1] else f"_{model.lower()}")
    return finish_table(f"{stem}_ablations", f"{group.title}: {model} and its ablations", task, runs, rows, NO_TEST)


def model_row(name, runs, published, task):
    """A row of our own runs, with the published figures of the model."""
    cells = {key: published_cell(published, key) if published else Cell() for key in task.columns.values()}
    for key, cell in cells.items():
        cell.values = [run["test"][key] for run in runs]
    if runs:
        means = {key: math.nan if cell.mean is None else cell.mean for key, cell in cells.items()}
        trivial = {key: math.nan if value is None else value
                   for key, value in runs[0]["trivial_baseline"]["test"].items()}
        for key in no_better_than(task, means, trivial):
            cells[key].trivial = True
    return Row(name, runs, cells, published["source"] if published else "")


def finish_table(name, title, task, runs, rows, significance):
    """Put the trivial baseline on top, mark the best of our means in each column, and add the notes."""
    for key in task.columns.values():
        if ours := [row.cells[key] for row in rows if row.cells[key].mean is not None]:
            choose = min if key in task.lower_is_better else max
            choose(ours, key=lambda cell: cell.mean).best = True
    trivial = next(iter(runs.values()))[0]["trivial_baseline"]
    cells = {key: Cell([trivial["test"][key]]) for key in task.columns.values()}
    notes = [
        "Test split; the epoch is chosen by validation loss. Mean ± standard deviation over seeds.",
        task.note,
        f"† no better than the {trivial['name']}. Bold: best of our means. ↑ PMR above MulT.",
        significance, *search_notes(runs),
    ]
    if any(cell.published is not None for row in rows for cell in row.cells.values()):
        notes.append("(x) published, perhaps test-selected; ‡ recalled, not read in a source.")
    return Table(name, title, task, [Row(trivial["name"], [], cells), *rows], notes)


def compare_with_baseline(rows, runs, task):
    """Put arrows and p-values into the row of PMR; returns the note on the test of significance."""
    cells = {row.label: row.cells for row in rows}
    baseline, model = (cells[name] for name in COMPARED)
    for key in task.columns.values():
        a, b = baseline[key].mean, model[key].mean
        model[key].beats = None not in (a, b) and (b < a if key in task.lower_is_better else b > a)
    folders = [{run["seed"]: run["folder"] for run in runs[name]} for name in COMPARED]
    seeds = sorted(set.intersection(*map(set, folders)))
    try:
        stored = [[read_predictions(of_model[seed] / "predictions.npz") for seed in seeds] for of_model in folders]
        first = stored[0][0]
        if any(run["ids"].tolist() != first["ids"].tolist() for of_model in stored for run in of_model):
            return NO_TEST
        a, b = ([run["predictions"] for run in of_model] for of_model in stored)
        adjusted = holm(p_values(task, a, b, first["labels"]))
    except (UserError, ValueError, IndexError):
        return NO_TEST
    for key, p in adjusted.items():
        model[key].p_value = None if math.isnan(p) else float(p)
    return (f"* PMR and MulT differ, p < {SIGNIFICANT} after Holm over the columns: paired permutation test, "
            f"{EXCHANGES} exchanges, {len(first['ids'])} test samples x {len(seeds)} seeds.")


def search_notes(runs):
    """A line on the search of each model whose settings come from one."""
    searches = {name: of_model[0]["settings"].get("search") for name, of_model in runs.items()}
    return [f"{name}: settings from a search, {printable(cost)}." for name, cost in searches.items() if cost]


def write_tables(results_dir: str | Path, out: str | Path, ablations: bool = False) -> tuple[list[Table], list[str]]:
    """Write every table that the results allow into a folder; returns the tables and lines about what was left out."""
    groups, problems = collect(results_dir)
    tables = []
    for group, models in groups.items():
        if set(MODELS) & set(models):
            tables.append(build_table(group, models))
        for model in MODELS if ablations else ():
            if any(f"{model}-{name}" in models for name in ablations_of(model)):
                tables.append(build_ablation_table(group, models, model))
    if not tables:
        reason = f" ({problems[0]})" if problems else ""
        raise UserError(f"{results_dir} holds no finished run to make a table of{reason}; train one first")
    for table in tables:
        write_table(table, Path(out))
    return tables, problems


def main(argv: list[str] | None = None) -> int:
    """Write the tables and print them; returns the exit code."""
    return run_command(show_tables, argv)


def show_tables(argv):
    """The command line of `python -m src tables`."""
    parser = Parser(prog="python -m src tables", description=__doc__)
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--out", default="tables", help="folder of the tables")
    parser.add_argument("--ablations", action="store_true", help="also PMR against its ablations")
    arguments = parser.parse_args(argv)
    tables, problems = write_tables(arguments.results_dir, arguments.out, arguments.ablations)
    for table in tables:
        print((Path(arguments.out) / f"{table.name}.md").read_text(encoding="utf-8"))
    for problem in problems:
        print(f"# left out: {problem}", file=sys.stderr)
    print(f"# tables in {arguments.out}: " + ", ".join(f"{table.name}.{{md,csv,tex,png}}" for table in tables))
