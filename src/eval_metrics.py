"""Metrics of the tasks: pure functions of arrays that return dictionaries of floats.

Definitions are the original MulT's where it has them (`f1_stock`, acc7, acc5, acc2 and the emotions' accuracy and F1),
and MMSA's for CH-SIMS (github.com/thuiar/MMSA, src/MMSA/utils/metricsTop.py), computed in float32 like there, so that
the same predictions give the same digits. A metric that its input does not
define, such as the correlation of a constant, is nan.
"""

import numpy as np
from sklearn.metrics import f1_score

EMOTIONS = ("Neutral", "Happy", "Sad", "Angry")  # IEMOCAP's, in the order of its labels
UNIT_EDGES = {"acc2": (0.0,), "acc3": (-0.1, 0.1), "acc5": (-0.7, -0.1, 0.1, 0.7)}  # between classes on -1..1


def sentiment_metrics(predictions, truths, exclude_zero=True):
    """Metrics of N sentiment scores on the scale -3..3.

    predictions, truths: N numbers in any shape, arrays or tensors.

    Returns
        mae, corr         mean absolute error; Pearson correlation
        acc7, acc5        accuracy after clipping to +-3 (+-2) and rounding half to even
        acc2, f1          positive against the rest (> 0); without the samples of truth 0 if `exclude_zero`.
                          F1 is weighted by the support of the true classes
        f1_stock          the same with the arguments exchanged, i.e. weighted by the support of the *predicted*
                          classes: what the original MulT prints as its F1 score
        acc2_has0, f1_has0  negative against non-negative (>= 0) over all samples, as MMSA defines them
    """
    predictions, truths = scores(predictions, truths)
    scored = (truths != 0) | (not exclude_zero)
    positive, truly_positive = predictions[scored] > 0, truths[scored] > 0
    return {
        "mae": mean_absolute_error(predictions, truths),
        "corr": correlation(predictions, truths),
        "acc7": accuracy(rounded_class(predictions, 3), rounded_class(truths, 3)),
        "acc5": accuracy(rounded_class(predictions, 2), rounded_class(truths, 2)),
        "acc2": accuracy(positive, truly_positive),
        "f1": weighted_f1(truly_positive, positive),
        "f1_stock": weighted_f1(positive, truly_positive),
        "acc2_has0": accuracy(predictions >= 0, truths >= 0),
        "f1_has0": weighted_f1(truths >= 0, predictions >= 0),
    }


def unit_sentiment_metrics(predictions, truths):
    """Metrics of N sentiment scores on CH-SIMS's scale, clipped to -1..1 before anything else, as MMSA defines them.

    predictions, truths: N numbers in any shape, arrays or tensors.

    Returns
        mae, corr         mean absolute error; Pearson correlation
        acc2, acc3, acc5  accuracy of the class that a score falls into: an interval between UNIT_EDGES, to which its
                          upper edge belongs
        f1                of the two classes of acc2, weighted by the support of the true ones
    """
    predictions, truths = (np.clip(x, -1, 1) for x in scores(predictions, truths))
    classes = {name: [interval_class(x, edges) for x in (predictions, truths)] for name, edges in UNIT_EDGES.items()}
    return {
        "mae": mean_absolute_error(predictions, truths),
        "corr": correlation(predictions, truths),
        **{name: accuracy(predicted, true) for name, (predicted, true) in classes.items()},
        "f1": weighted_f1(*reversed(classes["acc2"])),
    }


def emotion_metrics(logits, truths, emotions=EMOTIONS):
    """Accuracy and weighted F1 of K two-way decisions, {emotion: {"acc", "f1"}}.

    logits: N x K x 2 numbers in any shape, arrays or tensors; truths: N x K zeros and ones.
    """
    decisions = np.asarray(logits, dtype=np.float32).reshape(-1, len(emotions), 2).argmax(axis=2)  # (N, K)
    truths = np.asarray(truths).reshape(-1, len(emotions)).astype(int)
    if decisions.shape != truths.shape or not truths.size:
        raise ValueError(f"{len(decisions)} decisions for {len(truths)} truths")
    return {
        emotion: {"acc": accuracy(decisions[:, i], truths[:, i]), "f1": weighted_f1(truths[:, i], decisions[:, i])}
        for i, emotion in enumerate(emotions)
    }


def accuracy(predicted, true):
    """Share of equal elements; nan of none."""
    return float(np.mean(predicted == true)) if len(true) else float("nan")


def weighted_f1(true, predicted):
    """F1 of each class, averaged by its support in `true`; nan of no samples."""
    return float(f1_score(true, predicted, average="weighted", zero_division=0)) if len(true) else float("nan")


def scores(predictions, truths):
    """Predictions and truths as flat float32 arrays; ValueError unless there are equally many, and some."""
    predictions, truths = (np.asarray(x, dtype=np.float32).ravel() for x in (predictions, truths))
    if predictions.size != truths.size or not truths.size:
        raise ValueError(f"{predictions.size} predictions for {truths.size} truths")
    return predictions, truths


def mean_absolute_error(predictions, truths):
    """As the shortest decimal of its float32, which is what the original prints."""
    return float(str(np.mean(np.abs(predictions - truths))))


def rounded_class(scores, bound):
    """The class that a score falls into when clipped to +-bound and rounded half to even."""
    return np.round(np.clip(scores, -bound, bound))


def interval_class(scores, edges):
    """The interval between edges, as float32, that a score falls into: 0 up to and with the first edge, and so on."""
    return np.searchsorted(np.array(edges, dtype=np.float32), scores, side="left")


def correlation(a, b):
    """Pearson's; nan where either is constant or there is but one sample."""
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
