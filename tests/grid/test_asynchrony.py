"""The command of the study: it trains what is missing, goes on where it was stopped, and writes the same then."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from main import main
from src.data import study
from src.data.demo import UNALIGNED
from src.grid import asynchrony
from src.training.stop import StopRequested

TINY = ("--seeds", "1", "2", "--models", "Linear", "--quick", "--jobs", "1", "--", "--device", "cpu")
FILES = ("asynchrony.csv", "asynchrony.md")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A working folder, small data, runs in this process. Returns what has been trained, and after how many to stop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "SAMPLES", (40, 12, 12))
    trained, stop_after = [], []

    def train(runs, jobs, logs):
        for run in runs:
            if stop_after and len(trained) == stop_after[0]:
                raise StopRequested(signal.SIGTERM)
            assert main([*run.flags, "--resume"]) == 0
            trained.append(run.title)
        return []

    monkeypatch.setattr(asynchrony, "execute_here", train)
    return trained, stop_after


def test_a_study_that_was_stopped_goes_on_and_ends_alike(tiny, capsys):
    trained, stop_after = tiny
    assert asynchrony.main(["--results_dir", "whole", *TINY]) == 0
    whole = list(trained)
    assert len(whole) == 4  # one run in each setting, since nothing is random in it
    trained.clear()
    stop_after.append(2)
    assert asynchrony.main(["--results_dir", "stopped", *TINY]) == 143
    assert "the same command continues" in capsys.readouterr().err
    stop_after.clear()
    assert asynchrony.main(["--results_dir", "stopped", *TINY]) == 0
    assert trained == whole
    assert "# 4 runs, 2 of them finished before" in capsys.readouterr().out
    for name in FILES:
        assert Path("stopped", name).read_bytes() == Path("whole", name).read_bytes()
    assert Path("whole/asynchrony.png").stat().st_size > 10_000


def test_what_is_asked_for():
    def studied(*argv):
        return [s.name for s in asynchrony.parse_arguments(argv).studied]
    assert studied() == [f"asynchrony-lag{lag}-hops{hops}" for hops in (1, 2) for lag in (0, 4, 8)]
    assert set(studied("--quick")) < set(studied()) < set(studied("--full"))
    assert {name.split("-")[-1] for name in studied("--full")} >= set(study.CONTROLS)


@pytest.mark.parametrize("argv, words", [
    (["--models", "PRM"], "PRM"), (["--", "--aligned"], "--aligned cannot stand after --: the study decides it"),
])
def test_wrong_arguments_are_one_line(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert asynchrony.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_the_demo_is_one_of_the_settings():
    assert replace(study.Studied(1, 4).setting(), samples=UNALIGNED.samples) == UNALIGNED


@pytest.mark.parametrize("studied", study.STUDY, ids=lambda s: s.name)
def test_every_setting_is_a_data_set(studied, monkeypatch):
    """Aligned, it has no lag."""
    monkeypatch.setattr(study, "SAMPLES", (4, 2, 2))
    for aligned in (False, True):
        shapes = {key: x.shape for key, x in studied.make(aligned)["test"].items()}
        assert shapes["audio"][1] == (8 if aligned else 8 * studied.setting().rates[0] + studied.lag // 2)
