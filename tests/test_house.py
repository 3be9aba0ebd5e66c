"""The rules of CONTRIBUTING.md that a machine can check: sizes, floors of imports, ignores of the type checker."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import QUICK

ROOT = Path(__file__).parents[1]
ROOMS = ("baselines", "modules", "src")
FILES = sorted([ROOT / "main.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
ABOVE = {  # rooms that a room must not import
    "modules": ("src", "baselines", "main"), "baselines": ("main",), "src/data": ("src.runs", "src.grid", "src.search"),
    "src/training": ("src.runs", "src.grid", "src.search", "src.report"),
    "src/report": ("src.train", "src.training", "src.grid", "src.search", "baselines"),
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def functions(path):
    return [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions(path)}
    assert {name: lines for name, lines in lengths.items() if lines > (25 if name == "forward" else 60)} == {}


@pytest.mark.parametrize("room", ABOVE)
def test_imports_go_down(room):
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {(name_of(path), name) for name in names for above in ABOVE[room]
                      if name == above or name.startswith(f"{above}.")}
    assert found == set()


def test_the_type_checker_is_seldom_overruled():
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    assert len(re.findall(r"# type: ignore", text)) <= 20


def test_quick_tests_cover_every_room():
    for name in QUICK:
        file, _, test = name.partition("::")
        assert f"def {test or 'test_'}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == {name.partition("/")[0] for name in QUICK if "/" in name}
