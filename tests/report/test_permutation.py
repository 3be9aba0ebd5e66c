"""The permutation test: its metrics are the metrics, its p-values are uniform under no difference, Holm by hand."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from src.eval_metrics import metrics_of_totals
from src.report.significance import holm, p_values
from src.tasks import EmotionClassification, SentimentRegression, UnitSentimentRegression


def make_case(task, samples, random):
    if task.output_dim == 1:
        truths = random.uniform(-task.bound, task.bound, (samples, 1)).round(1).astype(np.float32)
        return truths, truths
    truths = random.integers(0, 2, (samples, 4))
    return truths, np.eye(2)[truths].reshape(samples, 8)


every_task = pytest.mark.parametrize("task", [
    SentimentRegression(), SentimentRegression("MMSA"), UnitSentimentRegression(), EmotionClassification(),
], ids=["score", "score of MMSA", "unit score", "emotion"])


@every_task
def test_sums_give_the_metrics(task):
    random = np.random.default_rng(0)
    truths, useful = make_case(task, 300, random)
    truths[:40] = 0
    predictions = (useful + random.normal(size=useful.shape)).astype(np.float32)
    statistics, metrics = task.statistics(predictions, truths), task.metrics(predictions, truths)
    assert set(statistics) == set(task.columns.values())
    every, half = np.ones((1, 300)), np.repeat([[1.0, 0.0]], 150, axis=0).ravel()[None]
    chosen = np.concatenate([every, half])  # (2, N)
    by_totals = metrics_of_totals(task.definitions, {name: x @ chosen.T for name, x in statistics.items()})
    metrics_of_half = task.metrics(predictions[::2], truths[::2])
    for key in task.columns.values():
        assert by_totals[key] == pytest.approx([metrics[key], metrics_of_half[key]], abs=1e-6), key


@every_task
def test_a_clear_difference_is_significant_and_none_is_not(task):
    random = np.random.default_rng(1)
    truths, useful = make_case(task, 200, random)
    good, bad, also_bad = (
        [useful + noise * random.normal(size=useful.shape) for _ in range(2)] for noise in (0.1, 3.0, 3.0)
    )
    assert max(p_values(task, good, bad, truths).values()) < 0.01
    assert min(p_values(task, bad, also_bad, truths).values()) > 0.01
    assert set(p_values(task, bad, bad, truths).values()) == {1.0}


def test_p_values_hold_their_level():
    """Without a difference, p < 0.2 comes in a fifth of all cases: within four standard errors of 150."""
    random, task, low = np.random.default_rng(2), SentimentRegression(), 0
    for _ in range(150):
        truths, useful = make_case(task, 30, random)
        a, b = ([useful + random.normal(size=useful.shape)] for _ in range(2))
        low += p_values(task, a, b, truths)["mae"] < 0.2
    assert abs(low / 150 - 0.2) < 4 * (0.2 * 0.8 / 150) ** 0.5


def test_p_values_are_those_of_a_t_test_on_many_samples():
    random, task = np.random.default_rng(3), SentimentRegression()
    truths, useful = make_case(task, 600, random)
    a, b = (useful + spread * random.normal(size=useful.shape) for spread in (1.0, 1.08))
    expected = ttest_rel(*(np.abs(x - truths).ravel() for x in (a, b))).pvalue
    assert 0.005 < expected < 0.5
    assert p_values(task, [a], [b], truths)["mae"] == pytest.approx(expected, abs=0.02)


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan")}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": float("nan")}, nan_ok=True
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
