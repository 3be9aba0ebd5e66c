"""A second look at a run: its checkpoint evaluated again, or all of it trained again."""

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from src.errors import UserError, printable
from src.runs.result import check_reproduced, is_count
from src.runs.resume import differences_of_environment
from src.runs.run import train
from src.runs.run_folder import check_numbers, read_arrays, read_json, read_metrics, read_result
from src.runs.trained import load_trained
from src.settings import Settings, read_settings
from src.train import evaluate
from src.training.distributed import is_first, process_count
from src.training.machine import explained, find_device

TIMES = ("seconds",)


def evaluate_again(folder: str, flags: dict[str, Any]) -> None:
    """Rebuild the model of a run from its checkpoint alone, evaluate it, and compare with the run's result."""
    if process_count() > 1:
        raise UserError("--eval takes one process: leave out torchrun")
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
        check_reproduced(result, {"valid": valid, "test": test}, folder)
        print("# reproduces result.json")


def repeat(folder: str, flags: dict[str, Any]) -> int:
    """Train a finished run again, beside it, and say whether it came out the same; returns 0 if so, else 1."""
    refuse_settings("--repeat", set(flags) - {"data_path", "device", "resume"})
    settings, then = recorded_run(folder)
    resume, original = flags.pop("resume", False), Path(folder).resolve()
    settings, repetition = replace(settings, **flags), original.with_name(f"{original.name}.repeat")
    torch.set_num_threads(then["threads"])
    train(settings, dict.fromkeys(settings.recorded(), f"as in {original}"), repetition, resume)
    if not is_first():
        return 0
    for line in differences_of_environment(then, recorded_run(repetition)[1]):
        print(f"# {line}: there and here")
    if difference := first_difference(original, repetition):
        print(f"# DOES NOT REPEAT {original}: {difference}")
        return 1
    print(f"# repeats {original} to the last bit")
    return 0


def refuse_settings(mode: str, flags: set[str]) -> None:
    """UserError where flags are given that the mode takes from a run."""
    if flags:
        raise UserError(f"{mode} takes its settings from the run: leave out --{', --'.join(sorted(flags))}")


def recorded_run(folder: Path | str) -> tuple[Settings, dict[str, Any]]:
    """The settings of a finished run, and its environment with the fingerprint of the data as "data".

    UserError where the folder does not hold such a run, or this version would compute other numbers.
    """
    if (result := read_result(folder)) is None:
        raise UserError(f"{folder} has no result.json: only a finished run can be repeated; finish it with --resume")
    config = read_json(Path(folder) / "config.json")
    if not (is_count(threads := result["environment"].get("threads")) and threads):
        raise UserError(f"{folder}/result.json is damaged: its environment has no number of threads")
    settings = read_settings(config.get("settings") or {}, f"{folder}/config.json")
    check_numbers(config, settings.recorded(), f"{folder}/config.json")
    return settings, {**result["environment"], "data": config.get("data")}


def first_difference(one: Path, other: Path) -> str | None:
    """The first difference of two run folders in words, in epochs, predictions or result; None where there is none."""
    before, now = outcome(one), outcome(other)
    for place in {**before, **now}:
        a, b = before.get(place), now.get(place)
        if a != b:
            return f"{place} was {printable(a)} and is {printable(b)}"
    return None


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a repetition must have again, times apart, by its place."""
    places = {f"in epoch {i}, {name}": value for i, epoch in enumerate(read_metrics(folder), 1)
              for name, value in epoch.items() if name not in TIMES}
    for name, array in sorted(read_arrays(folder / "predictions.npz").items()):
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        places[f"in predictions.npz, {name}"] = f"{array.dtype} {array.shape}, SHA-256 {digest}"
    left_out = (*TIMES, "environment", "settings", "format")
    result = (read_result(folder) or {}).items()
    return places | {f"in result.json, {name}": value for name, value in result if name not in left_out}
