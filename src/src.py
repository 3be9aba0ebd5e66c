"""Stands in for the package `src` where a file of this folder is run by its path: names the command to type."""

import sys
from pathlib import Path

sys.path[0] = str(next(folder for folder in Path(__file__).resolve().parents if (folder / "main.py").is_file()))
del sys.modules["src"]
from src.__main__ import refuse  # noqa: E402

refuse(sys.argv[0])
