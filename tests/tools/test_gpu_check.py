"""The page of gpu_check, as far as it goes without a GPU; tests/test_gpu.py is what it runs on one."""

import argparse
import subprocess

import pytest
import torch

from src.data.specs import find_spec
from src.dataset import load_dataset
from src.errors import UserError
from src.tools import benchmark, gpu_check
from src.tools.gpu_check import PARTS, Clock, main, make_files, section, steps, steps_a_second
from tests.tools.test_benchmark import TINY

ARGUMENTS = argparse.Namespace(device="cpu", stock=None, jobs=2, folder=None)


@pytest.fixture
def small(monkeypatch):
    """The parts on what takes seconds on a CPU."""
    for name, value in {"TIMED": ("tiny",), "SHARED": "tiny", "SECONDS": 0.2, "WAYS": ("tf32",)}.items():
        monkeypatch.setattr(gpu_check, name, value)
    monkeypatch.setitem(benchmark.CASES, "tiny", TINY)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_page_says_so(tmp_path, capsys):
    page = tmp_path / "page.md"
    assert main(["--out", str(page)]) == 0
    text = page.read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(PARTS)
    assert text.count("Not run: there is no GPU") == len(PARTS) - 1
    assert f"| torch         | {torch.__version__}" in text
    assert text.strip() in capsys.readouterr().out


def test_made_up_files_are_read_as_the_data_sets_that_they_stand_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "SAMPLES", dict.fromkeys(gpu_check.SAMPLES, (3, 2, 1)))
    make_files(tmp_path)
    for (name, aligned), sizes in gpu_check.SIZES.items():
        dataset = load_dataset(find_spec(name), tmp_path, aligned)
        assert [tuple(x.shape) for x in dataset.splits["train"].features] == [(3, *size) for size in sizes]
        assert type(dataset.task) is type(find_spec(name).task)


def test_steps_are_timed_and_counted(small):
    table = steps(ARGUMENTS, Clock(5))
    assert [row.split(" | ")[1].strip() for row in table.splitlines()[2:]] == ["ours", "plain", "tf32"]
    assert steps_a_second(2, "cpu") > 0


@pytest.mark.parametrize("error, words", [
    (UserError("no room"), "FAILED: no room"), (RuntimeError("CUDA error:\n odd"), "FAILED: CUDA error: odd"),
    (subprocess.TimeoutExpired("x", 1), "Ended: the time is over"), (None, "fine"),
])
def test_a_part_that_fails_is_a_line(monkeypatch, error, words):
    def part(arguments, clock):
        if error:
            raise error
        return "fine"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert section(part, ARGUMENTS, Clock(5)).startswith(words)
    assert section(part, ARGUMENTS, Clock(0)) == "Not run: the time is over; give more --minutes."
