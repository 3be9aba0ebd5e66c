"""The job array's script, as SLURM would start it: with an index, and a signal ahead of the time limit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data_files import make_splits, write_dataset

ROOT = Path(__file__).parents[2]
SMALL = ("--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--batch_size", "5", "--device", "cpu")


@pytest.fixture
def start(tmp_path):
    """Starts the script for a task of an array over two runs on tiny data; scontrol writes what it is told."""
    write_dataset(tmp_path, "mine", make_splits(), aligned=False)
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n')
    scontrol.chmod(0o755)

    def start(index, epochs):
        environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PATH": f"{scontrol.parent}:{os.environ['PATH']}",
                       "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": index}
        return subprocess.Popen(
            ["bash", ROOT / "src/grid/slurm_array.sh", "--datasets", "mine", "--alignment", "unaligned", "--models",
             "PMR", "--seeds", "1", "2", "--results_dir", tmp_path / "results", "--", "--data_path", tmp_path, *SMALL,
             "--num_epochs", str(epochs)], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
    return start


def test_a_task_is_one_run(start, tmp_path):
    _, err = (process := start("1", epochs=1)).communicate(timeout=120)
    assert process.returncode == 0, err
    assert [path.parent.name for path in tmp_path.rglob("result.json")] == ["seed2"]
    assert not (tmp_path / "scontrol.log").exists()


def test_a_run_whose_time_is_up_is_queued_again(start, tmp_path):
    process = start("0", epochs=1000)
    checkpoint = tmp_path / "results/mine/unaligned/PMR/seed1/last.pt"
    for _ in range(2400):
        if checkpoint.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "# stopped by SIGUSR1" in err
    assert (tmp_path / "scontrol.log").read_text() == "requeue 77\n"
    assert checkpoint.is_file()


@pytest.mark.parametrize("index, words", [
    ("2", "error: --index 2 is not in the grid: it has 2 runs, 0 to 1"),
    ("", "error: start this in the folder of run_all.sh by: sbatch --array=0-N"),
])
def test_what_is_no_task_is_told(start, tmp_path, index, words):
    _, err = (process := start(index, epochs=1)).communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (2, 1)
    assert words in err
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "scontrol.log").exists()
