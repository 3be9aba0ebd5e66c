"""The two tasks. A task knows its labels, its loss, its metrics, its lines in a log and its trivial baseline."""

from dataclasses import dataclass
from math import isnan
from types import MappingProxyType

import numpy as np
import torch
from torch.nn import functional as F

from src.errors import UserError
from src.eval_metrics import EMOTIONS, emotion_metrics, sentiment_metrics
from src.permutation import emotion_sums, sentiment_sums

LOWER_IS_BETTER = frozenset({"mae"})


class SentimentRegression:
    """One sentiment score a sample on MOSI's scale, -3..3, trained with the mean absolute error."""

    output_dim = 1
    loss_name = "mean absolute error"
    trivial_baseline = "train mean"
    headline = ("mae", "acc2")  # what a model must beat the trivial baseline in
    columns = MappingProxyType(  # of a table: metrics by title
        {"Acc7": "acc7", "Acc2": "acc2", "F1": "f1_stock", "MAE": "mae", "Corr": "corr"}
    )

    def read_labels(self, labels, where):
        """(N, 1, 1) array of the file -> (N, 1) float32; UserError where a label is off the scale."""
        off = (labels < -3) | (labels > 3)
        if off.any():
            raise UserError(
                f"{where} holds {labels[off].flat[0]:g}: sentiment goes from -3 to 3; rescale the labels to it"
            )
        return torch.from_numpy(labels.reshape(-1, 1).astype(np.float32))

    def loss(self, prediction, labels):
        """Mean over (B, 1)."""
        return F.l1_loss(prediction, labels)

    def metrics(self, prediction, labels):
        """Metrics by name."""
        return sentiment_metrics(prediction, labels)

    def sample_sums(self, truths):
        """What a permutation test sums over samples: permutation.sentiment_sums."""
        return sentiment_sums(truths)

    def trivial_prediction(self, train_labels, samples):
        """The mean of the training labels for each of the samples: (N, 1)."""
        return train_labels.mean(dim=0).expand(samples, -1)

    def log_lines(self, metrics):
        """The metrics as the original prints them, then what it does not print, behind '# '."""
        names = {"MAE": "mae", "Correlation Coefficient": "corr", "mult_acc_7": "acc7", "mult_acc_5": "acc5",
                 "F1 score": "f1_stock", "Accuracy": "acc2"}
        return [
            *(f"{name}:  {metrics[key]}" for name, key in names.items()),
            "-" * 50,
            f"# F1 weighted by the true classes: {metrics['f1']}  (that above: by the predicted classes)",
            f"# negative/non-negative over all samples: accuracy {metrics['acc2_has0']}, F1 {metrics['f1_has0']}",
        ]


@dataclass(frozen=True)
class EmotionClassification:
    """K yes/no emotions a sample, two logits each, trained with cross entropy."""

    emotions: tuple = EMOTIONS

    loss_name = "cross entropy"
    trivial_baseline = "majority class"

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
    """The task of a result.json, told by its metrics."""
    metrics = result["test"]
    if "mae" in metrics:
        return SentimentRegression()
    return EmotionClassification(tuple(key.removesuffix("_acc") for key in metrics if key.endswith("_acc")))


def task_of_labels(shape, where):
    """The task that a label array of this shape belongs to: (N, 1, 1) or (N, K, 2)."""
    if len(shape) == 3 and shape[1:] == (1, 1):
        return SentimentRegression()
    if len(shape) == 3 and shape[1] and shape[2] == 2:
        return EmotionClassification(tuple(f"label_{i + 1}" for i in range(shape[1])))
    raise UserError(f"{where} has shape {shape}; expected (N, 1, 1) for sentiment or (N, K, 2) for K emotions")
