"""A protocol: every candidate is trained, ranked by validation alone, and the lowest mean rank is chosen."""

import json
import shutil
from pathlib import Path

import pytest

from src.search import protocol
from tests.data_files import give_data

TINY_FLAGS = ["--embed_dim", "4", "--num_heads", "2", "--nlevels", "1", "--num_epochs", "1"]
FILE = f"""
seeds = [1, 2]
flags = {TINY_FLAGS}
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


def test_a_protocol_chooses_by_validation_and_goes_on_where_it_stopped(folder, capfd):
    command = ["protocol.toml", "--", "--no_cuda"]
    assert protocol.main(command) == 0
    assert "MulT: runs are missing" not in capfd.readouterr().out

    lines = Path("protocol.csv").read_text().splitlines()
    result = json.loads(Path("protocol/mine/unaligned/MulT-today/seed2/result.json").read_text())
    assert lines[2] == f"MulT,today,mine,2,--dataset mine {' '.join(TINY_FLAGS)},{result['valid']['loss']}"

    runs = sorted(path.parts[-3] for path in Path("protocol/mine/unaligned").glob("*/*/result.json"))
    assert runs == ["MulT-fast_lr"] * 2 + ["MulT-today"] * 2
    shutil.rmtree("protocol")
    set_losses(today=(1.0, 1.2), fast=(0.5, 0.7))
    assert protocol.main(command) == 0  # a run whose loss is known is not trained again
    assert not Path("protocol").exists()
    printed = capfd.readouterr().out
    assert "| **fast, lr** | `--lr 0.01` | 0.6000 ± 0.1414 | **1.00** |" in printed
    assert "| today | `` | 1.1000 ± 0.1414 | 2.00 |" in printed
    assert "MulT: fast, lr is chosen" in printed

    set_losses(today=(1, 1), fast=(1, 1))
    assert protocol.main(["protocol.toml", "--show"]) == 0
    assert "MulT: today is chosen" in capfd.readouterr().out  # the earlier one of equals

    set_losses(today=(1, 1), fast=(1,))
    assert protocol.main(["protocol.toml", "--show"]) == 0
    printed = capfd.readouterr().out
    assert "1.0000 (1 of 2)" in printed
    assert "MulT: runs are missing, so nothing is chosen" in printed


def set_losses(**losses):
    """Write the .csv of some losses by candidate."""
    names = {"today": ("today", ""), "fast": ('"fast, lr"', " --lr 0.01")}
    rows = [f"MulT,{names[c][0]},mine,{seed},--dataset mine {' '.join(TINY_FLAGS)}{names[c][1]},{loss}"
            for c, values in losses.items() for seed, loss in enumerate(values, 1)]
    Path("protocol.csv").write_text("\n".join(["model,candidate,of_set,seed,flags,valid_loss", *rows, ""]))


def test_a_damaged_file_of_losses_is_one_line(folder, capsys):
    Path("protocol.csv").write_text("a,b\n1,2\n")
    assert protocol.main(["protocol.toml", "--show"]) == 2
    assert "protocol.csv is damaged" in capsys.readouterr().err


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
