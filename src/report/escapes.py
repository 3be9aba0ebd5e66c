"""Text for files that other programs read: the names of models and labels hold any characters, and stay text there."""

import csv
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$", "‡": r"$\ddagger$", "§": r"\S{}",
}
OF_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
OF_EAST_ASIA = ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
                "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Droid Sans Fallback")


def latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(character, character) for character in on_one_line(text))


def markdown(text: str) -> str:
    """Text that Markdown, in a table too, shows as it is."""
    return re.sub(r"<(?=[\w/!?])", "&lt;", re.sub(r"([\\`*\[\]|])", r"\\\1", on_one_line(text)))


def csv_cell(value: Any) -> Any:
    """A value for a cell of a CSV file. A text that a spreadsheet would take for a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(OF_FORMULAS) else value


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """The text of a CSV file of these rows of cells."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(csv_cell, row) for row in rows)
    return text.getvalue()


def on_one_line(text: str) -> str:
    """Text with a blank for each character that ends a line or moves the cursor."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text)


@contextmanager
def drawn_text(**style: Any) -> Iterator[None]:
    """Within it, matplotlib draws text as it is, in a style: no mathematics, and Chinese where a font has it."""
    import matplotlib  # noqa: PLC0415, slow to import, and not all who escape draw
    from matplotlib.font_manager import get_font_names  # noqa: PLC0415

    there = set(get_font_names())
    fonts = ["DejaVu Sans", *(name for name in OF_EAST_ASIA if name in there)]
    with matplotlib.rc_context({"font.family": fonts, "text.parse_math": False, **style}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield
