"""The folder of one run: the only thing that passes between training and reporting.

    config.json      settings, where each came from, what the data looked like, and on what it ran
    log.txt          what the console showed
    metrics.jsonl    a line an epoch
    checkpoint.pt    state dict and config of the selected epoch, no pickled classes
    last.pt          the state of training, to resume from; it exists until the run is finished
    predictions.npz  of the selected epoch on valid and test, with ids
    result.json      the outcome; it exists once the run is finished

A process can die between any two writes, and the run can be resumed all the same. After an epoch, metrics.jsonl and
log.txt get their lines first. Then last.pt is written with the lengths of both, and --resume cuts later lines off.
Then, if the epoch is the best so far, comes checkpoint.pt; --resume writes it again from last.pt. result.json is the
last, when all else is there; then last.pt goes.
"""

import io
import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from src.data.safe_pickle import check_cost
from src.errors import UserError, is_of_console, printable
from src.files import MOST_LOG, FolderLock, check_zip, keep, read_text, write_whole
from src.runs.result import check_result, name_task
from src.sealed import seal, unseal

FORMAT = 3  # of config.json, checkpoint.pt, last.pt and result.json; those from 1 on are read
APPENDED = ("log.txt", "metrics.jsonl")


class Change(NamedTuple):
    """A change of the code by which some runs of earlier formats would compute other numbers now."""

    last: int  # format before it
    concerns: Callable[[dict], Any]  # whether a run with these settings computes other numbers
    words: str
    of_data: bool = False  # whether its model answers as before for clips that are given


class OutdatedRunError(UserError):
    """A run of an earlier format would compute other numbers now."""


FORMER = (  # settings that runs of a model had up to a format, whatever they say
    (2, "PMR", {"attn_mask": False}),
)
CHANGES = (
    Change(1, lambda settings: settings.get("mask_padding"),
           "mask_padding had another rule for steps that see nothing"),
    Change(2, lambda settings: settings["dataset"] == "demo", "the demo had other data", of_data=True),
)


class RunFolder:
    """Writes the files of a run: `with RunFolder(path) as folder:` locks it, and then comes `begin` or `resume`.

    UserError where another process has it, and where the disk refuses a write. The console shows the log unless `shown`
    is False.
    """

    def __init__(self, path: Path | str, shown: bool = True):
        self.path, self.shown = Path(path), shown
        self._lock: Any = None
        self._log: Any = None

    def __enter__(self) -> "RunFolder":
        try:
            self._lock = FolderLock(self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            if self._log:
                self._log.close()
        except OSError as unwritten:
            error = error or unwritten
        finally:
            self._lock.release()
        if isinstance(error, OSError) and not is_of_console(error):
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        advice = "once that is mended, give the same command with --resume" if self._log else "see --results_dir"
        return UserError(f"results cannot be written to {self.path}: {error.strerror or error}; {advice}")

    def begin(self) -> None:
        """Start with an empty folder. An earlier run in it is moved aside to {folder}.1, .2, ..., not lost."""
        if self.path.is_dir() and any(self.path.iterdir()):
            self.path.rename(unused_sibling(self.path))
        self.path.mkdir(exist_ok=True)
        self._log = (self.path / "log.txt").open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def resume(self, last: dict) -> None:
        """Cut the files to the lengths that they had when `last`, the content of last.pt, was written."""
        there = {name: size for name, size in self._sizes().items() if size}
        for name, size in last["sizes"].items():
            if not (isinstance(size, int) and 0 <= size <= there.get(name, 0)):
                raise UserError(f"{self.path / name} has lost lines since last.pt was written; leave out --resume")
        if "metrics.jsonl" in there:
            read_metrics(self.path, last["sizes"]["metrics.jsonl"])  # a damaged one would be kept
        for left_by_a_kill in self.path.glob("*.tmp"):
            left_by_a_kill.unlink()
        for name in there:
            os.truncate(self.path / name, last["sizes"][name])
        self._log = (self.path / "log.txt").open("a", encoding="utf-8", errors="backslashreplace", buffering=1)

    def log(self, *lines: str) -> None:
        """Show lines on the console, above a progress bar if there is one, and keep them in log.txt."""
        for line in lines:
            if self.shown:
                tqdm.write(line, file=sys.stdout)
            self._log.write(line + "\n")
        sys.stdout.flush()

    def write_json(self, name: str, content: dict) -> None:
        """Write config.json or result.json."""
        text = json.dumps(seal({"format": FORMAT, **content}), indent=2)
        write_whole(self.path / name, text.encode() + b"\n")

    def append_metrics(self, record: dict) -> None:
        """Add a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(seal(record)) + "\n")
            keep(file)

    def save_checkpoint(self, model: nn.Module, epoch: int, config: dict) -> None:
        """Write checkpoint.pt: the weights of an epoch, and the config, from which the model is built again."""
        self._save("checkpoint.pt", {"epoch": epoch, "config": config, "model": model.state_dict()})

    def save_last(self, state: dict, config: dict, seconds: float) -> None:
        """Write last.pt: what TrainingState.saved returned, the config of the run, and the seconds that it took."""
        keep(self._log)
        self._save("last.pt", {"config": config, "state": state, "sizes": self._sizes(), "seconds": seconds})

    def save_arrays(self, name: str, arrays: dict[str, Any]) -> None:
        """Write predictions.npz or decisions.npz."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_whole(self.path / name, buffer.getbuffer())

    def finish(self, result: dict) -> None:
        """Write result.json, and remove last.pt."""
        keep(self._log)
        self.write_json("result.json", result)
        (self.path / "last.pt").unlink(missing_ok=True)

    def _sizes(self) -> dict[str, int]:
        """The length of each file that lines are appended to, 0 where it is not there yet."""
        paths = {name: self.path / name for name in APPENDED}
        return {name: path.stat().st_size if path.is_file() else 0 for name, path in paths.items()}

    def _save(self, name: str, content: dict) -> None:
        buffer = io.BytesIO()  # an error of torch would not say what is wrong with the disk
        torch.save({"format": FORMAT, **content}, buffer)
        write_whole(self.path / name, buffer.getbuffer())


def unused_sibling(path: Path) -> Path:
    """The first of path.1, path.2, ... that does not exist."""
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{number}")


def load_checkpoint(folder: Path | str) -> dict:
    """The dict that save_checkpoint wrote into a folder; UserError where it cannot be read."""
    path = Path(folder) / "checkpoint.pt"
    if not path.is_file():
        raise UserError(f"{path} is missing: {folder} is not the folder of a run that has finished an epoch")
    return load_saved(path)


def load_last(folder: Path | str) -> dict | None:
    """The dict that save_last wrote into a folder, None where there is none; UserError where it cannot be read."""
    path = Path(folder) / "last.pt"
    return load_saved(path) if path.is_file() else None


def load_saved(path: Path) -> dict:
    """The dict of a checkpoint file; no code in it is run."""
    try:
        check_zip(path, most=1)  # torch never compresses
        with zipfile.ZipFile(path) as archive:
            check_content(archive)
        saved = torch.load(path, map_location="cpu", weights_only=True)
        check_format(saved, path)
        as_trained(saved.get("config"), saved["format"])
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path} is damaged or not a checkpoint of this project; train the run again") from error
    return saved


def check_content(archive: zipfile.ZipFile) -> None:
    """UnpicklingError where the content of a checkpoint of torch would take long to load."""
    for name in archive.namelist():
        if name.endswith("/data.pkl"):
            check_cost(io.BytesIO(archive.read(name)))


def check_format(content: dict, path: Path) -> None:
    """UserError unless this version reads the format of a file."""
    if content["format"] not in range(1, FORMAT + 1):
        raise UserError(f"{path} has format {printable(content['format'])}; this version reads 1 to {FORMAT}")


def as_trained(record: Any, file_format: int) -> Any:
    """A record with "settings", which are corrected to those that runs of its format had, whatever they say."""
    if isinstance(record, dict) and isinstance(settings := record.get("settings"), dict):
        for last, model, values in FORMER:
            if file_format <= last and settings.get("model") == model:
                settings.update(values)
    return record


def check_numbers(content: dict, settings: dict, path: Path | str, with_data: bool = True) -> None:
    """UserError where this version would not compute the numbers of a file's run, from its format and settings.

    Without its data, changes of the data do not count.
    """
    for change in CHANGES:
        if content["format"] <= change.last and change.concerns(settings) and (with_data or not change.of_data):
            raise OutdatedRunError(f"{path} has format {content['format']}, of a time when {change.words}: this "
                                   "version would compute other numbers; train the run again")


def read_result(folder: Path | str) -> dict | None:
    """The result.json of a folder, or None where the run has not finished; UserError where it is damaged."""
    path = Path(folder) / "result.json"
    if not path.is_file():
        return None
    content = read_json(path)
    result = name_task(content, content.get("test"))
    try:
        check_result(result)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it or train the run again") from error
    return result


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a predictions.npz by name; UserError where it cannot be read."""
    try:
        check_zip(path)
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; train the run again") from error
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path} is damaged; train the run again") from error


def read_json(path: Path) -> dict:
    """The dict of a config.json or result.json; UserError where it cannot be read."""
    try:
        content = unseal(json.loads(read_text(path)))
        check_format(content, path)
        as_trained(content, content["format"])
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {path.parent} is not the folder of a run") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged; delete it or train the run again") from error
    return content


def read_metrics(folder: Path, size: int | None = None) -> list[dict[str, Any]]:
    """The lines of a folder's metrics.jsonl, one for each epoch, or those in its first `size` bytes; UserError where
    they are missing or damaged.
    """
    path = folder / "metrics.jsonl"
    try:
        records = [unseal(json.loads(line)) for line in read_text(path, MOST_LOG)[:size].splitlines()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line is not of an epoch")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; train the run again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged; train the run again") from error
    return records
