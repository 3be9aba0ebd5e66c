"""The model of a run, built again from its checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from src.dataset import Dataset, load_dataset
from src.errors import UserError, printable
from src.models import build
from src.runs.result import is_count
from src.runs.run_folder import check_numbers, load_checkpoint
from src.settings import Settings, read_settings
from src.tasks import SentimentRegression, Task, task_of_result
from src.training.machine import choose_arithmetic, explained, find_device, speed_up
from src.training.state import as_one_vector


class TrainedOn(NamedTuple):
    """What a model knows of its training data. The first two are those of (language, audio, vision)."""

    input_dims: tuple[int, ...]
    input_lens: tuple[int, ...]
    task: Task


def load_trained(folder: Path | str, dataset: Dataset | None = None,
                 **changes: Any) -> tuple[torch.nn.Module, Dataset, Settings, int]:
    """The model of a run on its device, built from the checkpoint alone, its data set, its settings, and its epoch.

    The data set is read unless it is given. `changes` are settings that differ from the run's, such as the device or
    the folder of the data. UserError where the checkpoint is not one of this code, does not fit the data, or would give
    other numbers now.
    """
    checkpoint, settings = read_checkpoint(folder, changes)
    if dataset is None:
        task = recorded_task(checkpoint, settings, f"{folder}/checkpoint.pt")
        dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir,
                               asked=replace(settings.asked, recorded=task))
    return restore(checkpoint, settings, dataset, folder), dataset, settings, checkpoint["epoch"]


def load_without_data(folder: Path | str, **changes: Any) -> tuple[torch.nn.Module, TrainedOn, Settings]:
    """The model of a run as by `load_trained`, without its data set."""
    checkpoint, settings = read_checkpoint(folder, changes, with_data=False)
    path, config = f"{folder}/checkpoint.pt", checkpoint["config"]
    if (task := recorded_task(checkpoint, settings, path)) is None:
        raise UserError(f"{path} is of the first format and does not name its task; train the run again")
    try:
        trained_on = TrainedOn(tuple(config["input_dims"]), tuple(config["input_lens"]), task)
        if [*map(is_count, trained_on.input_dims + trained_on.input_lens)] != [True] * 6:
            raise ValueError("no sizes")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: it does not have the sizes of its data") from error
    return restore(checkpoint, settings, trained_on, folder), trained_on, settings


def read_checkpoint(folder: Path | str, changes: dict[str, Any],
                    with_data: bool = True) -> tuple[dict[str, Any], Settings]:
    """The checkpoint of a run, and its settings but for some `changes`."""
    checkpoint, path = load_checkpoint(folder), f"{folder}/checkpoint.pt"
    try:
        recorded, epoch = checkpoint["config"]["settings"], checkpoint["epoch"]
        if not is_count(epoch) or "model" not in checkpoint:
            raise TypeError("its epoch is no number, or it has no model")
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} was written by another version of this code: {error}") from error
    settings = replace(read_settings(recorded, path), **changes)
    check_numbers(checkpoint, settings.recorded(), path, with_data)
    return checkpoint, settings


def restore(checkpoint: dict[str, Any], settings: Settings, data: Dataset | TrainedOn,
            folder: Path | str) -> torch.nn.Module:
    """The model of a checkpoint, ready to evaluate, on the device of the settings."""
    choose_arithmetic(settings.deterministic, settings.precision)
    device = find_device(settings.device)
    with explained(f"the model of {folder} does not fit on {device}"):
        model = build(settings, data).to(device)
    as_one_vector(model)  # as in training: a CPU's products round by the place of the weights in memory
    try:
        model.load_state_dict(checkpoint["model"])
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"{folder}/checkpoint.pt does not fit the data or the code: {reason}") from error
    return speed_up(model.eval(), device, settings.precision)


def recorded_task(checkpoint: dict[str, Any], settings: Settings, where: str) -> Task | None:
    """The task of a checkpoint; UserError if it is damaged. None, and the labels tell, where format 1 names none.

    In format 1, one output on a data set of the user's own was always sentiment.
    """
    config = checkpoint["config"]
    try:
        if "task" in config:
            return task_of_result(config)
        one_output = len(checkpoint["model"]["out_layer.weight"]) == 1
        return SentimentRegression() if one_output and not settings.spec.tasks else None
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{where} is damaged: it has no task that this version knows") from error
