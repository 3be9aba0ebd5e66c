"""Train a model on a data set and report it, or look at a run again; --help lists the flags."""

import sys
from pathlib import Path

from src.data.download import download
from src.errors import run_command
from src.runs.again import evaluate_again, repeat
from src.runs.run import train
from src.settings import parse_flags, resolve
from src.training.distributed import join, leave
from src.training.stop import StopRequested


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return leave(run_command(run, argv))
    except StopRequested as stopped:
        return leave(stopped.say(argv))
    except KeyboardInterrupt:
        return 130


def run(argv: list[str]) -> int:
    """Do what the flags ask for: flags -> settings -> data -> model -> fit -> report, the last four in `train`."""
    flags = parse_flags(argv)
    join()
    if "eval" in flags:
        evaluate_again(flags.pop("eval"), flags)
        return 0
    if "repeat" in flags:
        return repeat(flags.pop("repeat"), flags)
    resume, wants_download = flags.pop("resume", False), flags.pop("download", False)
    settings, sources = resolve(flags)
    if wants_download and not Path(settings.data_path).is_file():
        download([settings.spec], settings.data_path, [settings.aligned])
    train(settings, sources, settings.run_path, resume)
    return 0


def page(results_dir: str | Path = "results", out: str | Path = "report", ablations: bool = False,
         cluster: str | None = None) -> Path:
    """Write the page of all finished runs, as `python -m src page` does; returns its path."""
    from src.report.page.page import write_page  # noqa: PLC0415, slow to import, and no run needs it

    return write_page(results_dir, out, ablations, cluster)[0]


if __name__ == "__main__":
    sys.exit(main())
