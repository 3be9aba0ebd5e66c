"""Train a model on a data set and report it, or look at a run again; --help lists the flags."""

import shlex
import sys
from pathlib import Path

from src.download import download
from src.errors import run_command
from src.rerun import evaluate_again, repeat
from src.settings import parse_flags, resolve
from src.signals import Stopped
from src.training_run import train


def main(argv=None):
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return run_command(lambda: dispatch(parse_flags(argv)))
    except Stopped as stopped:
        again = [*argv, "--resume"] if "--resume" not in argv else argv
        print(f"# stopped by {stopped.signal}; to go on: {shlex.join(['python', 'main.py', *again])}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        return 130


def dispatch(flags):
    """Do what the flags ask for; returns the exit code, None for 0."""
    if "eval" in flags:
        return evaluate_again(flags.pop("eval"), flags)
    if "repeat" in flags:
        return repeat(flags.pop("repeat"), flags)
    resume, wants_download = flags.pop("resume", False), flags.pop("download", False)
    settings, sources = resolve(flags)
    if wants_download and not Path(settings.data_path).is_file():
        download([settings.spec], settings.data_path, [settings.aligned])
    return train(settings, sources, settings.run_path, resume)


if __name__ == "__main__":
    sys.exit(main())
