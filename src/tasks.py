"""The tasks: a score of sentiment, on two scales, and emotions.

A task knows its labels, its loss, its metrics, its lines in a log, its columns in a table and its trivial baseline.
"""

from dataclasses import dataclass
from math import isnan
from types import MappingProxyType

import numpy as np
import torch
from torch.nn import functional as F

from src.errors import UserError
from src.eval_metrics import EMOTIONS, emotion_metrics, sentiment_metrics, unit_sentiment_metrics
from src.report.significance import emotion_sums, sentiment_sums, unit_sentiment_sums

PROTOCOLS = ("MulT", "MMSA")  # whose splits a data file has; their test sets differ
LOWER_IS_BETTER = frozenset({"mae"})


class ScoreRegression:
    """One sentiment score a sample, trained with the mean absolute error. Subclasses know a scale and its metrics."""

    bound = None  # the scale goes from -bound to bound
    label_step = None  # labels are counted by multiples of it
    output_dim = 1
    loss_name = "mean absolute error"
    trivial_baseline = "train mean"
    headline = ("mae", "acc2")  # what a model must beat the trivial baseline in

    def of_protocol(self, protocol):
        """The task as a protocol, one of PROTOCOLS, reports it."""
        return self

    def takes(self, shape):
        """Whether a label array of this shape is one of the task's."""
        return len(shape) == 3 and shape[1:] == (1, 1)

    def read_labels(self, labels, where):
        """(N, 1, 1) array of the file -> (N, 1) float32; UserError where a label is off the scale."""
        off = (labels < -self.bound) | (labels > self.bound)
        if off.any():
            raise UserError(
                f"{where} holds {labels[off].flat[0]:g}: sentiment goes from -{self.bound} to {self.bound}; rescale "
                "the labels to it"
            )
        return torch.from_numpy(labels.reshape(-1, 1).astype(np.float32))

    def label_counts(self, labels):
        """How many labels of a file's array are nearest to each multiple of label_step, {text: count}."""
        nearest, counts = np.unique(np.round(labels / self.label_step), return_counts=True)
        return {f"{x * self.label_step + 0:g}": int(n) for x, n in zip(nearest, counts, strict=True)}

    def loss(self, prediction, labels):
        """Mean over (B, 1)."""
        return F.l1_loss(prediction, labels)

    def trivial_prediction(self, train_labels, samples):
        """The mean of the training labels for each of the samples: (N, 1)."""
        return train_labels.mean(dim=0).expand(samples, -1)

    def log_lines(self, metrics):
        """The metrics as the log names them."""
        return [f"{name}:  {metrics[key]}" for name, key in self.log_names.items()]


@dataclass(frozen=True)
class SentimentRegression(ScoreRegression):
    """A score on MOSI's scale, -3..3. Tables show the metrics that the protocol's published tables have."""

    protocol: str = "MulT"

    subject = "sentiment"
    bound = 3
    label_step = 1
    log_names = MappingProxyType({  # the original's
        "MAE": "mae", "Correlation Coefficient": "corr", "mult_acc_7": "acc7", "mult_acc_5": "acc5",
        "F1 score": "f1_stock", "Accuracy": "acc2",
    })

    @property
    def columns(self):
        """The metrics of a table by title."""
        if self.protocol == "MMSA":
            return {"Acc7": "acc7", "Acc5": "acc5", "Has0 Acc2": "acc2_has0", "Has0 F1": "f1_has0",
                    "Non0 Acc2": "acc2", "Non0 F1": "f1", "MAE": "mae", "Corr": "corr"}
        return {"Acc7": "acc7", "Acc2": "acc2", "F1": "f1_stock", "MAE": "mae", "Corr": "corr"}

    @property
    def note(self):
        """What a reader of a table must know of its columns."""
        if self.protocol == "MMSA":
            return ("MMSA's metrics: F1 weighted by the true classes; Has0: negative against non-negative, Non0: "
                    "positive against the rest, without samples of sentiment 0.")
        return ("F1 is what the original MulT computes; the CSV has the standard one, and test-selected figures, "
                "beside it.")

    def of_protocol(self, protocol):
        """The task as a protocol, one of PROTOCOLS, reports it."""
        return SentimentRegression(protocol)

    def metrics(self, prediction, labels):
        """Metrics by name, whatever the protocol."""
        return sentiment_metrics(prediction, labels)

    def sample_sums(self, truths):
        """What a permutation test sums over samples: permutation.sentiment_sums."""
        return sentiment_sums(truths)

    def log_lines(self, metrics):
        """The metrics as the original prints them, then what it does not print, behind '# '."""
        return [
            *super().log_lines(metrics),
            "-" * 50,
            f"# F1 weighted by the true classes: {metrics['f1']}  (that above: by the predicted classes)",
            f"# negative/non-negative over all samples: accuracy {metrics['acc2_has0']}, F1 {metrics['f1_has0']}",
        ]


class UnitSentimentRegression(ScoreRegression):
    """A score on CH-SIMS's scale, -1..1, with MMSA's metrics for it."""

    subject = "sentiment from -1 to 1"
    bound = 1
    label_step = 0.2  # means of five annotators' -1, 0 or 1
    columns = MappingProxyType(
        {"Acc2": "acc2", "Acc3": "acc3", "Acc5": "acc5", "F1": "f1", "MAE": "mae", "Corr": "corr"}
    )
    log_names = MappingProxyType({  # MMSA's
        "Mult_acc_2": "acc2", "Mult_acc_3": "acc3", "Mult_acc_5": "acc5", "F1_score": "f1", "MAE": "mae",
        "Corr": "corr",
    })
    note = "MMSA's metrics for CH-SIMS, of predictions clipped to its scale: F1 weighted by the true classes."

    def metrics(self, prediction, labels):
        """Metrics by name."""
        return unit_sentiment_metrics(prediction, labels)

    def sample_sums(self, truths):
        """What a permutation test sums over samples: permutation.unit_sentiment_sums."""
        return unit_sentiment_sums(truths)


@dataclass(frozen=True)
class EmotionClassification:
    """K yes/no emotions a sample, two logits each, trained with cross entropy."""

    emotions: tuple = EMOTIONS

    loss_name = "cross entropy"
    trivial_baseline = "majority class"
    note = "F1 is weighted by the true classes. The CSV has test-selected figures beside it."

    def of_protocol(self, protocol):
        """The task as a protocol, one of PROTOCOLS, reports it."""
        return self

    def takes(self, shape):
        """Whether a label array of this shape is one of the task's, but for the number of emotions."""
        return len(shape) == 3 and shape[1] > 0 and shape[2] == 2

    @property
    def subject(self):
        """What is predicted, in words."""
        return f"the emotions {', '.join(self.emotions)}"

    @property
    def output_dim(self):
        """Two logits an emotion."""
        return 2 * len(self.emotions)

    @property
    def headline(self):
        """What a model must beat the trivial baseline in: every emotion's accuracy and F1."""
        return tuple(self.columns.values())

    @property
    def columns(self):
        """The metrics of a table by title, Neutral last as in the published tables."""
        return {
            f"{emotion} {title}": f"{emotion}_{metric}"
            for emotion in sorted(self.emotions, key=lambda emotion: emotion == "Neutral")
            for title, metric in (("Acc", "acc"), ("F1", "f1"))
        }

    def read_labels(self, labels, where):
        """(N, K, 2) one-hot array of the file -> (N, K) int64; UserError where a pair is not one-hot."""
        if labels.shape[1] != len(self.emotions):
            raise UserError(f"{where} has {labels.shape[1]} emotions; expected {', '.join(self.emotions)}")
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=2) == 1).all()):
            raise UserError(f"{where} is not one-hot: each emotion takes (1, 0) for no or (0, 1) for yes")
        return torch.from_numpy(labels.argmax(axis=2).astype(np.int64))

    def label_counts(self, labels):
        """How many samples have each emotion, {emotion: count}, of a file's (N, K, 2) array."""
        return dict(zip(self.emotions, labels.argmax(axis=2).sum(axis=0).tolist(), strict=True))

    def loss(self, prediction, labels):
        """Mean over the B x K decisions."""
        return F.cross_entropy(prediction.reshape(-1, 2), labels.reshape(-1))

    def metrics(self, prediction, labels):
        """Metrics by name, {emotion}_acc and {emotion}_f1."""
        by_emotion = emotion_metrics(prediction, labels, self.emotions)
        return {f"{emotion}_{key}": value for emotion, pair in by_emotion.items() for key, value in pair.items()}

    def sample_sums(self, truths):
        """What a permutation test sums over samples: permutation.emotion_sums."""
        return emotion_sums(truths, self.emotions)

    def trivial_prediction(self, train_labels, samples):
        """The more frequent answer to each emotion in training, as logits: (N, 2K)."""
        majority = (train_labels.float().mean(dim=0) > 0.5).long()  # (K,)
        return F.one_hot(majority, 2).float().flatten().expand(samples, -1)

    def log_lines(self, metrics):
        """The metrics as the original prints them."""
        return [line for emotion in self.emotions for line in (
            f"{emotion}: ",
            f"  - F1 Score:  {metrics[f'{emotion}_f1']}",
            f"  - Accuracy:  {metrics[f'{emotion}_acc']}",
        )]


def no_better_than(task, metrics, trivial):
    """The metrics of a task's table in which `metrics` are no better than those of the trivial baseline."""
    def better(key):
        ours, theirs = metrics[key], trivial[key]
        return not isnan(ours) and (isnan(theirs) or (ours < theirs if key in LOWER_IS_BETTER else ours > theirs))
    return [key for key in task.columns.values() if not better(key)]


def task_of_result(result):
    """The task of a result.json, told by its metrics and its protocol."""
    return task_of_metrics(result["test"]).of_protocol(result["protocol"])


def task_of_metrics(metrics):
    """The task that has metrics of these names."""
    if "acc3" in metrics:
        return UnitSentimentRegression()
    if "mae" in metrics:
        return SentimentRegression()
    return EmotionClassification(tuple(key.removesuffix("_acc") for key in metrics if key.endswith("_acc")))


def task_of_labels(shape, where):
    """The task that a label array of this shape belongs to: (N, 1, 1) or (N, K, 2)."""
    if SentimentRegression().takes(shape):
        return SentimentRegression()
    if EmotionClassification().takes(shape):
        return EmotionClassification(tuple(f"label_{i + 1}" for i in range(shape[1])))
    raise UserError(f"{where} has shape {shape}; expected (N, 1, 1) for sentiment or (N, K, 2) for K emotions")
