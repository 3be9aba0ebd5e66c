"""The program around the models: data, training, runs, grid, search, report and tools."""

import sys

if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv[:-1]:  # Python looks for the module that -m names
    named = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    if named.startswith("src.") and named != "src.__main__":
        from src.__main__ import start_module

        start_module(named, sys.argv[1:])
