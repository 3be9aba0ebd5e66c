"""Metrics by hand, their definitions apart from each other, and input that leaves them undefined."""

import warnings
from math import isnan

import numpy as np
import pytest
import torch

from src.eval_metrics import emotion_metrics, sentiment_metrics
from src.tasks import EmotionClassification, SentimentRegression, no_better_than


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
    assert sentiment_metrics(predictions, truths, exclude_zero=False)["acc2"] == pytest.approx(2 / 3)


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
    assert metrics["Neutral"] == {"acc": 1.0, "f1": 1.0}
    assert metrics["Happy"] == {"acc": 0.75, "f1": pytest.approx(0.75 * 6 / 7)}
    assert metrics["Sad"] == {"acc": 0.0, "f1": 0.0}


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
