"""The tasks: scores on a scale, several scores, yes/no emotions, and classes.

A task knows its labels, its loss, its metrics, its lines in a log, its columns in a table and its trivial baseline.
TASKS lists the names for results. choice.py says which task the labels of a file belong to.
"""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from src.tasks.classes import Classification, EmotionClassification
from src.tasks.scores import ScoreRegression, ScoresRegression, SentimentRegression, UnitSentimentRegression
from src.tasks.task import PROTOCOLS, Task

__all__ = [
    "PROTOCOLS", "TASKS", "Classification", "EmotionClassification", "ScoreRegression", "ScoresRegression",
    "SentimentRegression", "Task", "UnitSentimentRegression", "no_better_than", "task_of_metrics", "task_of_result",
]

TASKS: dict[str, type[Task]] = {task.name: task for task in (
    SentimentRegression, UnitSentimentRegression, ScoreRegression, ScoresRegression, EmotionClassification,
    Classification,
)}


def no_better_than(task: Task, metrics: Mapping[str, float], trivial: Mapping[str, float]) -> list[str]:
    """The metrics of a task's table in which `metrics` are no better than those of the trivial baseline."""
    def better(key: str) -> bool:
        ours, theirs = metrics[key], trivial[key]
        return not isnan(ours) and (isnan(theirs) or (ours < theirs if key in task.lower_is_better else ours > theirs))
    return [key for key in task.columns.values() if not better(key)]


def task_of_result(result: Mapping[str, Any]) -> Task:
    """The task that a result.json or config.json names; see Task.record."""
    return TASKS[result["task"]].make(result)


def task_of_metrics(names: Sequence[str]) -> Task:
    """The task of a run that does not name it, by its metrics: of a log or a result of format 1."""
    for score in (UnitSentimentRegression(), SentimentRegression()):
        if set(score.log_names.values()) <= set(names):
            return score
    return EmotionClassification(tuple(name.removesuffix("_acc") for name in names if name.endswith("_acc")))
