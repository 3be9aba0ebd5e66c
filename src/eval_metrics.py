"""Every metric, once. Evaluation, tables and tests of significance use the same formulas.

A metric is a function of totals over samples. An evaluation adds up the statistics of a set once; a test of
significance adds them up for many choices of samples at the same time.

Definitions are the original MulT's where it has them (`f1_stock`, acc7, acc5, acc2 and the emotions' accuracy and F1),
and MMSA's for CH-SIMS (github.com/thuiar/MMSA, src/MMSA/utils/metricsTop.py). Scores are float32 like there, so that
the same predictions give the same digits. A metric that its input does not define, such as the correlation of a
constant, is nan.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray

EMOTIONS = ("Neutral", "Happy", "Sad", "Angry")  # IEMOCAP's, in the order of its labels


class Metric(NamedTuple):
    """A metric as a function of totals over samples.

    statistics  (predictions, truths) of N samples -> arrays (N,), to be added up over samples of this one call
    value       their totals, numbers or arrays of one shape -> the metric, in the same shape
    """

    statistics: Callable[[ndarray, ndarray], Sequence[ndarray]]
    value: Callable[..., ndarray]
    lower_is_better: bool = False
    percent: bool = True  # how a table shows it


def measure(definitions: Mapping[str, Metric], predictions: ndarray, truths: ndarray) -> dict[str, float]:
    """Each metric of one set of samples, {name: value}."""
    totals = {
        name: [column.sum() for column in metric.statistics(predictions, truths)]
        for name, metric in definitions.items()
    }
    # A mean of float32 becomes the shortest decimal that stands for it, which is what the original prints.
    return {name: float(str(value)) for name, value in metrics_of_totals(definitions, totals).items()}


def metrics_of_totals(definitions: Mapping[str, Metric], totals: Mapping[str, Any]) -> dict[str, Any]:
    """Each metric by name from the totals of its statistics: an array (Q, ...) or Q numbers -> (...)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: definitions[name].value(*of_metric) for name, of_metric in totals.items()}


def everyone(truths: ndarray) -> ndarray:
    return np.full(len(truths), True)


def accuracy(class_of: Callable[[ndarray], ndarray], counted: Callable[[ndarray], ndarray] = everyone) -> Metric:
    """The share of samples whose prediction and truth are of the same class, among those that `counted` chooses."""
    def statistics(predictions: ndarray, truths: ndarray) -> Sequence[ndarray]:
        chosen = counted(truths)
        return chosen & (class_of(predictions) == class_of(truths)), chosen
    return Metric(statistics, np.divide)


def of_classes(value: Callable[[ndarray, ndarray, ndarray], ndarray], class_of: Callable[[ndarray], ndarray],
               counted: Callable[[ndarray], ndarray] = everyone, classes: Sequence[int] = (0, 1)) -> Metric:
    """A metric that follows from three numbers of samples a class, (C, ...) each: hits, predictions and truths."""
    def statistics(predictions: ndarray, truths: ndarray) -> Sequence[ndarray]:
        chosen = counted(truths)
        predicted, true = ([chosen & (class_of(x) == c) for c in classes] for x in (predictions, truths))
        return [*(a & b for a, b in zip(predicted, true, strict=True)), *predicted, *true]
    return Metric(statistics, lambda *totals: value(*np.stack(totals).reshape(3, len(classes), *np.shape(totals[0]))))


def weighted_f1(hits: ndarray, predicted: ndarray, true: ndarray, weights: ndarray | None = None) -> ndarray:
    """F1 of each class, averaged by its number of truths or by other `weights` (C, ...)."""
    weights = true if weights is None else weights
    f1 = np.nan_to_num(2 * hits / (predicted + true))  # 0 of a class that nothing belongs to
    return (weights * f1).sum(axis=0) / weights.sum(axis=0)


def stock_f1(hits: ndarray, predicted: ndarray, true: ndarray) -> ndarray:
    """F1 of each class, averaged by its number of predictions: the original MulT exchanges the arguments."""
    return weighted_f1(hits, predicted, true, weights=predicted)


def macro_f1(hits: ndarray, predicted: ndarray, true: ndarray) -> ndarray:
    """The mean F1 of the classes that occur among predictions or truths."""
    return weighted_f1(hits, predicted, true, weights=(predicted + true > 0).astype(float))


def mean_recall(hits: ndarray, predicted: ndarray, true: ndarray) -> ndarray:
    """The mean recall of the classes that have samples: unweighted average recall."""
    return np.nan_to_num(hits / true).sum(axis=0) / (true > 0).sum(axis=0)


def moments(predictions: ndarray, truths: ndarray) -> Sequence[ndarray]:
    """The statistics of second moments. They stand around the mean of all samples, which keeps them precise."""
    p, t = (x - x.mean() for x in (x.astype(np.float64) - x[0] for x in (predictions, truths)))  # 0 of a constant
    return np.ones_like(p), p, t, p * p, t * t, p * t


def pearson(n: ndarray, p: ndarray, t: ndarray, pp: ndarray, tt: ndarray, pt: ndarray) -> ndarray:
    """Pearson's correlation from the totals of `moments`; nan where either side is constant."""
    varying = (pp - p * p / n > 1e-12 * pp) & (tt - t * t / n > 1e-12 * tt)  # a constant leaves rounding errors
    r = (pt - p * t / n) / np.sqrt((pp - p * p / n) * (tt - t * t / n))
    return np.where(varying, np.clip(r, -1, 1), np.nan)[()]


def agreement(predictions: ndarray, truths: ndarray) -> Sequence[ndarray]:
    """The statistics of `moments` and the error."""
    return *moments(predictions, truths), predictions.astype(np.float64) - truths


def concordance(n: ndarray, p: ndarray, t: ndarray, pp: ndarray, tt: ndarray, pt: ndarray, error: ndarray) -> ndarray:
    """Lin's concordance correlation coefficient from the totals of `agreement`; nan where both sides are one constant.
    """
    spread = (pp - p * p / n) + (tt - t * t / n) + error * error / n
    return np.where(spread > 0, 2 * (pt - p * t / n) / spread, np.nan)[()]


def rounded(bound: int, scores: ndarray) -> ndarray:
    """The class of scores: clipped to +-bound and rounded half to even."""
    return np.round(np.clip(scores, -bound, bound))


def interval(edges: Sequence[float], scores: ndarray) -> ndarray:
    """The class of scores: the number of the interval between float32 edges; an edge belongs to the lower one."""
    return np.searchsorted(np.array(edges, dtype=np.float32), scores, side="left")


positive, not_negative, not_zero = (partial(than, 0) for than in (np.less, np.less_equal, np.not_equal))  # 0 < scores

SCORE = {
    "mae": Metric(lambda p, t: (np.abs(p - t), np.ones_like(p)), np.divide, lower_is_better=True, percent=False),
    "corr": Metric(moments, pearson, percent=False),
}
AGREEMENT = {**SCORE, "ccc": Metric(agreement, concordance, percent=False)}
UNIT_SENTIMENT = {  # MMSA's, of scores clipped to -1..1; F1 is weighted by the support of the two true classes
    **SCORE,
    "acc2": accuracy(partial(interval, (0.0,))),
    "acc3": accuracy(partial(interval, (-0.1, 0.1))),
    "acc5": accuracy(partial(interval, (-0.7, -0.1, 0.1, 0.7))),
    "f1": of_classes(weighted_f1, partial(interval, (0.0,))),
}


def sentiment(exclude_zero: bool = True) -> dict[str, Metric]:
    """The metrics of scores on the scale -3..3.

    mae, corr         mean absolute error; Pearson correlation
    acc7, acc5        accuracy after clipping to +-3 (+-2) and rounding half to even
    acc2, f1          positive against the rest (> 0); without the samples of truth 0 if `exclude_zero`. F1 is weighted
                      by the support of the true classes
    f1_stock          the same weighted by the support of the *predicted* classes: the original MulT's F1 score
    acc2_has0, f1_has0  negative against non-negative (>= 0) over all samples, as MMSA defines them
    """
    counted = not_zero if exclude_zero else everyone
    return {
        **SCORE,
        "acc7": accuracy(partial(rounded, 3)), "acc5": accuracy(partial(rounded, 2)),
        "acc2": accuracy(positive, counted),
        "f1": of_classes(weighted_f1, positive, counted), "f1_stock": of_classes(stock_f1, positive, counted),
        "acc2_has0": accuracy(not_negative), "f1_has0": of_classes(weighted_f1, not_negative),
    }


def score(scale: tuple[float, float]) -> dict[str, Metric]:
    """The metrics of scores on any scale: those of AGREEMENT, and for the side of the scale's middle, of the samples
    that are not on it, acc2 and f1, weighted by the true classes.
    """
    middle = sum(scale) / 2
    above, beside = partial(np.less, middle), partial(np.not_equal, middle)
    return {**AGREEMENT, "acc2": accuracy(above, beside), "f1": of_classes(weighted_f1, above, beside)}


def several(labels: Sequence[str]) -> dict[str, Metric]:
    """AGREEMENT of each of K scores (N, K), {label_metric: ...}, and its means over them, {mean_metric: ...}."""
    def joined(metric: Metric, columns: Sequence[int]) -> Metric:
        def statistics(predictions: ndarray, truths: ndarray) -> Sequence[ndarray]:
            return [x for i in columns for x in metric.statistics(predictions[:, i], truths[:, i])]
        def value(*totals: ndarray) -> ndarray:
            size = len(totals) // len(columns)
            parts = [totals[start:start + size] for start in range(0, len(totals), size)]
            return np.mean([metric.value(*part) for part in parts], axis=0)
        return metric._replace(statistics=statistics, value=value)
    of_each = {f"{label}_{key}": joined(metric, [i])
               for i, label in enumerate(labels) for key, metric in AGREEMENT.items()}
    return of_each | {f"mean_{key}": joined(metric, range(len(labels))) for key, metric in AGREEMENT.items()}


def classes(number: int) -> dict[str, Metric]:
    """The metrics of one of so many classes (N,): accuracy, weighted and macro F1, unweighted average recall."""
    def itself(classes: ndarray) -> ndarray:
        return classes
    by_class = partial(of_classes, class_of=itself, classes=range(number))
    return {"acc": accuracy(itself), "f1": by_class(weighted_f1), "macro_f1": by_class(macro_f1),
            "uar": by_class(mean_recall)}


def emotion(index: int) -> dict[str, Metric]:
    """The metrics of one of K yes/no decisions (N, K)."""
    def decision(answers: ndarray) -> ndarray:
        return answers[:, index]
    return {"acc": accuracy(decision), "f1": of_classes(weighted_f1, decision)}


def paired(predictions: ndarray, truths: ndarray) -> tuple[ndarray, ndarray]:
    """Both arrays; ValueError unless they have one shape, and some samples."""
    if predictions.shape != truths.shape or not truths.size:
        raise ValueError(f"{len(predictions)} predictions for {len(truths)} truths")
    return predictions, truths


def scores(predictions: Any, truths: Any, bound: float = np.inf) -> tuple[ndarray, ndarray]:
    """Predictions and truths as flat float32 arrays, clipped to +-bound; ValueError as in `paired`."""
    return paired(*(np.clip(np.asarray(x, dtype=np.float32).ravel(), -bound, bound) for x in (predictions, truths)))
