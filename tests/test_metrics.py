"""Metrics by hand, their definitions apart from each other, and input that leaves them undefined."""

import warnings
from math import isnan

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from src.eval_metrics import measure, scores, sentiment
from src.runs.result import name_task
from src.tasks import (
    Classification,
    EmotionClassification,
    ScoreRegression,
    ScoresRegression,
    SentimentRegression,
    UnitSentimentRegression,
    no_better_than,
    task_of_result,
)

sentiment_metrics, unit_sentiment_metrics, emotion_metrics = (
    task.metrics for task in (SentimentRegression(), UnitSentimentRegression(), EmotionClassification())
)


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_sentiment_by_hand():
    metrics = sentiment_metrics([2.6, -0.4, 0.2, -3.9, 0.0], [3.0, -1.0, -0.6, -3.0, 0.0])
    assert metrics["mae"] == pytest.approx((0.4 + 0.6 + 0.8 + 0.9 + 0.0) / 5)
    assert metrics["acc7"] == 3 / 5  # 3 = 3; -0 != -1; 0 != -1; -3 = -3; 0 = 0
    assert metrics["acc5"] == 3 / 5  # 2 = 2; -0 != -1; 0 != -1; -2 = -2; 0 = 0
    assert metrics["acc2"] == 3 / 4  # without the zero
    assert metrics["acc2_has0"] == 4 / 5
    assert metrics["f1"] == pytest.approx(1 / 4 * (2 / 3) + 3 / 4 * (4 / 5))  # weights 1 positive, 3 negative truths
    assert metrics["f1_stock"] == pytest.approx(2 / 4 * (2 / 3) + 2 / 4 * (4 / 5))  # 2 and 2 predictions


def test_zeros_count_when_asked():
    predictions, truths = [1.0, 1.0, -1.0], [0.0, 1.0, -1.0]
    assert sentiment_metrics(predictions, truths)["acc2"] == 1
    assert measure(sentiment(exclude_zero=False), *scores(predictions, truths))["acc2"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("predictions, truths, undefined", [
    ([1.0, 1.0, 1.0], [1.0, -1.0, 2.0], {"corr"}),
    ([0.5], [1.0], {"corr"}),
    ([0.1, 0.2], [0.0, 0.0], {"corr", "acc2", "f1", "f1_stock"}),
])
def test_undefined_sentiment_metrics_are_nan(predictions, truths, undefined):
    assert {name for name, value in sentiment_metrics(predictions, truths).items() if isnan(value)} == undefined


@pytest.mark.parametrize("predictions, truths", [([], []), ([1.0], [1.0, 2.0])])
def test_what_cannot_be_scored_is_an_error(predictions, truths):
    with pytest.raises(ValueError, match="predictions for"):
        sentiment_metrics(predictions, truths)


def test_metrics_take_tensors_of_any_shape():
    predictions, truths = torch.randn(6, 1), torch.randn(6, 1)
    assert sentiment_metrics(predictions, truths) == sentiment_metrics(predictions.numpy().ravel(), truths.tolist())
    logits, answers = torch.randn(6, 8), torch.randint(0, 2, (6, 4))
    assert emotion_metrics(logits, answers) == emotion_metrics(logits.reshape(-1, 2), answers.reshape(-1))


def test_emotion_that_is_never_predicted():
    logits = np.tile([1.0, 0.0], (4, 4, 1))  # never any emotion
    metrics = emotion_metrics(logits, [[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    assert (metrics["Neutral_acc"], metrics["Neutral_f1"]) == (1.0, 1.0)
    assert (metrics["Happy_acc"], metrics["Happy_f1"]) == (0.75, pytest.approx(0.75 * 6 / 7))
    assert (metrics["Sad_acc"], metrics["Sad_f1"]) == (0.0, 0.0)


def test_trivial_baselines_and_what_does_not_beat_them():
    sentiment = SentimentRegression()
    train, test = torch.tensor([[1.0], [2.0], [-1.5]]), torch.tensor([[1.0], [-1.0], [2.0]])
    trivial = sentiment.metrics(sentiment.trivial_prediction(train, 3), test)
    assert trivial["mae"] == pytest.approx((0.5 + 1.5 + 1.5) / 3)
    assert no_better_than(sentiment, trivial, trivial) == ["acc7", "acc2", "f1_stock", "mae", "corr"]
    assert no_better_than(sentiment, sentiment.metrics(test, test), trivial) == []

    emotions = EmotionClassification(("calm", "glad"))
    answers = torch.tensor([[0, 1], [0, 1], [1, 1]])
    never_calm = emotions.trivial_prediction(answers, 3)
    assert never_calm.view(3, 2, 2).argmax(dim=2).tolist() == [[0, 1]] * 3
    metrics = emotions.metrics(never_calm, answers)
    assert no_better_than(emotions, metrics, metrics) == ["calm_acc", "calm_f1", "glad_acc", "glad_f1"]


def class_by_loop(score, edges):
    """The number of the interval that holds a score when clipped to -1..1: from above one edge up to the next."""
    score = min(max(score, np.float32(-1)), np.float32(1))
    for number, edge in enumerate(edges):
        if score <= np.float32(edge):
            return number
    return len(edges)


def test_unit_sentiment_against_loops():
    """Every edge, its float32 neighbours, and scores off the scale, as predictions and as truths."""
    edges = {"acc2": [0], "acc3": [-0.1, 0.1], "acc5": [-0.7, -0.1, 0.1, 0.7]}
    special = np.float32([-1.01, -1, -0.7, -0.1, -0.0, 0, 0.1, 0.7, 1, 1.01, -1.7, 2.5])
    special = np.concatenate([special, np.nextafter(special, np.float32(9)), np.nextafter(special, np.float32(-9))])
    predictions, truths = (x.ravel() for x in np.meshgrid(special, special))
    metrics = unit_sentiment_metrics(predictions, truths)
    for name, inner in edges.items():
        same = [class_by_loop(p, inner) == class_by_loop(t, inner) for p, t in zip(predictions, truths, strict=True)]
        assert metrics[name] == sum(same) / len(same)

    p, t = ([min(max(float(x), -1), 1) for x in scores] for scores in (predictions, truths))
    assert metrics["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(p, t, strict=True)) / len(t), abs=1e-6)
    mean_p, mean_t = sum(p) / len(p), sum(t) / len(t)
    covariance = sum((a - mean_p) * (b - mean_t) for a, b in zip(p, t, strict=True))
    spreads = [sum((x - mean) ** 2 for x in scores) ** 0.5 for scores, mean in ((p, mean_p), (t, mean_t))]
    assert metrics["corr"] == pytest.approx(covariance / spreads[0] / spreads[1], abs=1e-6)


def test_unit_sentiment_by_hand():
    metrics = unit_sentiment_metrics([-0.8, 0.05, 0.1, 0.4, 1.5], [-0.6, 0.2, 0.0, 0.8, 1.0])
    assert metrics["mae"] == pytest.approx((0.2 + 0.15 + 0.1 + 0.4 + 0) / 5)  # 1.5 counts as 1
    assert metrics["acc2"] == 4 / 5  # 0 is negative, 0.1 positive
    assert metrics["acc3"] == 4 / 5  # 0.05 is neutral, 0.2 positive
    assert metrics["acc5"] == 2 / 5
    assert metrics["f1"] == pytest.approx(2 / 5 * (2 / 3) + 3 / 5 * (6 / 7))  # 2 truths are negative, 3 positive
    assert set(metrics) == {"mae", "corr", "acc2", "acc3", "acc5", "f1"}


def test_unit_sentiment_that_is_constant():
    assert {name for name, value in unit_sentiment_metrics([0.3, 0.3], [1, -1]).items() if isnan(value)} == {"corr"}


def test_columns_follow_the_protocol():
    """MMSA's tables have its own metrics, whose F1 is weighted by the true classes."""
    predictions, truths = [2.6, -0.4, 0.2, -3.9, 0.0], [3.0, -1.0, -0.6, -3.0, 0.0]
    metrics = SentimentRegression().metrics(predictions, truths)
    of_mult, of_mmsa = (
        {title: metrics[key] for title, key in SentimentRegression().of_protocol(protocol).columns.items()}
        for protocol in ("MulT", "MMSA")
    )
    assert of_mult["F1"] == pytest.approx(2 / 4 * (2 / 3) + 2 / 4 * (4 / 5))
    assert of_mmsa["Non0 F1"] == pytest.approx(1 / 4 * (2 / 3) + 3 / 4 * (4 / 5))
    assert (of_mmsa["Has0 Acc2"], of_mmsa["Non0 Acc2"], of_mult["Acc2"]) == (4 / 5, 3 / 4, 3 / 4)


@pytest.mark.parametrize("task, protocol", [
    (SentimentRegression(), "MulT"), (SentimentRegression("MMSA"), "MMSA"), (UnitSentimentRegression(), "MMSA"),
    (EmotionClassification(("calm", "glad")), "MulT"),
])
def test_a_result_names_its_task_and_one_of_the_first_format_is_told_by_its_metrics(task, protocol):
    named = {"format": 2, "task": task.name, "labels": list(task.labels), "protocol": protocol}
    assert name_task(named, {}) is named
    first_format = {"format": 1, "protocol": protocol}
    answers = torch.zeros(2, max(1, len(task.columns) // 2) if task.name == "emotions" else 1)
    metrics = task.metrics(torch.zeros(2, task.output_dim), answers)
    for result in (named, name_task(first_format, {"loss": 1.0, **metrics})):
        told = task_of_result(result)
        assert (type(told), told.labels, dict(told.columns)) == (type(task), task.labels, dict(task.columns))


def concordance(p, t):
    return 2 * np.cov(p, t, bias=True)[0, 1] / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)


@pytest.mark.parametrize("scale", [(-1, 1), (1, 5), (0, 100)])
def test_a_score_on_any_scale(scale):
    random, middle = np.random.default_rng(3), sum(scale) / 2
    truths = random.uniform(*scale, 80).round(1)
    truths[:5] = middle
    predictions = 0.5 * truths + random.normal(size=80)
    metrics = ScoreRegression(scale=scale).metrics(predictions, truths)
    assert metrics["mae"] == pytest.approx(np.abs(predictions - truths).mean(), rel=1e-5)
    assert metrics["corr"] == pytest.approx(np.corrcoef(predictions, truths)[0, 1], rel=1e-5)
    assert metrics["ccc"] == pytest.approx(concordance(predictions, truths), rel=1e-5)
    beside = truths.astype(np.float32) != middle
    above_p, above_t = predictions[beside] > middle, truths[beside] > middle
    assert metrics["acc2"] == pytest.approx(accuracy_score(above_t, above_p))
    assert metrics["f1"] == pytest.approx(f1_score(above_t, above_p, average="weighted"))


def test_a_constant_agrees_with_nothing():
    metrics = ScoreRegression(scale=(1, 5)).metrics([3.0, 3.0, 3.0], [1.0, 2.0, 5.0])
    assert isnan(metrics["corr"])
    assert metrics["ccc"] == 0
    assert isnan(ScoreRegression(scale=(1, 5)).metrics([3.0, 3.0], [3.0, 3.0])["ccc"])


def test_several_scores_have_each_its_metrics_and_their_means():
    random = np.random.default_rng(4)
    truths = random.uniform(-1, 1, (60, 3)).astype(np.float32)
    predictions = (truths + [0.1, 1, 2] * random.normal(size=(60, 3))).astype(np.float32)
    metrics = ScoresRegression(("valence", "arousal", "power")).metrics(predictions, truths)
    for i, name in enumerate(("valence", "arousal", "power")):
        alone = ScoreRegression().metrics(predictions[:, i], truths[:, i])
        assert {key: metrics[f"{name}_{key}"] for key in ("mae", "corr", "ccc")} == pytest.approx(
            {key: alone[key] for key in ("mae", "corr", "ccc")}, rel=1e-5)
    for key in ("mae", "corr", "ccc"):
        each = [metrics[f"{name}_{key}"] for name in ("valence", "arousal", "power")]
        assert metrics[f"mean_{key}"] == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("classes, absent", [(2, ()), (3, ()), (7, ()), (7, (2, 5))])
def test_one_of_several_classes(classes, absent):
    random = np.random.default_rng(classes)
    truths = random.choice([c for c in range(classes) if c not in absent], 90)
    logits = np.eye(classes)[truths] + random.normal(size=(90, classes))
    logits[:, list(absent[:1])] -= 9  # one class is neither true nor predicted, another is predicted alone
    predicted = logits.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are not true
        expected = {
            "acc": accuracy_score(truths, predicted), "f1": f1_score(truths, predicted, average="weighted"),
            "macro_f1": f1_score(truths, predicted, average="macro"), "uar": balanced_accuracy_score(truths, predicted),
        }
    task = Classification([f"class {i}" for i in range(classes)])
    assert task.metrics(logits, truths[:, None]) == pytest.approx(expected)


def test_the_majority_class_has_known_metrics():
    labels = torch.tensor([[2], [2], [0], [1], [2]])
    metrics = Classification("abc").metrics(Classification("abc").trivial_prediction(labels, 5), labels)
    assert metrics == pytest.approx({"acc": 3 / 5, "f1": 3 / 5 * 3 / 4, "macro_f1": 1 / 4, "uar": 1 / 3})
