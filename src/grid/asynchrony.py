"""Does message passing help, where the truth is known: python -m src asynchrony

Models are trained on made-up streams (src/data/streams.py) that differ in their lag, and in the number of hops to the
answer. An oracle that reads the same noisy features says how good a model can be. The command writes the share of the
gap between the train mean and the oracle that each model leaves, as .csv, .md and .png, and says which claims hold.

    python -m src asynchrony            lags 0, 4, 8, one and two hops, three seeds
    python -m src asynchrony --quick    a part of that: lags 0 and 8, one seed, fewer models
    python -m src asynchrony --full     also lag 2, and at lag 4 and one hop: lags drawn for each sample, frame rates
                                        that differ, more noise, a stream missing in a share of samples

A run that is finished is skipped, and one that was cut short goes on, so the same command continues a study that was
stopped. The first of --models is compared with the others. Flags after -- are main.py's.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.data.oracle import oracle
from src.data.study import STUDY, Studied
from src.errors import Parser, UserError
from src.files import write_whole
from src.grid.grid import SEEDS
from src.grid.plan import DECIDED, Run, plan
from src.grid.pool import execute_here, print_failures, unfinished, visible_gpus
from src.options import count
from src.report.drawing import STYLE, save_figure
from src.report.escapes import drawn_text
from src.report.gaps import Gap, Gaps, as_csv, as_markdown, draw
from src.runs.run_folder import read_result
from src.settings import parse_flags
from src.training.stop import run_resumable

QUICK_LAGS, LAGS = (0, 8), (0, 4, 8)
QUICK_MODELS, MODELS = ("PMR", "MulT", "Linear"), ("PMR", "MulT", "MulT-FFL", "LF-LSTM", "Linear")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, with the settings that it asks for as `studied`."""
    parser = Parser(prog="python -m src asynchrony", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--quick", action="store_true", help="the first numbers in minutes")
    extent.add_argument("--full", action="store_true", help="all controls")
    parser.add_argument("--models", nargs="+", metavar="MODEL")
    parser.add_argument("--seeds", nargs="+", type=count(0), metavar="SEED")
    parser.add_argument("--jobs", type=count(1), help="runs at a time (default: one a GPU, or one a core)")
    parser.add_argument("--results_dir", default="asynchrony", help="folder of the runs (default: asynchrony)")
    parser.add_argument("--out", type=Path, help="folder of the table and the figure (default: that of the runs)")
    end = argv.index("--") if "--" in argv else len(argv)
    asked = parser.parse_args(argv[:end])
    if wrong := sorted(DECIDED & set(parse_flags(argv[end + 1:]))):
        raise UserError(f"--{wrong[0]} cannot stand after --: the study decides it")
    asked.main_flags = ("--results_dir", asked.results_dir, *argv[end + 1:])
    asked.models = asked.models or (QUICK_MODELS if asked.quick else MODELS)
    asked.seeds = asked.seeds or SEEDS[:1 if asked.quick else 3]
    lags = QUICK_LAGS if asked.quick else LAGS
    asked.studied = [s for s in STUDY if asked.full or (s.lag in lags and not s.control)]
    return asked


def gap_of(studied: Studied, runs: Sequence[Run]) -> Gap | None:
    """What the finished runs of a setting have reached; None where there are none."""
    results = [result for run in runs if run.settings.dataset == studied.name and run.finished
               and (result := read_result(run.settings.run_path))]
    if not results:
        return None
    test, models = studied.make()["test"], dict[str, dict[int, float]]()
    for result in results:
        models.setdefault(result["model"], {})[result["seed"]] = result["test"]["mae"]
    best = float(np.abs(oracle(studied.setting(), test) - test["labels"].ravel()).mean())
    return Gap(best, results[0]["trivial_baseline"]["test"]["mae"], models)


def write(gaps: Gaps, models: Sequence[str], out: Path) -> None:
    """Print the tables, and write the three files."""
    text = as_markdown(gaps, models)
    print(text)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "asynchrony.csv", as_csv(gaps))
        write_whole(out / "asynchrony.md", text.encode())
        with drawn_text(**STYLE):
            save_figure(draw(gaps, models), out / "asynchrony.png")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from error
    print(f"# wrote asynchrony.csv, .md and .png in {out}")


def run(argv: Sequence[str]) -> int:
    """Train what is missing, and write; returns the exit code."""
    asked = parse_arguments(argv)
    runs, _ = plan([s.name for s in asked.studied], "unaligned", asked.models, asked.seeds, asked.main_flags)
    failed = []
    if left := unfinished(runs):
        jobs = asked.jobs or len(visible_gpus()) or os.cpu_count() or 1
        failed = execute_here(left, jobs, Path(asked.results_dir) / "logs")
    if gaps := {studied: gap for studied in asked.studied if (gap := gap_of(studied, runs))}:
        write(gaps, list(dict.fromkeys(run.settings.model for run in runs)), asked.out or Path(asked.results_dir))
    print_failures(failed)
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit code."""
    return run_resumable(run, argv)
