"""Tasks of scores: one on -3..3, on -1..1 or on any scale, and several at once."""

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
from src.tasks.task import Task

ROUNDING = 1e-5  # of the scale's width: a label so far beyond its ends is clipped


class Regression(Task):
    """Scores, trained with the mean absolute error."""

    loss_name = "mean absolute error"
    trivial_baseline = "train mean"
    noun: str  # in an error
    asks = "rescale the labels to it, or give --scale LOW HIGH"

    def read_labels(self, labels: ndarray, where: str) -> Tensor:
        """(N, ...) -> (N, K) float32, clipped to the scale."""
        if self.scale:
            slack = (self.scale[1] - self.scale[0]) * ROUNDING
            off = (labels < self.scale[0] - slack) | (labels > self.scale[1] + slack)
            if off.any():
                worst = labels[off].flat[0]
                raise UserError(f"{where} holds {worst:.9g}: {self.noun} goes from {self.scale[0]:g} to "
                                f"{self.scale[1]:g}; {self.asks}")
            labels = np.clip(labels, *self.scale)
        return torch.from_numpy(labels.reshape(-1, self.output_dim).astype(np.float32))

    def changes(self, labels: ndarray) -> str:
        """The number of labels that are a rounding beyond the scale."""
        if not self.scale or not (off := int(((labels < self.scale[0]) | (labels > self.scale[1])).sum())):
            return ""
        return f"{off} a rounding beyond {self.scale[0]:g} to {self.scale[1]:g}, clipped to it"

    def loss(self, prediction: Tensor, labels: Tensor) -> Tensor:
        return F.l1_loss(prediction, labels)

    def trivial_prediction(self, train_labels: Tensor, samples: int) -> Tensor:
        return train_labels.mean(dim=0).expand(samples, -1)


class ScoreRegression(Regression):
    """One score a sample, (N, 1), on any scale. Subclasses declare a scale and metrics of their own."""

    name = "score"
    noun = "the score"
    labels: Sequence[str] = ("score",)
    output_dim = 1
    headline = ("mae", "acc2")
    main: tuple[str, Sequence[str]] = ("MAE", ("mae",))
    label_step: float  # labels are counted by multiples of it
    log_rest: Sequence[str] = ()  # further lines of a log
    columns: Mapping[str, str] = MappingProxyType(
        {"MAE": "mae", "Corr": "corr", "CCC": "ccc", "Acc2": "acc2", "F1": "f1"}
    )
    log_names: Mapping[str, str] = columns

    def __init__(self, labels: Sequence[str] = labels, scale: Sequence[float] = (-1, 1)) -> None:
        low, high = scale
        self.labels, self.scale, self.label_step = tuple(labels), (low, high), (high - low) / 10
        self.subject = f"a score from {low:g} to {high:g}"
        self.definitions = eval_metrics.score(self.scale)
        self.note = (f"Labels go from {low:g} to {high:g}. Acc2 and F1, weighted by the true classes: above or below "
                     f"{sum(self.scale) / 2:g}, without the samples on it.")

    @classmethod
    def make(cls, record: Mapping[str, Any]) -> Task:
        return cls(record["labels"], record["scale"])

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        return eval_metrics.scores(prediction, labels)

    @staticmethod
    def takes(shape: Sequence[int]) -> bool:
        """Whether the shape is (N,), (N, 1) or (N, 1, 1)."""
        return len(shape) in (1, 2, 3) and set(shape[1:]) <= {1}

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        """Labels count for the nearest multiple of label_step."""
        nearest, counts = np.unique(np.round(labels / self.label_step), return_counts=True)
        return {f"{x * self.label_step + 0:g}": int(n) for x, n in zip(nearest, counts, strict=True)}

    def log_lines(self, metrics: Mapping[str, float]) -> list[str]:
        return [*super().log_lines(metrics), *(line.format(**metrics) for line in self.log_rest)]

    def __str__(self) -> str:
        return super().__str__() if self.name == "score" else super().__str__().partition(" of ")[0]


class SentimentRegression(ScoreRegression):
    """A score on MOSI's scale, -3..3. Tables show the metrics that the protocol's published tables have."""

    name = noun = subject = "sentiment"
    labels = ("sentiment",)
    scale, label_step = (-3, 3), 1
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

    def __init__(self, protocol: str = "MulT") -> None:
        self.columns, self.note = self.tables[protocol]

    @classmethod
    def make(cls, record: Mapping[str, Any]) -> Task:
        return cls(record["protocol"])

    def reads_exactly(self, labels: ndarray) -> bool:
        """Whether the labels are no classes 0 and 1, which someone may have made of sentiment."""
        return self.takes(labels.shape) and not np.array_equal(np.unique(labels), (0, 1))


class UnitSentimentRegression(ScoreRegression):
    """A score on CH-SIMS's scale, -1..1, with MMSA's metrics for it."""

    name, noun, subject = "unit_sentiment", "sentiment", "sentiment from -1 to 1"
    labels = ("sentiment",)
    scale, label_step = (-1, 1), 0.2  # a label is the mean of five annotators' -1, 0 or 1
    definitions = eval_metrics.UNIT_SENTIMENT
    columns = MappingProxyType(
        {"Acc2": "acc2", "Acc3": "acc3", "Acc5": "acc5", "F1": "f1", "MAE": "mae", "Corr": "corr"}
    )
    log_names = MappingProxyType({  # MMSA's
        "Mult_acc_2": "acc2", "Mult_acc_3": "acc3", "Mult_acc_5": "acc5", "F1_score": "f1", "MAE": "mae",
        "Corr": "corr",
    })
    note = "MMSA's metrics for CH-SIMS, of predictions clipped to its scale: F1 weighted by the true classes."

    def __init__(self) -> None:
        pass

    @classmethod
    def make(cls, record: Mapping[str, Any]) -> Task:
        return cls()

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        return eval_metrics.scores(prediction, labels, 1)


class ScoresRegression(Regression):
    """K scores a sample, (N, K), such as valence and arousal; perhaps all on one scale."""

    name, noun = "scores", "a score"
    headline = ("mean_mae", "mean_ccc")
    main = ("mean MAE", ("mean_mae",))
    asks = "mend them, or give another --scale LOW HIGH"
    note = "MAE, Corr and CCC (concordance correlation) of each score, and their means."

    def __init__(self, labels: Sequence[str], scale: Sequence[float] | None = None) -> None:
        self.labels, self.output_dim = tuple(labels), len(labels)
        self.scale = (scale[0], scale[1]) if scale else None
        self.subject = f"the scores {', '.join(self.labels)}"
        self.definitions = eval_metrics.several(self.labels)
        self.columns = self.log_names = {
            f"{label} {title}": f"{label}_{key}" for label in (*self.labels, "mean")
            for title, key in (("MAE", "mae"), ("Corr", "corr"), ("CCC", "ccc"))
        }

    @classmethod
    def make(cls, record: Mapping[str, Any]) -> Task:
        return cls(record["labels"], record.get("scale"))

    def pair(self, prediction: Any, labels: Any) -> tuple[ndarray, ndarray]:
        return eval_metrics.paired(*(np.asarray(x, dtype=np.float32).reshape(-1, self.output_dim)
                                     for x in (prediction, labels)))

    @staticmethod
    def takes(shape: Sequence[int]) -> bool:
        """Whether the shape is (N, K) or (N, 1, K)."""
        return len(shape) == 2 or (len(shape) == 3 and shape[1] == 1)

    def reads_exactly(self, labels: ndarray) -> bool:
        return self.takes(labels.shape) and labels.shape[-1] == self.output_dim

    def read_labels(self, labels: ndarray, where: str) -> Tensor:
        if not self.reads_exactly(labels):
            raise UserError(f"{where} has shape {labels.shape}, not {self.output_dim} scores a sample: "
                            f"{', '.join(self.labels)}")
        return super().read_labels(labels, where)

    def label_counts(self, labels: ndarray) -> dict[str, int]:
        """The samples in which a score is not 0."""
        return {f"{label} not 0": int(number) for label, number
                in zip(self.labels, (labels.reshape(-1, self.output_dim) != 0).sum(axis=0), strict=True)}
