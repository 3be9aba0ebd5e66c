"""The outcome of a run: result.json, what it must hold, and whether a second evaluation agrees with it."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from src.dataset import Dataset
from src.errors import UserError
from src.models import MODELS, arguments_of, options_of
from src.tasks import PROTOCOLS, TASKS, no_better_than, task_of_metrics, task_of_result
from src.training.machine import environment
from src.training.state import Epoch, Evaluation, TrainingState

NOT_OF_THE_OUTCOME = {"seed", "name", "results_dir", "data_path", "data_device", "cache_dir", "device", "compile",
                      "deterministic", "log_interval", "preset", "search"}  # a preset is spelled out in the others


def split_metrics(evaluation: Evaluation) -> dict[str, float | None]:
    """The loss and the metrics of an Evaluation in one dictionary."""
    return without_nan({"loss": evaluation.loss, **evaluation.metrics})


def without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    """Metrics as JSON has them: None for nan, where a metric is undefined."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}


def epoch_record(epoch: Epoch) -> dict[str, Any]:
    """The line of metrics.jsonl for an Epoch."""
    return {
        "epoch": epoch.number, "train_loss": epoch.train_loss, "lr": epoch.lr, "seconds": epoch.seconds,
        **{f"{split}_{name}": value for split, evaluation in (("valid", epoch.valid), ("test", epoch.test))
           if evaluation for name, value in split_metrics(evaluation).items()},
    }


def trivial_metrics(dataset: Dataset, split: str) -> dict[str, float]:
    """The metrics on a split of the trivial baseline, which is learned on train."""
    truth = dataset.splits[split].labels
    prediction = dataset.task.trivial_prediction(dataset.splits["train"].labels, len(truth))
    return dataset.task.metrics(prediction, truth)


def parameter_count(model: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def make_result(settings: Any, dataset: Dataset, state: TrainingState, seconds: float) -> dict[str, Any]:
    """The content of result.json for a finished training of Settings."""
    selected, best_on_test = state.selected, state.best_on_test
    assert selected and selected.test and best_on_test and best_on_test.test  # since an epoch was evaluated on both
    trivial = {split: trivial_metrics(dataset, split) for split in ("valid", "test")}
    no_better_on = no_better_than(dataset.task, selected.test.metrics, trivial["test"])
    return {
        "model": settings.model, "dataset": settings.dataset, "aligned": settings.aligned, "seed": settings.seed,
        "protocol": dataset.protocol, **dataset.task.record(),
        "parameters": parameter_count(state.model),
        "epochs": state.epochs,
        "selected_epoch": selected.number,
        "selected_by": "lowest validation loss",
        "valid": split_metrics(selected.valid),
        "test": split_metrics(selected.test),
        "no_better_than_trivial": not set(dataset.task.headline).isdisjoint(no_better_on),
        "no_better_on": no_better_on,
        "trivial_baseline": {
            "name": dataset.task.trivial_baseline, **{split: without_nan(m) for split, m in trivial.items()},
        },
        "test_selected": {
            "note": "chosen by lowest test loss, as some published figures are; not a result",
            "epoch": best_on_test.number,
            "test": split_metrics(best_on_test.test),
        },
        "seconds": seconds,
        "environment": environment(state.device),
        "settings": settings.recorded(),
    }


def name_task(content: dict[str, Any], metrics: Any) -> dict[str, Any]:
    """The content of a result.json or config.json, completed by the task where an earlier version did not name it.

    The run's metrics by name tell the task then. A run without a protocol is of the time when no other files than
    MulT's could be read.
    """
    if "task" in content or content.get("format") != 1:
        return content
    task = task_of_metrics(list(metrics) if isinstance(metrics, dict) else [])
    return {"protocol": "MulT", "task": task.name, "labels": list(task.labels), **content}


def with_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings, and the defaults of the model's options that were not there yet when they were recorded."""
    if (model := settings.get("model")) not in MODELS:
        return settings
    return {name: arguments_of(model)[name] for name in options_of(model)} | settings


def difference_of_settings(one: dict[str, Any], other: dict[str, Any]) -> str:
    """'lr is 0.001 and 0.002', for each setting of two results that decides the outcome of a run, the seed apart."""
    a, b = ({k: v for k, v in with_defaults(result["settings"]).items() if k not in NOT_OF_THE_OUTCOME}
            for result in (one, other))
    return ", ".join(f"{key} is {a.get(key)} and {b.get(key)}" for key in sorted(a | b) if a.get(key) != b.get(key))


def check_reproduced(result: dict, splits: Mapping[str, Evaluation], folder: Any) -> None:
    """UserError unless the Evaluations have the metrics of a folder's result.json."""
    for split, evaluation in splits.items():
        now = split_metrics(evaluation)
        for name, then in result[split].items():
            value = now[name]
            if not is_same(then, value):
                raise UserError(f"{folder} is not reproduced: {split} {name} was {then} and is now {value}; "
                                "has the data or the code changed?")


def is_same(then: float | None, now: float | None) -> bool:
    """Whether a metric is what it was, but for the last digits, in which machines differ."""
    return then == now or (then is not None and now is not None and math.isclose(then, now, rel_tol=1e-4))


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: Any) -> bool:
    """Whether it is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    """Whether it is text that a terminal shows as it is."""
    return isinstance(value, str) and value.isprintable()


def is_names(value: Any) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def is_record(value: Any) -> bool:
    """Whether it is a dict with texts for keys."""
    return isinstance(value, dict) and all(map(is_text, value))


def is_metrics(value: Any) -> bool:
    """Whether it is a dict of numbers by name, None for an undefined one."""
    return is_record(value) and all(number is None or is_number(number) for number in value.values())


def is_flag(value: Any) -> bool:
    """Whether it is True or False."""
    return isinstance(value, bool)


def is_one_of(names: Collection[str]) -> Callable[[Any], bool]:
    """A function that says whether a value is one of some names."""
    return lambda value: is_text(value) and value in names


SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {  # by place: what it must be, in words and as a function
    "model": ("a model's name", is_one_of(MODELS)),
    "dataset": ("a name", is_text),
    "protocol": ("a protocol's name", is_one_of(PROTOCOLS)),
    "task": ("a task's name", is_one_of(TASKS)),
    "labels": ("names of labels", is_names),
    "aligned": ("true or false", is_flag),
    "seed": ("a whole number", is_count),
    "parameters": ("a whole number", is_count),
    "epochs": ("a whole number", is_count),
    "selected_epoch": ("a whole number", is_count),
    "valid": ("metrics", is_metrics),
    "test": ("metrics", is_metrics),
    "no_better_on": ("names of metrics", is_names),
    "trivial_baseline.name": ("a name", is_text),
    "trivial_baseline.test": ("metrics", is_metrics),
    "test_selected.epoch": ("a whole number", is_count),
    "test_selected.test": ("metrics", is_metrics),
    "seconds": ("a number", is_number),
    "environment": ("values by name", is_record),
    "settings": ("values by name", is_record),
}


def check_result(result: dict) -> None:
    """ValueError, with the place, unless this is the result.json of a finished run."""
    for place, (words, fits) in SCHEMA.items():
        if not fits(at(result, place)):
            raise ValueError(f"its {place} is not {words}")
    for place in ("selected_epoch", "test_selected.epoch"):
        if not 1 <= at(result, place) <= result["epochs"]:
            raise ValueError(f"its {place} is not one of its epochs")
    try:
        task = task_of_result(result)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError("its task is not whole") from error
    names, columns = set(result["test"]), set(task.columns.values())
    if not columns or not columns <= names & set(result["trivial_baseline"]["test"]):
        raise ValueError("its metrics are not those of a task")
    if any(set(at(result, place)) != names for place in ("valid", "test_selected.test")):
        raise ValueError("its metrics differ from split to split")


def at(result: Any, place: str) -> Any:
    """The value at a place such as test_selected.epoch; ValueError where there is none."""
    for key in place.split("."):
        if not isinstance(result, dict) or key not in result:
            raise ValueError(f"it has no {place}")
        result = result[key]
    return result
