"""Every registered command under hostile environments: one line on bad input, and no traceback.

A new command is covered by its place in COMMANDS.
"""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from src.__main__ import COMMANDS, run
from src.errors import Parser, UserError, run_command

ROOT = Path(__file__).parents[1]
SPOILED = "no\x1b[31m\nwhere\udce9"  # control characters, and a byte that is no UTF-8


class Refusing(io.RawIOBase):
    """A console on a full disk."""

    def writable(self):
        return True

    def write(self, content):
        raise OSError(28, "No space left on device")


def console(encoding="ascii", raw=None):
    """A stream as Python opens for a console of an encoding."""
    return io.TextIOWrapper(io.BufferedWriter(raw) if raw else io.BytesIO(), encoding)


CONSOLES = {"closed": lambda: None, "ascii": console, "cp1252": lambda: console("cp1252")}


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A working folder without anything, no home, and no user's flags."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)


@pytest.mark.parametrize("kind", CONSOLES)
@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_a_spoiled_flag(empty, monkeypatch, name, kind):
    monkeypatch.setattr(sys, "stdout", CONSOLES[kind]())
    with pytest.raises(SystemExit) as ended:
        run_command(run, [name, "--help"])
    assert not ended.value.code
    stderr = console()
    monkeypatch.setattr(sys, "stderr", stderr)
    assert run_command(run, [name, f"--{SPOILED}"]) == 2
    stderr.flush()
    told = stderr.buffer.getvalue().decode("ascii")
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert "\x1b" not in told


def test_help_where_unix_is_missing():
    """As on Windows, which has neither these modules nor these signals; README says which systems are supported."""
    code = """
import contextlib, signal, sys, warnings
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
del signal.SIGHUP, signal.SIGUSR1
warnings.simplefilter("ignore")  # filelock, which has another way there, looks for Unix's
import main
from src.__main__ import COMMANDS, run
for command in (main.main, *(lambda argv, name=name: run([name, *argv]) for name in COMMANDS)):
    with contextlib.suppress(SystemExit):
        command(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("usage: ") == 1 + len(COMMANDS)


def test_a_full_console(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", console(raw=Refusing()))

    def write():
        print("→")
    assert run_command(write) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the console cannot be written: No space left")
    assert error.count("\n") == 1


def test_help_on_a_full_console(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", console(raw=Refusing()))
    assert run_command(run, ["demo", "--help"]) == 2
    assert capsys.readouterr().err.startswith("error: the console cannot be written: No space left")


def test_another_file_that_cannot_be_written(tmp_path, capsys):
    assert run_command(lambda: (tmp_path / "none" / "x").write_text("")) == 2
    assert capsys.readouterr().err == f"error: No such file or directory: {tmp_path}/none/x\n"


def test_the_home_folder_in_a_flag(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    parser = Parser()
    parser.add_argument("--out")
    assert [parser.parse_args(flags).out for flags in (["--out=~/x"], ["--out", "~"], ["--out", "a~/x"])] == [
        "/h/x", "/h", "a~/x"]
    with pytest.raises(UserError):
        parser.parse_args(["--none"])
