"""Hostile files end in one line and exit code 2, soon. tests/measure_bounds.py measures larger ones."""

import time

import pytest

import main as training
from src.__main__ import run
from src.errors import run_command
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
