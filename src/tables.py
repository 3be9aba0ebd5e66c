"""The comparison table of a data set: `python -m src.tables --dataset demo`. Reads result.json files, nothing else."""

import argparse
import statistics
import sys
from pathlib import Path

from src.errors import UserError
from src.run_folder import read_result
from src.tasks import LOWER_IS_BETTER, task_of_result

TRIVIAL_MARK = "†"


def read_results(results_dir, dataset):
    """The contents of result.json of every finished run of a data set."""
    folders = (path.parent for path in sorted((Path(results_dir) / dataset).glob("*/*/seed*/result.json")))
    return [read_result(folder) for folder in folders if folder.name.removeprefix("seed").isdigit()]


def comparison_table(results):
    """A Markdown table of test metrics: a row an alignment and model, mean ± standard deviation over seeds."""
    columns = task_of_result(results[0]).columns
    header = ["", "seeds", *(f"{title} {'↓' if key in LOWER_IS_BETTER else '↑'}" for title, key in columns.items())]
    groups = {}
    for result in results:
        groups.setdefault((result["aligned"], result["model"]), []).append(result)
    rows, seen = [], set()
    for (aligned, model), runs in sorted(groups.items()):
        alignment = "aligned" if aligned else "unaligned"
        if alignment not in seen:
            seen.add(alignment)
            trivial = runs[0]["trivial_baseline"]
            cells = [format_cell([trivial["test"][key]]) for key in columns.values()]
            rows.append([f"{alignment}, {trivial['name']}", "", *cells])
        rows.append([f"{alignment}, {model}", str(len(runs)), *(model_cell(runs, key) for key in columns.values())])
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def model_cell(runs, key):
    """A model's cell, marked where any of its runs is no better than the trivial baseline in this metric."""
    mark = TRIVIAL_MARK if any(key in run["no_better_on"] for run in runs) else ""
    return format_cell([run["test"][key] for run in runs]) + mark


def format_cell(values):
    """Mean ± standard deviation; 'n/a' where a run left the metric undefined."""
    if None in values:
        return "n/a"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main(argv=None):
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.tables", description=__doc__)
    parser.add_argument("--dataset", required=True, help="its name in the results folder")
    parser.add_argument("--results_dir", default="results")
    arguments = parser.parse_args(argv)
    try:
        results = read_results(arguments.results_dir, arguments.dataset)
        if not results:
            raise UserError(f"{arguments.results_dir} holds no finished run on {arguments.dataset}; train one first")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{arguments.dataset}, test split, epoch chosen by validation loss\n")
    print(comparison_table(results))
    print(f"\nF1 as the original MulT computes it. {TRIVIAL_MARK} no better than the trivial baseline.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
