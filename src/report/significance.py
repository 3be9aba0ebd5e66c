"""The difference of two models in a metric: its interval and its test, over trained models and clusters of samples.

Model m, trained with seed s, has on cluster c of the test samples (a video, a speaker) the score

    y[m, s, c] = mean[m] + seed[m, s] + cluster[m, c] + rest[m, s, c]

The seeds of two models are separate draws: seed 1 of one model has nothing in common with seed 1 of the other. Their
clusters are the same: cluster[A, c] and cluster[B, c] are correlated. So the difference of the means over S[m] seeds
and C clusters has the variance

    sum_m var(seed[m]) / S[m]  +  var(cluster[B] - cluster[A]) / C  +  sum_m var(rest[m]) / (S[m] C)

Three estimates are at hand; each expects a part of it:

    seeds     sum_m s[m]^2 / S[m], with s[m]^2 the variance of model m's metric over its seeds
                  first term + third term, since the metric of a seed has the mean rest of that seed in it
    clusters  delete-one-cluster jackknife of the difference of the means over seeds
                  second term + third term, since that of a cluster has the mean rest of that cluster in it
    both      sum_m the same jackknife of the seeds' deviations from their model's mean, the interaction seed x cluster
                  third term

So the variance is V = seeds + clusters - both. The three are independent for normal scores. It is at least the third
term, so that V is taken to be `both` where it comes out smaller. t has Satterthwaite's degrees of freedom, V^2 / sum
v_i^2 / d_i over the parts v_i of V with their own d_i: S[m] - 1 of a model's seeds, C - 1 of the clusters,
(S[m] - 1)(C - 1) of a model's share in `both`. They are at least the smallest d_i, as those of a sum are.

A metric is a function of totals over samples, so that leaving a cluster out is a subtraction of its totals. All numbers
may be arrays: `difference` compares many pairs of models at a time.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from scipy.special import stdtr, stdtrit  # of Student's t; scipy.stats takes seconds to import

from src.errors import UserError, printable
from src.eval_metrics import metrics_of_totals
from src.models import varies_by_seed
from src.tasks import Task

LEVEL = 0.05  # of stars; the intervals cover the rest
FEWEST_SEEDS = 3  # fewer say nothing about other seeds
FEWEST_CLUSTERS = 10  # fewer are worth a warning
MAIN = "main"  # the name of a task's main metric among its differences
CLUSTER_HELP = ("samples whose ids have the same first group of this pattern are drawn together, e.g. '-(\\d+)\\|' for "
                "the end of the first field (default: that of the data set, which is the video)")


class Measured(NamedTuple):
    """A metric of one model with S seeds."""

    whole: ndarray  # (S, ...): of all samples
    without: ndarray  # (S, C, ...): of all but those of one cluster


class Difference(NamedTuple):
    """B less A in a metric, the limits of its 95 % interval, and the p-value of its t-test; nan where undefined."""

    value: Any
    low: Any
    high: Any
    p_value: Any


class Clusters(NamedTuple):
    """Test samples in groups that are drawn together."""

    numbers: ndarray  # (N,): that of each sample, from 0
    words: str  # "31 clusters of 686 test samples"

    @property
    def total(self) -> int:
        """How many clusters there are."""
        return int(self.numbers.max()) + 1


def check_pattern(pattern: str) -> str:
    """A regular expression for --cluster, unchanged; UserError where it is none, or has no group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--cluster {pattern!r} is no regular expression: {error}") from error
    if not groups:
        raise UserError(f"--cluster {pattern!r} has no group: put the part of an id that names its cluster in brackets")
    return pattern


def clusters_of(ids: Iterable[Any], pattern: str) -> Clusters:
    """Samples whose ids have the same first group of a pattern are a cluster. An id without it is its own cluster.

    Ids tell nothing if each is a cluster of its own, or all are one; then each sample is a cluster.
    """
    matches = [(re.search(pattern, name), name) for name in map(str, ids)]
    names = [(True, match[1]) if match and match[1] is not None else (False, name) for match, name in matches]
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    if 1 < len(order) < len(names):
        example = printable(next((name for named, name in order if named), names[0][1]))
        return Clusters(np.array([order[name] for name in names]),
                        f"{len(order)} clusters of {len(names)} test samples, named by their ids, such as {example}")
    return Clusters(np.arange(len(names)), f"{len(names)} test samples, each alone since their ids tell no groups")


def enough_seeds(runs: Sequence[dict[str, Any]]) -> bool:
    """Whether results of a model say something about other seeds."""
    return len(runs) >= FEWEST_SEEDS or not varies_by_seed(runs[0]["model"])


def measure(task: Task, predictions: Sequence[Any], truths: Any, clusters: ndarray) -> dict[str, Measured]:
    """The metrics of a task's table, and its main metric as MAIN, of a model's predictions (S, N, output_dim).

    truths is (N, 1) or (N, K), clusters (N,) has numbers from 0.
    """
    stacked = np.stack(predictions)
    seeds, samples, width = stacked.shape
    statistics = task.statistics(stacked.reshape(-1, width), np.tile(np.asarray(truths), (seeds, 1)))
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    of_seeds = {name: x.reshape(-1, seeds, samples)[..., order] for name, x in statistics.items()}  # (Q, S, N)
    totals = {name: x.sum(axis=-1) for name, x in of_seeds.items()}  # (Q, S)
    rest = {name: totals[name][..., None] - np.add.reduceat(x, starts, axis=-1) for name, x in of_seeds.items()}
    whole, without = (metrics_of_totals(task.definitions, x) for x in (totals, rest))
    measured = {name: Measured(np.asarray(whole[name]), np.asarray(without[name])) for name in statistics}
    parts = [measured[name] for name in task.main[1]]
    measured[MAIN] = Measured(*(np.mean(x, axis=0) for x in zip(*parts, strict=True)))
    return measured


def difference(a: Measured, b: Measured, of_trained: bool = False) -> Difference:
    """B less A over trained models and clusters, or only over clusters if the trained models are the question.

    A model with one seed counts as one that is the same with every seed.
    """
    value, change = b.whole.mean(axis=0) - a.whole.mean(axis=0), b.without.mean(axis=0) - a.without.mean(axis=0)
    clusters = len(change)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_clusters = jackknife(change)
        parts, both = [(of_clusters, clusters - 1)], []  # each with its degrees of freedom
        for model in (a, b):
            if (seeds := len(model.whole)) > 1 and not of_trained:
                parts.append((model.whole.var(axis=0, ddof=1) / seeds, seeds - 1))
                rest = model.without - model.without.mean(axis=0)
                shared = jackknife(rest.swapaxes(0, 1)).sum(axis=0) / (seeds * (seeds - 1))
                both.append((shared, (seeds - 1) * (clusters - 1)))
        least = sum((part for part, _ in both), np.zeros_like(of_clusters))
        variance = sum(part for part, _ in parts) - least
        freedom = np.where(variance > least, satterthwaite(variance, parts + both), satterthwaite(least, both))
        freedom = np.fmax(freedom, min(own for _, own in parts))
        error = np.sqrt(np.maximum(variance, least))
        value = np.where(np.abs(value) < 1e-12, 0.0, value)  # a rounding error
        p_value = np.where((value == 0) & (error >= 0), 1.0, 2 * stdtr(freedom, -np.abs(value) / error))
        margin = stdtrit(freedom, 1 - LEVEL / 2) * error
    return Difference(*(x[()] for x in (value, value - margin, value + margin, p_value)))


def satterthwaite(variance: ndarray, parts: Sequence[tuple[ndarray, int]]) -> ndarray:
    """The degrees of freedom of a variance that is a sum or difference of independent parts with their own."""
    return variance ** 2 / sum((part ** 2 / own for part, own in parts), np.zeros_like(variance))


def jackknife(without: ndarray) -> ndarray:
    """The jackknife's variance (...) of a number from its values without each cluster (C, ...); nan of one cluster."""
    clusters = len(without)
    spread = ((without - without.mean(axis=0)) ** 2).sum(axis=0)
    return spread * (clusters - 1) / clusters if clusters > 1 else np.full_like(spread, np.nan)


def differences(task: Task, a: Sequence[Any], b: Sequence[Any], truths: Any, clusters: Clusters,
                of_trained: bool = False) -> dict[str, Difference]:
    """B less A in each metric of a task's table, and in MAIN, from predictions (S, N, output_dim) of either."""
    of_a, of_b = (measure(task, predictions, truths, clusters.numbers) for predictions in (a, b))
    return {name: difference(of_a[name], of_b[name], of_trained) for name in of_a}


def p_text(p_value: float) -> str:
    """A p-value with four decimals, or its bound where they would be zeros."""
    return "<0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def holm(p_by_name: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of several p-values, {name: adjusted p}; nan stays nan and does not count."""
    names = sorted((name for name, p in p_by_name.items() if not np.isnan(p)), key=p_by_name.__getitem__)
    adjusted, largest = dict(p_by_name), 0.0
    for rank, name in enumerate(names):
        largest = max(largest, min(1.0, (len(names) - rank) * p_by_name[name]))
        adjusted[name] = largest
    return adjusted
