"""That --limits counts what a step does, not how fast that is."""

from itertools import product

import pytest

from modules.sequence import Segment, causal_steps
from src.tools import benchmark, limits
from tests.tools.test_benchmark import TINY

B, HEADS, WIDTH = TINY.batch, TINY.num_heads, TINY.embed_dim // TINY.num_heads


def seen(T_t, T_s):
    """The pairs of steps of which MulT's causal mask lets one see the other."""
    return int(causal_steps((Segment(T_t, T_t),), (Segment(T_s, T_s),)).sum())


@pytest.fixture(autouse=True)
def small_rates(monkeypatch):
    for name, value in {"WIDE": 16, "UNCACHED": 2**12, "SECONDS": 0.01}.items():
        monkeypatch.setattr(limits, name, value)


def test_attention_is_counted_by_the_pairs_that_see_each_other():
    work = limits.measure(TINY, repetitions=1, warm_up=0)
    text, audio, vision = TINY.lens
    crossmodal = {(t, s): B * HEADS * seen(t, s) for t, s in product(TINY.lens, repeat=2) if t != s}
    memory = sum(B * HEADS * (2 * seen(T, T) + T) for T in TINY.lens)  # the last layer computes only the last step
    # only the attention to language, and that of the memory encoders, has dropout
    forward, backward = work["forward", "attention"], work["backward", "attention"]
    assert forward.exps == backward.exps == sum(crossmodal.values()) + memory
    assert forward.decisions == backward.decisions == memory + crossmodal[audio, text] + crossmodal[vision, text]
    width_of_memory = 2 * WIDTH
    assert forward.flops == 4 * (WIDTH * sum(crossmodal.values()) + width_of_memory * memory)
    assert backward.flops == 2.5 * forward.flops


def test_shares_are_those_of_the_whole_step(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "CASES", {"tiny": TINY})
    assert benchmark.main(["--limits", "--cases", "tiny", "--repetitions", "1", "--warm_up", "0"]) == 0
    reached, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert "GFLOP/s in products" in reached
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert {"products", "attention", "layer norm", "add dropout", "relu dropout"} <= {row[2] for row in cells}
    assert sum(float(row[3]) for row in cells[:-1]) == pytest.approx(float(cells[-1][3]), rel=0.02)
