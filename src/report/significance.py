"""Is one model better than another? A paired permutation test over the same test samples and seeds.

If two models were equally good, it would not matter which of the two gave which prediction. So for each sample, and for
all seeds at once, the two models' predictions are exchanged with probability 1/2; the p-value of a metric is the share
of such exchanges whose difference in the metric, averaged over seeds, is at least as large as the real one
(two-sided; the real arrangement counts as one of them).

Every metric here is a function of sums over samples, so an exchange only moves the differences of those sums: all
exchanges are one matrix product.
"""

from functools import partial

import numpy as np

from src.eval_metrics import UNIT_EDGES, interval_class, rounded_class

EXCHANGES = 9999
CHUNK = 500  # exchanges computed at a time


def p_values(task, predictions_a, predictions_b, truths, seed=0):
    """The p-value of the difference of two models in each metric of a task's table, {metric: p}.

    predictions_a, predictions_b: (S, N, output_dim) of S seeds on N samples; truths: (N, 1) or (N, K). A metric that is
    undefined for either model has p = nan.
    """
    sums, finish = task.sample_sums(truths)
    a, b = (np.stack([sums(p) for p in predictions]) for predictions in (predictions_a, predictions_b))  # (S, N, Q)
    total_a, total_b, change = a.sum(axis=1), b.sum(axis=1), b - a

    def difference(moved):  # (..., S, Q), what an exchange moves from b to a
        metrics_a, metrics_b = finish(total_a + moved), finish(total_b - moved)
        return {name: (metrics_b[name] - metrics_a[name]).mean(axis=-1) for name in task.columns.values()}

    observed = difference(np.zeros_like(total_a))
    at_least = dict.fromkeys(observed, 1)
    random = np.random.default_rng(seed)
    for start in range(0, EXCHANGES, CHUNK):
        exchanged = random.random((min(CHUNK, EXCHANGES - start), change.shape[1])) < 0.5  # (R, N)
        moved = np.einsum("rn,snq->rsq", exchanged.astype(float), change, optimize=True)
        for name, values in difference(moved).items():
            at_least[name] += np.sum(np.abs(values) >= np.abs(observed[name]) - 1e-12)
    return {
        name: at_least[name] / (EXCHANGES + 1) if np.isfinite(observed[name]) else float("nan") for name in observed
    }


def holm(p_by_name):
    """Holm's step-down adjustment of several p-values, {name: adjusted p}; nan stays nan and does not count."""
    names = sorted((name for name, p in p_by_name.items() if not np.isnan(p)), key=p_by_name.get)
    adjusted, largest = dict(p_by_name), 0.0
    for rank, name in enumerate(names):
        largest = max(largest, min(1.0, (len(names) - rank) * p_by_name[name]))
        adjusted[name] = largest
    return adjusted


def counts(positive, truly_positive):
    """Of each sample, whether it is a true positive, false positive, false negative, true negative: (N, 4)."""
    return np.stack([positive & truly_positive, positive & ~truly_positive, ~positive & truly_positive,
                     ~positive & ~truly_positive], axis=-1).astype(float)


def accuracy_and_f1(tp, fp, fn, tn, weigh_by_predicted=False):
    """Accuracy and weighted F1 from numbers of samples."""
    with np.errstate(invalid="ignore", divide="ignore"):
        f1_positive = np.nan_to_num(2 * tp / (2 * tp + fp + fn))
        f1_negative = np.nan_to_num(2 * tn / (2 * tn + fp + fn))
        support = tp + (fp if weigh_by_predicted else fn)
        total = tp + fp + fn + tn
        return (tp + tn) / total, (support * f1_positive + (total - support) * f1_negative) / total


def sentiment_sums(truths):
    """What `p_values` sums over samples for the sentiment metrics, and the metrics of such sums."""
    truths = np.asarray(truths, dtype=np.float32).ravel()
    classes = {name: partial(rounded_class, bound=bound) for name, bound in (("acc7", 3), ("acc5", 2))}
    signs = {"": (np.greater, truths != 0), "_has0": (np.greater_equal, np.full(len(truths), True))}
    return _score_sums(truths, classes, signs)


def unit_sentiment_sums(truths):
    """The same for the metrics of scores on the scale -1..1."""
    truths = np.clip(np.asarray(truths, dtype=np.float32).ravel(), -1, 1)
    classes = {name: partial(interval_class, edges=UNIT_EDGES[name]) for name in ("acc3", "acc5")}
    return _score_sums(truths, classes, {"": (np.greater, np.full(len(truths), True))}, bound=1)


def _score_sums(truths, classes, signs, bound=np.inf):
    """Sums for scores, clipped to +-bound. `classes` gives what tells the class of scores by the name of its accuracy,
    `signs` what a score must be to 0 to be positive, and which samples count, by the suffix of its metrics' names.
    """
    t, n = truths.astype(float), len(truths)
    true_classes = {name: class_of(truths) for name, class_of in classes.items()}

    def sums(predictions):  # (N, 1) -> (N, 4 + C + 4 S)
        scores = np.clip(np.asarray(predictions, dtype=np.float32).ravel(), -bound, bound)
        p = scores.astype(float)
        return np.column_stack([
            np.abs(scores - truths), p, p**2, p * t,
            *(class_of(scores) == true_classes[name] for name, class_of in classes.items()),
            *(counts(positive(scores, 0), positive(truths, 0)) * counted[:, None]
              for positive, counted in signs.values()),
        ])

    def finish(totals):  # (..., 4 + C + 4 S) -> {metric: (...)}
        error, p, pp, pt, *rest = np.moveaxis(totals, -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            corr = (n * pt - p * t.sum()) / np.sqrt((n * pp - p**2) * (n * (t**2).sum() - t.sum() ** 2))
        metrics = {"mae": error / n, "corr": corr}
        metrics |= {name: same / n for name, same in zip(classes, rest, strict=False)}
        for i, suffix in enumerate(signs):
            cells = rest[len(classes) + 4 * i:][:4]
            metrics[f"acc2{suffix}"], metrics[f"f1{suffix}"] = accuracy_and_f1(*cells)
            _, metrics[f"f1_stock{suffix}"] = accuracy_and_f1(*cells, weigh_by_predicted=True)
        return metrics

    return sums, finish


def emotion_sums(truths, emotions):
    """What `p_values` sums over samples for K emotions, and the metrics of such sums."""
    yes = np.asarray(truths).reshape(-1, len(emotions)).astype(bool)

    def sums(predictions):  # (N, 2K) -> (N, 4K)
        decisions = np.asarray(predictions).reshape(-1, len(emotions), 2).argmax(axis=2).astype(bool)
        return counts(decisions, yes).reshape(len(yes), -1)

    def finish(totals):  # (..., 4K) -> {metric: (...)}
        metrics = {}
        for i, emotion in enumerate(emotions):
            of_emotion = np.moveaxis(totals[..., 4 * i:4 * i + 4], -1, 0)
            metrics[f"{emotion}_acc"], metrics[f"{emotion}_f1"] = accuracy_and_f1(*of_emotion)
        return metrics

    return sums, finish
