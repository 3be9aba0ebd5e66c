"""Names that other programs would read as something else than text."""

import csv
import io
import re
import warnings

import pytest
from matplotlib.figure import Figure

from src.report.escapes import LATEX, csv_cell, drawn_text, latex, markdown
from src.report.read_runs import collect
from src.report.table_formats import write_table
from src.report.tables import build_table
from tests.run_files import write_run

HOSTILE = "=1+1 $x_1$ \\input{a} 50% | `rm` *b* <b> [l](u) ~^&# 表情"


def test_each_format_shows_a_hostile_name_as_it_is(tmp_path):
    write_run(tmp_path / "results", model="PMR", seed=1)
    groups, _ = collect(tmp_path / "results")
    table = build_table(*next(iter(groups.items())))
    table.rows[-1].label = HOSTILE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_table(table, tmp_path)
    written = {path.suffix: path.read_bytes() for path in tmp_path.glob(f"{table.name}.*")}
    rows = csv.DictReader(io.StringIO(written[".csv"].decode()))
    assert "'" + HOSTILE in [row["row"] for row in rows]
    assert "\\| \\`rm\\` \\*b\\* &lt;b> \\[l\\](u)" in written[".md"].decode()
    assert r"\$x\_1\$ \textbackslash{}input\{a\} 50\% \textbar{}" in written[".tex"].decode()


@pytest.mark.parametrize("special", LATEX)
def test_latex_has_no_special_character_left(special):
    rest = re.sub(r"\\([a-zA-Z]+(\{\})?|[#$%&_{}])|\$\\\w+\$", "", latex(f"a{special}b"))
    assert rest == "ab"


@pytest.mark.parametrize("value, cell", [
    ("=1+1", "'=1+1"), ("-x", "'-x"), ("@a", "'@a"), ("\t=1", "'\t=1"), ("PMR", "PMR"), (-0.5, -0.5), (None, None),
])
def test_no_cell_is_a_formula(value, cell):
    assert csv_cell(value) == cell


def test_lines_stay_whole():
    assert markdown("a\nb\u2028c\x1b[1m") == "a b c \\[1m"


def test_a_figure_draws_any_name_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawn_text():
            figure = Figure()
            figure.text(0, 0, HOSTILE + " \\frac $ ^{")
            figure.savefig(tmp_path / "a.png")
