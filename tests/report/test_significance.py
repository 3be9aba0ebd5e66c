"""Differences of models: totals against brute force, the variance against its formula, size, power, Holm by hand."""

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind, ttest_rel

from src.data.specs import find_spec
from src.errors import UserError
from src.eval_metrics import metrics_of_totals
from src.report.significance import (
    LEVEL,
    MAIN,
    Measured,
    check_pattern,
    clusters_of,
    difference,
    differences,
    enough_seeds,
    holm,
    jackknife,
    measure,
    p_text,
)
from src.tasks import (
    TASKS,
    Classification,
    EmotionClassification,
    ScoreRegression,
    ScoresRegression,
    SentimentRegression,
    UnitSentimentRegression,
)


def make_case(task, samples, random):
    if task.name == "classes":
        truths = random.integers(0, task.output_dim, (samples, 1))
        return truths, np.eye(task.output_dim)[truths[:, 0]]
    if task.name == "scores":
        truths = random.uniform(-1, 1, (samples, task.output_dim)).astype(np.float32)
        return truths, truths
    if task.output_dim == 1:
        truths = random.uniform(*task.scale, (samples, 1)).round(1).astype(np.float32)
        return truths, truths
    truths = random.integers(0, 2, (samples, 4))
    return truths, np.eye(2)[truths].reshape(samples, 8)


every_task = pytest.mark.parametrize("task", [
    SentimentRegression(), SentimentRegression("MMSA"), UnitSentimentRegression(), EmotionClassification(),
    ScoreRegression(scale=(1, 5)), ScoresRegression(("valence", "arousal")), Classification(tuple("abcdef")),
], ids=["score", "score of MMSA", "unit score", "emotion", "score on 1 to 5", "scores", "classes"])


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
def test_subtracted_totals_are_the_metrics_without_a_cluster(task):
    random = np.random.default_rng(4)
    truths, useful = make_case(task, 60, random)
    truths[:7] = 0
    predictions = [(useful + random.normal(size=useful.shape)).astype(np.float32) for _ in range(3)]
    clusters = random.integers(0, 5, 60)  # unequal, and not in order
    clusters[:5] = range(5)
    measured = measure(task, predictions, truths, clusters)
    assert set(measured) == {*task.columns.values(), MAIN}
    for seed, of_seed in enumerate(predictions):
        whole = task.metrics(of_seed, truths)
        without = [task.metrics(of_seed[clusters != c], truths[clusters != c]) for c in range(5)]
        for key in task.columns.values():
            assert measured[key].whole[seed] == pytest.approx(whole[key], abs=1e-6), key
            assert measured[key].without[seed] == pytest.approx([x[key] for x in without], abs=1e-6), key
        assert measured[MAIN].whole[seed] == pytest.approx(np.mean([whole[key] for key in task.main[1]]), abs=1e-6)


def of_scores(scores):
    """The mean of scores (S, C, ...) as a metric whose clusters weigh the same."""
    clusters = scores.shape[1]
    return Measured(scores.mean(axis=1), (scores.sum(axis=1, keepdims=True) - scores) / (clusters - 1))


def made_scores(random, seeds, clusters, cases, of_seed, shared, of_cluster, rest, better=0.0):
    """Scores (S, C, cases) of two models. Both have the same part `shared` of the clusters."""
    same = shared * random.normal(size=(1, clusters, cases))
    return [
        same + better * model + of_seed * random.normal(size=(s, 1, cases))
        + of_cluster * random.normal(size=(1, clusters, cases)) + rest * random.normal(size=(s, clusters, cases))
        for model, s in enumerate(seeds)
    ]


def test_the_variance_by_hand():
    """Against mean squares of a two-way layout, written out; the two models have unequal numbers of seeds."""
    a, b = made_scores(np.random.default_rng(5), (4, 6), 7, 1, 1.0, 1.0, 1.0, 1.0)
    a, b = a[..., 0], b[..., 0]
    found = difference(of_scores(a), of_scores(b))
    seeds = [(x.mean(axis=1).var(ddof=1) / len(x), len(x) - 1) for x in (a, b)]
    clusters = ((b.mean(axis=0) - a.mean(axis=0)).var(ddof=1) / 7, 6)
    both = [
        (sum((x[s, c] - x[s].mean() - x[:, c].mean() + x.mean()) ** 2 for s in range(len(x)) for c in range(7))
         / ((len(x) - 1) * 6) / (7 * len(x)), (len(x) - 1) * 6) for x in (a, b)
    ]
    variance = sum(v for v, _ in seeds) + clusters[0] - sum(v for v, _ in both)
    assert variance > max(sum(v for v, _ in seeds), clusters[0])
    freedom = variance ** 2 / sum(v ** 2 / d for v, d in (*seeds, clusters, *both))
    from_interval = (found.high - found.low) / 2 / variance ** 0.5
    assert found.value == pytest.approx(b.mean() - a.mean())

    assert from_interval == pytest.approx(t.isf(0.025, freedom))
    assert found.p_value == pytest.approx(2 * t.sf(abs(found.value) / variance ** 0.5, freedom))


def test_the_three_estimates_expect_the_variance_of_the_difference():
    """Over many draws of seeds and clusters, seeds + clusters - both is the variance of the difference."""
    a, b = made_scores(np.random.default_rng(6), (3, 5), 8, 40000, 0.5, 2.0, 0.7, 1.5)
    apart = b.mean(axis=(0, 1)) - a.mean(axis=(0, 1))
    formula = 0.5 ** 2 / 3 + 0.5 ** 2 / 5 + 2 * 0.7 ** 2 / 8 + 1.5 ** 2 / (3 * 8) + 1.5 ** 2 / (5 * 8)
    assert apart.var() == pytest.approx(formula, rel=0.03)
    measured = [of_scores(x) for x in (a, b)]
    seeds = sum(x.whole.var(axis=0, ddof=1) / len(x.whole) for x in measured)
    clusters = jackknife(measured[1].without.mean(axis=0) - measured[0].without.mean(axis=0))
    both = sum(jackknife((x.without - x.without.mean(axis=0)).swapaxes(0, 1)).sum(axis=0)
               / (len(x.whole) * (len(x.whole) - 1)) for x in measured)
    assert (seeds + clusters - both).mean() == pytest.approx(formula, rel=0.03)
    assert both.mean() == pytest.approx(1.5 ** 2 / 24 + 1.5 ** 2 / 40, rel=0.03)


def rejections(seeds, clusters, better=0.0, cases=3000):
    """The share of made-up comparisons that the test calls different."""
    random = np.random.default_rng([seeds, clusters])
    a, b = made_scores(random, (seeds, seeds), clusters, cases, of_seed=1.0, shared=3.0, of_cluster=1.0, rest=2.0,
                       better=better)
    return (difference(of_scores(a), of_scores(b)).p_value < LEVEL).mean()


@pytest.mark.parametrize("clusters", [5, 31, 200])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_equal_models_are_seldom_called_different(seeds, clusters):
    assert 0.02 <= rejections(seeds, clusters) <= 0.065


def test_two_standard_deviations_of_seeds_are_found():
    assert rejections(5, 31, better=2.0) >= 0.65


def test_without_clusters_or_seeds_it_is_a_known_test():
    """Welch's test where clusters say nothing; the paired t-test over clusters of these trained models."""
    random = np.random.default_rng(7)
    a, b = made_scores(random, (4, 5), 10, 1, 1.0, 1.0, 0.0, 0.0)
    welch = ttest_ind(b[:, 0, 0], a[:, 0, 0], equal_var=False)
    assert difference(of_scores(a), of_scores(b)).p_value[0] == pytest.approx(welch.pvalue)
    a, b = made_scores(random, (1, 1), 10, 1, 1.0, 1.0, 1.0, 1.0)
    for of_trained in (True, False):  # one seed of each: there is no spread over seeds to count
        assert difference(of_scores(a), of_scores(b), of_trained).p_value[0] == pytest.approx(
            ttest_rel(b[0, :, 0], a[0, :, 0]).pvalue)
    a, b = made_scores(random, (4, 4), 10, 1, 1.0, 1.0, 1.0, 1.0)
    apart = (b - a).mean(axis=0)[:, 0]
    assert difference(of_scores(a), of_scores(b), of_trained=True).p_value[0] == pytest.approx(
        ttest_1samp(apart, 0).pvalue)


@every_task
def test_a_clear_difference_is_significant_and_none_is_not(task):
    random = np.random.default_rng(1)
    truths, useful = make_case(task, 200, random)
    good, bad, also_bad = (
        [useful + noise * random.normal(size=useful.shape) for _ in range(3)] for noise in (0.1, 3.0, 3.0)
    )
    clusters = clusters_of(range(200), "(x)")
    clear = differences(task, bad, good, truths, clusters)
    assert max(found.p_value for found in clear.values()) < 0.01
    for key, found in clear.items():
        falls = key in task.lower_is_better or (key == MAIN and task.main[1][0] in task.lower_is_better)
        assert found.high < 0 if falls else found.low > 0
        assert found.low < found.value < found.high
    assert min(found.p_value for found in differences(task, bad, also_bad, truths, clusters).values()) > 0.01
    same = differences(task, bad, bad, truths, clusters)
    assert {found.p_value for found in same.values()} == {1.0}
    assert {found.value for found in same.values()} == {0.0}


def test_p_values_are_those_of_a_t_test_on_many_samples():
    random, task = np.random.default_rng(3), SentimentRegression()
    truths, useful = make_case(task, 600, random)
    a, b = (useful + spread * random.normal(size=useful.shape) for spread in (1.0, 1.08))
    expected = ttest_rel(*(np.abs(x - truths).ravel() for x in (a, b))).pvalue
    assert 0.005 < expected < 0.5
    found = differences(task, [a], [b], truths, clusters_of(range(600), "(x)"), of_trained=True)
    assert found["mae"].p_value == pytest.approx(expected, rel=1e-3)


def test_every_task_declares_its_main_metric_beforehand():
    tasks = [task.make({"labels": ["a", "b"], "protocol": "MulT", "scale": [0, 1]}) for task in TASKS.values()]
    assert all(task.main[1] and set(task.main[1]) <= set(task.columns.values()) for task in tasks)


def test_undefined_metrics_have_no_interval():
    task, truths = SentimentRegression(), np.linspace(-3, 3, 12).reshape(-1, 1)
    constant, useful = np.ones_like(truths), truths + 0.1
    found = differences(task, [constant] * 3, [useful] * 3, truths, clusters_of(range(12), "(x)"))
    assert np.isnan([*found["corr"]]).all()
    assert np.isfinite([*found["mae"]]).all()
    single = clusters_of(range(12), "(x)")._replace(numbers=np.zeros(12, int))
    one = differences(task, [constant], [useful], truths, single)
    assert np.isfinite(one["mae"].value)
    assert np.isnan(one["mae"].low)


@pytest.mark.parametrize("ids, numbers", [
    (["v1|0.0|1.0", "v2|0.0|1.0", "v1|1.0|2.0"], [0, 1, 0]),
    (["v_1$_$1", "v_1$_$2", "v$_2$_$1"], [0, 0, 1]),
    (["v1|0", "v1", "v1|1"], [0, 1, 0]),  # an id without the pattern is on its own
    (["0", "1", "2"], [0, 1, 2]),
    (["v1|0", "v2|1", "v3|2"], [0, 1, 2]),  # clusters of one
    (["v1|0", "v1|1", "v1|2"], [0, 1, 2]),  # a single cluster
])
def test_clusters_of_ids(ids, numbers):
    clusters = clusters_of(np.array(ids), find_spec("mosi").cluster)
    assert clusters.numbers.tolist() == numbers
    assert clusters.total == max(numbers) + 1
    grouped = clusters.total < len(ids)
    assert clusters.words.startswith("2 clusters of 3 test samples" if grouped else "3 test samples, each alone")


def test_patterns_of_clusters():
    actors = clusters_of(["03-01-04|0", "03-02-04|0", "03-01-05|0"], r"-(\d+)\|")
    assert actors.numbers.tolist() == [0, 0, 1]
    assert "such as 04" in actors.words
    assert check_pattern(r"(\w)") == r"(\w)"
    with pytest.raises(UserError, match="has no group"):
        check_pattern(r"\w")
    with pytest.raises(UserError, match="is no regular expression: "):
        check_pattern("(")


def test_enough_seeds(monkeypatch):
    assert enough_seeds([{"model": "PMR"}] * 3)
    assert not enough_seeds([{"model": "PMR"}] * 2)
    monkeypatch.setattr("baselines.mult.MulT.varies_by_seed", False, raising=False)
    assert enough_seeds([{"model": "MulT"}])  # fitted in closed form: other seeds would give the same


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan")}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": float("nan")}, nan_ok=True
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_p_values_as_text():
    assert [p_text(p) for p in (1.0, 0.0123, 0.0001, 0.00009)] == ["1.0000", "0.0123", "0.0001", "<0.0001"]
