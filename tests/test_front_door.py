"""`python -m src COMMAND` is the way in: other ways to start a file of src name the command to type."""

import ast
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from src.__main__ import COMMANDS, run
from src.errors import UserError

ROOT = Path(__file__).parents[1]
PROGRAMS = {"__init__.py", "__main__.py", "src.py", "die_with_parent.py", "benchmark_worker.py"}  # run on purpose
FILES = sorted(path for path in (ROOT / "src").rglob("*.py") if path.name not in PROGRAMS)


def started(*arguments, cwd=ROOT):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
                          env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"})


@pytest.mark.parametrize("arguments, folder, command", [
    (["src/report/tables.py", "--help"], ".", "python -m src tables"),
    (["report/tables.py"], "src", "python -m src tables"),
    (["tables.py"], "src/report", "python -m src tables"),
    (["src/tools/inspect_file.py"], ".", "python -m src inspect"),
    (["src/data/demo.py"], ".", "python -m src demo"),
    (["src/files.py"], ".", "python main.py --help, or python -m src --help"),
    (["-m", "src.search.tune"], ".", "python -m src tune"),
])
def test_a_file_that_is_started_names_the_command(arguments, folder, command):
    done = started(*arguments, cwd=ROOT / folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert done.stderr.rstrip().endswith(f"type: {command}")


def test_the_older_form_runs_the_command():
    listed = started("-m", "src.tables", "--help")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "python -m src tables" in listed.stdout
    refused = started("-m", "src.tables", "--results_dir", "nowhere")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_finds_its_stand_in(path):
    """Run by its path, a file imports `src` before `modules` or `baselines`, which it would not find."""
    assert (path.parent / "src.py").is_file()
    assert path.stem not in sys.stdlib_module_names
    imported = [
        node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
        for statement in ast.parse(path.read_text(encoding="utf-8")).body
        for node in ([statement, *statement.body] if isinstance(statement, ast.If) else [statement])
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    ours = [name.split(".")[0] for name in imported if name.split(".")[0] in ("src", "modules", "baselines", "main")]
    assert ours[:1] in ([], ["src"])  # without any of the three, it starts nothing and says nothing


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_main(name):
    assert callable(import_module(COMMANDS[name][0]).main)


def test_without_a_command_they_are_listed(capsys):
    assert run([]) == 2
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    assert run(["--help"]) == 0


@pytest.mark.parametrize("name, words", [("tabels", "did you mean tables?"), ("x", "there are download, inspect")])
def test_a_misspelt_command_is_named(name, words):
    with pytest.raises(UserError, match=f"there is no command '{name}'; ") as error:
        run([name])
    assert words in str(error.value)


def test_pip_is_told_what_to_type():
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    done = started("-c", f"import {backend['build-backend']}", cwd=ROOT / backend["backend-path"][0])
    assert done.stderr.startswith("error: this project is run in its folder and is no package; type: pip install -r ")


def test_help_imports_nothing_slow_beside_torch():
    """What only some commands or runs need is imported there, so that --help takes little longer than torch does."""
    slow = {"sklearn", "gdown", "matplotlib", "scipy", "h5py", "optuna", "pandas", "ray", "librosa", "requests"}
    code = ("import sys; from main import main\n"
            "try: main(['--help'])\n"
            "finally: print('imported', *sys.modules)")
    done = started("-c", code)
    assert "usage:" in done.stdout
    imported = {name.partition(".")[0] for name in done.stdout.rpartition("imported ")[2].split()}
    assert "torch" in imported
    assert not imported & slow
