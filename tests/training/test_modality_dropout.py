"""--modality_dropout: a share of the samples loses a stream in each step, a resumed run loses the same."""

import json

import pytest
import torch

from main import main
from src.dataset import lost_modalities
from src.settings import parse_flags, resolve
from tests.data_files import make_splits, write_dataset

FLAGS = ("--model", "MulT", "--dataset", "mine", "--batch_size", "4", "--preset", "stock", "--device", "cpu",
         "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--seed", "1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_dataset(tmp_path / "data", "mine", make_splits(), aligned=False)
    return tmp_path


def test_the_share_is_that_asked_for_and_depends_on_the_step_alone():
    lost = lost_modalities(20_000, 0.3, 1, 2, 3)
    assert (lost >= 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert [(lost == m).float().mean().item() for m in range(3)] == pytest.approx([0.1] * 3, abs=0.02)
    assert torch.equal(lost, lost_modalities(20_000, 0.3, 1, 2, 3))
    assert not torch.equal(lost, lost_modalities(20_000, 0.3, 1, 2, 4))


def losses(folder, name):
    return [json.loads(line)["train_loss"]
            for line in (folder / f"results/mine/unaligned/MulT-{name}/seed1/metrics.jsonl").read_text().splitlines()]


def test_it_changes_training_and_a_resumed_run_equals_an_uninterrupted_one(folder):
    given = (*FLAGS, "--modality_dropout", "0.5")
    assert main([*FLAGS, "--num_epochs", "2", "--name", "plain"]) == 0
    assert main([*FLAGS, "--num_epochs", "2", "--name", "zero", "--modality_dropout", "0"]) == 0
    assert main([*given, "--num_epochs", "2", "--name", "lost"]) == 0
    assert losses(folder, "plain") == losses(folder, "zero") != losses(folder, "lost")
    config = json.loads((folder / "results/mine/unaligned/MulT-plain/seed1/config.json").read_text())
    assert "modality_dropout" not in config["settings"]  # as runs of before have none
    config = json.loads((folder / "results/mine/unaligned/MulT-lost/seed1/config.json").read_text())
    assert config["settings"]["modality_dropout"] == 0.5
    assert main(["--eval", "results/mine/unaligned/MulT-lost/seed1"]) == 0
    assert main(["--repeat", "results/mine/unaligned/MulT-lost/seed1"]) == 0


def test_a_model_without_steps_has_no_use_for_it(folder, capsys):
    assert main(["--model", "Linear", "--dataset", "mine", "--modality_dropout", "0.5", "--device", "cpu",
                 "--batch_size", "4"]) == 2
    assert "--modality_dropout is for models that are trained step by step" in capsys.readouterr().err


def test_a_probability_of_0_is_recorded_as_none_at_all():
    zero, default = (resolve(parse_flags(flags))[0].recorded() for flags in (["--modality_dropout", "0"], []))
    assert zero == default
