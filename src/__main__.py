"""The front door to all but training: `python -m src COMMAND ...`; each command has a --help of its own.

`python -m src.COMMAND`, the older form, runs the same command; it comes here by src/__init__.py. A file of src that is
started in another way starts nothing: `refuse` names the command to type. Run by its path, a file finds the src.py
beside it as its `import src`, which comes here.
"""

import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from src.errors import UserError, run_command, say

COMMANDS = {  # name: (module whose main(argv) it is, help)
    "download": ("src.data.download", "fetch the files of a data set"),
    "inspect": ("src.tools.inspect_file", "show the contents of a data file, and whether main.py takes it"),
    "convert": ("src.tools.convert", "pack computational sequences (.csd) into a data file"),
    "ravdess": ("src.tools.ravdess", "make the data set RAVDESS from two public repositories"),
    "demo": ("src.data.demo", "print how far linear models get on the built-in demo"),
    "grid": ("src.grid.grid", "train every run of a comparison: what run_all.sh starts"),
    "tune": ("src.search.tune", "search for the settings of a model"),
    "protocol": ("src.search.protocol", "compare settings by a protocol that was written down first"),
    "asynchrony": ("src.grid.asynchrony", "train on streams whose best predictor is known: does message passing help?"),
    "tables": ("src.report.tables", "write the comparison tables"),
    "plots": ("src.report.plots", "draw the figures"),
    "page": ("src.report.page.page", "write one page of tables, curves, samples and runs"),
    "predict": ("src.predict.predict", "what finished runs answer for the clips of a file"),
    "export": ("src.predict.export", "write finished runs as a program of torch.export, with a card"),
    "robustness": ("src.robustness.robustness", "evaluate trained runs on a disturbed test split"),
    "compare": ("src.report.compare", "set two runs, logs or models side by side"),
    "benchmark": ("src.tools.benchmark", "time a training step against the original and against plain torch"),
    "gpu_check": ("src.tools.gpu_check", "test and time a GPU, and write one page to send back"),
}


def usage() -> str:
    lines = (f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    return "\n".join(["usage: python -m src COMMAND [--help] ...", "", *lines, "", "To train: python main.py --help"])


def run(argv: Sequence[str]) -> int:
    """Run one command, or list them all; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    name, *arguments = argv
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, 1)
        advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"there is no command {name!r}; {advice}")
    return import_module(COMMANDS[name][0]).main(arguments)


def refuse(started: str) -> NoReturn:
    """End a process that was started as src/report/tables.py or src.report.tables; the error names the command."""
    name = re.split("[./]", started.removesuffix(".py"))[-1]
    names = {module.rpartition(".")[2]: command for command, (module, _) in COMMANDS.items()} | {c: c for c in COMMANDS}
    command = f"python -m src {names[name]}" if name in names else "python main.py --help, or python -m src --help"
    sys.exit(say(UserError(f"{started} is no program of its own; in the folder of main.py, type: {command}")))


def start_module(module: str, argv: Sequence[str]) -> NoReturn:
    """End a process that was started as `python -m src.tables` after its command; `refuse` where that is none."""
    command = module.removeprefix("src.")
    if command not in COMMANDS:
        refuse(module)
    sys.exit(run_command(run, [command, *argv]))


if __name__ == "__main__":
    sys.exit(run_command(run, sys.argv[1:]))
