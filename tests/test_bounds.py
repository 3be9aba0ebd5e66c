"""Hostile files end in one line and exit code 2, soon. tests/measure_bounds.py measures larger ones."""

import io
import os
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import main as training
from src.__main__ import run
from src.data.cache import read_file
from src.errors import LONGEST, UserError, run_command, say
from src.files import FREE_SIZE, MOST_TEXT, check_zip, open_file, read_text
from src.predict.clips import open_clips
from src.report import compare, read_runs
from src.runs.run_folder import load_saved, read_arrays
from tests.data_files import make_splits, write_dataset
from tests.hostile_files import HOSTILE

SIZE = 1 << 15  # bytes
MOST_SECONDS = 20  # of this process, whatever else the machine does


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_line(make, tmp_path, capsys):
    (command, *arguments), fault = make(tmp_path, SIZE)
    started = time.process_time()
    code = training.main(arguments) if command == "train" else run_command(run, [command, *arguments])
    assert time.process_time() - started < MOST_SECONDS, "slow"
    complaint = capsys.readouterr().err
    errors = [line for line in complaint.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1), complaint
    assert fault in errors[0]
    assert "Traceback" not in complaint


@pytest.fixture
def dense(tmp_path):
    """A zip of a checkpoint, and one of an array, that unpack to a thousand times their size."""
    saved, array = io.BytesIO(), io.BytesIO()
    torch.save({"format": 1, "x": torch.zeros(1 << 20)}, saved)
    np.save(array, np.zeros(1 << 20))
    with zipfile.ZipFile(saved) as whole, zipfile.ZipFile(tmp_path / "dense.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with zipfile.ZipFile(tmp_path / "dense.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("text.npy", array.getvalue())
    return tmp_path


def test_zips_that_inflate_are_not_read(dense):
    for read, name in ((load_saved, "dense.pt"), (read_arrays, "dense.npz"), (open_clips, "dense.npz")):
        with pytest.raises(UserError):
            read(dense / name)
    with pytest.raises(OSError, match="would unpack to 8,388,736 bytes"):
        check_zip(dense / "dense.npz")


def test_a_forged_header_reserves_nothing(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    with zipfile.ZipFile(tmp_path / "forged.npz", "w") as archive:
        archive.writestr("test_ids.npy", header.getvalue())
    with pytest.raises(UserError, match="is damaged"):
        read_arrays(tmp_path / "forged.npz")


def test_devices_and_long_texts_are_not_read(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="a pipe or a device"):
        open_file("/dev/zero")
    late = tmp_path / "late.bin"  # its system does not hold it yet
    late.write_bytes(b"x" * (FREE_SIZE + 1))
    monkeypatch.setattr("src.files.MOST_HOLES", 0)
    with open_file(late) as file:
        assert len(file.read()) == FREE_SIZE + 1
    (tmp_path / "long.json").write_bytes(b" " * (MOST_TEXT + 1))
    with pytest.raises(OSError, match="it is longer than 1 MB"):
        read_text(tmp_path / "long.json")
    (tmp_path / "lines.txt").write_bytes("é\r\nb\rc".encode())
    assert read_text(tmp_path / "lines.txt") == "é\nb\nc"


def test_a_line_has_an_end(capsys):
    say("x" * 10**6)
    assert len(capsys.readouterr().err) == LONGEST + 1


@pytest.mark.parametrize("name", ["manifest.json", "labels_and_padding.npz", "train_text.npy"])
def test_a_cache_with_a_pipe_in_it_is_made_again(tmp_path, name):
    write_dataset(tmp_path, "mine", make_splits(), aligned=True)
    path, check = tmp_path / "mine_data.pkl", lambda splits: None
    folder = Path(read_file(path, None, check).place) / "arrays"
    (folder / name).unlink()
    os.mkfifo(folder / name)
    read_file(path, None, check)
    assert (folder / name).is_file()


LONG_LINES = ["# a = {}  (", "# a = {}", "# a on {}", "# {}", "# task: a of {}", "# task: score, from {}", "Epoch {}",
              "Epoch 1 | Batch {}", "Epoch 1 | Time {}", "a: {}x", "a:{}", "| Time{}", "# parameters: {}"]


@pytest.mark.parametrize("piece", ["  (", "a", " ", "1", "1,", " :", " of ", ": MulT splits"])
def test_no_line_of_a_log_keeps_an_expression_busy(piece):
    expressions = [x for module in (read_runs, compare) for x in vars(module).values() if isinstance(x, re.Pattern)]
    assert len(expressions) > 8
    for line in LONG_LINES:
        for expression in expressions:
            started = time.process_time()
            expression.sub("", line.format(piece * 20_000) + "\n")
            assert time.process_time() - started < 0.5, (expression.pattern, line)
