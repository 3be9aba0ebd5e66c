"""Every run of a comparison, then its tables, figures and page. run_all.sh starts this.

    bash run_all.sh                             mosi, mosei and iemocap, both alignments, all models, five seeds
    bash run_all.sh demo                        the built-in demo with one seed
    bash run_all.sh --datasets mosi --jobs 4 -- --num_epochs 20      flags after -- are main.py's
    bash run_all.sh --dry_run                   list the runs, with their memory and time
    bash run_all.sh --ray --gpus_per_run 0.25   on the nodes of a Ray cluster

A run that is finished with the same settings is skipped, and one that was cut short is resumed after its last epoch,
so the same command resumes an interrupted grid.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from src.errors import Parser, UserError, printable
from src.grid.estimate import print_estimate
from src.grid.on_ray import execute_on_ray
from src.grid.plan import ALIGNMENTS, Run, fetch_missing, plan
from src.grid.pool import MAIN, execute_here, print_failures, unfinished, visible_gpus
from src.models import MODELS
from src.report.page.page import write_page
from src.report.plots import make_figures
from src.report.significance import CLUSTER_HELP, check_pattern
from src.report.tables import write_tables
from src.settings import parse_flags
from src.training.stop import run_resumable

SEEDS = (1111, 1112, 1113, 1114, 1115)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line of run_all.sh."""
    parser = Parser(prog="bash run_all.sh", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", nargs="?", metavar="demo", help="only the built-in demo, with one seed")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", default=["mosi", "mosei", "iemocap"])
    parser.add_argument("--models", nargs="+", metavar="MODEL", default=list(MODELS))
    parser.add_argument("--alignment", choices=ALIGNMENTS, default="both")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help=f"default: {' '.join(map(str, SEEDS))}")
    parser.add_argument("--jobs", type=int, default=None,
                        help="runs at a time, given out over the GPUs (default: one a GPU, or one; demo: one a core)")
    parser.add_argument("--preset", help="paper, stock or a FILE of python -m src tune, for every run")
    parser.add_argument("--ablations", action="store_true", help="also PMR with each of its ablations")
    parser.add_argument("--cluster", metavar="REGEX", type=check_pattern, help=CLUSTER_HELP)
    parser.add_argument("--download", action="store_true", help="first fetch the data files that are missing")
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--tables", default="tables", help="folder of the tables")
    parser.add_argument("--figures", default="figures", help="folder of the figures")
    parser.add_argument("--report", default="report", help="folder of the page")
    other_ways = parser.add_mutually_exclusive_group()
    other_ways.add_argument("--ray", metavar="ADDRESS", nargs="?", const="auto",
                            help="run on the Ray cluster of this address (default: the one that this machine is in); "
                                 "--jobs is then as many as there is room for")
    other_ways.add_argument("--index", type=int, metavar="I",
                            help="only the I-th run of the grid, counted from 0 as in --dry_run, and no tables")
    other_ways.add_argument("--dry_run", action="store_true",
                            help="run nothing; print every run with its memory and time, after a short measurement")
    parser.add_argument("--gpus_per_run", type=gpus, metavar="GPUS",
                        help="with --ray, of each run: a part of one, such as 0.25, or a number (default: 1 if the "
                             "cluster has any)")
    end = argv.index("--") if "--" in argv else len(argv)
    arguments, unknown = parser.parse_known_args(argv[:end])
    if unknown:
        flag = get_close_matches(unknown[0].split("=")[0], parser._option_string_actions, 1, 0.8)
        advice = f"did you mean {flag[0]}?" if flag else "flags of main.py stand after --"
        raise UserError(f"unrecognized arguments: {' '.join(unknown)}; {advice}")
    if arguments.plan not in (None, "demo"):
        raise UserError(f"{printable(arguments.plan)!r} is no plan; there is demo. Data sets stand after --datasets")
    preset = ("--preset", arguments.preset) if arguments.preset else ()
    arguments.main_flags = ("--results_dir", arguments.results_dir, *preset, *argv[end + 1:])
    check(arguments)
    is_demo = arguments.plan == "demo"
    if is_demo:
        arguments.datasets = ["demo"]
    arguments.seeds = arguments.seeds or (SEEDS[:1] if is_demo else SEEDS)
    if arguments.jobs is None and not arguments.ray:
        arguments.jobs = len(visible_gpus()) or (os.cpu_count() or 1 if is_demo else 1)
    return arguments


def gpus(text: str) -> float:
    """An argparse type: the GPUs of a run that Ray can reserve."""
    if not 0 <= float(text) < float("inf") or (float(text) > 1 and float(text) % 1):
        raise argparse.ArgumentTypeError(f"{text} GPUs cannot be given out; it must be from 0 to 1, or a whole number")
    return float(text)


def check(arguments: argparse.Namespace) -> None:
    """UserError where arguments do not go together."""
    if misplaced := {"download", "eval"} & set(parse_flags(arguments.main_flags)):
        raise UserError(f"--{misplaced.pop()} cannot stand after --: it is not a setting of a run")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs} starts nothing; give 1 or more")
    if arguments.gpus_per_run is not None and not arguments.ray:
        raise UserError("--gpus_per_run is for --ray; here, --jobs runs share the GPUs")
    if arguments.download and (arguments.dry_run or arguments.index is not None):
        raise UserError("--download goes with running the whole grid; fetch first: python -m src download --help")


def run_grid(argv: Sequence[str]) -> int:
    """Plan the runs, and list them, start them, or become one of them; returns the exit code."""
    arguments = parse_arguments(argv)
    chosen = (arguments.datasets, arguments.alignment, arguments.models)
    if arguments.download:
        fetch_missing(*chosen, arguments.main_flags)
    runs, missing = plan(*chosen, arguments.seeds, arguments.main_flags, arguments.ablations)
    for line in missing:
        print(f"# left out: {line}", file=sys.stderr)
    if not runs:
        raise UserError("there is nothing to run: no data set of the grid is there")
    if (index := arguments.index) is not None:
        if not 0 <= index < len(runs):
            raise UserError(f"--index {index} is not in the grid: it has {len(runs)} runs, 0 to {len(runs) - 1}")
        # this process becomes main.py, so that signals and exit code are those of the run
        os.execv(sys.executable, [sys.executable, str(MAIN), *runs[index].flags, "--resume"])
    failed = print_estimate(runs, arguments.jobs) if arguments.dry_run else run_all(runs, arguments)
    return 1 if failed or missing else 0


def run_all(runs: Sequence[Run], arguments: argparse.Namespace) -> int:
    """Run all that are not finished, then write tables, figures and page; returns the number of failed runs."""
    left, logs, failed = unfinished(runs), Path(arguments.results_dir) / "logs", []
    if left and arguments.ray:
        failed = execute_on_ray(arguments.ray, arguments.gpus_per_run, left, arguments.jobs, logs)
    elif left:
        failed = execute_here(left, arguments.jobs, logs)
    if len(failed) < len(runs):
        tables, problems = write_tables(arguments.results_dir, arguments.tables, arguments.ablations,
                                        arguments.cluster)
        figures = make_figures(arguments.results_dir, arguments.figures)
        page, _ = write_page(arguments.results_dir, arguments.report, arguments.ablations, arguments.cluster)
        for table in tables:
            print("\n" + (Path(arguments.tables) / f"{table.name}.md").read_text(encoding="utf-8"))
        print(f"# {len(tables)} tables in {arguments.tables}, {len(figures)} figures in {arguments.figures}; "
              f"all on one page: {page}")
        for line in problems:
            print(f"# left out: {line}", file=sys.stderr)
    print_failures(failed)
    return len(failed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the grid; returns the exit code: 0 if all is well, 1 if a run failed or data is missing, 2 for bad input."""
    return run_resumable(run_grid, argv)
