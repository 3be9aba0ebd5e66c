"""The recurrent baselines are torch's LSTMs over the joined or the single streams."""

import json
from pathlib import Path

import pytest
import torch

from main import main
from src.grid import plan
from src.models import build_model
from src.search.space import search_space
from src.settings import resolve
from tests.data_files import give_data, make_splits, write_dataset

MOSEI = {"input_dims": (300, 74, 35), "input_lens": (50, 50, 50), "output_dim": 1}


@pytest.mark.parametrize("name, size", [("EF-LSTM", 560_000), ("LF-LSTM", 1_220_000)])
def test_sizes_are_near_the_published_ones(name, size):
    assert sum(p.numel() for p in build_model(name, **MOSEI).parameters()) == pytest.approx(size, rel=0.02)


def test_the_hidden_state_is_that_of_the_last_step():
    x = [torch.randn(3, 5, d) for d in (4, 2, 3)]
    sizes = {"input_dims": (4, 2, 3), "input_lens": (5, 5, 5), "output_dim": 2, "hidden_dim": 6}
    early, late = build_model("EF-LSTM", **sizes), build_model("LF-LSTM", **sizes)
    joined = early.lstms[0](torch.cat(x, dim=2))[1][0][0]
    assert torch.allclose(early(*x)[1], joined)
    states = [lstm(stream)[1][0][0] for lstm, stream in zip(late.lstms, x, strict=True)]
    assert torch.allclose(late(*x)[1], torch.cat(states, dim=1))


def test_early_fusion_needs_one_length():
    with pytest.raises(ValueError, match=r"EF-LSTM .* \(5, 6, 7\) steps: take aligned data, or LF-LSTM"):
        build_model("EF-LSTM", input_dims=(4, 2, 3), input_lens=(5, 6, 7), output_dim=1)


def test_a_grid_leaves_early_fusion_out_of_unaligned_data(tmp_path):
    for aligned in (False, True):
        lens = (6, 6, 6) if aligned else (6, 9, 11)
        write_dataset(tmp_path, "mine", make_splits(lens=lens), aligned)
    runs, missing = plan.plan(["mine"], "both", ["EF-LSTM", "LF-LSTM"], (1,), ("--data_path", str(tmp_path)))
    assert missing == []
    assert [run.title for run in runs] == [
        "mine unaligned LF-LSTM seed1", "mine aligned EF-LSTM seed1", "mine aligned LF-LSTM seed1"]


def test_a_run_comes_again_to_the_same_bits_and_evaluates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(30, 6, 6))
    run = ["--model", "LF-LSTM", "--dataset", "mine", "--device", "cpu", "--num_epochs", "2", "--hidden_dim", "8",
           "--out_dropout", "0.2"]
    for results in ("one", "two"):
        assert main([*run, "--results_dir", results]) == 0
    folders = [Path(results, "mine/unaligned/LF-LSTM/seed1111") for results in ("one", "two")]
    one, two = (json.loads((folder / "result.json").read_text()) for folder in folders)
    assert one["test"] == two["test"]
    assert main(["--eval", str(folders[0])]) == 0
    assert "# reproduces result.json" in capsys.readouterr().out
    assert main([*run, "--aligned", "--model", "EF-LSTM", "--data_path", "data/mine_data_noalign.pkl"]) == 2


@pytest.mark.parametrize("model", ["EF-LSTM", "LF-LSTM"])
def test_a_search_draws_what_the_model_has(model):
    settings, _ = resolve({"model": model, "dataset": "mosi"})
    space = search_space(settings, (), 1000)
    assert {"hidden_dim", "out_dropout", "lr"} <= set(space)
    assert not any("embed_dim" in name for name in space)
