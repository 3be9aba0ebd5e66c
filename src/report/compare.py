"""Two runs side by side: `python -m src compare A B`.

A and B are run folders or bare logs, ours or of the original MulT. With --seeds they are model folders, whose seed<k>
runs are compared as a whole, with a test of significance; with --mask_times the two logs are written without their
times, for diff. ▲ marks what is better in B, ▼ what is worse.
"""

import math
import re
import shlex
import sys
from pathlib import Path

import numpy as np

from src.errors import Parser, UserError, printable, run_command
from src.report.comparison import compare, compare_seeds, difference, verdict
from src.report.read_runs import read_log, read_run, read_seeds, read_text
from src.report.significance import EXCHANGES

TIMES = re.compile(r"(?<=\| Time/Batch\(ms\)) +\S+|(?<=\| Time) +\S+(?= sec)")
TIME_PLACEHOLDER = " <time>"
NO_NUMBERS = re.compile(  # starts of lines: ours, and what the original says around its numbers
    r"# |Start loading the data|  - (Found cached|Creating new) |Finish loading the data|### Note: |Saved model at "
)

ARROWS = {"better": "▲", "worse": "▼", "equal": "=", "undefined": ""}
COLOURS = {"better": "\x1b[32m", "worse": "\x1b[31m"}
COLOUR_END = "\x1b[0m"


def mask_times(text):
    """A log with a placeholder for each time, and without the lines that hold no number to compare."""
    kept = [line for line in text.splitlines() if not NO_NUMBERS.match(line)]
    return "".join(TIMES.sub(TIME_PLACEHOLDER, line) + "\n" for line in kept)


def table(rows, coloured, left_columns=1):
    """Lines of aligned columns. A cell is a text or a (text, verdict), which is coloured after what it says."""
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
    """A loss or metric in a table."""
    return "-" if value is None else f"{value:.4f}"


def show_difference(change):
    """B - A in a table: four decimals, or its size where these would hide it."""
    if change is None:
        return "-"
    if change == 0:
        return "0"
    return f"{change:+.4f}" if math.isnan(change) or abs(change) >= 0.00005 else f"{change:+.1e}"


def difference_cells(key, change, arrow):
    """The difference and, if wanted, its arrow, as cells of a table."""
    judged = verdict(key, change)
    return [(show_difference(change), judged), *([(ARROWS[judged], judged)] if arrow else [])]


def report(a, b, comparison, coloured=False):
    """The lines that tell a user what `compare` found about two runs."""
    return [
        f"A  {a['name']}", f"B  {b['name']}",
        *(f"note: {side} has no final metrics: it was cut short"
          for side, run in (("A", a), ("B", b)) if run["metrics"] is None),
        "", *settings_lines(a, b, comparison["settings"]),
        "", *epoch_lines(comparison["epochs"], coloured),
        "", *metric_lines(comparison["metrics"], coloured),
        "", *closing_lines(comparison),
    ]


def settings_lines(a, b, differing):
    """The settings that differ."""
    if differing is None:
        unknown = " and ".join(side for side, run in (("A", a), ("B", b)) if run["settings"] is None)
        return [f"settings: unknown of {unknown}, since a stock log states none"]
    if not differing:
        return ["settings: all equal"]
    rows = [[name, *("-" if text is None else printable(text) for text in pair)] for name, pair in differing.items()]
    return ["settings that differ", *table([["", "A", "B"], *rows], coloured=False, left_columns=3)]


def epoch_lines(epochs, coloured):
    """The losses epoch by epoch."""
    losses = list(next(iter(epochs.values())))
    header = ["epoch", *(text for loss in losses for text in (f"{loss.removesuffix('_loss')} A", "B", "B - A"))]
    rows = [
        [str(number), *(
            cell for loss, pair in of_epoch.items()
            for cell in (*map(show, pair), *difference_cells(loss, difference(*pair), arrow=False))
        )]
        for number, of_epoch in epochs.items()
    ]
    without = [] if "train_loss" in losses else [
        "  (no train loss: that of a run folder is the mean of the epoch, that of a log of the last batches)"
    ]
    return ["losses", *table([header, *rows], coloured), *without]


def metric_lines(metrics, coloured):
    """The final test metrics."""
    if not metrics:
        return ["final test metrics: none that both have"]
    rows = [
        [printable(key), *map(show, pair), *difference_cells(key, difference(*pair), arrow=True)]
        for key, pair in metrics.items()
    ]
    return ["final test metrics", *table([["", "A", "B", "B - A", ""], *rows], coloured)]


def closing_lines(comparison):
    """Wall time, parameters, and how far the losses are apart."""
    parameters = ["unknown" if count is None else f"{count:,}" for count in comparison["parameters"]]
    apart = ", ".join(
        f"{loss.replace('_', ' ')} {value:.4g}" for loss, value in comparison["largest"].items() if value is not None
    )
    return [
        *table([["", "A", "B"], ["wall time of the epochs", *(f"{s:.1f} s" for s in comparison["seconds"])],
                ["parameters", *parameters]], coloured=False),
        f"largest absolute difference over {comparison['common_epochs']} common epochs: {apart or 'none in common'}",
    ]


def seeds_report(a, b, comparison, coloured=False):
    """The lines that tell a user what `compare_seeds` found about two model folders."""
    rows = []
    for key, pair in comparison["metrics"].items():
        mean_a, mean_b = (float(np.mean(values)) for values in pair)
        p = comparison["p_values"].get(key)
        rows.append([
            printable(key), *map(mean_and_spread, pair), *difference_cells(key, difference(mean_a, mean_b), arrow=True),
            "" if p is None else f"{p:.4f}",
        ])
    return [
        f"A  {a['name']}", f"B  {b['name']}",
        *(f"note: only {side} has seed {', '.join(map(str, seeds))}: left out"
          for side, seeds in comparison["left_out"].items() if seeds),
        "", f"test metrics, mean ± standard deviation over seed {', '.join(map(str, comparison['seeds']))}",
        *table([["", "A", "B", "B - A", "", "p"], *rows], coloured),
        "", f"p: two-sided permutation test with {EXCHANGES} exchanges, paired over {comparison['samples']} test "
        "samples and the seeds, adjusted after Holm for the number of metrics",
    ]


def mean_and_spread(values):
    """Mean ± standard deviation."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


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
    if arguments.mask_times is not None:
        return [write_masked_logs(arguments.mask_times, paths)]
    if arguments.seeds:
        a, b = map(read_seeds, paths)
        return seeds_report(a, b, compare_seeds(a, b), coloured)
    a, b = map(read_run, paths)
    return report(a, b, compare(a, b), coloured)


def main(argv=None):
    """Compare what the command line names; returns the exit code."""
    parser = Parser(prog="python -m src compare", description=__doc__.split("\n\n")[1])
    parser.add_argument("a", metavar="A", help="a run folder or a log; with --seeds a model folder")
    parser.add_argument("b", metavar="B", help="the same")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--seeds", action="store_true", help="compare the seed<k> runs of two model folders")
    ways.add_argument("--mask_times", metavar="DIR", help="write the logs without times to DIR, for diff")
    def show_comparison():
        print(*lines_for(parser.parse_args(argv), coloured=sys.stdout.isatty()), sep="\n")
    return run_command(show_comparison)
