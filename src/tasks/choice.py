"""The task that the labels of a file belong to: by flags, by what is known of the data set, or by the labels.

What labels leave open is refused in one line that names the flag for each reading; nothing is assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from src.errors import UserError
from src.tasks.classes import Classification, EmotionClassification, is_one_hot
from src.tasks.scores import ROUNDING, ScoreRegression, ScoresRegression, SentimentRegression
from src.tasks.task import Task

KINDS = ("sentiment", "score", "scores", "emotions", "classes")  # for --task
MOST_CLASSES = 100  # whole numbers beyond that are no classes
AS_CLASSES, AS_EMOTIONS, AS_SCORES = "--task classes", "--task emotions for yes and no", "--task scores"
AS_SENTIMENT = "--task sentiment for -3 to 3"
EXPECTED = ("expected (N,), (N, 1) or (N, 1, 1) for a score or the number of a class, (N, K) or (N, 1, K) for K scores "
            "or one-hot classes, or (N, K, 2) for K emotions")


@dataclass(frozen=True)
class Asked:
    """The flags about labels. `recorded` is the task of a checkpoint, beside which they do not count."""

    task: str | None = None  # one of KINDS
    label_names: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    class_weights: str | None = None
    recorded: Task | None = None

    @classmethod
    def of(cls, task: str | None, label_names: str | None, scale: str | None, class_weights: str | None) -> "Asked":
        """The texts of the flags, parts with commas between; ValueError where they do not fit together."""
        names = tuple(label_names.split(",")) if label_names else ()
        if len(set(names)) < len(names):
            raise ValueError(f"--label_names {label_names} has a name twice")
        limits = [float(text) for text in scale.split(",")] if scale else None
        if limits and not (len(limits) == 2 and limits[0] < limits[1]):
            raise ValueError(f"--scale {scale} is no scale; give LOW HIGH, the lower first")
        if limits and (task in ("emotions", "classes") or (task == "sentiment" and limits != [-3, 3])):
            raise ValueError(f"--scale {scale} contradicts --task {task}; leave one of them out")
        if task == "score" and not limits:
            raise ValueError("--task score needs --scale LOW HIGH; add it")
        return cls(task, names, (limits[0], limits[1]) if limits else None, class_weights)


ANYTHING = Asked()  # no flags


class Choice(NamedTuple):
    """A task, and why it was chosen."""

    task: Task
    reason: str

    def __str__(self) -> str:
        return f"task: {self.task}  ({self.reason})"


def choose(labels: ndarray, asked: Asked, known: Sequence[Task], known_by: str, where: str) -> Choice:
    """The Choice for the training labels of a file (N, ...), of a data set that is `known` to have some tasks.

    UserError, in one line, where the flags do not fit the labels, or where the labels can be read in several ways.
    """
    if asked.recorded:
        return Choice(asked.recorded, "as the run was trained")
    if 0 in labels.shape:
        raise UserError(f"{where} has shape {labels.shape}; {EXPECTED}")
    kind = asked.task or (asked.scale and ("score" if columns(labels) == 1 else "scores"))
    fitting = [task for task in known if task.reads_exactly(labels) and kind in (None, task.name)]
    if fitting and not asked.scale:
        task, reason = fitting[0], f"known of {known_by}"
        if asked.label_names and len(asked.label_names) == len(task.labels):
            task = task.make({"protocol": "MulT", **task.record(), "labels": asked.label_names})
            reason = "--label_names"
    elif kind:
        task, reason = of_kind(kind, labels, asked, where), "--task" if asked.task else "--scale"
    else:
        check_known(labels, known, known_by, where)
        task, reason = of_labels(labels, asked.label_names, where)
        if known:
            raise UserError(f"{where} are {task}, by {reason}, which is not known of {known_by}; if that is "
                            f"right, give --task {task.name}")
    if asked.label_names and tuple(task.labels) != asked.label_names:
        raise UserError(f"--label_names has {len(asked.label_names)} names; {where} are {task}")
    return Choice(task, reason)


def columns(labels: ndarray) -> int:
    """The numbers of a sample."""
    return int(np.prod(labels.shape[1:], dtype=int))


def shape_of(sizes: Sequence[int]) -> str:
    """(N, 1, 1) of the sizes after the first."""
    return f"(N{''.join(f', {size}' for size in sizes) or ','})"


def numbered(names: Sequence[str], count: int) -> Sequence[str]:
    """The names given, else label_1, label_2, ..."""
    return names or [f"label_{i + 1}" for i in range(count)]


def check_known(labels: ndarray, known: Sequence[Task], known_by: str, where: str) -> None:
    """UserError where no task of a known data set has labels of this shape, or such values."""
    fitting = [task for task in known if task.takes(labels.shape)]
    if known and not fitting:
        raise UserError(f"{where} have shape {labels.shape}, not that of a task known of {known_by}; if they are "
                        f"right, give --task {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    for task in fitting[:1]:
        task.read_labels(labels, where)  # says what is wrong with them


def of_kind(kind: str, labels: ndarray, asked: Asked, where: str) -> Task:
    if kind == "sentiment" or (kind == "score" and asked.scale == (-3, 3)):
        return SentimentRegression()
    if kind == "score":
        assert asked.scale
        return ScoreRegression(asked.label_names or ("score",), asked.scale)
    if kind == "scores":
        return ScoresRegression(numbered(asked.label_names, columns(labels)), asked.scale)
    if kind == "emotions":
        pairs = labels.ndim == 3 and labels.shape[2] == 2 and (labels.shape[1] > 1 or is_one_hot(labels[:, 0]))
        return EmotionClassification(numbered(asked.label_names, labels.shape[1] if pairs else columns(labels)))
    if columns(labels) == 1:
        return classes_of(labels, asked.label_names, where)
    return Classification(asked.label_names or [str(i) for i in range(columns(labels))])


def classes_of(labels: ndarray, names: Sequence[str], where: str) -> Classification:
    """The classes that whole numbers stand for: from 0 on, or those that occur."""
    there = np.unique(labels)
    if (there != np.round(there)).any():
        raise UserError(f"{where} holds {there[there != np.round(there)][0]:g}: classes are whole numbers")
    values = [int(value) for value in there]
    if (values[0] >= 0 and values[-1] < len(names)) or (values[0] == 0 and not names):
        values = list(range(len(names) or values[-1] + 1))
    if len(values) > MOST_CLASSES:
        raise UserError(f"{where} has more than {MOST_CLASSES} classes; is that another kind of label?")
    if len(values) < 2 or (names and len(names) != len(values)):
        raise UserError(f"{where} has {len(values)} classes ({', '.join(map(str, values))})"
                        + (f"; --label_names has {len(names)} names" if names else "; a task needs two or more"))
    return Classification(names or [str(value) for value in values], values)


def of_labels(labels: ndarray, names: Sequence[str], where: str) -> tuple[Task, str]:
    """The task that the labels alone show, and why; UserError where they show none or several."""
    shape, rows = shape_of(labels.shape[1:]), columns(labels)
    yes_no = bool(np.isin(labels, (0, 1)).all())
    if ScoreRegression.takes(labels.shape):
        return of_numbers(labels, names, where, shape)
    if labels.ndim == 3 and labels.shape[2] == 2 and labels.shape[1] > 1:
        return EmotionClassification(numbered(names, labels.shape[1])), f"{shape}: a pair for each emotion"
    if not ScoresRegression.takes(labels.shape):
        raise UserError(f"{where} has shape {labels.shape}; {EXPECTED}")
    one_hot = is_one_hot(labels.reshape(len(labels), -1))
    if one_hot and rows == 2:
        raise ask(where, f"are one-hot in {shape}", AS_CLASSES, AS_EMOTIONS, AS_SCORES)
    if one_hot:
        return Classification(names or [str(i) for i in range(rows)]), f"{shape}, one-hot"
    if yes_no:
        raise ask(where, f"hold only 0 and 1 in {shape}, and are not one-hot", AS_EMOTIONS, AS_SCORES)
    return ScoresRegression(numbered(names, rows)), f"{shape}: {rows} numbers a sample"


def of_numbers(labels: ndarray, names: Sequence[str], where: str, shape: str) -> tuple[Task, str]:
    """`of_labels` where a sample has one number."""
    there = np.unique(labels)
    low, high = float(there[0]), float(there[-1])
    whole, on_three = bool((there == np.round(there)).all()), max(-low, high) <= 3 + 6 * ROUNDING
    if len(names) > 1 and whole:
        return classes_of(labels, names, where), f"{shape}: whole numbers, and several --label_names"
    if not on_three and low < 0:
        SentimentRegression().read_labels(labels, where)  # says what is wrong with it
    if whole and low == 0 and high > 1 and len(there) == high + 1 <= MOST_CLASSES:
        return classes_of(labels, names, where), f"{shape}: all whole numbers from 0 to {high:g}"
    if on_three and (high > 1 or low < -1) and low < 0:
        return SentimentRegression(), f"{shape}: numbers within -3 to 3"
    if len(there) == 1 and on_three:
        return SentimentRegression(), f"{shape}: all are {low:g}"
    as_classes = [AS_CLASSES] if whole and len(there) <= MOST_CLASSES else []
    scale = (min(-1.0, low), 1.0) if low < 0 else (0.0 if low < 1 else 1.0, max(1.0, float(np.ceil(high))))
    found = f"hold only {' and '.join(f'{x:g}' for x in there)}" if whole and len(there) < 4 else (
        f"{'are whole numbers' if whole else 'are numbers'} from {low:g} to {high:g}")
    readings = [*as_classes, f"--scale LOW HIGH, such as {scale[0]:g} {scale[1]:g}"]
    raise ask(where, f"{found} in {shape}", *readings, *([AS_SENTIMENT] if on_three else []))


def ask(where: str, found: str, *readings: str) -> UserError:
    """The error about labels that can be read in several ways."""
    ways = readings[0] if len(readings) == 1 else f"{', '.join(readings[:-1])}, or {readings[-1]}"
    return UserError(f"{where} {found}: the task cannot be told from them; give {ways}")
