"""The model of a run, built again from its checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

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


def load_trained(folder: Path | str, **changes: Any) -> tuple[torch.nn.Module, Dataset, Settings, int]:
    """The model of a run on its device, built from the checkpoint alone, its data set, its settings, and its epoch.

    `changes` are settings that differ from the run's, such as the device or the folder of the data. UserError where the
    checkpoint is not one of this code, does not fit the data, or would give other numbers now.
    """
    checkpoint, path = load_checkpoint(folder), f"{folder}/checkpoint.pt"
    try:
        recorded, weights, epoch = checkpoint["config"]["settings"], checkpoint["model"], checkpoint["epoch"]
        if not is_count(epoch):
            raise TypeError("its epoch is no number")
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} was written by another version of this code: {error}") from error
    settings = replace(read_settings(recorded, path), **changes)
    check_numbers(checkpoint, settings.recorded(), path)
    choose_arithmetic(settings.deterministic, settings.precision)
    device = find_device(settings.device)
    dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir,
                           asked=replace(settings.asked, recorded=recorded_task(checkpoint, settings, path)))
    with explained(f"the model of {folder} does not fit on {device}"):
        model = build(settings, dataset).to(device)
    as_one_vector(model)  # as in training: a CPU's products round by the place of the weights in memory
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"{path} does not fit the data or the code: {reason}") from error
    return speed_up(model.eval(), device, settings.precision), dataset, settings, epoch


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
