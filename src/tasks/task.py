"""A task in general: what each kind of label has to declare."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray
from torch import Tensor

from src import eval_metrics
from src.eval_metrics import Metric

PROTOCOLS = ("MulT", "MMSA")  # whose splits a data file has; their test sets differ


class Task:
    """The declarations of a task, and what follows from them for every kind of label."""

    name: str  # in result.json
    subject: str  # the labels in words
    labels: Sequence[str]  # the names of a sample's labels
    output_dim: int
    loss_name: str
    kind_of_answer: str = "score"  # or "probability": what `answer` gives
    trivial_baseline: str
    definitions: Mapping[str, Metric]
    columns: Mapping[str, str]  # of a table: {title: metric}
    note: str  # for the readers of a table
    headline: Sequence[str]  # metrics in which a model must beat the trivial baseline
    main: tuple[str, Sequence[str]]  # a title, and the metrics whose mean decides whether two models differ
    log_names: Mapping[str, str]  # {name in a log: metric}
    scale: tuple[float, float] | None = None  # the least and the largest label, None where there is none
    weights: tuple[float, ...] = ()  # of classes in the loss; none: all weigh the same

    @classmethod
    def make(cls, record: Mapping[str, Any]) -> "Task":
        """The task of a record: its "labels" and "protocol", one of PROTOCOLS, and perhaps "scale"."""
        return cls()

    def record(self) -> dict[str, Any]:
        """The entries of result.json and config.json from which the task is made again, the protocol apart."""
        optional = {"scale": self.scale and list(self.scale), "class_weights": list(self.weights)}
        return {"task": self.name, "labels": list(self.labels)} | {k: v for k, v in optional.items() if v}

    def of_protocol(self, protocol: str) -> "Task":
        """The same task as another protocol reports it."""
        return self.make({**self.record(), "protocol": protocol})

    def weighted(self, asked: str | None, train_labels: Tensor) -> "Task":
        """The task with class weights: "balanced", or numbers with commas; ValueError where it cannot have them."""
        if asked:
            raise ValueError(f"--class_weights is for classes and emotions; leave it out for {self.subject}")
        return self

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

    def answer(self, prediction: Tensor) -> Tensor:
        """(N, output_dim) -> (N, K), a number for each of the `labels`: its score, or its probability."""
        return prediction

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

    def reads_exactly(self, labels: ndarray) -> bool:
        """Whether a known data set's labels are those of this task, by their shape and values."""
        return self.takes(labels.shape)

    def changes(self, labels: ndarray) -> str:
        """What `read_labels` changes in an array, in words for the log; '' for nothing."""
        return ""

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        """The number of samples that have a label, {text: number}, in a file's array."""
        raise NotImplementedError

    def log_lines(self, metrics: Mapping[str, float]) -> list[str]:
        """The metrics as the log names them."""
        return [f"{name}:  {metrics[key]}" for name, key in self.log_names.items()]

    def __str__(self) -> str:
        """As the log and `inspect` name it: 'score, from 1 to 5', 'classes of neutral, joy'."""
        scale = f", from {self.scale[0]:g} to {self.scale[1]:g}" if self.scale else ""
        return f"{self.name}{scale} of {', '.join(self.labels)}"
