"""Flips bytes in every stored file that numbers come from, and reads each by the command that reads it:

    python -m tests.flip_harness --flips 300 --seed 0

The files are those of a cache, of a finished and an unfinished run, and of a search with its preset. A flip gives one
byte, at a uniform place, another value; then the command runs in this process, on a fresh copy. The flip is noticed
where the command ends with one line and exit code 2, or prints another line that names the file's folder. It is
harmless where the command gives the same numbers. Else it is silently wrong. A damaged cache must give the same numbers
the next time. log.txt, which people read, is left out. Ends with 1 if a flip was silently wrong, or a command ended in
another way.
"""

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

from main import main as train
from src.__main__ import run as start_command
from src.errors import run_command
from src.runs.run_folder import RunFolder
from tests.data_files import give_data

SMALL = "--dataset mine --device cpu --batch_size 5"
QUICK = f"main {SMALL} --model Linear --num_epochs 1 --results_dir new"
TUNE = f"tune --trials 2 --seeds 1 --study study {SMALL} --model Linear --num_epochs 1"
DONE, OTHER, CUT = (f"{name}/mine/unaligned/{model}/seed1111" for name, model in
                    (("results", "MulT"), ("results", "Linear"), ("cut", "Linear")))
TIMES = ("seconds", "crc32", "environment")  # in which two runs of the same numbers may differ
KINDS = ("noticed", "harmless", "silently wrong", "ended otherwise")


class Reader(NamedTuple):
    """Stored files, the command that reads them, and the files that it leaves, whose numbers count like its lines."""

    files: str
    command: str
    left: str = ""


READERS = (
    Reader("data/*.cache/arrays/*", QUICK, "new/*/*/*/*/*"),
    Reader(f"{DONE}/checkpoint.pt", f"main --eval {DONE}"),
    Reader(f"{DONE}/result.json", "tables --out new", "new/*"),
    Reader(f"{DONE}/predictions.npz", f"compare --seeds {Path(DONE).parent} {Path(OTHER).parent}"),
    Reader(f"{DONE}/metrics.jsonl", f"compare {DONE} {OTHER}"),
    Reader(f"{DONE}/decisions.npz", "page --out new", "new/*"),
    Reader(f"{OTHER}/config.json", f"main --repeat {OTHER}", f"{OTHER}.repeat/*"),
    *(Reader(f"{CUT}/{name}", f"main {SMALL} --model Linear --num_epochs 2 --results_dir cut --resume", "cut/*/*/*/*/*")
      for name in ("last.pt", "metrics.jsonl")),
    Reader(f"{CUT}/config.json", f"compare {CUT} {OTHER}"),
    Reader("study/journal.log", TUNE, "study/preset.json"),
    Reader("study/preset.json", "main --dataset mine --device cpu --preset study/preset.json --model Linear "
                                "--results_dir new", "new/*/*/*/*/*"),
)


def start(line):
    """Run a command in this process: its exit code and what it printed."""
    name, *rest = line.split()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = train(rest) if name == "main" else run_command(start_command, [name, *rest])
    return code, printed.getvalue()


def succeed(line):
    """Run a command that must end well."""
    code, printed = start(line)
    if code:
        raise SystemExit(f"{line} ended with {code}: {printed}")


def fill(folder):
    """Write the stored files into a folder."""
    folder.mkdir()
    with contextlib.chdir(folder):
        give_data(folder)
        for model in ("MulT --embed_dim 8 --num_heads 2 --nlevels 1", "Linear"):
            succeed(f"main {SMALL} --model {model} --num_epochs 1")
        append, epochs = RunFolder.append_metrics, iter(range(9))

        def append_once(folder, record):
            if next(epochs):
                raise OSError(28, "No space left on device")
            append(folder, record)
        with mock.patch.object(RunFolder, "append_metrics", append_once):
            assert start(f"main {SMALL} --model Linear --num_epochs 2 --results_dir cut")[0] == 2
        succeed(TUNE)


def numbers(path):
    """What must be equal in a file that a command left."""
    if path.suffix == ".npz":
        return {name: array.tobytes() for name, array in np.load(path).items()}
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    return path.read_bytes() if path.suffix in (".csv", ".html", ".md") else None


class Trials:
    """A command on fresh copies of a folder."""

    def __init__(self, reader, template, scratch):
        self.reader, self.template, self.work = reader, template, scratch / "work"
        self.copy()
        _, self.lines, self.outcome = self.read()

    def copy(self):
        """Begin afresh."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.template, self.work)

    def read(self):
        """The exit code of the command, its lines, and its numbers: those of the files that it leaves, if it does."""
        with contextlib.chdir(self.work):
            code, printed = start(self.reader.command)
            left = {str(path): numbers(path) for path in sorted(Path().glob(self.reader.left))} if (
                self.reader.left and code == 0) else printed
        return code, printed.splitlines(), left

    def flip(self, path, chance):
        """Flip a byte of a file: returns which of KINDS it is, and in words what was tried."""
        content = bytearray((self.template / path).read_bytes())
        place, change = chance.randrange(len(content)), chance.randrange(1, 256)
        content[place] ^= change
        tried = f"{path}, byte {place} ^ {change}: {self.reader.command}"
        self.copy()
        (self.work / path).write_bytes(content)
        try:
            code, lines, outcome = self.read()
            if code == 2 and len(lines) == 1 and lines[0].startswith("error: "):
                right = "arrays" not in path.parts or self.read()[2] == self.outcome
                return "noticed" if right else "silently wrong", tried
        except Exception:
            return "ended otherwise", f"{tried}\n{traceback.format_exc(limit=-3)}"
        if code == 0 and outcome == self.outcome:
            return "harmless", tried
        told = any(str(path.parent) in line for line in lines if line not in self.lines)
        return "noticed" if told else "silently wrong" if code == 0 else "ended otherwise", tried


def flips(number, seed, only=""):
    """Flip so many bytes in each file whose path has `only` in it; yields (path, [(one of KINDS, what was tried)])."""
    chance = random.Random(seed)
    with (tempfile.TemporaryDirectory() as scratch, mock.patch("os.fsync"),
          mock.patch("src.training.machine.git_commit", return_value="unknown"),  # three processes a run
          mock.patch("src.search.search.Search.draw", return_value=[])):  # figures, which no number comes from
        template = Path(scratch, "template")
        fill(template)
        for reader in READERS:
            found = (path.relative_to(template) for path in sorted(template.glob(reader.files)))
            if paths := [path for path in found if only in str(path)]:
                trials = Trials(reader, template, Path(scratch))
                for path in paths:
                    yield path, [trials.flip(path, chance) for _ in range(number)]


def show(name, counted):
    """Print a row of the table."""
    print(f"{name!s:<60}", *(f"{counted[kind]:>16}" for kind in KINDS), flush=True)


def main(argv=None):
    """Flip as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300, help="in each file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the paths of the files")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    all_tried = []
    show("", {kind: kind for kind in KINDS})
    for path, tried in flips(arguments.flips, arguments.seed, arguments.only):
        show(path, Counter(kind for kind, _ in tried))
        all_tried += tried
    show(f"{len(all_tried)} flips", Counter(kind for kind, _ in all_tried))
    wrong = [f"{kind}: {what}" for kind, what in all_tried if kind in KINDS[2:]]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
