"""Search for the settings of a model on a data set: python -m src tune --model PMR --dataset mosi --aligned --trials 50

The ranges of src/search/space.py and of the model's own options are searched, except for the settings that a flag of
main.py fixes. A trial trains its seeds one after the other; its value is the mean of their lowest validation losses. A
trial that is worse than most is pruned. The test split is not loaded. Trial 0 has the settings that main.py would take,
so that the best is at least as good.

Several processes with the same command work on one study, on one machine or on several that share the folder. The same
command resumes a study that was killed or stopped, and adds trials to it.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from src.errors import Parser, UserError, printable, run_command
from src.options import count
from src.settings import parse_flags
from src.training.stop import StopRequested

if TYPE_CHECKING:
    from src.search.search import Search

SEEDS = (1111, 1112, 1113)  # our choice: the first of run_all.sh
NO_SETTINGS = ("seed", "name", "results_dir", "resume", "download", "eval", "repeat")


def parse_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
    """The command's own arguments, main.py's flags by name, and these as they were given."""
    parser = Parser(prog="python -m src tune", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter,
                    epilog="All flags of main.py that are settings can be given too; those settings are not searched.")
    parser.add_argument("--trials", type=count(1), default=50,
                        help="in all, by all processes: complete, pruned and failed ones (default: 50)")
    parser.add_argument("--seeds", nargs="+", type=count(0), default=list(SEEDS),
                        help=f"of each trial (default: {' '.join(map(str, SEEDS))}, our choice)")
    parser.add_argument("--study", metavar="DIR", help="folder of the study (default: "
                        "studies/<dataset>/<aligned|unaligned>/<model>)")
    parser.add_argument("--sampler_seed", type=count(0, 2**31), default=0, help="of what is drawn (default: 0)")
    arguments, rest = parser.parse_known_args(argv)
    flags = parse_flags(rest)
    if wrong := sorted(set(flags) & set(NO_SETTINGS)):
        raise UserError(f"--{wrong[0]} cannot be given here: the study has its own folders and seeds")
    arguments.seeds = list(dict.fromkeys(arguments.seeds))
    return arguments, flags, rest


def run(argv: Sequence[str]) -> None:
    """Search, and show the outcome once all trials have ended."""
    arguments, flags, rest = parse_arguments(argv)
    from src.search.search import Search  # noqa: PLC0415, Optuna is an optional extra, and not needed for --help

    command = shlex.join(["python", "-m", "src", "tune", *argv])
    search = Search(flags, arguments.seeds, arguments.sampler_seed, arguments.study, command)
    tqdm.write(f"# {search.folder}: {arguments.trials} trials x {len(search.seeds)} seeds; searched are")
    tqdm.write("\n".join(f"#   {name}: {values} ({values.source})" for name, values in search.space.items()))
    try:
        search.run(arguments.trials)
        if running := search.study.running():
            tqdm.write(f"# {running} more in the hands of other processes; the last of them ends the search")
        else:
            show_outcome(search, rest)
    except OSError as error:
        raise UserError(f"{search.folder} cannot be written: {error.strerror or error}; once that is mended, the same "
                        "command resumes the search") from error


def show_outcome(search: "Search", main_flags: Sequence[str]) -> None:
    """Draw the figures of a finished Search; print its outcome and the command that trains with it."""
    if preset := search.write_preset():
        found_by = preset["found_by"]
        without = found_by["value_without_search"]
        again = ["python", "main.py", *main_flags, "--preset", str(search.folder / "preset.json")]
        print(
            f"# lowest validation loss: {found_by['value']:.4f}, trial {found_by['winner']}; without a search, trial "
            + ("0: it failed" if without is None else f"0: {without:.4f}"),
            *(f"# {path}" for path in search.draw(preset)),
            f"# to train with its settings: {shlex.join(again)}", sep="\n",
        )
    else:
        reasons = [trial.user_attrs["reason"] for trial in search.study.trials() if "reason" in trial.user_attrs]
        raise UserError(f"no trial was complete; the last failed: {printable(reasons[-1])}")


def main(argv: Sequence[str] | None = None) -> int:
    """Search; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return run_command(run, argv)
    except StopRequested as stopped:
        print(f"# stopped by {stopped.signal}; the same command resumes the search", file=sys.stderr)
        return int(stopped.code or 0)
    except KeyboardInterrupt:
        return 130
