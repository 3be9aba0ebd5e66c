"""The benchmark on tiny models: that it measures what it says, not how fast that is."""

import json

import pytest

from src.tools import benchmark
from src.tools.benchmark import Case, main

TINY = Case("MulT", (4, 5, 6), (3, 4, 5), batch=2, embed_dim=8, num_heads=2, layers=1, rivals=("stock", "plain"))
STOCK_MODELS = """
import torch
from modules.position_embedding import flat

class MULTModel(torch.nn.Module):
    def __init__(self, hyp_params):
        super().__init__()
        self.layer = torch.nn.Linear(hyp_params.orig_d_l, hyp_params.output_dim)

    def forward(self, text, audio, vision):
        return self.layer(flat(text.transpose(0, 1)).mean(dim=0)).unsqueeze(0), text
"""
STOCK_POSITIONS = """
def flat(x):
    return x.view(-1, x.size(-1))
"""


@pytest.fixture
def stock(tmp_path):
    """What a checkout of the original looks like from outside, with the view that fails."""
    for name, text in {"src/models.py": STOCK_MODELS, "modules/position_embedding.py": STOCK_POSITIONS,
                       "modules/__init__.py": ""}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(benchmark, "CASES", {"tiny": TINY})


def test_every_contender_is_timed_in_turns(stock, tiny, tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert main(["--cases", "tiny", "--stock", str(stock), "--repetitions", "3", "--warm_up", "1", "--parts",
                 "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["MulT 4/5/6, batch 2"]
    assert list(figures) == ["ours", "stock", "plain", *(f"without {part}" for part in benchmark.PARTS)]
    assert figures["ours"]["times_ours"] == figures["ours"]["peak_times_ours"] == 1
    assert all(implementation["seconds"] > 0 < implementation["peak_bytes"] for implementation in figures.values())
    table = capsys.readouterr().out
    assert table.count("| MulT 4/5/6, batch 2 |") == 6


def test_growth_is_drawn(tiny, tmp_path):
    picture = tmp_path / "growth.png"
    assert main(["--growth", "tiny", "--repetitions", "1", "--warm_up", "0", "--inference", "--figure",
                 str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments, words", [
    (["--cases", "none"], "invalid choice: 'none'"),
    (["--repetitions", "0"], "--repetitions must be 1 or more"),
    (["--stock", "nowhere"], "nowhere is not a checkout of the original MulT"),
    (["--cases", "mult-aligned", "--device", "abacus"], "the ours process ended with code 1"),
])
def test_bad_input_is_one_line(capsys, arguments, words):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("error: ")
