"""A protocol: every candidate is trained, ranked by validation alone, and the lowest mean rank is chosen."""

import json
from pathlib import Path

import pytest

from src.search import protocol
from tests.data_files import give_data

TINY = "'--embed_dim', '4', '--num_heads', '2', '--nlevels', '1', '--num_epochs', '1'"
FILE = f"""
seeds = [1, 2]
flags = [{TINY}]
[sets]
mine = ["--dataset", "mine"]
[models.MulT]
today = []
"fast, lr" = ["--lr", "0.01"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with data and a protocol."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(24, 6, 6))
    Path("protocol.toml").write_text(FILE)
    return tmp_path


@pytest.mark.quick
def test_a_protocol_chooses_by_validation_and_goes_on_where_it_stopped(folder, capfd):
    command = ["protocol.toml", "--", "--no_cuda"]
    assert protocol.main(command) == 0
    assert "MulT: runs are missing" not in capfd.readouterr().out

    results = sorted(Path("protocol/mine/unaligned").glob("*/*/result.json"))
    assert [path.parts[-3] for path in results] == ["MulT-fast_lr"] * 2 + ["MulT-today"] * 2
    set_losses(results, valid=(0.5, 0.7, 1.0, 1.2), test=(9, 9, 1, 1))
    capfd.readouterr()
    assert protocol.main(command) == 0  # finished runs are left as they are
    printed = capfd.readouterr().out
    assert "| **fast, lr** | `--lr 0.01` | 0.6000 ± 0.1414 | **1.00** |" in printed
    assert "| today | `` | 1.1000 ± 0.1414 | 2.00 |" in printed
    assert "MulT: fast, lr is chosen" in printed

    set_losses(results, valid=(1, 1, 1, 1), test=(1, 1, 9, 9))
    assert protocol.main(["protocol.toml", "--show"]) == 0
    assert "MulT: today is chosen" in capfd.readouterr().out  # the earlier one of equals

    results[0].unlink()
    assert protocol.main(["protocol.toml", "--show"]) == 0
    printed = capfd.readouterr().out
    assert "1.0000 (1 of 2)" in printed
    assert "MulT: runs are missing, so nothing is chosen yet" in printed


def set_losses(paths, valid, test):
    for path, of_valid, of_test in zip(paths, valid, test, strict=True):
        content = json.loads(path.read_text())
        content["valid"]["loss"], content["test"]["loss"] = of_valid, of_test
        path.write_text(json.dumps(content))


@pytest.mark.parametrize("content, arguments, words", [
    ("seeds = 1", (), "is no protocol"),
    ("seeds = [1, 1]\nflags = []\nsets = {}\nmodels = {}", (), "is no protocol"),
    ("flags = [", (), "is no protocol"),
    (FILE, ("--models", "PMR"), "the protocol has no model 'PMR'; it has MulT"),
    (FILE, ("--", "--seed", "1"), "--seed cannot stand after --"),
    (FILE.replace("--lr", "--lx"), (), "unrecognized arguments: --lx"),
])
def test_wrong_protocols_are_one_line(folder, capsys, content, arguments, words):
    Path("protocol.toml").write_text(content)
    assert protocol.main(["protocol.toml", *arguments]) == 2
    assert words in (line := capsys.readouterr().err)
    assert line.count("\n") == 1
