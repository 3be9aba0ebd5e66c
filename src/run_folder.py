"""The folder of one run: the only thing that passes between training and reporting.

    config.json      settings, where each came from, and what the data looked like
    log.txt          what the console showed
    metrics.jsonl    a line an epoch
    checkpoint.pt    state dict and config of the selected epoch, no pickled classes
    predictions.npz  of the selected epoch on valid and test, with ids
    result.json      the outcome; it exists once the run is finished
"""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from src.errors import UserError

FORMAT = 1  # of config.json, checkpoint.pt and result.json


class RunFolder:
    """Writes the files of a run. What stood in the folder before is moved aside to {folder}.1, .2, ..., not lost."""

    def __init__(self, path):
        self.path = Path(path)
        try:
            if self.path.is_dir() and any(self.path.iterdir()):
                self.path.rename(unused_sibling(self.path))
            self.path.mkdir(parents=True, exist_ok=True)
            self._log = (self.path / "log.txt").open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UserError(f"results cannot be written to {self.path}: {error.strerror}; see --results_dir") from error

    def log(self, *lines):
        """Show lines on the console, above a progress bar if there is one, and keep them in log.txt."""
        for line in lines:
            tqdm.write(line, file=sys.stdout)
            self._log.write(line + "\n")
        sys.stdout.flush()

    def write_json(self, name, content):
        """Write config.json or result.json."""
        content = json.dumps({"format": FORMAT, **content}, indent=2)
        self._write(name, lambda path: path.write_text(content + "\n", encoding="utf-8"))

    def append_metrics(self, record):
        """Add a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def save_checkpoint(self, model, epoch, config):
        """Write checkpoint.pt: the state of the model at an epoch and all that it takes to build it again."""
        content = {"format": FORMAT, "epoch": epoch, "config": config, "model": model.state_dict()}
        self._write("checkpoint.pt", lambda path: torch.save(content, path))

    def save_predictions(self, **arrays):
        """Write predictions.npz."""
        def write(path):
            with path.open("wb") as file:
                np.savez_compressed(file, **arrays)
        self._write("predictions.npz", write)

    def _write(self, name, write):
        """Write under a temporary name, then rename: a file that has its name is whole."""
        temporary = self.path / f".{name}.tmp"
        write(temporary)
        os.replace(temporary, self.path / name)


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
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["format"] != FORMAT:
            raise UserError(f"{path} has format {checkpoint['format']}; this version reads {FORMAT}")
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged or not a checkpoint of this project; train the run again") from error
    return checkpoint


def read_result(folder):
    """The result.json of a folder, or None where the run has not finished; UserError where it is damaged."""
    path = Path(folder) / "result.json"
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["format"] != FORMAT:
            raise UserError(f"{path} has format {result['format']}; this version reads {FORMAT}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged; delete it or train the run again") from error
    return result


def git_commit():
    """The commit of this code, with '+changes' where the work tree differs; 'unknown' outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
