"""A paired permutation test of two models over the same test samples and seeds.

If two models were equally good, it would not matter which of the two gave which prediction. So for each sample, and for
all seeds at once, the two models' predictions are exchanged with probability 1/2. The p-value of a metric is the share
of such exchanges whose difference in the metric, averaged over seeds, is at least as large as the real one (two-sided;
the real arrangement counts as one of them).

Every metric is a function of totals over samples, so an exchange only moves the differences of the samples' statistics:
all exchanges are one matrix product.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from src.eval_metrics import metrics_of_totals
from src.tasks import Task

EXCHANGES = 9999
CHUNK = 500  # exchanges computed at a time


def p_values(task: Task, predictions_a: Sequence[Any], predictions_b: Sequence[Any], truths: Any,
             seed: int = 0) -> dict[str, float]:
    """The p-value of the difference of two models in each metric of a task's table, {metric: p}.

    predictions_a, predictions_b: (S, N, output_dim) of S seeds on N samples; truths: (N, 1) or (N, K). A metric that is
    undefined for either model has p = nan.
    """
    both = np.stack([predictions_a, predictions_b])  # (2, S, N, output_dim)
    _, seeds, samples, width = both.shape
    by_metric = task.statistics(both.reshape(-1, width), np.tile(np.asarray(truths), (2 * seeds, 1)))
    edges = np.cumsum([len(statistics) for statistics in by_metric.values()])[:-1]
    a, b = np.concatenate(list(by_metric.values())).reshape(-1, 2, seeds, samples).swapaxes(0, 1)  # (Q, S, N)
    total_a, total_b = (x.sum(axis=-1)[..., None] for x in (a, b))  # (Q, S, 1)
    change = (b - a).reshape(-1, samples).T  # (N, Q S)

    def difference(moved: np.ndarray) -> dict[str, np.ndarray]:  # (Q, S, R): the statistics that exchanges move to a
        metrics_a, metrics_b = (
            metrics_of_totals(task.definitions, dict(zip(by_metric, np.split(total, edges), strict=True)))
            for total in (total_a + moved, total_b - moved)
        )
        return {name: (metrics_b[name] - metrics_a[name]).mean(axis=0) for name in by_metric}  # (R,)

    observed = {name: float(value[0]) for name, value in difference(np.zeros_like(total_a)).items()}
    at_least = dict.fromkeys(observed, 1)
    random = np.random.default_rng(seed)
    for start in range(0, EXCHANGES, CHUNK):
        exchanged = random.random((min(CHUNK, EXCHANGES - start), samples)) < 0.5  # (R, N)
        moved = (exchanged.astype(float) @ change).T.reshape(*total_a.shape[:2], -1)
        for name, values in difference(moved).items():
            at_least[name] += np.sum(np.abs(values) >= np.abs(observed[name]) - 1e-12)
    return {
        name: at_least[name] / (EXCHANGES + 1) if np.isfinite(observed[name]) else float("nan") for name in observed
    }


def holm(p_by_name: dict[str, float]) -> dict[str, float]:
    """Holm's step-down adjustment of several p-values, {name: adjusted p}; nan stays nan and does not count."""
    names = sorted((name for name, p in p_by_name.items() if not np.isnan(p)), key=p_by_name.__getitem__)
    adjusted, largest = dict(p_by_name), 0.0
    for rank, name in enumerate(names):
        largest = max(largest, min(1.0, (len(names) - rank) * p_by_name[name]))
        adjusted[name] = largest
    return adjusted
