"""Whether a run came out the same a second time."""

import json
from pathlib import Path

from src.errors import UserError, printable
from src.runs.result_schema import is_count
from src.runs.run_folder import read_arrays, read_json, read_result
from src.settings import read_settings

TIMES = ("seconds",)


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
