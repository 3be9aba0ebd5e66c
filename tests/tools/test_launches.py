"""What counts as a launch, and the table of launches."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from src.tools import benchmark
from src.tools.launches import count
from tests.tools.test_benchmark import TINY


def test_views_and_empty_tensors_are_no_launches_and_a_dropout_is_one():
    x = torch.ones(4, 6, requires_grad=True)
    steps = {
        0: lambda: torch.empty_like(x.view(8, 3).t()),
        1: lambda: F.dropout(x, 0.5),
        2: lambda: x.add(1).relu(),
        4: lambda: F.dropout(x, 0.5).backward(torch.ones_like(x)),  # the ones, forward, backward, kept gradient
    }
    assert {count(step, compiled=False) for step in steps.values()} == {(n, n) for n in steps}


@pytest.mark.slow
def test_compiled_layers_launch_less(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "CASES", {"tiny": replace(TINY, rivals=())})
    assert benchmark.main(["--launches", "--cases", "tiny"]) == 0
    rows = [line.split("|")[2:4] for line in capsys.readouterr().out.splitlines()[2:]]
    counts = {name.strip(): int(number) for name, number in rows}
    assert list(counts) == ["plain", "ours", "compiled", "compiled, as graphs"]
    assert counts["plain"] > counts["ours"] > counts["compiled"] > counts["compiled, as graphs"] > 0
