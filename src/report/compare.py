"""Two runs side by side: `python -m src compare A B`.

A and B are run folders or bare logs, ours or of the original MulT. With --seeds they are model folders, whose seed<k>
runs are compared as a whole, with an interval for each difference; with --mask_times the two logs are written without
their times, for diff. ▲ marks what is better in B, ▼ what is worse.
"""

import math
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.data.specs import find_spec
from src.errors import Parser, UserError, command, printable
from src.report.read_runs import LOSSES, read_log, read_run, read_seeds, read_text, test_metrics
from src.report.significance import (
    CLUSTER_HELP,
    FEWEST_CLUSTERS,
    FEWEST_SEEDS,
    MAIN,
    Difference,
    check_pattern,
    clusters_of,
    differences,
    enough_seeds,
    p_text,
)
from src.tasks import Task, task_of_result

LOG_DECIMALS = 4  # of the losses in a log
TIMES = re.compile(r"(?<=\| Time/Batch\(ms\)) +\S+|(?<=\| Time) +\S+(?= sec)")
TIME_PLACEHOLDER = " <time>"
NO_NUMBERS = re.compile(  # starts of lines: ours, and what the original says around its numbers
    r"# |Start loading the data|  - (Found cached|Creating new) |Finish loading the data|### Note: |Saved model at "
)

ARROWS = {"better": "▲", "worse": "▼", "equal": "=", "undefined": ""}
COLOURS = {"better": "\x1b[32m", "worse": "\x1b[31m"}
COLOUR_END = "\x1b[0m"


def compare(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The comparison of two runs of read_runs.py; UserError where they cannot be compared.

    Pairs are (of A, of B), None where a side lacks the value: settings, {name: pair} of those that differ, None where a
    side states none; epochs, {number: {loss: pair}}; metrics, {key: pair} of those that both have; seconds, parameters;
    largest, {loss: the largest absolute difference over the common epochs}, whose number is common_epochs.
    """
    check_comparable(("A", a), ("B", b))
    same_kind = a["kind"] == b["kind"]
    losses = LOSSES if same_kind else LOSSES[1:]
    epochs = {
        number: {loss: tuple(epoch_loss(run, number, loss, exact=same_kind) for run in (a, b)) for loss in losses}
        for number in sorted(a["epochs"].keys() | b["epochs"].keys())
    }
    common = a["epochs"].keys() & b["epochs"].keys()
    metrics_a, metrics_b = a["metrics"] or {}, b["metrics"] or {}
    return {
        "settings": differing_settings(a["settings"], b["settings"]),
        "epochs": epochs,
        "metrics": {key: (metrics_a[key], metrics_b[key]) for key in metrics_a if key in metrics_b},
        "seconds": tuple(sum(epoch["seconds"] for epoch in run["epochs"].values()) for run in (a, b)),
        "parameters": (a["parameters"], b["parameters"]),
        "common_epochs": len(common),
        "largest": {
            loss: largest([difference(*epochs[number][loss]) for number in common]) for loss in LOSSES[1:]
        },
    }


def check_comparable(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> None:
    """UserError unless two named runs are on the same data set, splits and task, as far as this is known of both."""
    (name_a, a), (name_b, b) = one, other
    for what, words in (("dataset", "on the data set"), ("protocol", "on the splits of"), ("task", "about")):
        of_a, of_b = (x.subject if isinstance(x, Task) else x for x in (a[what], b[what]))
        if None not in (of_a, of_b) and of_a != of_b:
            raise UserError(f"{name_a} is {words} {printable(of_a)}, {name_b} {words} {printable(of_b)}: "
                            "only runs on the same can be compared")


def epoch_loss(run, number, loss, exact):
    """A loss of an epoch, None where the run did not reach it; rounded like in a log unless `exact`."""
    value = run["epochs"].get(number, {}).get(loss)
    return value if exact or value is None else round(value, LOG_DECIMALS)


def differing_settings(a, b):
    """{name: (text of A, text of B)} of the settings that differ; None where a side states none."""
    if a is None or b is None:
        return None
    return {name: (a.get(name), b.get(name)) for name in a | b if a.get(name) != b.get(name)}


def difference(a: float | None, b: float | None) -> Any:
    """B - A; 0 of two equal or undefined values, None where one is missing."""
    if a is None or b is None:
        return None
    return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else b - a


def largest(differences: Iterable[Any]) -> Any:
    """The largest absolute value, nan if any is; None of nothing."""
    return max(map(abs, differences), key=lambda d: math.inf if math.isnan(d) else d, default=None)


def verdict(change: float | None, lower_is_better: bool) -> str:
    """Whether a change of a loss or metric is "better", "worse", "equal" or "undefined"."""
    if change is None or math.isnan(change):
        return "undefined"
    if change == 0:
        return "equal"
    return "better" if (change < 0) == lower_is_better else "worse"


def compare_seeds(a: dict[str, Any], b: dict[str, Any], cluster: str | None = None) -> dict[str, Any]:
    """The comparison of two model folders over their seeds, which are separate draws; UserError where it is impossible.

    seeds, a pair of lists; clusters, of the test samples by the pattern `cluster` (None: the data set's); metrics,
    {key: pair of lists, a value a seed}; differences, {key: B less A} of those in a table and of the main one;
    of_trained, whether these are of the trained models only; task.
    """
    runs_a, runs_b = (list(side["runs"].values()) for side in (a, b))
    try:
        check_same_samples({f"{side['name']}/seed{seed}": run for side in (a, b) for seed, run in side["runs"].items()})
        metrics_a, metrics_b = ([test_metrics(run["result"]) for run in runs] for runs in (runs_a, runs_b))
        metrics = {key: tuple([metrics[key] for metrics in side] for side in (metrics_a, metrics_b))
                   for key in metrics_a[0]}
        first = runs_a[0]
        task, pattern = task_of_result(first["result"]), cluster or find_spec(first["result"]["dataset"]).cluster
        predictions_a, predictions_b = ([run["predictions"] for run in runs] for runs in (runs_a, runs_b))
        clusters = clusters_of(first["ids"], pattern)
        of_trained = not all(enough_seeds([run["result"] for run in runs]) for runs in (runs_a, runs_b))
        found = differences(task, predictions_a, predictions_b, first["labels"], clusters, of_trained)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{a['name']} or {b['name']} is damaged: result.json and predictions.npz do not fit") from error
    return {
        "seeds": (list(a["runs"]), list(b["runs"])), "clusters": clusters, "metrics": metrics, "differences": found,
        "of_trained": of_trained, "task": task,
    }


def check_same_samples(runs: dict[str, dict[str, Any]]) -> None:
    """UserError unless all runs, by name, are on the same data set and task and the same test samples."""
    (first_name, first), *others = runs.items()
    for name, run in others:
        check_comparable(*((of, {**r["result"], "task": task_of_result(r["result"])})
                           for of, r in ((first_name, first), (name, run))))
        for what in ("ids", "labels"):
            if not np.array_equal(first[what], run[what]):
                raise UserError(
                    f"{first_name} and {name} have different test {what}: their samples cannot be paired; "
                    "train both on the same file"
                )


def mask_times(text: str) -> str:
    """A log with a placeholder for each time, and without the lines that hold no number to compare."""
    kept = [line for line in text.splitlines() if not NO_NUMBERS.match(line)]
    return "".join(TIMES.sub(TIME_PLACEHOLDER, line) + "\n" for line in kept)


def table(rows: list[list[Any]], coloured: bool, left_columns: int = 1) -> list[str]:
    """Lines of aligned columns. A cell is a text or a (text, verdict); the verdict chooses the colour."""
    rows = [[cell if isinstance(cell, tuple) else (cell, None) for cell in row] for row in rows]
    widths = [max(len(text) for text, _ in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for i, ((text, judged), width) in enumerate(zip(row, widths, strict=True)):
            padded = text.ljust(width) if i < left_columns else text.rjust(width)
            colour = COLOURS.get(judged) if coloured else None
            cells.append(f"{colour}{padded}{COLOUR_END}" if colour else padded)
        lines.append("  " + "  ".join(cells).rstrip())
    return lines


def show(value):
    return "-" if value is None else f"{value:z.4f}"


def show_difference(change):
    """B - A in a table: four decimals, or its size where these would hide it."""
    if change is None:
        return "-"
    if change == 0:
        return "0"
    return f"{change:+.4f}" if math.isnan(change) or abs(change) >= 0.00005 else f"{change:+.1e}"


def difference_cells(change, lower_is_better, arrow):
    """The difference and, if wanted, its arrow, as cells of a table."""
    judged = verdict(change, lower_is_better)
    return [(show_difference(change), judged), *([(ARROWS[judged], judged)] if arrow else [])]


def report(a: dict[str, Any], b: dict[str, Any], comparison: dict[str, Any], coloured: bool = False) -> list[str]:
    """The lines that show the comparison of two runs."""
    task = a["task"] or b["task"]
    return [
        f"A  {a['name']}", f"B  {b['name']}",
        *(f"note: {side} has no final metrics: it was cut short"
          for side, run in (("A", a), ("B", b)) if run["metrics"] is None),
        "", *settings_lines(a, b, comparison["settings"]),
        "", *epoch_lines(comparison["epochs"], coloured),
        "", *metric_lines(comparison["metrics"], task.lower_is_better if task else (), coloured),
        "", *closing_lines(comparison),
    ]


def settings_lines(a, b, differing):
    if differing is None:
        unknown = " and ".join(side for side, run in (("A", a), ("B", b)) if run["settings"] is None)
        return [f"settings: unknown of {unknown}, since a stock log states none"]
    if not differing:
        return ["settings: all equal"]
    rows = [[name, *("-" if text is None else printable(text) for text in pair)] for name, pair in differing.items()]
    return ["settings that differ", *table([["", "A", "B"], *rows], coloured=False, left_columns=3)]


def epoch_lines(epochs, coloured):
    losses = list(next(iter(epochs.values())))
    header = ["epoch", *(text for loss in losses for text in (f"{loss.removesuffix('_loss')} A", "B", "B - A"))]
    rows = [
        [str(number), *(
            cell for loss, pair in of_epoch.items()
            for cell in (*map(show, pair), *difference_cells(difference(*pair), True, arrow=False))
        )]
        for number, of_epoch in epochs.items()
    ]
    without = [] if "train_loss" in losses else [
        "  (no train loss: that of a run folder is the mean of the epoch, that of a log of the last batches)"
    ]
    return ["losses", *table([header, *rows], coloured), *without]


def metric_lines(metrics, lower_is_better, coloured):
    if not metrics:
        return ["final test metrics: none that both have"]
    rows = [
        [printable(key), *map(show, pair), *difference_cells(difference(*pair), key in lower_is_better, arrow=True)]
        for key, pair in metrics.items()
    ]
    return ["final test metrics", *table([["", "A", "B", "B - A", ""], *rows], coloured)]


def closing_lines(comparison):
    """Wall time, parameters, and the largest differences of the losses."""
    parameters = ["unknown" if count is None else f"{count:,}" for count in comparison["parameters"]]
    apart = ", ".join(
        f"{loss.replace('_', ' ')} {value:.4g}" for loss, value in comparison["largest"].items() if value is not None
    )
    return [
        *table([["", "A", "B"], ["wall time of the epochs", *(f"{s:.1f} s" for s in comparison["seconds"])],
                ["parameters", *parameters]], coloured=False),
        f"largest absolute difference over {comparison['common_epochs']} common epochs: {apart or 'none in common'}",
    ]


def seeds_report(a: dict[str, Any], b: dict[str, Any], comparison: dict[str, Any], coloured: bool = False) -> list[str]:
    """The lines that show the comparison of two model folders."""
    rows, task, clusters = [], comparison["task"], comparison["clusters"]
    for key, pair in comparison["metrics"].items():
        mean_a, mean_b = (float(np.mean(values)) for values in pair)
        rows.append([
            printable(key), *map(mean_and_spread, pair),
            *difference_cells(difference(mean_a, mean_b), key in task.lower_is_better, arrow=True),
            interval_text(comparison["differences"].get(key)),
        ])
    title, metrics = task.main
    main = comparison["differences"][MAIN]
    if len(metrics) > 1:
        falling = metrics[0] in task.lower_is_better
        rows.append([title, "", "", *difference_cells(float(main.value), falling, arrow=True), interval_text(main)])
    seeds = [", ".join(map(str, of_side)) for of_side in comparison["seeds"]]
    few = [f"only {clusters.total} clusters: with fewer than {FEWEST_CLUSTERS}, the intervals are unreliable"]
    return [
        f"A  {a['name']}  seed {seeds[0]}", f"B  {b['name']}  seed {seeds[1]}",
        "", "test metrics, mean ± standard deviation over the seeds",
        *table([["", "A", "B", "B - A", "", "95 % interval"], *rows], coloured),
        "", f"the intervals are over {clusters.words}" if comparison["of_trained"] else
        f"the intervals are over trained models, whose seeds are separate draws, and over {clusters.words}",
        *(few if clusters.total < FEWEST_CLUSTERS else []),
        f"fewer than {FEWEST_SEEDS} seeds: this compares these trained models only, without a test"
        if comparison["of_trained"] else
        f"{title}, the main metric: t-test, p-value {p_text(main.p_value)}; others are not tested",
    ]


def interval_text(found: Difference | None) -> str:
    """The interval of a difference; '' where there is none."""
    return f"[{found.low:+.4f}, {found.high:+.4f}]" if found and math.isfinite(found.high - found.low) else ""


def mean_and_spread(values):
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):z.4f}{spread}"


def write_masked_logs(directory, paths):
    """Write a.txt and b.txt, the logs of two runs without their times; returns the command that compares them."""
    logs = [path / "log.txt" if path.is_dir() else path for path in map(Path, paths)]
    for log in logs:
        read_log(log)  # no run, no log
    texts = [mask_times(read_text(log)) for log in logs]
    targets = [Path(directory) / name for name in ("a.txt", "b.txt")]
    if overwritten := {log.resolve() for log in logs} & {target.resolve() for target in targets}:
        raise UserError(f"{overwritten.pop()} would be overwritten; choose another folder for --mask_times")
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        for target, text in zip(targets, texts, strict=True):
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--mask_times cannot write to {directory}: {error.strerror}") from error
    return shlex.join(["diff", *map(str, targets)])


def lines_for(arguments, coloured):
    """The lines to print for a parsed command line."""
    paths = arguments.a, arguments.b
    if arguments.cluster is not None and not arguments.seeds:
        raise UserError("--cluster is for the intervals of --seeds; give both, or leave it out")
    if arguments.mask_times is not None:
        return [write_masked_logs(arguments.mask_times, paths)]
    if arguments.seeds:
        a, b = map(read_seeds, paths)
        return seeds_report(a, b, compare_seeds(a, b, arguments.cluster), coloured)
    a, b = map(read_run, paths)
    return report(a, b, compare(a, b), coloured)


@command
def main(argv: Sequence[str] | None) -> None:
    """Compare the runs on the command line."""
    parser = Parser(prog="python -m src compare", description=__doc__.split("\n\n")[1])
    parser.add_argument("a", metavar="A", help="a run folder or a log; with --seeds a model folder")
    parser.add_argument("b", metavar="B", help="the same")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--seeds", action="store_true", help="compare the seed<k> runs of two model folders")
    ways.add_argument("--mask_times", metavar="DIR", help="write the logs without times to DIR, for diff")
    parser.add_argument("--cluster", metavar="REGEX", type=check_pattern, help=f"with --seeds: {CLUSTER_HELP}")
    print(*lines_for(parser.parse_args(argv), coloured=sys.stdout.isatty()), sep="\n")
