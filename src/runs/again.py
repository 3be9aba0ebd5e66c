"""A second look at a run: its checkpoint evaluated again, or all of it trained again."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from src.errors import UserError
from src.runs.repeat import first_difference, recorded_run
from src.runs.result import check_reproduced
from src.runs.resume import differences_of_environment
from src.runs.run import train
from src.runs.run_folder import read_result
from src.runs.trained import load_trained
from src.train import evaluate
from src.training.distributed import ONE_PROCESS
from src.training.failures import explained
from src.training.machine import find_device


def evaluate_again(folder, flags):
    """Rebuild the model of a run from its checkpoint alone, evaluate it, and compare with what the run reported."""
    refuse_settings("--eval", set(flags) - {"data_path", "cache_dir", "device"})
    model, dataset, settings, epoch = load_trained(folder, **flags)
    batch_size = math.ceil(settings.batch_size / settings.batch_chunk)
    try:
        with explained(f"--batch_size {batch_size} does not fit"):
            valid, test = (
                evaluate(model, dataset.splits[split], dataset.task, batch_size=batch_size,
                         by_length=settings.trim_padding, device=find_device(settings.device))
                for split in ("valid", "test")
            )
    except FloatingPointError as error:
        raise UserError(f"{folder}: {error}") from error
    print(*dataset.task.log_lines(test.metrics), f"# epoch {epoch} of {folder}", sep="\n")
    if (result := read_result(folder)) is None:
        print(f"# {folder} has no result.json: the run did not finish, and there is nothing to compare with")
    else:
        check_reproduced(result, valid, test, folder)
        print("# reproduces result.json")


def repeat(folder, flags, processes=ONE_PROCESS):
    """Train a finished run again, beside it, and say whether it came out the same; returns 0 if so, else 1."""
    with processes.agreeing():
        refuse_settings("--repeat", set(flags) - {"data_path", "device", "resume"})
        settings, then = recorded_run(folder)
    resume = flags.pop("resume", False)
    settings, folder = replace(settings, **flags), Path(folder).resolve()
    repetition = folder.with_name(f"{folder.name}.repeat")
    torch.set_num_threads(then["threads"])
    train(settings, dict.fromkeys(settings.recorded(), f"as in {folder}"), repetition, resume, processes)
    if processes.rank:
        return 0
    for line in differences_of_environment(then, recorded_run(repetition)[1]):
        print(f"# {line}: there and here")
    if difference := first_difference(folder, repetition):
        print(f"# DOES NOT REPEAT {folder}: {difference}")
        return 1
    print(f"# repeats {folder} to the last bit")


def refuse_settings(mode, flags):
    """UserError where settings are given to a mode that takes those of a run."""
    if flags:
        raise UserError(f"{mode} takes its settings from the run: leave out --{', --'.join(sorted(flags))}")
