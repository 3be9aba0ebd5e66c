"""The front door to all but training: `python -m src COMMAND ...`; each command has a --help of its own."""

import sys
from importlib import import_module

COMMANDS = {  # name: (module whose main(argv) it is, help)
    "download": ("src.data.download", "fetch the files of a data set"),
    "inspect": ("src.tools.inspect_file", "show what a data file holds, and whether main.py takes it"),
    "convert": ("src.tools.convert", "pack computational sequences (.csd) into a data file"),
    "demo": ("src.data.demo", "print how far linear models get on the built-in demo"),
    "grid": ("src.grid.grid", "train every run of a comparison: what run_all.sh starts"),
    "tune": ("src.search.tune", "search for the settings of a model"),
    "tables": ("src.report.tables", "write the comparison tables"),
    "plots": ("src.report.plots", "draw the figures"),
    "compare": ("src.report.compare", "set two runs, logs or models side by side"),
    "benchmark": ("src.tools.benchmark", "time a training step against the original and against plain torch"),
}


def usage() -> str:
    """The list of commands."""
    lines = (f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    return "\n".join(["usage: python -m src COMMAND [--help] ...", "", *lines, "", "To train: python main.py --help"])


def main(argv: list[str]) -> int:
    """Run one command; returns its exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    name, *arguments = argv
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return import_module(COMMANDS[name][0]).main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
