"""What a page shows of one group of runs: tables, curves, confusion matrices, settings and runs, as texts and numbers.

Curves are SVG of our own: matplotlib's takes ten times the room and has colours that do not follow light and dark.
"""

import math
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy import ndarray

from src.errors import UserError
from src.report.drawing import SPLIT_LINES, loss_curves, mean_curve
from src.report.plots import Run, confusion
from src.report.read_runs import predictions_of
from src.report.significance import MAIN
from src.report.table_formats import (
    definition_of,
    difference_columns,
    difference_rows,
    difference_text,
    headings,
    shown,
    shows_parameters,
    text_rows,
)
from src.report.tables import Row, Table
from src.runs.result import with_defaults
from src.tasks import Classification, EmotionClassification, Task

WIDTH, HEIGHT = 240, 120  # of a panel of curves


class Entry(NamedTuple):
    """A cell of a page's table."""

    text: str  # or Markup
    value: Any = None  # to sort by: a number or a text; None stands last
    tip: str = ""  # on hover
    marked: bool = False


class Listing(NamedTuple):
    """A table of a page."""

    head: Sequence[str]
    rows: Sequence[Sequence[Entry]]


def comparison(table: Table) -> Listing:
    """The rows of a Table, with the seeds and the interval of each cell on hover."""
    texts = text_rows(table, lambda text: f"<b>{text}</b>", lambda text: str(escape(text)))
    columns, rows = table.task.columns.values(), []
    for row, own in zip(table.rows, texts, strict=True):
        size = [row.runs[0]["parameters"] if row.runs else row.published_parameters] if shows_parameters(table) else []
        means = [row.cells[key].published if row.cells[key].mean is None else row.cells[key].mean for key in columns]
        values = [row.label, len(row.runs) or row.published_seeds, *size, *means]
        tips = [""] * (2 + len(size)) + [tip(table, row, key) for key in columns]
        rows.append([Entry(Markup(text), value, words)
                     for text, value, words in zip(own, values, tips, strict=True)])
    return Listing(headings(table), rows)


def tip(table: Table, row: Row, key: str) -> str:
    """A cell's values by seed, the interval of the difference, and the source of a published figure."""
    metric, cell = table.task.definitions[key], row.cells[key]
    parts = []
    if row.runs and None not in cell.values:
        parts.append("by seed " + ", ".join(f"{run['seed']}: {shown(metric, value)}"
                                            for run, value in zip(row.runs, cell.values, strict=True)))
    if row.less:
        parts.append(f"{table.reference} less {row.label}, with 95 % interval: "
                     f"{difference_text(metric, row.less[key])}")
    if cell.published is not None:
        parts.append(f"published: {row.source}")
    return "; ".join(parts)


def differences(table: Table) -> Listing | None:
    """The differences of a Table, the interval of the main one drawn; None where there are none."""
    head, *texts = difference_rows(table) or [[]]
    if not texts:
        return None
    rows = [row for row in table.rows if row.less]
    key = MAIN if MAIN in difference_columns(table).values() else table.task.main[1][0]
    reach = max((abs(x) for row in rows for x in row.less[key][:3] if math.isfinite(x)), default=0) or 1
    listed = []
    for row, (label, p_value, *own) in zip(rows, texts, strict=True):
        value, low, high = (float(x) for x in row.less[key][:3])
        drawn = interval_picture(value / reach, low / reach, high / reach) if math.isfinite(low + high) else ""
        values = [float(row.less[column].value) for column in difference_columns(table).values()]
        listed.append([Entry(label, label), Entry(p_value, row.p_value),
                       Entry(drawn, value, difference_text(definition_of(table, key), row.less[key])),
                       *(Entry(text.replace(" [", "\n["), x if math.isfinite(x) else None)
                         for text, x in zip(own, values, strict=True))])
    return Listing([*head[:2], f"interval ({table.task.main[0]})", *head[2:]], listed)


def interval_picture(value: float, low: float, high: float) -> Markup:
    """A difference and its interval, from -1 to 1, as a point on a line beside the line of 0."""
    return Markup('<svg class="interval" viewBox="-104 -8 208 16" aria-hidden="true"><path class="axis" d="M0-8V8"/>'
                  '<path d="M{:.0f} 0H{:.0f}"/><circle cx="{:.0f}" r="4"/></svg>').format(
                      100 * low, 100 * high, 100 * value)


class Panel(NamedTuple):
    """The losses of a model by epoch, in the pixels of a picture."""

    name: str
    words: str  # the same for those who do not see it
    lines: list[tuple[str, str, str]]  # split, "seed" or "mean", points
    dots: list[tuple[float, float]]  # the selected epochs


class Curves(NamedTuple):
    """The panels of a group, all on one scale."""

    panels: list[Panel]
    loss: str
    low: float
    high: float
    epochs: int


def point(step: int, value: float, low: float, high: float, steps: int) -> tuple[float, float]:
    """The pixel of a value at a step, counted from 1, in a panel of so many steps and of values from low to high."""
    return (round(WIDTH * (step - 1) / max(1, steps - 1)), round(HEIGHT * (high - value) / ((high - low) or 1), 1))


def points(curve: ndarray, low: float, high: float, steps: int) -> str:
    """The points of a line in such a panel; of a single step a line across it."""
    curve, steps = (np.repeat(curve, 2), 2) if steps == 1 else (curve, steps)
    return " ".join("{:g},{:g}".format(*point(step, value, low, high, steps)) for step, value in enumerate(curve, 1))


def curves(models: dict[str, list[Run]], loss: str) -> Curves:
    """Losses by epoch: a panel a model, a thin line a seed, a thick one their mean, a dot at each selected epoch."""
    of_models = {name: [loss_curves(run.epochs) for run in runs] for name, runs in models.items()}
    values = np.concatenate([own[split] for of_seeds in of_models.values() for own in of_seeds for split in own])
    low, high, epochs = values.min(), values.max(), max(len(own["valid"]) for x in of_models.values() for own in x)
    scale, panels = (float(low), float(high), epochs), []
    for name, runs in models.items():
        own = of_models[name]
        lines = [(split, "seed", points(of_seed[split], *scale)) for split in SPLIT_LINES for of_seed in own]
        lines += [(split, "mean", points(mean_curve([x[split] for x in own]), *scale)) for split in SPLIT_LINES]
        selected = [(run.result["selected_epoch"], x["valid"]) for run, x in zip(runs, own, strict=True)]
        words = ", ".join(f"seed {run.result['seed']}: epoch {epoch}, validation loss {curve[epoch - 1]:.3f}"
                          for run, (epoch, curve) in zip(runs, selected, strict=True))
        dots = [point(epoch, curve[epoch - 1], *scale) for epoch, curve in selected]
        panels.append(Panel(name, words, lines, dots))
    return Curves(panels, loss, *scale)


class Confusion(NamedTuple):
    """How often what is true was predicted as what: counts (R, C), and their shares of what is true."""

    rows: Sequence[str]
    columns: Sequence[str]
    counts: ndarray
    shares: ndarray


def confusion_of(task: Task, runs: list[Run]) -> Confusion | None:
    """The confusion matrix of a model, summed over seeds; None of scores. UserError where predictions are damaged."""
    if isinstance(task, Classification):
        counts = np.sum([confusion(task, run) for run in runs], axis=0)
        return Confusion(task.labels, task.labels, counts, counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    if not isinstance(task, EmotionClassification):
        return None
    stored = [predictions_of(run.result) for run in runs]
    try:
        predicted, true = np.concatenate([task.pair(x["predictions"], x["labels"]) for x in stored], axis=1)  # (S N, K)
    except ValueError as error:
        folder = runs[0].result["folder"].parent
        raise UserError(f"the predictions in {folder} are damaged; train its runs again") from error
    cases, words = [(t, p) for t in (1, 0) for p in (1, 0)], ("no", "yes")
    counts, totals = (np.stack(x, axis=1) for x in (  # (K, 4)
        [((true == t) & (predicted == p)).sum(axis=0) for t, p in cases], [(true == t).sum(axis=0) for t, _ in cases]))
    columns = [f"{words[t]} as {words[p]}" for t, p in cases]
    return Confusion(task.labels, columns, counts, counts / np.maximum(totals, 1))


def settings(models: dict[str, list]) -> tuple[Listing, list[tuple[str, str]]]:
    """The settings of the models: those that differ, with the unusual ones marked, and those in which all agree."""
    recorded = {name: [{k: v for k, v in with_defaults(run["settings"]).items() if k not in ("model", "seed", "name")}
                       for run in runs] for name, runs in models.items()}
    differing, equal = [], []
    for key in sorted({key for runs in recorded.values() for run in runs for key in run}):
        texts = {name: " / ".join(dict.fromkeys(str(run[key]) for run in runs if key in run))
                 for name, runs in recorded.items()}
        there = [text for text in texts.values() if text]
        usual = max(there, key=there.count, default="")
        row = [Entry(key, key), *(Entry(text, text, marked=text not in ("", usual)) for text in texts.values())]
        if len(set(there)) > 1:
            differing.append(row)
        else:
            equal.append((key, usual))
    return Listing(["", *models], differing), equal


def runs_listing(models: dict[str, list]) -> Listing:
    """Every run, with the command that trains it again and compares."""
    rows = []
    for name, runs in models.items():
        for run in runs:
            environment, command = run["environment"], f"python main.py --repeat {shlex.quote(str(run['folder']))}"
            commit, device = (str(environment.get(key, "")) for key in ("git_commit", "device"))
            rows.append([
                Entry(name, name), Entry(str(run["seed"]), run["seed"]),
                Entry(f"{run['selected_epoch']} of {run['epochs']}", run["selected_epoch"]),
                Entry(f"{run['seconds']:.0f} s", run["seconds"]), Entry(device, device),
                Entry(commit[:9], commit, commit), Entry(Markup("<code>{}</code>").format(command), command),
            ])
    return Listing(["model", "seed", "epoch", "time", "device", "commit", "repeat it"], rows)
