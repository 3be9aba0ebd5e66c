"""The command: strength 0 is the run's result, files are written, what cannot be measured is one line."""

import csv
import json
import shutil

import numpy as np
import pytest

from main import main
from src.__main__ import run as command
from src.dataset import load_dataset
from src.errors import run_command
from src.runs import trained as trained_model
from tests.data_files import make_splits, write_dataset

SMALL = ("--num_epochs", "2", "--batch_size", "4", "--preset", "stock", "--device", "cpu", "--dataset", "mine")
WIDTHS = ("--embed_dim", "8", "--num_heads", "2", "--nlevels", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of PMR, one with modality dropout, and an LSTM."""
    folder = tmp_path_factory.mktemp("robust")
    (folder / "data").mkdir()
    write_dataset(folder / "data", "mine", make_splits(), aligned=False)
    where = ("--results_dir", str(folder / "results"), "--data_path", str(folder / "data"))
    for seed in ("1", "2"):
        assert main(["--model", "PMR", "--seed", seed, *SMALL, *WIDTHS, *where]) == 0
    assert main(["--model", "LF-LSTM", "--hidden_dim", "8", "--seed", "1", *SMALL, *where]) == 0
    return folder


def test_models_stand_side_by_side_and_start_at_their_results(trained, tmp_path, capsys, monkeypatch):
    runs, read = trained / "results/mine/unaligned", []
    monkeypatch.setattr(trained_model, "load_dataset", lambda *a, **b: read.append(a) or load_dataset(*a, **b))
    assert command(["robustness", str(runs / "PMR"), str(runs / "LF-LSTM/seed1"), "--out", str(tmp_path)]) == 0
    assert len(read) == 1
    out = capsys.readouterr().out
    assert "| missing language, share of samples | 0 | 0.1 | 0.3 | 0.5 | 0.7 | 0.9 |" in out
    rows = list(csv.DictReader((tmp_path / "mine_unaligned_robustness.csv").open(encoding="utf-8")))
    assert len(rows) == 3 * (1 + 4 * 5 + 4 * 4)
    for row in rows:
        if row["disturbance"] == "none":
            result = json.loads((runs / row["model"] / f"seed{row['seed']}/result.json").read_text())
            assert float(row["MAE"]) == result["test"]["mae"]
    means = [np.mean([float(row["MAE"]) for row in rows if (row["model"], row["disturbance"], row["strength"])
                      == ("PMR", "noise", strength)]) for strength in ("0.25", "2")]
    (line,) = [line for line in out[out.index("| noise"):].splitlines()[:4] if line.startswith("| PMR")]
    assert [cell.split(" ± ")[0] for cell in line.split(" | ")[2::3]] == [f"{mean:.3f}" for mean in means]
    assert (tmp_path / "mine_unaligned_robustness.png").stat().st_size > 10_000


@pytest.mark.parametrize("spoil, words", [
    (lambda run: (run / "result.json").unlink(), "is not the folder of a finished run"),
    (lambda run: (run / "checkpoint.pt").unlink(), "checkpoint.pt is missing"),
    (shutil.rmtree, "is not the folder of a finished run"),
])
def test_runs_that_cannot_be_measured_are_one_line(trained, tmp_path, capsys, spoil, words):
    shutil.copytree(trained / "results/mine/unaligned/PMR/seed1", tmp_path / "PMR/seed1")
    spoil(tmp_path / "PMR/seed1")
    assert run_command(command, ["robustness", str(tmp_path / "PMR/seed1"), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_data_that_is_gone_is_one_line(trained, tmp_path, capsys):
    run = str(trained / "results/mine/unaligned/PMR/seed1")
    assert run_command(command, ["robustness", run, "--data_path", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "mine_data_noalign.pkl is missing" in capsys.readouterr().err
    assert run_command(command, ["robustness", run, "--out", str(trained / "data/mine_data_noalign.pkl")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err


def test_only_finished_seeds_of_a_model_count(trained, tmp_path, capsys):
    """Not runs that were moved aside, nor repetitions; unfinished ones are named."""
    model = tmp_path / "PMR"
    for name in ("seed1", "seed1.1", "seed1.repeat", "seed3"):
        shutil.copytree(trained / "results/mine/unaligned/PMR/seed1", model / name)
    (model / "seed3/result.json").unlink()
    assert command(["robustness", str(model), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "over seeds: PMR 1." in said.out
    assert said.err == f"# {model / 'seed3'} has not finished, and is left out\n"


def test_runs_that_are_no_seeds_of_one_model_are_one_line(trained, tmp_path, capsys):
    run = trained / "results/mine/unaligned/PMR/seed1"
    shutil.copytree(run, tmp_path / "PMR/seed1")
    other = (*SMALL, *WIDTHS, "--data_path", str(trained / "data"), "--results_dir", str(tmp_path), "--seed", "4")
    assert main(["--model", "PMR", *other, "--modality_dropout", "0.5"]) == 0
    changed = tmp_path / "changed"
    changed.mkdir()
    write_dataset(changed, "mine", make_splits(seed=5), aligned=False)
    for arguments, words in (
        ([tmp_path / "PMR/seed1"], "two runs of PMR have the same seed"),
        ([tmp_path / "mine/unaligned/PMR/seed4"], "differ in more than their seed (modality_dropout is None and 0.5)"),
        (["--data_path", changed], "is not reproduced: test loss was"),
    ):
        assert run_command(command, ["robustness", *map(str, (run, *arguments))]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
