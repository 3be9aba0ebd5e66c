"""The linear baseline is scikit-learn's on the statistics of the streams, in one run, through every command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from baselines.linear import Linear, fit_one, statistics_of
from main import main
from src.data.specs import find_spec
from src.dataset import load_dataset
from src.grid import plan
from src.report.tables import write_tables
from tests.data_files import give_data

RUN = ["--model", "Linear", "--dataset", "mine", "--device", "cpu"]
FOLDER = "results/mine/unaligned/Linear/seed1111"


@pytest.fixture(params=["sentiment", "emotion"])
def folder(request, tmp_path, monkeypatch):
    """A working folder with data of a task."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, task=request.param, sizes=(60, 20, 20))
    return tmp_path


def test_statistics_are_of_the_real_steps():
    x = torch.randn(2, 6, 3)
    x[0, :4] = 0
    x[1] = 0
    found = statistics_of(x)
    assert torch.allclose(found[0, :3], x[0, 4:].mean(dim=0))
    assert torch.allclose(found[0, 3:6], x[0, 4:].std(dim=0, correction=0), atol=1e-6)
    assert found[0, 6] == torch.tensor(3.0).log()
    assert (found[1] == 0).all()
    assert statistics_of(x.double()).dtype == torch.float64


def test_the_layer_is_the_regression_of_scikit_learn_and_validation_chooses_its_strength():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 5)), random.normal(size=(40, 2)).astype(np.float32)
    weight, bias = fit_one(x, y, 2, 3.0)
    assert np.allclose(x @ weight.T + bias, Ridge(alpha=3.0).fit(x, y).predict(x))
    three = random.integers(0, 3, (40, 1))
    weight, bias = fit_one(x, three, 3, 0.5)
    logits = x @ weight.T + bias
    expected = LogisticRegression(C=2, max_iter=1000).fit(x, three.ravel()).predict_proba(x)
    assert np.allclose(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), expected, atol=1e-6)
    two = random.integers(0, 2, (40, 3))
    weight, bias = fit_one(x, two, 6, 0.5)
    logits = (x @ weight.T + bias).reshape(40, 3, 2)
    expected = LogisticRegression(C=2, max_iter=1000).fit(x, two[:, 1]).predict_proba(x)[:, 1]
    assert np.allclose(1 / (1 + np.exp(logits[:, 1, 0] - logits[:, 1, 1])), expected, atol=1e-6)


def test_a_class_that_training_never_shows_is_never_chosen():
    x = np.random.default_rng(0).normal(size=(20, 4))
    for labels in (np.full((20, 1), 1), np.arange(20)[:, None] % 2 * 2):
        weight, bias = fit_one(x, labels, 4, 1.0)
        assert set((x @ weight.T + bias).argmax(axis=1)) <= set(labels.ravel())


def test_a_run_goes_through_every_command(folder, capsys):
    assert main(RUN) == 0
    result = json.loads(Path(FOLDER, "result.json").read_text())
    assert (result["epochs"], result["settings"]["num_epochs"]) == (1, 1)
    assert "embed_dim" not in result["settings"]
    assert main(["--eval", FOLDER, "--device", "cpu"]) == 0
    assert main([*RUN, "--seed", "7", "--results_dir", "again"]) == 0
    other = json.loads(Path("again/mine/unaligned/Linear/seed7/result.json").read_text())
    assert other["test"] == result["test"]  # no seed changes it
    tables, problems = write_tables("results", "tables")
    assert problems == []
    assert [row.label for row in tables[0].rows][-1] == "Linear"
    runs, _ = plan.plan(["mine"], "unaligned", ["Linear", "MulT"], (1, 2), ())
    assert [run.title.split(" ", 2)[2] for run in runs] == ["Linear seed1", "MulT seed1", "MulT seed2"]


def test_the_strength_is_that_of_the_lowest_validation_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(60, 20, 20))
    dataset = load_dataset(find_spec("mine"), "data")
    model = Linear(input_dims=dataset.input_dims, input_lens=dataset.input_lens, output_dim=1)
    losses = {}
    for strength in (0.001, 1.0, 1000.0, 100000.0):
        monkeypatch.setattr("baselines.linear.STRENGTHS", [strength])
        model.solve(dataset.splits["train"], dataset.splits["valid"], dataset.task, 16)
        streams, labels = dataset.splits["valid"].batch(range(20))
        losses[strength] = dataset.task.loss(model(*streams)[0], labels).item()
    monkeypatch.setattr("baselines.linear.STRENGTHS", list(losses))
    model.solve(dataset.splits["train"], dataset.splits["valid"], dataset.task, 7)
    assert dataset.task.loss(model(*streams)[0], labels).item() == pytest.approx(min(losses.values()), rel=1e-6)
