"""PMR runs of format 2 and before were trained without a mask: they keep their numbers, and stay apart from new runs.

tests/golden/pmr_without_mask.zip is a run of commit b2685e4, on the data that `give_data` makes:
main.py --model PMR --dataset mine --device cpu --embed_dim 8 --num_heads 2 --nlevels 1 --num_epochs 2 --seed 1
--message_dim 2 --message_rank 1
"""

import json
import shutil
from pathlib import Path

import pytest
import torch

from main import main
from src.errors import UserError
from src.presets import read_preset
from src.report.read_runs import collect, read_run
from src.report.tables import write_tables
from src.runs.resume import is_finished
from src.runs.run_folder import load_checkpoint, read_result
from src.runs.trained import load_trained
from src.settings import SHARED, parse_flags, resolve
from tests.data_files import give_data

MODEL = Path("results/mine/unaligned/PMR")
FLAGS = ["--model", "PMR", "--dataset", "mine", "--device", "cpu", "--embed_dim", "8", "--num_heads", "2", "--nlevels",
         "1", "--num_epochs", "2", "--message_dim", "2", "--message_rank", "1", "--no_mask_padding"]


@pytest.fixture
def former(tmp_path, monkeypatch):
    """The folder of that run, in a working folder with its data."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(30, 6, 6))
    shutil.unpack_archive(Path(__file__).parents[1] / "golden/pmr_without_mask.zip", MODEL)
    return MODEL / "seed1"


def test_it_evaluates_and_tabulates_to_its_own_numbers(former, capsys):
    assert json.loads((former / "result.json").read_text())["format"] == 2
    result = read_result(former)
    assert result["settings"]["attn_mask"] is False
    assert main(["--eval", str(former), "--device", "cpu"]) == 0
    model, _, settings, _ = load_trained(former)
    assert settings.options["attn_mask"] is False
    assert not any(getattr(module, "attn_mask", False) for module in model.modules())
    (table, *_), problems = write_tables("results", "tables")
    assert problems == []
    assert next(row for row in table.rows if row.label == "PMR").cells["mae"].mean == result["test"]["mae"]
    assert read_run(former)["settings"]["attn_mask"] == "False"


def test_it_is_never_taken_for_a_run_with_a_mask(former, capsys):
    assert main([*FLAGS, "--seed", "1", "--resume", "--causal_mask"]) == 2
    assert "(attn_mask is False and True: there and asked for)" in capsys.readouterr().err
    assert main([*FLAGS, "--seed", "1", "--resume", "--no_causal_mask"]) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert main([*FLAGS, "--seed", "2", "--causal_mask"]) == 0
    assert read_result(MODEL / "seed2")["settings"]["attn_mask"] is True
    groups, problems = collect("results")
    assert not groups
    assert ["mixes settings (attn_mask is False and True)" in line for line in problems] == [True]


def test_a_run_that_says_otherwise_had_no_mask_either(former):
    """Runs of format 1 say attn_mask = True, as all models did."""
    path = former / "result.json"
    content = json.loads(path.read_text())
    content["settings"]["attn_mask"] = True
    path.write_text(json.dumps(content))
    assert read_result(former)["settings"]["attn_mask"] is False
    saved = torch.load(former / "checkpoint.pt", weights_only=True)
    saved["config"]["settings"]["attn_mask"] = True
    torch.save(saved, former / "checkpoint.pt")
    assert load_checkpoint(former)["config"]["settings"]["attn_mask"] is False


def test_a_run_on_the_demo_of_that_time_is_not_taken_for_one_of_today(former, capsys):
    path = former / "result.json"
    content = json.loads(path.read_text())
    content["dataset"] = content["settings"]["dataset"] = "demo"
    there = Path("results/demo/unaligned/PMR/seed1")
    there.mkdir(parents=True)
    (there / "result.json").write_text(json.dumps(content))
    settings, _ = resolve(parse_flags([*FLAGS, "--seed", "1", "--no_causal_mask", "--dataset", "demo"]))
    with pytest.raises(UserError, match="has format 2, of a time when the demo had other data"):
        is_finished(there, settings.changed({name: content["settings"][name] for name in content["settings"]
                                             if name in SHARED}))


def test_a_preset_of_that_time_has_no_mask(tmp_path):
    found_by = {"seeds": [1], "seconds": 1.0, "trials": {"complete": 1, "pruned": 0, "failed": 0}}
    for file_format, mask in ((1, False), (2, None)):
        preset = {"format": file_format, "model": "PMR", "dataset": "mine", "aligned": True, "settings": {"lr": 0.1},
                  "found_by": found_by}
        (tmp_path / "preset.json").write_text(json.dumps(preset))
        assert read_preset(tmp_path / "preset.json")["settings"].get("attn_mask") is mask
