"""One page of everything: `python -m src page [--results_dir results] [--out report]`.

Reads run folders, nothing else, and writes report/index.html: a single file that asks nothing of any other machine. It
has the tables, learning curves, the samples on which two models disagree, confusion matrices, gates and attention,
settings and runs.
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.errors import Parser, UserError, command
from src.files import write_whole
from src.models import makes_decisions
from src.report.page.content import comparison, confusion_of, curves, differences, runs_listing, settings
from src.report.page.decisions import Decided, decided
from src.report.page.samples import items_of
from src.report.plots import read_run
from src.report.read_runs import Group, collect
from src.report.significance import CLUSTER_HELP, check_pattern
from src.report.tables import tables_of
from src.tasks import task_of_result


def write_page(results_dir: str | Path = "results", out: str | Path = "report", ablations: bool = False,
               cluster: str | None = None) -> tuple[Path, list[str]]:
    """Write the page of all finished runs; returns its path and lines about what was left out.

    `cluster` is the pattern of ids for the intervals; None takes that of each data set.
    """
    groups, problems = collect(results_dir)
    if not groups:
        reason = f" ({problems[0]})" if problems else ""
        raise UserError(f"{results_dir} holds no finished run{reason}; train one first")
    sections = [section(group, models, ablations, cluster, problems) for group, models in groups.items()]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    text = environment.get_template("page.html").render(
        results_dir=str(results_dir), sections=sections, problems=problems,
    )
    path = Path(out) / "index.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"the page cannot be written to {out}: {error.strerror}; see --out") from error
    return path, problems


def section(group: Group, models: dict[str, list], ablations: bool, cluster: str | None,
            problems: list[str]) -> dict[str, Any]:
    """The part of the page on a group; adds to `problems` the runs whose curves or predictions cannot be read."""
    task = task_of_result(next(iter(models.values()))[0])
    drawn: dict[str, list] = {}
    confusions: dict[str, Any] = {}
    decisions: list[Decided] = []
    for name, runs in models.items():
        try:
            drawn[name] = [read_run(run) for run in runs]
            if confusion := confusion_of(task, drawn[name]):
                confusions[name] = confusion
            decisions += islice((found for run in runs if (found := decided(name, run))), 1)
        except UserError as error:
            problems.append(str(error))
    return {
        "title": group.title, "stem": group.stem, "task": task,
        "tables": [(table, comparison(table), differences(table))
                   for table in tables_of(group, models, ablations, cluster)],
        "curves": curves(drawn, task.loss_name) if drawn else None,
        "samples": items_of(models, task), "confusions": confusions, "decisions": decisions,
        "undecided": sorted(name for name in set(models) - {found.model for found in decisions}
                            if makes_decisions(models[name][0]["model"])),
        "settings": settings(models), "runs": runs_listing(models),
    }


@command
def main(argv: Sequence[str] | None) -> None:
    """Write the page and print its path."""
    parser = Parser(prog="python -m src page", description=__doc__)
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--out", default="report", help="folder of the page")
    parser.add_argument("--ablations", action="store_true", help="also PMR against its ablations")
    parser.add_argument("--cluster", metavar="REGEX", type=check_pattern, help=CLUSTER_HELP)
    arguments = parser.parse_args(argv)
    path, problems = write_page(**vars(arguments))
    for problem in problems:
        print(f"# left out: {problem}", file=sys.stderr)
    print(path)
