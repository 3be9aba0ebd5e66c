"""run_all.sh --dry_run: what it tells of each run, and that it leaves nothing behind."""

import json
import time

import pytest

from main import main
from src.grid import estimate, grid
from src.grid.estimate import time_together
from tests.data_files import give_data

SMALL = ("--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--batch_size", "5", "--device", "cpu",
         "--num_epochs", "7")


def dry_run(*own, main_flags=()):
    return grid.main(["--dry_run", "--datasets", "mine", "--alignment", "unaligned", *own, "--", *SMALL, *main_flags])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an unaligned data set `mine` in data/."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(23, 6, 6))
    return tmp_path


def rows(text):
    """The cells of the table, by the name of the run."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[1]: dict(zip(head, row, strict=True)) for row in rows}


def test_every_run_is_told_and_nothing_is_changed(folder, capsys):
    assert main(["--model", "MulT", "--dataset", "mine", *SMALL, "--seed", "1"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")}
    capsys.readouterr()
    assert dry_run("--models", "PMR", "MulT", "--seeds", "1", "2", "--jobs", "2") == 0
    printed = capsys.readouterr()
    told = rows(printed.out)
    assert list(told) == [f"mine unaligned {model} seed{seed}" for seed in (1, 2) for model in ("PMR", "MulT")]
    assert [row[""] for row in told.values()] == ["0", "1", "2", "3"]
    assert [row["epochs left"] for row in told.values()] == ["7", "finished", "7", "7"]
    pmr, mult, pmr_again, mult_again = told.values()
    for name in estimate.HEAD[2:6]:
        assert (pmr[name], mult[name]) == (pmr_again[name], mult_again[name])
    assert pmr["parameters"] != mult["parameters"]
    assert 50 < int(mult["peak memory"].removesuffix(" MB")) < 5000
    assert mult["time"] == "0:00:00" != mult_again["time"]
    assert "in all, 2 at a time, by a few steps on this cpu" in printed.out
    assert "measuring 1 to 2 of 2" in printed.err
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*")} == before
    assert not (folder / "tables").exists()


def test_the_figures_belong_together(folder):
    (run,), _ = grid.plan(["mine"], "unaligned", ["MulT"], [1], (*SMALL, "--batch_chunk", "2"))
    figures = estimate.measure(run.settings, time.time())
    assert figures["epoch_seconds"] > figures["step_seconds"] * 23 / 5
    assert figures["start_seconds"] > 0
    assert main(["--model", "MulT", "--dataset", "mine", *SMALL, "--num_epochs", "1"]) == 0
    result = json.loads(next(folder.rglob("result.json")).read_text())
    assert result["parameters"] == figures["parameters"]


def test_what_cannot_run_is_told(folder, capsys):
    assert dry_run("--models", "MulT", "--seeds", "1", "--jobs", "1", main_flags=("--num_heads", "3")) == 1
    printed = capsys.readouterr()
    assert rows(printed.out)["mine unaligned MulT seed1"]["time"] == "?"
    assert "# mine unaligned MulT seed1 cannot run: error: " in printed.err


def test_time_together():
    assert time_together([4, 1, 1, 1], 2) == 4
    assert time_together([1, 1, 4], 2) == 5
    assert time_together([], 1) == 0
