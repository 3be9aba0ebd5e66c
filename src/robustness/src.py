"""As src/src.py, for the files of this folder."""
from pathlib import Path

exec((Path(__file__).parents[1] / "src.py").read_text())
