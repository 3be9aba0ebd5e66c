"""Folds pooled: metrics of all test samples together, and what is left out or refused."""

import numpy as np
import pytest

from src.data.specs import find_spec
from src.report import plots, tables
from src.report.folds import pool
from src.report.read_runs import Group, predictions_of, read_predictions
from tests.run_files import write_run

FOLDS = {"fold1": (60, 0.5), "fold2": (40, 0.1), "fold3": (30, 1.0)}  # test samples, noise
GROUP = Group("ravdess", "unaligned", "MulT")


@pytest.fixture
def folds(tmp_path):
    """Results folders of three folds, with four actors each."""
    for number, (fold, (samples, noise)) in enumerate(FOLDS.items()):
        for model, seed in (("MulT", 1), ("MulT", 2), ("PMR", 1), ("PMR", 2)):
            write_run(tmp_path / fold, "ravdess", model=model, seed=seed, samples=samples, noise=noise,
                      ids=lambda i, number=number: f"03-01-{i:03}-{4 * number + i % 4 + 1:02}")
    return [str(tmp_path / fold) for fold in FOLDS]


def test_metrics_are_of_all_test_samples_together(folds):
    groups, problems = pool(folds)
    assert problems == []
    assert {name: [run["seed"] for run in runs] for name, runs in groups[GROUP].items()} == {"MulT": [1, 2],
                                                                                             "PMR": [1, 2]}
    run = groups[GROUP]["PMR"][1]
    stored = [read_predictions(type(run["folder"])(fold) / "ravdess/unaligned/PMR/seed2/predictions.npz")
              for fold in folds]
    predictions, labels = (np.concatenate([of_fold[part] for of_fold in stored]) for part in ("predictions", "labels"))
    task = find_spec("ravdess").task
    expected = task.metrics(predictions, labels)
    assert {key: run["test"][key] for key in expected} == expected
    correct = [(of_fold["predictions"].argmax(1) == of_fold["labels"][:, 0]).mean() for of_fold in stored]
    assert run["test"]["acc"] == pytest.approx(np.average(correct, weights=[60, 40, 30]))
    assert run["test"]["uar"] != pytest.approx(np.mean([task.metrics(x["predictions"], x["labels"])["uar"]
                                                        for x in stored]), abs=1e-4)
    assert len(predictions_of(run)["ids"]) == 130


def test_tables_and_figures_of_folds(folds, tmp_path, capsys):
    assert tables.main(["--folds", *folds, "--out", str(tmp_path / "tables")]) == 0
    printed = capsys.readouterr().out
    assert "- 3 folds: a metric is of the test samples of all folds together." in printed
    assert "12 clusters of 130 test samples" in printed
    assert plots.main(["--folds", *folds, "--out", str(tmp_path / "figures")]) == 0
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"ravdess_unaligned_bars.png", "ravdess_unaligned_confusion.png"}


def test_what_a_fold_lacks_is_left_out(folds, tmp_path):
    (tmp_path / "fold2/ravdess/unaligned/PMR/seed2/result.json").unlink()
    write_run(tmp_path / "fold2", "ravdess", model="MulT-FFL", seed=1)
    groups, problems = pool(folds)
    assert [run["seed"] for run in groups[GROUP]["PMR"]] == [1]
    assert "MulT-FFL" not in groups[GROUP]
    lines = ("PMR seed2 on ravdess, unaligned is finished in 2 of 3 folds",
             "MulT-FFL seed1 on ravdess, unaligned is finished in 1 of 3 folds")
    assert problems == [f"{line}; the same command trains the others" for line in lines]


def test_folds_of_other_settings_are_left_out(folds, tmp_path):
    write_run(tmp_path / "fold1", "ravdess", model="MulT-FFL", ids="a{}".format, lr=0.1)
    for fold in ("fold2", "fold3"):
        write_run(tmp_path / fold, "ravdess", model="MulT-FFL", ids=f"{fold}{{}}".format)
    groups, problems = pool(folds)
    assert "MulT-FFL" not in groups[GROUP]
    assert len(problems) == 1
    assert "mixes settings from fold to fold" in problems[0]


def test_folds_that_share_samples_are_refused(folds, capsys):
    assert tables.main(["--folds", folds[0], folds[1], folds[1]]) == 2
    error = capsys.readouterr().err
    assert "is tested in 2 of the folds" in error
    assert error.count("\n") == 1
