"""Train a model on a data set and report it, or look at a run again; --help lists the flags."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.data.download import download
from src.errors import run_command
from src.runs.again import evaluate_again, repeat
from src.runs.run import train as train_run
from src.runs.run_folder import read_result
from src.settings import parse_flags, resolve
from src.training.distributed import join, leave
from src.training.machine import torch_as_found
from src.training.stop import StopRequested

if TYPE_CHECKING:
    from src.predict.predictor import Predictions


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
    train_run(settings, sources, settings.run_path, resume)
    return 0


def train(resume: bool = False, **settings: Any) -> dict[str, Any]:
    """Train a run as the command line does; `settings` are those of --help by name, as config.json has them.

    Returns the content of result.json, and the run's "folder". It may be called in any thread, and leaves what is
    global in torch as it was. UserError where the command line would say one.
    """
    chosen, sources = resolve(settings)
    with torch_as_found():
        train_run(chosen, sources, chosen.run_path, resume)
    return {**(read_result(chosen.run_path) or {}), "folder": chosen.run_path}


def predict(runs: str | Path | list[str | Path], file: str | Path) -> "Predictions":
    """What finished runs answer for the clips of a file; docs/guide/predict.md describes both."""
    from src.predict.predictor import load_model  # noqa: PLC0415, no training needs it

    return load_model(*(runs if isinstance(runs, list) else [runs])).predict_file(file)


def tables(results_dir: str | Path = "results", out: str | Path = "tables", **asked: Any) -> dict[str, list[dict]]:
    """Write the tables of all finished runs; returns {name: a dict for each row}, its means in the units of the CSV."""
    from src.report.tables import write_tables  # noqa: PLC0415, slow to import, and no run needs it

    return {table.name: [row.means(table.task.columns) for row in table.rows]
            for table in write_tables(results_dir, out, **asked)[0]}


def page(results_dir: str | Path = "results", out: str | Path = "report", ablations: bool = False,
         cluster: str | None = None) -> Path:
    """Write the page of all finished runs, as `python -m src page` does; returns its path."""
    from src.report.page.page import write_page  # noqa: PLC0415, slow to import, and no run needs it

    return write_page(results_dir, out, ablations, cluster)[0]


if __name__ == "__main__":
    sys.exit(main())
