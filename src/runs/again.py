"""A second look at a run: its checkpoint evaluated again, or all of it trained again."""

import json
import math
from dataclasses import replace
from pathlib import Path

import torch

from src.errors import UserError, printable
from src.runs.result import check_reproduced, is_count
from src.runs.resume import differences_of_environment
from src.runs.run import load_trained, train
from src.runs.run_folder import read_arrays, read_json, read_result
from src.settings import read_settings
from src.train import evaluate
from src.training.distributed import ONE_PROCESS
from src.training.machine import explained, find_device

TIMES = ("seconds",)


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


def recorded_run(folder):
    """The settings of a finished run and what else decided its numbers: the environment, and as "data" what it read.

    UserError where the folder does not hold one.
    """
    if (result := read_result(folder)) is None:
        raise UserError(f"{folder} has no result.json: only a finished run can be repeated; finish it with --resume")
    config = read_json(Path(folder) / "config.json")
    if not (is_count(threads := result["environment"].get("threads")) and threads):
        raise UserError(f"{folder}/result.json is damaged: its environment has no number of threads")
    settings = read_settings(config.get("settings"), Path(folder) / "config.json")
    return settings, {**result["environment"], "data": config.get("data")}


def first_difference(one, other):
    """Where two run folders differ, as text: the first epoch, or prediction, or result; None where nothing does."""
    epochs = zip(*(read_epochs(folder) for folder in (one, other)), strict=False)
    for number, pair in enumerate(epochs, 1):
        for name, (a, b) in differing(*pair).items():
            return f"in epoch {number}, {name} was {printable(a)} and is {printable(b)}"
    predictions, others = (read_arrays(folder / "predictions.npz") for folder in (one, other))
    for name in sorted(predictions.keys() | others.keys()):
        if not same_bits(predictions.get(name), others.get(name)):
            return f"predictions.npz has another {printable(name)}"
    for name, (a, b) in differing(*(outcome(read_result(folder)) for folder in (one, other))).items():
        return f"in result.json, {name} was {printable(a)} and is {printable(b)}"
    return None


def differing(one, other):
    """{name: (there, here)} of what differs between two dicts."""
    return {name: pair for name in {**one, **other} if (pair := (one.get(name), other.get(name)))[0] != pair[1]}


def read_epochs(folder):
    """The lines of metrics.jsonl without times."""
    path = Path(folder) / "metrics.jsonl"
    try:
        epochs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in epochs]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is missing or damaged: there is nothing to compare with") from error


def same_bits(a, b):
    """Whether two arrays are the same to the last bit."""
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def outcome(result):
    """The part of a result.json that a repetition must have again."""
    return {name: value for name, value in result.items() if name not in (*TIMES, "environment", "settings")}
