"""Train a model on a data set and report it, or look at a run again; --help lists the flags."""

import shlex
import sys
from pathlib import Path

from src.data.download import download
from src.errors import UserError, run_command, say
from src.runs.again import evaluate_again, repeat
from src.runs.run import train
from src.settings import parse_flags, resolve
from src.training.distributed import find_processes
from src.training.stop import StopRequested


def main(argv=None):
    """Run the command line; returns the exit code."""
    return run_command(run, sys.argv[1:] if argv is None else list(argv))


def run(argv):
    """Run the command line in this process, which may be one of several; returns the exit code."""
    processes = find_processes()
    try:
        with processes.joined():
            return dispatch(argv, processes)
    except StopRequested as stopped:
        if processes.rank == 0:
            again = [*argv, "--resume"] if "--resume" not in argv else argv
            command = shlex.join([*processes.launcher, "main.py", *again])
            print(f"# stopped by {stopped.signal}{stopped.where}; to go on: {command}", file=sys.stderr)
        return processes.leave(stopped.code)
    except SystemExit as left:  # the first process says why, or --help has been shown
        return processes.leave(left.code)
    except UserError as error:
        return processes.leave(say(error))
    except KeyboardInterrupt:
        return 130


def dispatch(argv, processes):
    """Do what the flags ask for; returns the exit code, None for 0."""
    with processes.agreeing():
        flags = parse_flags(argv)
        if "eval" in flags and processes.count > 1:
            raise UserError("--eval takes one process: leave out torchrun")
    if "eval" in flags:
        return evaluate_again(flags.pop("eval"), flags)
    if "repeat" in flags:
        return repeat(flags.pop("repeat"), flags, processes)
    resume, wants_download = flags.pop("resume", False), flags.pop("download", False)
    with processes.agreeing():
        settings, sources = resolve(flags)
        if wants_download and processes.local_rank == 0 and not Path(settings.data_path).is_file():
            download([settings.spec], settings.data_path, [settings.aligned])
    return train(settings, sources, settings.run_path, resume, processes)


if __name__ == "__main__":
    sys.exit(main())
