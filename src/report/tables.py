"""Comparison tables from finished runs: `python -m src tables [--results_dir results] [--out tables]`.

Reads run folders (result.json, and predictions.npz for differences) and baselines/published.json, nothing else, and
writes a table for each data set, alignment and protocol as Markdown, CSV, LaTeX and PNG.
"""

import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.data.specs import find_spec
from src.errors import Parser, UserError, command, printable
from src.models import MODELS, ablations_of
from src.report.folds import FOLDS_HELP, FOLDS_NOTE, pool
from src.report.read_runs import Group, collect, predictions_of
from src.report.significance import (
    CLUSTER_HELP,
    FEWEST_CLUSTERS,
    FEWEST_SEEDS,
    LEVEL,
    MAIN,
    Clusters,
    Difference,
    check_pattern,
    clusters_of,
    differences,
    enough_seeds,
    holm,
)
from src.report.table_formats import write_table
from src.tasks import Task, no_better_than, task_of_result

COMPARED = ("MulT", "PMR")  # the arrow says whether the second has the better mean
REFERENCE = COMPARED[1]  # the rows show its difference from each other model
RIVALS = ("MulT", "MulT-FFL", "Linear")  # the models against which it is tested; Holm counts those with enough seeds
PUBLISHED = Path(__file__).parents[2] / "baselines" / "published.json"


@dataclass
class Cell:
    """One metric of one row. All numbers as measured; None where there is none."""

    values: list = field(default_factory=list)  # one a seed
    published: float | None = None  # in the same unit as the values
    recalled: bool = False  # the published figure was recalled, not read
    conflict: float | None = None  # what another source prints in its place
    best: bool = False
    beats: bool = False  # PMR's mean is better than MulT's
    trivial: bool = False  # no better than the trivial baseline

    @property
    def mean(self) -> float | None:
        """The mean over seeds, None where there is no value."""
        return statistics.mean(self.values) if self.values and None not in self.values else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, None of a single one."""
        return statistics.stdev(self.values) if self.mean is not None and len(self.values) > 1 else None


@dataclass
class Row:
    """A model of a table: its cells by metric; its runs, for the metrics that the CSV alone shows."""

    label: str
    runs: list[dict[str, Any]]
    cells: dict[str, Cell]
    source: str = ""
    published_parameters: int | None = None
    published_seeds: int | None = None  # None where the source does not say
    less: dict[str, Difference] = field(default_factory=dict)  # the table's reference less this model, by metric
    of_trained: bool = False  # these differences are of the trained models only
    p_value: float | None = None  # of the main metric's difference, adjusted

    def means(self, columns: Mapping[str, str]) -> dict[str, Any]:
        """Its name, its number of seeds, and the mean of each of the columns {title: metric}, None where there is none.
        """
        return {"model": self.label, "seeds": len(self.runs),
                **{title: self.cells[key].mean for title, key in columns.items()}}

    @property
    def starred(self) -> bool:
        """Whether the reference differs from this model in the main metric."""
        return self.p_value is not None and self.p_value < LEVEL


@dataclass
class Table:
    """A table for `table_formats`. Its columns are those of the task. Below it stand the rows' differences."""

    name: str
    title: str
    task: Task
    rows: list[Row]
    notes: list[str]
    reference: str = REFERENCE  # the model from which the rows' differences are


def published_rows(group: Group, task: Task) -> dict[str, dict[str, Any]]:
    """The published figures of a table, {model: record}, in fractions where they are percentages."""
    rows = {}
    for record in json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]:
        alignment = "aligned" if record["aligned"] else "unaligned"
        if (record["dataset"], alignment, record["protocol"]) == group:
            test, other = ({key: value / (100 if task.definitions[key].percent else 1)
                            for key, value in record.get(part, {}).items() if key in task.definitions}
                           for part in ("test", "conflicts"))
            rows[record["model"]] = {**record, "test": test, "conflicts": other}
    return rows


def published_row(label: str, runs: list[dict[str, Any]], record: dict[str, Any] | None, task: Task) -> Row:
    """A row with the published figures of a record, and without cells of our own."""
    if record is None:
        return Row(label, runs, {key: Cell() for key in task.columns.values()})
    cells = {
        key: Cell(published=record["test"].get(key), conflict=record["conflicts"].get(key),
                  recalled=record["read"] != "all" and key not in record["read"])
        for key in task.columns.values()
    }
    return Row(label, runs, cells, record["source"], record.get("parameters"), record.get("seeds"))


def build_table(group: Group, models: dict[str, list], cluster: str | None = None) -> Table:
    """The comparison table of a Group: trivial baseline, published baselines, our models.

    `cluster` is the pattern of ids for the intervals; None takes the data set's.
    """
    names = model_rows()
    runs = {name: models[name] for name in names if name in models}
    task = task_of_result(next(iter(runs.values()))[0])
    published = published_rows(group, task)
    rows = [published_row(name, [], record, task) for name, record in published.items() if name not in names]
    rows += [model_row(name, runs.get(name, []), published.get(name), task) for name in names
             if name in runs or name in published]
    if set(COMPARED) <= set(runs):
        mark_better(rows, task)
    differing = add_differences(rows, REFERENCE, task, cluster or find_spec(group.dataset).cluster)
    return finish_table(group.stem, group.title, task, runs, rows, differing)


def model_rows() -> list[str]:
    """The models in the order of their rows: as registered, but PMR, which is compared, stands last."""
    return sorted(MODELS, key=lambda name: name == REFERENCE)


def build_ablation_table(group: Group, models: dict[str, list], model: str, cluster: str | None = None) -> Table:
    """The table of a model and its ablations on a Group."""
    titles = {model: model, **{f"{model}-{name}": title for name, (title, _) in ablations_of(model).items()}}
    runs = {name: models[name] for name in titles if name in models}
    task = task_of_result(next(iter(runs.values()))[0])
    rows = [model_row(titles[name], of_model, None, task) for name, of_model in runs.items()]
    differing = add_differences(rows, model, task, cluster or find_spec(group.dataset).cluster)
    stem = group.stem + ("" if model == REFERENCE else f"_{model.lower()}")
    table = finish_table(f"{stem}_ablations", f"{group.title}: {model} and its ablations", task, runs, rows, differing)
    table.reference = model
    return table


def model_row(name: str, runs: list[dict[str, Any]], published: dict[str, Any] | None, task: Task) -> Row:
    """A row of our own runs, with the published figures of the model."""
    row = published_row(name, runs, published, task)
    for key, cell in row.cells.items():
        cell.values = [run["test"][key] for run in runs]
    if runs:
        means = {key: math.nan if cell.mean is None else cell.mean for key, cell in row.cells.items()}
        trivial = {key: math.nan if value is None else value
                   for key, value in runs[0]["trivial_baseline"]["test"].items()}
        for key in no_better_than(task, means, trivial):
            row.cells[key].trivial = True
    return row


def finish_table(name: str, title: str, task: Task, runs: dict[str, list], rows: list[Row],
                 differing: list[str]) -> Table:
    """Put the trivial baseline on top, mark the best of our means in each column, and add the notes."""
    for key in task.columns.values():
        if ours := [row.cells[key] for row in rows if row.cells[key].mean is not None]:
            choose = min if key in task.lower_is_better else max
            choose(ours, key=lambda cell: cell.mean or 0.0).best = True
    trivial = next(iter(runs.values()))[0]["trivial_baseline"]
    cells = {key: Cell([trivial["test"][key]]) for key in task.columns.values()}
    notes = [
        "Test split; the epoch is chosen by validation loss. Mean ± standard deviation over seeds.",
        task.note,
        f"† no better than the {trivial['name']}. Bold: best of our means. ↑ PMR above MulT.",
        *differing, *search_notes(runs),
    ]
    if any(cell.published is not None for row in rows for cell in row.cells.values()):
        notes.append("(x) published, perhaps test-selected; ‡ recalled, not read in a source.")
    notes += [f"§ {row.label}: another source prints {100 * cell.conflict:.1f} for {column}." for row in rows
              for column, key in task.columns.items() if (cell := row.cells[key]).conflict is not None]
    return Table(name, title, task, [Row(trivial["name"], [], cells), *rows], notes)


def mark_better(rows: list[Row], task: Task) -> None:
    """Put arrows into the row of PMR where its mean is better than MulT's."""
    cells = {row.label: row.cells for row in rows}
    baseline, model = (cells[name] for name in COMPARED)
    for key in task.columns.values():
        a, b = baseline[key].mean, model[key].mean
        model[key].beats = a is not None and b is not None and (b < a if key in task.lower_is_better else b > a)


def add_differences(rows: list[Row], reference: str, task: Task, cluster: str) -> list[str]:
    """Put the difference of the reference from each other row into that row, and stars; returns the notes on them."""
    trained = {row.label: row for row in rows if row.runs}
    others = [row for row in trained.values() if row.label != reference]
    if reference not in trained or not others:
        return [f"No differences: they need runs of {reference} and of another model."]
    stored = {label: stored_predictions(row.runs) for label, row in trained.items()}
    ours, clusters = stored[reference], None
    for row in others:
        theirs = stored[row.label]
        if not ours or not theirs or not all(np.array_equal(x, y) for x, y in zip(ours[1:], theirs[1:], strict=True)):
            continue
        clusters = clusters_of(ours[1], cluster)
        row.of_trained = not (enough_seeds(trained[reference].runs) and enough_seeds(row.runs))
        try:
            row.less = differences(task, theirs[0], ours[0], ours[2], clusters, row.of_trained)
        except (ValueError, IndexError):  # predictions of another shape
            continue
    tested = [row for row in others if row.less and row.label in RIVALS and not row.of_trained]
    adjusted = holm({row.label: float(row.less[MAIN].p_value) for row in tested})
    for row in tested:
        row.p_value = None if math.isnan(adjusted[row.label]) else adjusted[row.label]
    return difference_notes(others, reference, task, clusters)


def stored_predictions(runs: list[dict[str, Any]]) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray] | None:
    """The predictions of runs, their ids and labels; None where some are missing or differ in their samples."""
    try:
        stored = [predictions_of(run) for run in runs]
    except UserError:
        return None
    first = stored[0]
    if any(not np.array_equal(run[part], first[part]) for run in stored for part in ("ids", "labels")):
        return None
    return [run["predictions"] for run in stored], first["ids"], first["labels"]


def difference_notes(others: list[Row], reference: str, task: Task, clusters: Clusters | None) -> list[str]:
    """Lines about the differences from the other rows: what they are of, where there is no star, what is missing."""
    def names(chosen: list[Row]) -> str:
        return ", ".join(row.label for row in chosen)
    notes, shown = [], [row for row in others if row.less]
    tested = [row for row in shown if row.p_value is not None]
    if shown and clusters:
        models = "" if all(row.of_trained for row in shown) else "trained models (seeds are separate draws) and over "
        notes.append(f"Differences: {reference} less the model of the row, [95 % interval] over {models}"
                     f"{clusters.words}.")
        if clusters.total < FEWEST_CLUSTERS:
            notes.append(f"Warning: only {clusters.total} clusters. With fewer than {FEWEST_CLUSTERS}, the intervals "
                         "are unreliable.")
    if tested:
        notes.append(f"* {reference} differs from this model in the main metric, {task.main[0]}, which was declared "
                     f"beforehand: p < {LEVEL}, t-test, after Holm over {names(tested)}. Other columns are not tested.")
    if of_trained := [row for row in shown if row.of_trained]:
        notes.append(f"Fewer than {FEWEST_SEEDS} seeds of {reference} or of the other model: the difference from "
                     f"{names(of_trained)} compares these trained models only and has no star.")
    if missing := [row for row in others if not row.less]:
        notes.append(f"No difference from {names(missing)}: it needs predictions of the same test samples.")
    return notes


def search_notes(runs: dict[str, list]) -> list[str]:
    """A line on the search of each model whose settings come from one."""
    searches = {name: of_model[0]["settings"].get("search") for name, of_model in runs.items()}
    return [f"{name}: settings from a search, {printable(cost)}." for name, cost in searches.items() if cost]


def tables_of(group: Group, models: dict[str, list], ablations: bool = False,
              cluster: str | None = None) -> list[Table]:
    """The tables of a Group: that of the models, and those of the ablations."""
    tables = [build_table(group, models, cluster)] if set(MODELS) & set(models) else []
    return tables + [build_ablation_table(group, models, model, cluster) for model in (MODELS if ablations else ())
                     if any(f"{model}-{name}" in models for name in ablations_of(model))]


def write_tables(results_dir: str | Path, out: str | Path, ablations: bool = False,
                 cluster: str | None = None, folds: Sequence[str] = ()) -> tuple[list[Table], list[str]]:
    """Write every table that the results allow into a folder; returns the tables and lines about what was left out.

    `cluster` is the pattern of ids for the intervals; None takes that of each data set. `folds` are pooled results
    folders in place of `results_dir`.
    """
    groups, problems = pool(folds) if folds else collect(results_dir)
    tables = [table for group, models in groups.items() for table in tables_of(group, models, ablations, cluster)]
    if not tables:
        reason = f" ({problems[0]})" if problems else ""
        where = " ".join(folds) or results_dir
        raise UserError(f"{where} holds no finished run to make a table of{reason}; train one first")
    for table in tables:
        table.notes[:0] = [FOLDS_NOTE.format(len(folds))] if folds else []
        write_table(table, Path(out))
    return tables, problems


@command
def main(argv: Sequence[str] | None) -> None:
    """Write the tables and print them."""
    parser = Parser(prog="python -m src tables", description=__doc__)
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--folds", nargs="+", metavar="DIR", default=(), help=FOLDS_HELP)
    parser.add_argument("--out", default="tables", help="folder of the tables")
    parser.add_argument("--ablations", action="store_true", help="also PMR against its ablations")
    parser.add_argument("--cluster", metavar="REGEX", type=check_pattern, help=CLUSTER_HELP)
    arguments = parser.parse_args(argv)
    tables, problems = write_tables(**vars(arguments))
    for table in tables:
        print((Path(arguments.out) / f"{table.name}.md").read_text(encoding="utf-8"))
    for problem in problems:
        print(f"# left out: {problem}", file=sys.stderr)
    print(f"# tables in {arguments.out}: " + ", ".join(f"{table.name}.{{md,csv,tex,png}}" for table in tables))
