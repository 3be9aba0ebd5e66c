"""Runs as tables, figures and comparisons read them: from run folders, or from a log, ours or the original MulT's."""

import math
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src import files
from src.errors import UserError
from src.models import MODELS
from src.runs.result import difference_of_settings, is_same, name_task, without_nan
from src.runs.run_folder import read_arrays, read_json, read_metrics, read_result
from src.tasks import (
    PROTOCOLS,
    TASKS,
    SentimentRegression,
    Task,
    UnitSentimentRegression,
    task_of_metrics,
    task_of_result,
)

LOSSES = ("train_loss", "valid_loss", "test_loss")

COUNT = r"(\d{1,9})"
LOSS = r"(-?\d+\.\d{4}|nan|inf)"
NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan)"
HEAD = re.compile(r"^# \S+ on (\S+), (?:aligned|unaligned): ", re.M)
PROTOCOL = re.compile(rf"^# .*: ({'|'.join(PROTOCOLS)}) splits[,;] ", re.M)
SETTING = re.compile(r"^# (\w+) = (?=.*\)$)(.*)  \(", re.M)  # of a line without ")" at its end, nothing is tried
PARAMETERS = re.compile(r"^# parameters: ([\d,]{1,20})$", re.M)
BATCH = re.compile(rf"^Epoch +{COUNT} \| Batch +\d+/ *\d+ \| Time/Batch\(ms\) +\S+ \| Train Loss +{LOSS}$", re.M)
EPOCH = re.compile(rf"^Epoch +{COUNT} \| Time +(\d+\.\d+) sec \| Valid Loss +{LOSS} \| Test Loss +{LOSS}$", re.M)
TASK = re.compile(r"^# task: (\w+)(?:, from (\S+) to (\S+))?(?: of (.*?))?  \(", re.M)
METRIC = re.compile(rf"^([^#:\n]+): +{NUMBER}$", re.M)
EMOTION_METRICS = re.compile(rf"^(\S.*): *\n  - F1 Score: +{NUMBER}\n  - Accuracy: +{NUMBER}$", re.M)


class Group(NamedTuple):
    """The runs that can stand in one table, since their test sets are the same."""

    dataset: str
    alignment: str  # "aligned" or "unaligned"
    protocol: str  # one of PROTOCOLS

    @property
    def title(self) -> str:
        """mosi, aligned; or, of another protocol than MulT's, mosi (MMSA), aligned"""
        return f"{self.dataset}{'' if self.protocol == 'MulT' else f' ({self.protocol})'}, {self.alignment}"

    @property
    def stem(self) -> str:
        """mosi_aligned or mosi_mmsa_aligned, to begin the names of files with."""
        return "_".join([self.dataset, *([] if self.protocol == "MulT" else [self.protocol.lower()]), self.alignment])


def collect(results_dir: str | Path, dataset: str | None = None) -> tuple[dict[Group, dict[str, list]], list[str]]:
    """Every finished run, of one data set if it is named, and a line about each that had to be left out.

    Returns {Group: {model folder: [run by seed]}} and the lines. A run is the content of its result.json and, as
    "folder", its path. The models come in the order of the registry. Left out are damaged results, runs in a
    folder of others, and models whose seeds have different settings.
    """
    groups: dict[Group, dict[str, list]] = {}
    problems = []
    for path in Path(results_dir).glob(f"{dataset or '*'}/*/*/seed*/result.json"):
        folder = path.parent
        if not folder.name.removeprefix("seed").isdecimal():
            continue  # moved aside by a later run
        try:
            run = {**(read_result(folder) or {}), "folder": folder}
            check_follows(run, folder)
            group = Group(run["dataset"], "aligned" if run["aligned"] else "unaligned", run["protocol"])
            place = group[:2]
            if folder.parts[-4:-2] != place or folder.name != f"seed{run['seed']}":
                raise UserError(f"{path} is of {' '.join(place)} seed{run['seed']}; put it there or delete it")
        except UserError as error:
            problems.append(str(error))
            continue
        groups.setdefault(group, {}).setdefault(folder.parent.name, []).append(run)
    for models in groups.values():
        problems += leave_out_other_tasks(models)
        for name, runs in list(models.items()):
            runs.sort(key=lambda run: run["seed"])
            if differences := {d for run in runs[1:] if (d := difference_of_settings(runs[0], run))}:
                problems.append(
                    f"{runs[0]['folder'].parent} mixes settings ({'; '.join(sorted(differences))}): delete the runs "
                    "that do not belong, or start afresh with another --results_dir"
                )
                del models[name]
    order = list(MODELS)
    return {
        group: dict(sorted(models.items(), key=lambda item: (order.index(item[1][0]["model"]), item[0])))
        for group, models in sorted(groups.items()) if models
    }, sorted(problems)


def leave_out_other_tasks(models: dict[str, list]) -> list[str]:
    """Keep the runs that have the task of the first folder; returns a line for each model folder that loses some."""
    problems = []
    first = min((run for runs in models.values() for run in runs), key=lambda run: str(run["folder"]))
    for name, runs in list(models.items()):
        if others := [run for run in runs if str(task_of_result(run)) != str(task_of_result(first))]:
            problems.append(f"{others[0]['folder']} is of the task {task_of_result(others[0])}, {first['folder']} of "
                            f"{task_of_result(first)}: give each task its own --results_dir")
            models[name] = [run for run in runs if run not in others]
            if not models[name]:
                del models[name]
    return problems


def read_run(path: str | Path) -> dict[str, Any]:
    """The run of a run folder or a log as a dict; UserError where the path is neither.

    name, kind ("folder" or "log"); dataset, protocol, task and parameters, None where unknown; settings, {name: text},
    None where a log states none; epochs, {number: {each of LOSSES and "seconds": value}}; metrics of the test split,
    None where the run was cut short. A value that is undefined is nan, one that is missing None.
    """
    path = Path(path)
    return read_folder(path) if path.is_dir() else read_log(path)


def read_folder(folder: Path) -> dict[str, Any]:
    """The run of a run folder, finished or not; UserError where its result does not follow from its predictions."""
    check_run_folder(folder)
    result = read_result(folder)
    if result:
        check_follows(result, folder)
    try:
        records = read_metrics(folder)
        epochs = [
            (record["epoch"], {key: defined(record[key]) for key in (*LOSSES, "seconds")}) for record in records
        ]
        config = result
        if config is None:
            measured = {key.removeprefix("test_"): value for key, value in records[-1].items()}
            config = name_task(read_json(folder / "config.json"), measured)
        settings = {name: str(value) for name, value in config["settings"].items()}
        return {
            "name": str(folder), "kind": "folder", "dataset": settings["dataset"], "settings": settings,
            "protocol": config["protocol"], "task": task_of_result(config), "epochs": by_number(epochs, folder),
            "parameters": None if result is None else int(result["parameters"]),
            "metrics": None if result is None else test_metrics(result),
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{folder} is damaged: its files are not those that a run leaves; train it again") from error


def check_run_folder(folder: Path) -> None:
    """UserError unless the folder is that of one run with a finished epoch."""
    has_metrics = (folder / "metrics.jsonl").is_file()
    has_settings = any((folder / name).is_file() for name in ("result.json", "config.json"))
    if seed_folders(folder):
        raise UserError(f"{folder} holds several runs: name one of its seed folders, or compare all with --seeds")
    if not has_settings:
        raise UserError(f"{folder} is not the folder of a run: it has no result.json and no config.json")
    if not has_metrics:
        raise UserError(f"{folder} has no metrics.jsonl: a run has one as soon as it has finished an epoch")


def read_log(path: str | Path) -> dict[str, Any]:
    """The run of a log, ours or the original's."""
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path} is empty: give the log of a run that has finished an epoch")
    head, protocol, parameters = (form.search(text) for form in (HEAD, PROTOCOL, PARAMETERS))
    task = log_task(text)
    epochs, metrics = log_epochs(text), log_metrics(text, task)
    if not epochs:
        raise UserError(f"{path} has no line of a finished epoch: it is no log, or its run was cut short in the first")
    return {
        "name": str(path), "kind": "log", "dataset": head and head[1], "settings": dict(SETTING.findall(text)) or None,
        "protocol": protocol and protocol[1], "task": metrics and (task or task_of_metrics(list(metrics))),
        "parameters": parameters and int(parameters[1].replace(",", "")),
        "epochs": by_number(epochs, path), "metrics": metrics,
    }


def log_epochs(text):
    """(number, losses and seconds) of each finished epoch; its train loss is that of its last Batch line."""
    train_losses = {number: float(loss) for number, loss in BATCH.findall(text)}
    return [
        (int(number), {"train_loss": train_losses.get(number), "valid_loss": float(valid), "test_loss": float(test),
                       "seconds": float(seconds)})
        for number, seconds, valid, test in EPOCH.findall(text)
    ]


def log_task(text: str) -> Task | None:
    """The task that a log names, None where it names none, or one of which the metrics are enough."""
    if not (found := TASK.search(text)) or found[1] not in ("score", "scores", "classes"):
        return None
    scale = [float(limit) for limit in found.groups()[1:3] if limit]
    return TASKS[found[1]].make({"labels": found[4].split(", "), "scale": scale or None})


def log_metrics(text: str, named: Task | None = None) -> dict[str, float] | None:
    """The test metrics at the end of a log by their names in result.json; None where they are missing or cut off."""
    by_title = {title: float(value) for title, value in METRIC.findall(text)}
    for task in (named,) if named else (SentimentRegression, UnitSentimentRegression):
        if task.log_names.keys() <= by_title.keys():
            return {key: by_title[title] for title, key in task.log_names.items()}
    emotions = {
        f"{emotion}_{key}": float(value) for emotion, f1, acc in EMOTION_METRICS.findall(text)
        for key, value in (("acc", acc), ("f1", f1))
    }
    return emotions or None


def by_number(epochs: list[tuple], path: str | Path) -> dict:
    """{number: epoch} of (number, epoch) pairs; UserError where a number comes again, as in logs that were joined."""
    numbers = [number for number, _ in epochs]
    if again := [number for before, number in pairwise(numbers) if number <= before]:
        raise UserError(f"{path} holds more than one run: epoch {again[0]} comes after a later one; take them apart")
    if not epochs:
        raise UserError(f"{path} has no finished epoch: there is nothing to compare")
    return dict(epochs)


def test_metrics(result: dict[str, Any]) -> dict[str, float]:
    """The test metrics of a result.json, without the loss."""
    return {key: defined(value) for key, value in result["test"].items() if key != "loss"}


def defined(value):
    """A number of a JSON file, where None stands for nan."""
    return math.nan if value is None else float(value)


def read_text(path: str | Path) -> str:
    """The text of a file; UserError where there is none to read."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run folder or a log")
    try:
        return files.read_text(path, files.MOST_LOG, errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def seed_folders(folder: str | Path) -> dict[int, Path]:
    """{seed: its folder} of the runs in a model folder; runs that were moved aside do not count."""
    found = {path.name.removeprefix("seed"): path for path in Path(folder).glob("seed*") if path.is_dir()}
    return {int(seed): found[seed] for seed in sorted(filter(str.isdecimal, found), key=int)}


def finished_runs(folders: Iterable[Path | str]) -> tuple[list[Path], list[str]]:
    """The finished runs, once each, of folders of a run, or of a model with a run for each seed, and notes on others.

    UserError where a folder has none.
    """
    runs: dict[Path, Path] = {}
    left_out = []
    for folder in map(Path, folders):
        inside = list(seed_folders(folder).values()) or [folder]
        finished = [run for run in inside if read_result(run) is not None]
        if not finished:
            raise UserError(f"{folder} is not the folder of a finished run, nor of a model with some")
        runs |= {run.resolve(): run for run in finished}
        left_out += [f"{run} has not finished, and is left out" for run in inside if run not in finished]
    return list(runs.values()), left_out


def read_seeds(folder: str | Path) -> dict[str, Any]:
    """The finished runs of a model folder, {seed: {"result", "ids", "predictions", "labels"}}."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}; --seeds takes model folders")
    runs = {}
    for seed, path in seed_folders(folder).items():
        if (result := read_result(path)) is not None:
            check_follows(result, path)
            runs[seed] = {"result": result, **read_predictions(path / "predictions.npz")}
    if not runs:
        raise UserError(f"{folder} holds no finished seed<k> run; without --seeds, single runs are compared")
    return {"name": str(folder), "runs": runs}


def predictions_of(run: dict[str, Any]) -> dict[str, np.ndarray]:
    """The test ids, predictions and labels of a run of `collect` or `pool`."""
    return run["predictions"] if "predictions" in run else read_predictions(run["folder"] / "predictions.npz")


def check_follows(result: dict[str, Any], folder: Path) -> None:
    """UserError unless the test metrics of a folder's result are those of its predictions, where these can be read."""
    try:
        found = read_predictions(folder / "predictions.npz")
        metrics = without_nan(task_of_result(result).metrics(found["predictions"], found["labels"]))
    except (UserError, ValueError, TypeError, IndexError):
        return  # what needs the predictions says that they cannot be had
    for name, then in result["test"].items():
        if name in metrics and not is_same(then, metrics[name]):
            raise UserError(f"{folder}/result.json does not follow from predictions.npz: test {name} is {then} there "
                            f"and {metrics[name]} by the predictions; train the run again")


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """The test ids, predictions and labels of a predictions.npz."""
    arrays = read_arrays(path)
    names = ("ids", "predictions", "labels")
    found = {name: arrays[f"test_{name}"] for name in names if arrays.get(f"test_{name}", np.array(0)).ndim}
    if len(found) < len(names) or len({len(array) for array in found.values()}) > 1:
        raise UserError(f"{path} is damaged: it has not as many predictions as labels and ids; train the run again")
    return found
