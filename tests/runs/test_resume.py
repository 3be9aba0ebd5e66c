"""A run that is killed, stopped or out of disk goes on and comes out the same; a folder has one owner; runs repeat."""

import errno
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from main import main
from src import files as atomic
from src.files import FolderLock
from src.runs.log import TrainingLog
from src.runs.run_folder import RunFolder, read_metrics
from src.sealed import unseal
from src.training.stop import StopRequested
from tests.data_files import give_data, make_splits, write_dataset

ROOT = Path(__file__).parents[2]
FLAGS = ["--dataset", "mine", "--device", "cpu", "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1",
         "--num_epochs", "4", "--batch_size", "5", "--attn_dropout", "0.3", "--log_interval", "1"]
RUN = "mine/unaligned/MulT/seed1111"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the data set `mine`."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    give_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(FLAGS) == 0
    return outcome(folder / "results" / RUN)


def outcome(run):
    """Epochs, result and predictions of a run, without times."""
    epochs, result = read_metrics(run), unseal(json.loads((run / "result.json").read_text()))
    for record in (*epochs, result):
        del record["seconds"]
    return epochs, result, {name: array.tobytes() for name, array in np.load(run / "predictions.npz").items()}


def fail_at(monkeypatch, calls, error):
    """Let the disk refuse the next writes after so many."""
    left, fsync = iter(range(calls)), os.fsync

    def refusing(descriptor):
        if next(left, None) is None:
            raise error
        fsync(descriptor)
    monkeypatch.setattr(os, "fsync", refusing)


def test_kills():
    """The short form of the harness; the long one is a command of its own."""
    harness = subprocess.run([sys.executable, ROOT / "tests/kill_harness.py", "--kills", "2", "--seed", "2"],
                             capture_output=True, text=True, check=False)
    assert re.search(r"^2 kills .*: 0 differences$", harness.stdout, re.M), harness.stdout + harness.stderr


@pytest.mark.parametrize("writes", [2, 7, 13, 18, 23, 25])
def test_a_full_disk_is_an_error_and_the_run_goes_on(folder, whole, capsys, monkeypatch, writes):
    with monkeypatch.context() as patch:
        fail_at(patch, writes, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        assert main(FLAGS) == 2
    message = capsys.readouterr().err
    assert re.fullmatch("error: results cannot be written to .*: No space left on device; once that is mended, "
                        "give the same command with --resume\n", message)
    assert not list(folder.rglob("*.tmp"))
    assert main([*FLAGS, "--resume"]) == 0
    assert outcome(folder / "results" / RUN) == whole


def test_a_file_that_may_not_grow_leaves_the_last_checkpoint(folder, whole, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 12, OSError(errno.ENOSPC, "full"))
        assert main(FLAGS) == 2
    last = folder / "results" / RUN / "last.pt"
    before = last.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        assert main([*FLAGS, "--resume"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large; once that is mended" in capsys.readouterr().err
    assert last.read_bytes() == before
    assert main([*FLAGS, "--resume"]) == 0
    assert outcome(folder / "results" / RUN) == whole


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_files_that_may_hold_little(folder, capsys, size):
    """log.txt and config.json are cut off then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        assert main(FLAGS) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.fullmatch("error: results cannot be written to .*: File too large; .*\n", capsys.readouterr().err)
    assert main([*FLAGS, "--resume"]) == 0


def test_a_write_that_is_cut_short_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic.write_whole(path, b"before")
    fail_at(monkeypatch, 0, OSError(errno.EIO, "broken"))
    with pytest.raises(OSError, match="broken"):
        atomic.write_whole(path, b"after")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def start(folder, *flags):
    """main.py in a process of its own, in the folder."""
    return subprocess.Popen([sys.executable, ROOT / "main.py", *FLAGS, *flags], cwd=folder, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def wait_for(path):
    """Until a file is there."""
    for _ in range(2400):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} does not come")


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_writes_a_checkpoint_and_names_what_goes_on(folder, whole, monkeypatch, capsys, sent, code):
    """In the middle of the second epoch, by way of a batch that signals its own process."""
    log_step = TrainingLog.step

    def signalling(log, step):
        log_step(log, step)
        if (step.epoch, step.number) == (2, 1):
            os.kill(os.getpid(), sent)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", signalling)
        assert main(FLAGS) == code
    said = capsys.readouterr().err
    command = shlex.split(re.search("to resume: (.*)", said)[1])
    assert command[:2] == ["python", "main.py"]
    assert main(command[2:]) == 0
    assert "# resumes after epoch 1 and 2 batches of the next" in capsys.readouterr().out
    assert outcome(folder / "results" / RUN) == whole


def test_a_stop_in_the_first_epoch_and_a_death_before_its_checkpoint(folder, whole, monkeypatch):
    """The line of the first epoch is there, and the checkpoint does not know it."""
    def stop(log, step):
        raise StopRequested(signal.SIGTERM)

    def die(*arguments):
        raise OSError("died")
    for name, cut_short, code in (("step", stop, 143), ("epoch", TrainingLog.epoch, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(TrainingLog, name, cut_short)
            if code == 2:
                patch.setattr(RunFolder, "save_last", die)
            assert main([*FLAGS, "--resume"]) == code
    assert (folder / "results" / RUN / "metrics.jsonl").read_text().count("\n") == 1
    assert main([*FLAGS, "--resume"]) == 0
    assert outcome(folder / "results" / RUN) == whole


def test_a_state_of_the_first_format_resumes(folder, whole, monkeypatch):
    """It lacks an epoch's training loss, rate and seconds, and counts steps that are not yet checked."""
    log_step = TrainingLog.step

    def stop(log, step):
        log_step(log, step)
        if (step.epoch, step.number) == (3, 1):
            raise StopRequested(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLog, "step", stop)
        assert main(FLAGS) == 143
    path = folder / "results" / RUN / "last.pt"
    last = torch.load(path, weights_only=True)
    last["format"], last["state"]["part"]["unseen"] = 1, 0
    for epoch in (last["state"]["selected"], last["state"]["best_on_test"]):
        for name in ("train_loss", "lr", "seconds"):
            del epoch[name]
    torch.save(last, path)
    assert main([*FLAGS, "--resume"]) == 0
    assert outcome(folder / "results" / RUN) == whole


def test_a_second_signal_ends_at_once_and_the_run_goes_on_all_the_same(folder, capsys):
    process = start(folder, "--num_epochs", "100000")
    wait_for(folder / "results" / RUN / "checkpoint.pt")
    os.kill(process.pid, signal.SIGSTOP)  # so that both come before its next step
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(timeout=30) in (130, 143)
    assert "to resume" not in process.stderr.read()


def test_two_processes_on_one_folder(folder, capsys):
    process = start(folder, "--num_epochs", "100000")
    try:
        wait_for(folder / "results" / RUN / "checkpoint.pt")
        os.kill(process.pid, signal.SIGSTOP)
        before = {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}
        for flags in (FLAGS, [*FLAGS, "--resume"]):
            assert main(flags) == 2
            message = capsys.readouterr().err
            assert re.fullmatch(rf"error: results/{RUN} is being written by process {process.pid} on .*\n", message)
        assert before == {path: path.read_bytes() for path in (folder / "results").rglob("*") if path.is_file()}
    finally:
        process.kill()
        process.communicate()
    assert main([*FLAGS, "--resume", "--num_epochs", "100000", "--lr", "1"]) == 2  # not the lock any more
    assert "lr is 0.001 and 1.0" in capsys.readouterr().err


def test_a_lock_is_free_again_after_its_owner(tmp_path):
    for _ in range(3):
        FolderLock(tmp_path / "run").release()
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_resume_starts_afresh_and_a_finished_run_is_left(folder, whole, capsys):
    assert main([*FLAGS, "--resume"]) == 0
    run = folder / "results" / RUN
    assert outcome(run) == whole
    before = {path: path.stat() for path in run.iterdir()}
    capsys.readouterr()
    assert main([*FLAGS, "--resume", "--log_interval", "7"]) == 0
    assert capsys.readouterr().out == f"# results/{RUN} is finished: nothing to do\n"
    assert {path: path.stat() for path in run.iterdir()} == before


def test_without_resume_an_unfinished_run_is_moved_aside(folder, whole, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, 12, OSError(errno.ENOSPC, "full"))
        assert main(FLAGS) == 2
    assert main(FLAGS) == 0
    assert outcome(folder / "results" / RUN) == whole
    assert (folder / "results" / f"{RUN}.1" / "last.pt").is_file()


def test_a_death_between_last_and_checkpoint_is_mended(folder, monkeypatch):
    """The best epoch is then the one of last.pt, and no later one comes to write checkpoint.pt."""
    def die(*arguments):
        raise OSError("died")
    flags = [*FLAGS, "--num_epochs", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", die)
        assert main(flags) == 2
    assert not (folder / "results" / RUN / "checkpoint.pt").exists()
    assert main([*flags, "--resume"]) == 0
    assert main(["--eval", str(folder / "results" / RUN)]) == 0


def test_other_threads_or_versions_are_said(folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("torch.__version__", "1.0")
        fail_at(patch, 12, OSError(errno.ENOSPC, "full"))
        assert main(FLAGS) == 2
    assert main([*FLAGS, "--resume"]) == 0
    assert re.search(r"# torch is 1.0 and \d.*: before and now; the last bits", capsys.readouterr().out)


def test_repeat_says_that_a_run_came_out_the_same(folder, capsys):
    assert main([*FLAGS, "--seed", "4", "--num_epochs", "2"]) == 0
    run = folder / "results/mine/unaligned/MulT/seed4"
    assert main(["--repeat", "results/mine/unaligned/MulT/seed4"]) == 0
    assert f"# repeats {run} to the last bit\n" in capsys.readouterr().out
    assert {path.name for path in run.iterdir()} == {path.name for path in run.with_name("seed4.repeat").iterdir()}

    epochs = read_metrics(run)
    epochs[0]["valid_mae"] = 9.5
    (run / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    assert main(["--repeat", str(run), "--data_path", str(folder / "data")]) == 1
    assert re.search(rf"# DOES NOT REPEAT {run}: in epoch 1, valid_mae was 9.5 and is \d", capsys.readouterr().out)


def test_repeat_names_other_data(folder, capsys):
    assert main([*FLAGS, "--num_epochs", "1"]) == 0
    write_dataset(folder / "data", "mine", make_splits(seed=9), aligned=False)
    assert main(["--repeat", f"results/{RUN}"]) == 1
    printed = capsys.readouterr().out
    assert "# DOES NOT REPEAT" in printed
    assert re.search(r"# data is [0-9a-f]{16} and [0-9a-f]{16}: there and here", printed)


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried"),
], ids=["python", "gpu", "cpu"])
@pytest.mark.parametrize("chunk, words", [("1", "in 1 part does not fit; try --batch_chunk 2,"),
                                          ("4", "in 4 parts does not fit; try --batch_chunk 5,"),
                                          ("5", "not even 1 sample of --batch_size 5 fits")])
def test_memory_that_runs_out_names_the_batch(folder, monkeypatch, capsys, error, chunk, words):
    def full(*arguments, **options):
        raise error
    monkeypatch.setattr("src.tasks.SentimentRegression.loss", full)
    assert main([*FLAGS, "--batch_chunk", chunk]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: out of memory: ")
    assert words in message


def test_deterministic_asks_torch_for_it(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.use_deterministic_algorithms", asked.append)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert main([*FLAGS, "--num_epochs", "1", "--deterministic"]) == 0
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    assert main([*FLAGS, "--num_epochs", "1"]) == 0
    assert asked == [True, False]
