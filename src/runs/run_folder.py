"""The folder of one run: the only thing that passes between training and reporting.

    config.json      settings, where each came from, what the data looked like, and on what it ran
    log.txt          what the console showed
    metrics.jsonl    a line an epoch
    checkpoint.pt    state dict and config of the selected epoch, no pickled classes
    last.pt          all that it takes to go on; it exists until the run is finished
    predictions.npz  of the selected epoch on valid and test, with ids
    result.json      the outcome; it exists once the run is finished

A process can die between any two writes, and what it leaves is a run that can go on. After an epoch the lines of
log.txt and metrics.jsonl come first, then last.pt, which says how long the two are, so that lines of an epoch that it
does not know are cut off; then checkpoint.pt, if the epoch is the best so far, which is then made again from last.pt,
whose model is the same. result.json is the last, when all else is there; then last.pt goes.
"""

import io
import json
import os
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from src.errors import UserError, printable
from src.files import FolderLock, keep, write_whole
from src.runs.result import check_result

FORMAT = 1  # of config.json, checkpoint.pt, last.pt and result.json
APPENDED = ("log.txt", "metrics.jsonl")


class RunFolder:
    """Writes the files of a run: `with RunFolder(path) as run:` no other process can, and then `begin` or `go_on`.

    UserError where another process has it, and where the disk does not take what is written. The console shows what is
    logged unless `shown` is False.
    """

    def __init__(self, path, shown=True):
        self.path, self.shown = Path(path), shown
        self._lock = self._log = None

    def __enter__(self):
        try:
            self._lock = FolderLock(self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(self, kind, error, traceback):
        try:
            if self._log:
                self._log.close()
        except OSError as unwritten:
            error = error or unwritten
        finally:
            self._lock.release()
        if isinstance(error, OSError):
            raise self._unwritable(error) from error

    def _unwritable(self, error):
        advice = "once that is mended, the same command with --resume goes on" if self._log else "see --results_dir"
        return UserError(f"results cannot be written to {self.path}: {error.strerror or error}; {advice}")

    def begin(self):
        """Start with an empty folder. What stood in it is moved aside to {folder}.1, .2, ..., not lost."""
        if self.path.is_dir() and any(self.path.iterdir()):
            self.path.rename(unused_sibling(self.path))
        self.path.mkdir(exist_ok=True)
        self._log = (self.path / "log.txt").open("a", encoding="utf-8", buffering=1)

    def go_on(self, last):
        """Bring the files to where they were when `last`, the content of last.pt, was written."""
        there = {name: size for name, size in self._sizes().items() if size}
        for name, size in last["sizes"].items():
            if not (isinstance(size, int) and 0 <= size <= there.get(name, 0)):
                raise UserError(f"{self.path / name} has lost lines since last.pt was written; leave out --resume")
        for name in there:
            os.truncate(self.path / name, last["sizes"][name])
        self._log = (self.path / "log.txt").open("a", encoding="utf-8", buffering=1)

    def log(self, *lines):
        """Show lines on the console, above a progress bar if there is one, and keep them in log.txt."""
        for line in lines:
            if self.shown:
                tqdm.write(line, file=sys.stdout)
            self._log.write(line + "\n")
        sys.stdout.flush()

    def write_json(self, name, content):
        """Write config.json or result.json."""
        content = json.dumps({"format": FORMAT, **content}, indent=2)
        write_whole(self.path / name, content.encode() + b"\n")

    def append_metrics(self, record):
        """Add a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            keep(file)

    def save_checkpoint(self, model, epoch, config):
        """Write checkpoint.pt: the state of the model at an epoch and all that it takes to build it again."""
        self._save("checkpoint.pt", {"epoch": epoch, "config": config, "model": model.state_dict()})

    def save_last(self, state, config, seconds):
        """Write last.pt: the state of a Progress, what it belongs to, and the seconds that it took."""
        keep(self._log)
        self._save("last.pt", {"config": config, "state": state, "sizes": self._sizes(), "seconds": seconds})

    def save_predictions(self, **arrays):
        """Write predictions.npz."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_whole(self.path / "predictions.npz", buffer.getbuffer())

    def finish(self, result):
        """Write result.json; then there is nothing to go on with."""
        keep(self._log)
        self.write_json("result.json", result)
        (self.path / "last.pt").unlink(missing_ok=True)

    def _sizes(self):
        """The length of each file that lines are appended to, 0 where it has not been begun."""
        paths = {name: self.path / name for name in APPENDED}
        return {name: path.stat().st_size if path.is_file() else 0 for name, path in paths.items()}

    def _save(self, name, content):
        buffer = io.BytesIO()  # torch would not say what ails the disk
        torch.save({"format": FORMAT, **content}, buffer)
        write_whole(self.path / name, buffer.getbuffer())


def unused_sibling(path):
    """The first of path.1, path.2, ... that does not exist."""
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    return path.with_name(f"{path.name}.{number}")


def load_checkpoint(folder):
    """The dict that save_checkpoint wrote into a folder; UserError where there is none that can be read."""
    path = Path(folder) / "checkpoint.pt"
    if not path.is_file():
        raise UserError(f"{path} is missing: {folder} is not the folder of a run that has finished an epoch")
    return load_saved(path)


def load_last(folder):
    """The dict that save_last wrote into a folder, None where there is none; UserError where it cannot be read."""
    path = Path(folder) / "last.pt"
    return load_saved(path) if path.is_file() else None


def load_saved(path):
    """The dict of a checkpoint file; nothing in it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():  # torch itself does not look at the checksums
                raise zipfile.BadZipFile(f"{broken} is not what was written")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["format"] != FORMAT:
            raise UserError(f"{path} has format {printable(saved['format'])}; this version reads {FORMAT}")
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path} is damaged or not a checkpoint of this project; train the run again") from error
    return saved


def read_result(folder):
    """The result.json of a folder, or None where the run has not finished; UserError where it is damaged.

    One without a protocol is of the time when no other files than MulT's could be read.
    """
    path = Path(folder) / "result.json"
    if not path.is_file():
        return None
    result = {"protocol": "MulT", **read_json(path)}
    try:
        check_result(result)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); delete it or train the run again") from error
    return result


def read_arrays(path):
    """The arrays of a predictions.npz by name; UserError where there is none that can be read."""
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; train the run again") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile,
            zlib.error) as error:
        raise UserError(f"{path} is damaged; train the run again") from error


def read_json(path):
    """The dict of a config.json or result.json; UserError where it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{path} has format {printable(content['format'])}; this version reads {FORMAT}")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {path.parent} is not the folder of a run") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged; delete it or train the run again") from error
    return content
