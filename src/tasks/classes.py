"""Tasks of classes: yes/no emotions, and one of K classes. Both are trained with cross entropy."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional as F

from src import eval_metrics
from src.errors import UserError
from src.eval_metrics import EMOTIONS
from src.tasks.task import Task


def numbers_of(asked: str, names: Sequence[str]) -> tuple[float, ...]:
    """The numbers of --class_weights, one for each name; ValueError where they are others."""
    numbers = tuple(float(text) for text in asked.split(","))
    if len(numbers) != len(names):
        raise ValueError(f"--class_weights has {len(numbers)} numbers; give one for each of {', '.join(names)}")
    return numbers


class EmotionClassification(Task):
    """K yes/no emotions a sample, (N, K), two logits each. `weights` are those of "yes", with 1 for "no"."""

    name = "emotions"
    loss_name, kind_of_answer = "cross entropy", "probability"
    trivial_baseline = "majority class"
    note = "F1 is weighted by the true classes. The CSV has test-selected figures beside it."

    def __init__(self, labels: Sequence[str] = EMOTIONS, weights: Sequence[float] = ()) -> None:
        self.labels, self.weights = tuple(labels), tuple(weights)
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
    def make(cls, record: Mapping[str, Any]) -> Task:
        return cls(record["labels"], record.get("class_weights", ()))

    def weighted(self, asked: str | None, train_labels: Tensor) -> Task:
        """Balanced: "yes" weighs as much as "no" over the training samples."""
        if not asked:
            return self
        if asked != "balanced":
            return type(self)(self.labels, numbers_of(asked, self.labels))
        yes = train_labels.sum(dim=0)
        if absent := [label for label, number in zip(self.labels, yes, strict=True) if not number]:
            raise ValueError(f"--class_weights balanced: no training sample has {absent[0]}; give numbers")
        return type(self)(self.labels, ((len(train_labels) - yes) / yes).tolist())

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        """The decisions (N, K) of two logits each, and the truths (N, K)."""
        decisions = np.asarray(prediction, dtype=np.float32).reshape(-1, len(self.labels), 2).argmax(axis=2)
        return eval_metrics.paired(decisions, np.asarray(labels).reshape(-1, len(self.labels)).astype(int))

    @staticmethod
    def takes(shape: Sequence[int]) -> bool:
        """Whether the shape is (N, K, 2), or (N, K) or (N, 1, K) of yes and no, for any number of emotions."""
        if len(shape) not in (2, 3) or 0 in shape[1:] or set(shape[1:]) == {1}:
            return False
        return len(shape) == 2 or shape[2] == 2 or shape[1] == 1

    def answers(self, labels: ndarray) -> ndarray:
        """(N, K, 2) one-hot or (N, K) or (N, 1, K) -> (N, K) of 0 and 1."""
        if labels.shape[1:] == (len(self.labels), 2):
            return labels.argmax(axis=2)
        return labels.reshape(len(labels), -1)

    def reads_exactly(self, labels: ndarray) -> bool:
        number = len(self.labels)
        if labels.shape[1:] == (number, 2):
            return True
        return labels.shape[1:] in ((number,), (1, number)) and bool(np.isin(labels, (0, 1)).all())

    def read_labels(self, labels: ndarray, where: str) -> Tensor:
        """(N, K, 2) one-hot, or (N, K) or (N, 1, K) of 0 and 1 -> (N, K) int64."""
        pairs = labels.ndim == 3 and labels.shape[2] == 2 and labels.shape[1:] != (1, len(self.labels))
        found = labels.shape[1] if pairs else labels.shape[-1]
        if found != len(self.labels):
            raise UserError(f"{where} has {found} emotions; expected {', '.join(self.labels)}")
        if not np.isin(labels, (0, 1)).all() or (pairs and not (labels.sum(axis=2) == 1).all()):
            raise UserError(f"{where} is not one-hot: each emotion takes (1, 0) for no or (0, 1) for yes" if pairs else
                            f"{where} holds other numbers than 0 for no and 1 for yes")
        return torch.from_numpy(self.answers(labels).astype(np.int64))

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        return dict(zip(self.labels, self.answers(labels).sum(axis=0).astype(int).tolist(), strict=True))

    def loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        if not self.weights:
            return F.cross_entropy(prediction.reshape(-1, 2), labels.reshape(-1))
        each = F.cross_entropy(prediction.reshape(-1, 2), labels.reshape(-1), reduction="none").view(labels.shape)
        return (each * torch.where(labels > 0, each.new_tensor(self.weights), 1.0)).mean()

    def answer(self, prediction: Tensor) -> Tensor:
        """Two logits an emotion -> the probability of its "yes"."""
        return prediction.unflatten(1, (-1, 2)).softmax(dim=2)[..., 1]

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


class Classification(Task):
    """One of K classes a sample, (N, 1). `values` are the numbers of the classes in a file, 0 to K-1 by default."""

    name = "classes"
    loss_name, kind_of_answer = "cross entropy", "probability"
    trivial_baseline = "majority class"
    headline = ("acc", "f1")
    main = ("F1", ("f1",))
    columns = log_names = MappingProxyType({"Acc": "acc", "F1": "f1", "Macro F1": "macro_f1", "UAR": "uar"})
    note = "F1 is weighted by the true classes; macro F1 and UAR, the mean recall, count all classes alike."

    def __init__(self, labels: Sequence[str], values: Sequence[int] = (), weights: Sequence[float] = ()) -> None:
        self.labels, self.weights, self.output_dim = tuple(labels), tuple(weights), len(labels)
        self.values = tuple(values) or tuple(range(len(labels)))
        self.subject = f"one of {', '.join(self.labels)}"
        self.definitions = eval_metrics.classes(len(labels))

    @classmethod
    def make(cls, record: Mapping[str, Any]) -> Task:
        return cls(record["labels"], record.get("class_values", ()), record.get("class_weights", ()))

    def record(self) -> dict[str, Any]:
        usual = self.values == tuple(range(len(self.labels)))
        return super().record() | ({} if usual else {"class_values": list(self.values)})

    def weighted(self, asked: str | None, train_labels: Tensor) -> Task:
        """Balanced: all classes weigh the same over the training samples, whose mean weight is 1."""
        if not asked:
            return self
        if asked != "balanced":
            return type(self)(self.labels, self.values, numbers_of(asked, self.labels))
        counts = torch.bincount(train_labels.flatten(), minlength=self.output_dim)
        if absent := [label for label, number in zip(self.labels, counts, strict=True) if not number]:
            raise ValueError(f"--class_weights balanced: no training sample is {absent[0]}; give numbers")
        return type(self)(self.labels, self.values, (len(train_labels) / self.output_dim / counts).tolist())

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        predicted = np.asarray(prediction, dtype=np.float32).reshape(-1, self.output_dim).argmax(axis=1)
        return eval_metrics.paired(predicted, np.asarray(labels).reshape(-1).astype(int))

    @staticmethod
    def takes(shape: Sequence[int]) -> bool:
        """Whether the shape is (N,), (N, 1), (N, 1, 1), (N, K) or (N, 1, K)."""
        return len(shape) in (1, 2) or (len(shape) == 3 and shape[1] == 1)

    def reads_exactly(self, labels: ndarray) -> bool:
        """Whether the labels are one-hot rows of K, or hold all of the values and no others."""
        rows = labels.reshape(len(labels), -1)
        if not self.takes(labels.shape) or rows.shape[1] not in (1, self.output_dim):
            return False
        return set(np.unique(rows)) == set(self.values) if rows.shape[1] == 1 else is_one_hot(rows)

    def read_labels(self, labels: ndarray, where: str) -> Tensor:
        """Numbers of classes, (N,), (N, 1) or (N, 1, 1), or one-hot (N, K) or (N, 1, K) -> (N, 1) int64."""
        rows = labels.reshape(len(labels), -1)
        if rows.shape[1] > 1:
            if rows.shape[1] != self.output_dim:
                raise UserError(f"{where} has {rows.shape[1]} columns; expected one for each of "
                                f"{', '.join(self.labels)}")
            if not is_one_hot(rows):
                raise UserError(f"{where} is not one-hot: a row has one 1, in the column of its class, else 0")
            return torch.from_numpy(rows.argmax(axis=1, keepdims=True))
        known = np.isin(rows, self.values)
        if not known.all():
            raise UserError(f"{where} holds {rows[~known].flat[0]:.9g}, not the number of one of the classes "
                            + ", ".join(f"{value} {name}" for value, name in self.numbered()))
        order = np.argsort(self.values)
        return torch.from_numpy(order[np.searchsorted(self.values, rows, sorter=order)].astype(np.int64))

    def numbered(self) -> list[tuple[int, str]]:
        """The number of each class in a file, and its name."""
        return list(zip(self.values, self.labels, strict=True))

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        counts = torch.bincount(self.read_labels(labels, "labels").flatten(), minlength=self.output_dim)
        return dict(zip(self.labels, counts.tolist(), strict=True))

    def loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """The mean over samples; a sample counts as much as its class weighs."""
        each = F.cross_entropy(prediction, labels.squeeze(1), reduction="none")
        return (each * each.new_tensor(self.weights)[labels.squeeze(1)] if self.weights else each).mean()

    def answer(self, prediction: Tensor) -> Tensor:
        return prediction.softmax(dim=1)

    def trivial_prediction(self, train_labels: Tensor, samples: int) -> Tensor:
        """The most frequent class in training, as logits."""
        majority = torch.bincount(train_labels.flatten(), minlength=self.output_dim).argmax()
        return F.one_hot(majority, self.output_dim).float().expand(samples, -1)


def is_one_hot(rows: ndarray) -> bool:
    """Whether each row (N, K) has one 1, else 0."""
    return bool(np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all())
