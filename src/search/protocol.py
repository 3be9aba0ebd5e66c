"""Compare settings by a protocol that was written down first: python -m src protocol docs/measured/defaults.toml

The file names data sets, seeds and, for each model, candidates: flags of main.py that differ from today's defaults.
Every candidate is trained on every set with every seed. On each set, the candidates of a model are ranked by the mean
over seeds of their lowest validation losses; equal losses share their mean rank. The candidate with the lowest mean
rank over the sets is chosen, the earlier one of equals. No number of the test split is read.

    seeds = [1111, 1112, 1113]
    flags = ["--num_epochs", "12"]                  for every run
    [sets]
    "demo, aligned" = ["--dataset", "demo", "--aligned"]
    [models.MulT]
    today = []
    "padding hidden" = ["--mask_padding"]

The loss of each finished run is kept in the .csv beside the file. A run whose loss stands there is not trained again.
So the same command resumes a protocol that was stopped, on another machine too. Flags after -- are main.py's, for where
the data lies.
"""

import argparse
import csv
import io
import re
import shlex
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata

from src.errors import Parser, UserError, printable
from src.files import open_file, read_text, write_whole
from src.grid.plan import DECIDED, Run
from src.grid.pool import execute_here, print_failures
from src.options import count
from src.runs.run_folder import read_result
from src.settings import parse_flags, resolve
from src.training.stop import run_resumable


class Planned(NamedTuple):
    """A run of a protocol, and the columns of the .csv that identify it."""

    model: str
    candidate: str
    of_set: str
    seed: str
    flags: str

    def run(self, others: Sequence[str]) -> Run:
        """The call of main.py."""
        name = re.sub(r"\W+", "_", self.candidate)
        flags = ("--model", self.model, "--name", name, *shlex.split(self.flags), "--seed", self.seed, *others)
        return Run(flags, resolve(parse_flags(flags))[0])


@dataclass(frozen=True)
class Protocol:
    """The content of a protocol's file: flags of main.py by set, and by model and candidate."""

    seeds: list[int]
    flags: list[str]
    sets: dict[str, list[str]]
    models: dict[str, dict[str, list[str]]]

    def planned(self) -> list[Planned]:
        """All runs, in their order."""
        return [
            Planned(model, candidate, of_set, str(seed), shlex.join([*of_this_set, *self.flags, *changes]))
            for model, candidates in self.models.items() for of_set, of_this_set in self.sets.items()
            for candidate, changes in candidates.items() for seed in self.seeds
        ]


def read_protocol(path: Path) -> Protocol:
    """The protocol of a file; UserError where it cannot be read or is none."""
    try:
        content = tomllib.loads(read_text(path))
        protocol = Protocol(**content)
        groups = [protocol.flags, *protocol.sets.values(),
                  *(flags for candidates in protocol.models.values() for flags in candidates.values())]
        seeds_fit = len(set(protocol.seeds)) == len(protocol.seeds) > 0
        if not (seeds_fit and all(isinstance(text, str) for flags in groups for text in flags)):
            raise ValueError("its seeds or flags are not those of runs")
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error.strerror}; give the file of a protocol") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{printable(path)} is no protocol: {printable(error)}; see python -m src protocol --help"
                        ) from error
    return protocol


Losses = dict[Planned, float]


def read_losses(path: Path) -> Losses:
    """The lowest validation loss of each finished run, from a .csv; none where there is no such file."""
    try:
        with TextIOWrapper(open_file(path), "utf-8", newline="") as file:
            return {Planned(*row[:-1]): float(row[-1]) for row in [*csv.reader(file)][1:]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, csv.Error, IndexError) as error:
        raise UserError(f"{printable(path)} is damaged: {printable(error)}; mend or delete it") from error


def write_losses(path: Path, losses: Losses) -> None:
    """Write that .csv."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [[*Planned._fields, "valid_loss"], *([*planned, loss] for planned, loss in losses.items())]
    )
    write_whole(path, text.getvalue().encode())


def outcome(protocol: Protocol, model: str, losses: Losses) -> tuple[list[list[str]], str | None]:
    """The rows of a model's table, and the candidate that is chosen, None while runs are missing."""
    candidates, sets, seeds = protocol.models[model], list(protocol.sets), len(protocol.seeds)
    found: dict[str, dict[str, list[float]]] = {c: {s: [] for s in sets} for c in candidates}
    for planned in protocol.planned():
        if planned.model == model and planned in losses:
            found[planned.candidate][planned.of_set].append(losses[planned])
    whole = [s for s in sets if all(len(found[c][s]) == seeds for c in candidates)]
    ranks = dict(zip(candidates, np.transpose(
        [rankdata([statistics.mean(found[c][s]) for c in candidates]) for s in whole]
    ).tolist(), strict=True)) if whole else {c: [] for c in candidates}
    chosen = min(candidates, key=lambda c: statistics.mean(ranks[c])) if whole == sets else None
    rows = [[c, f"`{shlex.join(candidates[c])}`", *(cell(found[c][s], seeds) for s in sets),
             f"{statistics.mean(ranks[c]):.2f}" if whole else ""] for c in candidates]
    return [[f"**{text}**" if row[0] == chosen and i in (0, len(row) - 1) else text for i, text in enumerate(row)]
            for row in rows], chosen


def cell(values: Sequence[float], seeds: int) -> str:
    """Mean and spread over seeds of a loss; how many are there where some are missing."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}" + (f" ({len(values)} of {seeds})" if len(values) < seeds else "")


def show(protocol: Protocol, losses: Losses) -> None:
    """Print a table for each model, and its choice."""
    for model in protocol.models:
        rows, chosen = outcome(protocol, model, losses)
        head = [model, "flags", *protocol.sets, "mean rank"]
        print("", *(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]), "", sep="\n")
        print(f"{model}: {chosen} is chosen" if chosen else
              f"{model}: runs are missing, so nothing is chosen; ranks are over the sets that are whole")


def run(argv: Sequence[str]) -> int:
    """Train what is missing and show the tables; returns the exit code."""
    parser = Parser(prog="python -m src protocol", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="the protocol, in TOML")
    parser.add_argument("--results_dir", default="protocol", help="folder of the runs (default: protocol)")
    parser.add_argument("--jobs", type=count(1), default=1, help="runs at a time (default: 1)")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="only some of its models")
    parser.add_argument("--sets", nargs="+", metavar="SET", help="only some of its sets")
    parser.add_argument("--show", action="store_true", help="train nothing; show what is there")
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    others = ["--results_dir", arguments.results_dir, *argv[end + 1:]]
    if wrong := sorted(DECIDED & set(parse_flags(argv[end + 1:]))):
        raise UserError(f"--{wrong[0]} cannot stand after --: the protocol decides it")
    path = Path(arguments.file)
    whole, figures = read_protocol(path), path.with_suffix(".csv")
    protocol = replace(whole, sets=some(whole.sets, arguments.sets, "set"),
                       models=some(whole.models, arguments.models, "model"))
    runs = {planned: planned.run(others) for planned in protocol.planned()}
    losses = collect(figures, runs)
    left = [] if arguments.show else [run for planned, run in runs.items() if planned not in losses]
    failed = []
    if left:
        print(f"# {len(runs)} runs, {len(runs) - len(left)} of them finished before", flush=True)
        failed = execute_here(left, arguments.jobs, Path(arguments.results_dir) / "logs")
        losses = collect(figures, runs)
    show(protocol, losses)
    print_failures(failed)
    return 1 if failed else 0


def collect(figures: Path, runs: Mapping[Planned, Run]) -> Losses:
    """The losses of a .csv and of finished runs, which are added to it."""
    before = read_losses(figures)
    results = {p: read_result(run.settings.run_path) for p, run in runs.items() if p not in before and run.finished}
    losses = before | {planned: result["valid"]["loss"] for planned, result in results.items() if result}
    if losses != before:
        write_losses(figures, losses)
    return losses


def some(named: dict[str, Any], wanted: Sequence[str] | None, kind: str) -> dict[str, Any]:
    """Those that are wanted, by name; UserError where one is none of them."""
    if unknown := sorted(set(wanted or ()) - set(named)):
        raise UserError(f"the protocol has no {kind} {printable(unknown[0])!r}; it has {', '.join(named)}")
    return {name: value for name, value in named.items() if wanted is None or name in wanted}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the protocol; returns the exit code."""
    return run_resumable(run, argv)
