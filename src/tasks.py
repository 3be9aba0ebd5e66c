"""The tasks: a score of sentiment, on two scales, and emotions.

A task knows its labels, its loss, its metrics, its lines in a log, its columns in a table and its trivial baseline. A
score on another scale is a class of declarations like SentimentRegression; TASKS lists the names for results.
"""

from collections.abc import Mapping, Sequence
from math import isnan
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from src import eval_metrics
from src.errors import UserError
from src.eval_metrics import EMOTIONS, Metric

PROTOCOLS = ("MulT", "MMSA")  # whose splits a data file has; their test sets differ


class Task:
    """The declarations of a task, and what follows from them for every kind of label."""

    name: str  # in result.json
    subject: str  # the labels in words
    labels: Sequence[str]  # the names of a sample's labels
    output_dim: int
    loss_name: str
    trivial_baseline: str
    definitions: Mapping[str, Metric]
    columns: Mapping[str, str]  # of a table: {title: metric}
    note: str  # for the readers of a table
    headline: Sequence[str]  # metrics in which a model must beat the trivial baseline
    main: tuple[str, Sequence[str]]  # a title, and the metrics whose mean decides whether two models differ

    @classmethod
    def make(cls, labels: Sequence[str], protocol: str) -> "Task":
        """The task for labels of these names, as a protocol, one of PROTOCOLS, reports it."""
        return cls()

    def of_protocol(self, protocol: str) -> "Task":
        """The same task as another protocol reports it."""
        return self.make(self.labels, protocol)

    @property
    def lower_is_better(self) -> set[str]:
        """The metrics that fall as a model gets better."""
        return {name for name, metric in self.definitions.items() if metric.lower_is_better}

    def metrics(self, prediction: Any, labels: Any) -> dict[str, float]:
        """Metrics by name, whatever the protocol."""
        return eval_metrics.measure(self.definitions, *self.pair(prediction, labels))

    def statistics(self, prediction: Any, labels: Any) -> dict[str, ndarray]:
        """The numbers that a test of significance adds up over samples, {metric of the table: (Q, N)}; see Metric."""
        pair = self.pair(prediction, labels)
        return {name: np.stack(self.definitions[name].statistics(*pair)).astype(float)
                for name in self.columns.values()}

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        """Predictions and labels in the form that the metrics' definitions expect."""
        raise NotImplementedError

    def loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch and over the labels of a sample."""
        raise NotImplementedError

    def trivial_prediction(self, train_labels: Tensor, samples: int) -> Tensor:
        """The trivial baseline's prediction for each of the samples: (N, output_dim)."""
        raise NotImplementedError

    @staticmethod
    def takes(shape: Sequence[int]) -> bool:
        """Whether a label array of this shape is one of the task's."""
        raise NotImplementedError

    def read_labels(self, labels: ndarray, where: str) -> Tensor:
        """The tensor that training reads of a file's array; UserError where the array does not fit the task."""
        raise NotImplementedError

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        """The number of samples that have a label, {text: number}, in a file's array."""
        raise NotImplementedError

    def log_lines(self, metrics: Mapping[str, float]) -> list[str]:
        """The metrics as the log names them."""
        raise NotImplementedError


class ScoreRegression(Task):
    """One score a sample, (N, 1), trained with the mean absolute error. Subclasses declare a scale and its metrics."""

    labels = ("sentiment",)
    output_dim = 1
    loss_name = "mean absolute error"
    trivial_baseline = "train mean"
    headline = ("mae", "acc2")
    main = ("MAE", ("mae",))
    bound: int  # the scale goes from -bound to bound
    label_step: float  # labels are counted by multiples of it
    log_names: Mapping[str, str]  # {name in a log: metric}
    log_rest: Sequence[str] = ()  # further lines of a log

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        return eval_metrics.scores(prediction, labels)

    @staticmethod
    def takes(shape: Sequence[int]) -> bool:
        return len(shape) == 3 and tuple(shape[1:]) == (1, 1)

    def read_labels(self, labels: ndarray, where: str) -> Tensor:
        """(N, 1, 1) -> (N, 1) float32."""
        off = (labels < -self.bound) | (labels > self.bound)
        if off.any():
            raise UserError(
                f"{where} holds {labels[off].flat[0]:g}: sentiment goes from -{self.bound} to {self.bound}; rescale "
                "the labels to it"
            )
        return torch.from_numpy(labels.reshape(-1, 1).astype(np.float32))

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        """Labels count for the nearest multiple of label_step."""
        nearest, counts = np.unique(np.round(labels / self.label_step), return_counts=True)
        return {f"{x * self.label_step + 0:g}": int(n) for x, n in zip(nearest, counts, strict=True)}

    def loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        return F.l1_loss(prediction, labels)

    def trivial_prediction(self, train_labels: Tensor, samples: int) -> Tensor:
        return train_labels.mean(dim=0).expand(samples, -1)

    def log_lines(self, metrics: Mapping[str, float]) -> list[str]:
        return [*(f"{name}:  {metrics[key]}" for name, key in self.log_names.items()),
                *(line.format(**metrics) for line in self.log_rest)]


class SentimentRegression(ScoreRegression):
    """A score on MOSI's scale, -3..3. Tables show the metrics that the protocol's published tables have."""

    name = subject = "sentiment"
    bound, label_step = 3, 1
    definitions = eval_metrics.sentiment()
    log_names = MappingProxyType({  # the original's
        "MAE": "mae", "Correlation Coefficient": "corr", "mult_acc_7": "acc7", "mult_acc_5": "acc5",
        "F1 score": "f1_stock", "Accuracy": "acc2",
    })
    log_rest = (
        "-" * 50,  # the last line that the original prints
        "# F1 weighted by the true classes: {f1}  (that above: by the predicted classes)",
        "# negative/non-negative over all samples: accuracy {acc2_has0}, F1 {f1_has0}",
    )
    tables = MappingProxyType({
        "MulT": ({"Acc7": "acc7", "Acc2": "acc2", "F1": "f1_stock", "MAE": "mae", "Corr": "corr"},
                 "F1 is what the original MulT computes; the CSV has the standard one, and test-selected figures, "
                 "beside it."),
        "MMSA": ({"Acc7": "acc7", "Acc5": "acc5", "Has0 Acc2": "acc2_has0", "Has0 F1": "f1_has0",
                  "Non0 Acc2": "acc2", "Non0 F1": "f1", "MAE": "mae", "Corr": "corr"},
                 "MMSA's metrics: F1 weighted by the true classes; Has0: negative against non-negative, Non0: positive "
                 "against the rest, without samples of sentiment 0."),
    })

    def __init__(self, protocol: str = "MulT"):
        self.columns, self.note = self.tables[protocol]

    @classmethod
    def make(cls, labels: Sequence[str], protocol: str) -> Task:
        return cls(protocol)


class UnitSentimentRegression(ScoreRegression):
    """A score on CH-SIMS's scale, -1..1, with MMSA's metrics for it."""

    name, subject = "unit_sentiment", "sentiment from -1 to 1"
    bound, label_step = 1, 0.2  # a label is the mean of five annotators' -1, 0 or 1
    definitions = eval_metrics.UNIT_SENTIMENT
    columns = MappingProxyType(
        {"Acc2": "acc2", "Acc3": "acc3", "Acc5": "acc5", "F1": "f1", "MAE": "mae", "Corr": "corr"}
    )
    log_names = MappingProxyType({  # MMSA's
        "Mult_acc_2": "acc2", "Mult_acc_3": "acc3", "Mult_acc_5": "acc5", "F1_score": "f1", "MAE": "mae",
        "Corr": "corr",
    })
    note = "MMSA's metrics for CH-SIMS, of predictions clipped to its scale: F1 weighted by the true classes."

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        return eval_metrics.scores(prediction, labels, self.bound)


class EmotionClassification(Task):
    """K yes/no emotions a sample, (N, K), two logits each, trained with cross entropy."""

    name = "emotions"
    loss_name = "cross entropy"
    trivial_baseline = "majority class"
    note = "F1 is weighted by the true classes. The CSV has test-selected figures beside it."

    def __init__(self, labels: Sequence[str] = EMOTIONS):
        self.labels = tuple(labels)
        self.subject = f"the emotions {', '.join(self.labels)}"
        self.output_dim = 2 * len(self.labels)
        self.definitions = {f"{emotion}_{key}": metric for i, emotion in enumerate(self.labels)
                            for key, metric in eval_metrics.emotion(i).items()}
        self.columns = {
            f"{emotion} {title}": f"{emotion}_{metric}"
            for emotion in sorted(self.labels, key=lambda emotion: emotion == "Neutral")  # last, as in published tables
            for title, metric in (("Acc", "acc"), ("F1", "f1"))
        }
        self.headline = tuple(self.columns.values())
        self.main = ("mean F1", tuple(f"{emotion}_f1" for emotion in self.labels))

    @classmethod
    def make(cls, labels: Sequence[str], protocol: str) -> Task:
        return cls(labels)

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        return eval_metrics.answers(prediction, labels, len(self.labels))

    @staticmethod
    def takes(shape: Sequence[int]) -> bool:
        """Whether the shape is (N, K, 2), for any number of emotions."""
        return len(shape) == 3 and shape[1] > 0 and shape[2] == 2

    def read_labels(self, labels: ndarray, where: str) -> Tensor:
        """(N, K, 2) one-hot -> (N, K) int64."""
        if labels.shape[1] != len(self.labels):
            raise UserError(f"{where} has {labels.shape[1]} emotions; expected {', '.join(self.labels)}")
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=2) == 1).all()):
            raise UserError(f"{where} is not one-hot: each emotion takes (1, 0) for no or (0, 1) for yes")
        return torch.from_numpy(labels.argmax(axis=2).astype(np.int64))

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        return dict(zip(self.labels, labels.argmax(axis=2).sum(axis=0).tolist(), strict=True))

    def loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(prediction.reshape(-1, 2), labels.reshape(-1))

    def trivial_prediction(self, train_labels: Tensor, samples: int) -> Tensor:
        """The more frequent answer to each emotion in training, as logits."""
        majority = (train_labels.float().mean(dim=0) > 0.5).long()  # (K,)
        return F.one_hot(majority, 2).float().flatten().expand(samples, -1)

    def log_lines(self, metrics: Mapping[str, float]) -> list[str]:
        """The lines that the original prints."""
        return [line for emotion in self.labels for line in (
            f"{emotion}: ",
            f"  - F1 Score:  {metrics[f'{emotion}_f1']}",
            f"  - Accuracy:  {metrics[f'{emotion}_acc']}",
        )]


TASKS = {task.name: task for task in (SentimentRegression, UnitSentimentRegression, EmotionClassification)}


def no_better_than(task: Task, metrics: Mapping[str, float], trivial: Mapping[str, float]) -> list[str]:
    """The metrics of a task's table in which `metrics` are no better than those of the trivial baseline."""
    def better(key: str) -> bool:
        ours, theirs = metrics[key], trivial[key]
        return not isnan(ours) and (isnan(theirs) or (ours < theirs if key in task.lower_is_better else ours > theirs))
    return [key for key in task.columns.values() if not better(key)]


def task_of_result(result: Mapping[str, Any]) -> Task:
    """The task that a result.json names."""
    return TASKS[result["task"]].make(result["labels"], result["protocol"])


def task_of_metrics(names: Sequence[str]) -> Task:
    """The task of a run that does not name it, by its metrics: of a log or a result of format 1."""
    for score in (UnitSentimentRegression(), SentimentRegression()):
        if set(score.log_names.values()) <= set(names):
            return score
    return EmotionClassification(tuple(name.removesuffix("_acc") for name in names if name.endswith("_acc")))


def task_of_labels(shape: Sequence[int], where: str) -> Task:
    """The task that a label array of this shape belongs to: (N, 1, 1) or (N, K, 2)."""
    if SentimentRegression.takes(shape):
        return SentimentRegression()
    if EmotionClassification.takes(shape):
        return EmotionClassification(tuple(f"label_{i + 1}" for i in range(shape[1])))
    raise UserError(f"{where} has shape {shape}; expected (N, 1, 1) for sentiment or (N, K, 2) for K emotions")
