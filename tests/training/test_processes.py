"""A run in several processes is the run in one. They end together, whatever ends them, and at least one says why."""

import importlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from main import main
from modules.kernels.cpu_library import library
from src import train
from src.data.specs import find_spec
from src.dataset import load_dataset
from src.errors import UserError
from src.files import FolderLock
from src.models import ablations_of, build
from src.runs.run_folder import load_last, read_metrics
from src.settings import parse_flags, resolve
from src.tasks import SentimentRegression
from src.training import distributed
from tests.data_files import make_splits, write_dataset

ROOT = Path(__file__).parents[2]
NO_DROPOUT = [f"--{name}_dropout=0" for name in ("attn", "relu", "embed", "res", "out")]
FLAGS = ["--dataset", "mine", "--device", "cpu", "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1",
         "--num_epochs", "3", "--batch_size", "5", "--log_interval", "1"]  # 11 samples: a last batch of 1
RUN, PMR_RUN = (Path(f"mine/unaligned/{model}/seed1111") for model in ("MulT", "PMR"))


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    """What training loads when it begins is loaded once, before the processes are forked, and not in each of them."""
    importlib.import_module("torch._dynamo")
    library()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with the data set `mine`, read once."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    write_dataset(Path("data"), "mine", make_splits(sizes=(11, 7, 8)), aligned=False)
    load_dataset(find_spec("mine"))
    return tmp_path


def run_in_processes(flags, count=2, sabotage=lambda rank: None):
    """main.py in so many processes, forked, so that torch is imported once; returns code, out and err of each.

    The environment is as torchrun makes it. `sabotage(rank)` comes first in each process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}
    children = []
    for rank in range(count):
        if (child := os.fork()) == 0:
            os.environ |= {**address, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            for descriptor, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{name}{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            end_with(lambda rank=rank: (sabotage(rank), main(flags))[1])
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [SimpleNamespace(rank=rank, code=code, out=Path(f"out{rank}").read_text(),
                            err=Path(f"err{rank}").read_text()) for rank, code in enumerate(codes)]


def end_with(command):
    """End this process as the interpreter would, with a command's exit code, and not as pytest."""
    code = 99
    with suppress(Exception):
        try:
            code = command()
        except SystemExit as left:
            code = left.code
    os._exit(code)


def at_step(number, happens, place=(SentimentRegression, "loss")):
    """From here on, let something happen before the call of that number, from 0, of the loss of a batch."""
    owner, name = place
    original, calls = getattr(owner, name), iter(range(10**6))

    def sabotaged(*arguments):
        if next(calls) == number:
            happens()
        return original(*arguments)
    setattr(owner, name, sabotaged)


def send(number):
    """A signal to this process, by itself."""
    return lambda: os.kill(os.getpid(), number)


def out_of_memory():
    raise MemoryError


def outcome(results, run=RUN):
    """Epochs and predictions of a run, without times; to the last bit."""
    epochs = read_metrics(results / run)
    predictions = np.load(results / run / "predictions.npz")
    return [{**epoch, "seconds": 0} for epoch in epochs], {name: array.tobytes() for name, array in predictions.items()}


def assert_close(results, others, run=RUN):
    """The same run to 1e-5: every number of every epoch, and every prediction once, in its place."""
    for one, other in zip(*(outcome(root, run)[0] for root in (results, others)), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    one, other = (np.load(root / run / "predictions.npz") for root in (results, others))
    for name in one:
        if name.endswith("predictions"):
            np.testing.assert_allclose(one[name], other[name], atol=1e-5)
        else:
            assert one[name].tolist() == other[name].tolist()


@pytest.mark.parametrize("flags", [
    *(["--model", "PMR", *flags] for _, flags in ablations_of("PMR").values()),
    ["--model", "PMR", "--message_form", "full"], ["--model", "PMR", "--pool", "mean"],
    ["--model", "PMR", "--no_residual"], ["--model", "PMR"],
    *([*model, *only] for model in (["--model", "MulT"], ["--model", "MulT-FFL"])
      for only in ([], ["--lonly"], ["--aonly"], ["--vonly"], ["--embed_dim", "12"])),
], ids=" ".join)
def test_each_parameter_has_a_gradient(folder, flags):
    """None is trained in vain: the mean over processes and the optimizer take all of them."""
    settings, _ = resolve(parse_flags([*FLAGS, *flags]))
    dataset = load_dataset(settings.spec)
    streams, labels = dataset.splits["train"].batch(range(5))
    model = build(settings, dataset).train()
    dataset.task.loss(model(*streams)[0], labels).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 5, 24])
def test_a_batch_is_shared_out(count, size, monkeypatch):
    """The mean over processes of their weighted means is the mean of the batch."""
    indices, values = torch.randperm(size), torch.rand(size, dtype=torch.float64)
    shares = []
    monkeypatch.setattr(distributed, "process_count", lambda: count)
    for rank in range(count):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(distributed.share(indices, 1))
    assert all(len(own) for own, _ in shares)
    assert sorted(i for own, weight in shares if weight for i in own.tolist()) == list(range(size))
    means = torch.stack([weight * values[own].mean() for own, weight in shares])
    assert means.mean().item() == pytest.approx(values.mean().item())


def test_dropout_differs_between_processes_and_steps_and_comes_again(monkeypatch):
    monkeypatch.setattr(distributed, "process_count", lambda: 2)
    def draw(rank, *key):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        distributed.share(torch.arange(4), *key)
        return torch.rand(1).item()
    assert len({draw(rank, 1, epoch, step) for rank in (0, 1) for epoch in (1, 2) for step in (0, 1)}) == 8
    assert draw(1, 1, 2, 0) == draw(1, 1, 2, 0)


@pytest.mark.parametrize("flags, run", [
    (["--model", "PMR", "--batch_chunk", "2", "--precision", "float64"], PMR_RUN),  # in float32 rounding shows
    (["--mask_padding", "--trim_padding", "--sort_batches", "--when", "0", "--lr", "0.05"], RUN),
], ids=["PMR", "MulT"])
def test_two_processes_compute_what_one_does(folder, capsys, flags, run):
    flags = [*FLAGS, *NO_DROPOUT, *flags]
    assert main([*flags, "--results_dir", "one"]) == 0
    alone = capsys.readouterr()
    first, second = run_in_processes([*flags, "--results_dir", "two"])
    assert (first.code, second.code, first.err, second.err, second.out) == (0, 0, "", "", "")
    assert_close(folder / "two", folder / "one", run)
    assert [re.sub("[0-9].*", "", line) for line in first.out.splitlines() if line.startswith("Epoch")] == [
        re.sub("[0-9].*", "", line) for line in alone.out.splitlines() if line.startswith("Epoch")]
    assert {path.name for path in (folder / "two" / run).iterdir()} == {
        path.name for path in (folder / "one" / run).iterdir()}
    assert [path.name for path in (folder / "two" / run).parent.iterdir()] == [run.name]
    assert json.loads((folder / "two" / run / "result.json").read_text())["environment"]["processes"] == 2


def test_in_float64_two_processes_differ_by_nothing_that_counts(folder):
    """What is left in float32 is rounding, which training makes larger from step to step."""
    flags = [*FLAGS, *NO_DROPOUT, "--model", "PMR", "--num_epochs", "8", "--lr", "0.01", "--precision", "float64"]
    for count in (1, 2):
        done = run_in_processes([*flags, "--results_dir", str(count)], count)
        assert [process.code for process in done] == [0] * count, done[0].err
    one, two = (outcome(folder / count, PMR_RUN)[0] for count in ("1", "2"))
    assert one[-1]["train_loss"] < 0.9 * one[0]["train_loss"]
    assert [epoch["train_loss"] for epoch in two] == pytest.approx([epoch["train_loss"] for epoch in one], rel=1e-12)


def test_more_processes_than_a_batch_has_samples(folder):
    flags = [*FLAGS, *NO_DROPOUT, "--num_epochs", "1"]
    assert main([*flags, "--results_dir", "one"]) == 0
    assert [process.code for process in run_in_processes([*flags, "--results_dir", "three"], count=3)] == [0, 0, 0]
    assert_close(folder / "three", folder / "one")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted run in two processes leaves, with dropout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        Path("data").mkdir()
        write_dataset(Path("data"), "mine", make_splits(sizes=(11, 7, 8)), aligned=False)
        assert [process.code for process in run_in_processes(FLAGS)] == [0, 0]
        return outcome(Path("results").resolve())


def test_a_run_with_dropout_is_the_same_again(folder, whole):
    assert [process.code for process in run_in_processes(FLAGS)] == [0, 0]
    assert outcome(folder / "results") == whole
    assert main([*FLAGS, "--results_dir", "one"]) == 0
    assert outcome(folder / "one") != whole


STEP = 7  # the loss is called for 3 + 2 batches an epoch in each process, so this is batch 2 of epoch 2


def test_a_signal_to_one_stops_all_after_the_same_step(folder, whole):
    first, second = run_in_processes(FLAGS, sabotage=lambda rank: rank and at_step(STEP, send(signal.SIGTERM)))
    assert (first.code, second.code) == (143, 143)
    assert second.err == ""
    said = re.fullmatch("# stopped by SIGTERM in epoch 2, after 3 of its batches; to resume: (.*)\n", first.err)
    command = shlex.split(said[1])
    assert command[:4] == ["torchrun", "--nproc_per_node", "2", "main.py"]
    first, second = run_in_processes(command[4:])
    assert "# resumes after epoch 1 and 3 batches of the next\n" in first.out
    assert (first.code, second.code) == (0, 0)
    assert outcome(folder / "results") == whole


LOST = "error: another process of this run has ended, .*; --resume resumes the run after its last epoch\n"


@pytest.mark.parametrize("place", [(SentimentRegression, "loss"), (train, "mean")], ids=["in a pass", "after it"])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_is_lost_ends_the_run_and_it_resumes(folder, whole, place, lost):
    """After its last epoch."""
    step = STEP if place[1] == "loss" else 10  # the mean is taken of the gradient and of the loss
    done = run_in_processes(FLAGS, sabotage=lambda rank: rank == lost and at_step(step, send(signal.SIGKILL), place))
    assert (done[lost].code, done[1 - lost].code) == (-signal.SIGKILL, 2)
    assert re.fullmatch(LOST, done[1 - lost].err)
    last = load_last(folder / "results" / RUN)["state"]
    assert (last["epochs"], last["part"]["batches"]) == (1, 0)
    assert [process.code for process in run_in_processes([*FLAGS, "--resume"])] == [0, 0]
    assert outcome(folder / "results") == whole


def test_a_run_resumes_in_another_number_of_processes(folder, capsys):
    flags = [*FLAGS, *NO_DROPOUT]
    assert main([*flags, "--results_dir", "one"]) == 0
    stopping = {"sabotage": lambda rank: at_step(STEP, send(signal.SIGTERM))}
    assert {process.code for process in run_in_processes(flags, **stopping)} == {143}
    stopping = {"sabotage": lambda rank: at_step(0, send(signal.SIGTERM))}
    (alone,) = run_in_processes([*flags, "--resume"], count=1, **stopping)
    assert alone.code == 143
    assert "# processes is 2 and 1: before and now; " in alone.out
    assert "to resume: python main.py" in alone.err
    first, *others = run_in_processes([*flags, "--resume"], count=3)
    assert [first.code, *(process.code for process in others)] == [0, 0, 0]
    assert "# processes is 1 and 3: before and now; " in first.out
    assert_close(folder / "results", folder / "one")


@pytest.mark.parametrize("flags, words", [
    ([*FLAGS, "--lr", "fast"], "argument --lr: invalid"),
    ([*FLAGS, "--dataset", "yours"], "data/yours_data_noalign.pkl is missing"),
    ([*FLAGS, "--device", "cuda:0"], "--device cuda:0 would be the device of all 2 processes"),
    ([*FLAGS, "--results_dir", "data/mine_data_noalign.pkl"], "results cannot be written to"),
    ([*FLAGS, "--lr", "1e30"], "training diverged in epoch"),
    (["--eval", "results"], "--eval takes one process"),
    (["--repeat", "results"], "results has no result.json"),
], ids=lambda value: value[-2] if isinstance(value, list) else "")
def test_an_error_is_said(folder, flags, words):
    """By the first process; another one says the same, or that a process has ended, perhaps before they met."""
    first, second = run_in_processes(flags)
    assert (first.code, second.code) == (2, 2)
    assert re.fullmatch(f"error: {words}.*\n", first.err)
    unmet = "(?s:.*)error: process 1 of torchrun does not reach the others: .*\n"  # torch warns of it before
    assert re.fullmatch(f"error: {words}.*\n|{LOST}|{unmet}", second.err)


def test_an_error_of_one_ends_all(folder):
    def elsewhere(rank):
        if rank:
            os.chdir("/")
    first, second = run_in_processes(FLAGS, sabotage=elsewhere)
    assert (first.code, second.code) == (2, 2)
    assert re.fullmatch("error: data/mine_data_noalign.pkl is missing.*\n", second.err)
    assert re.fullmatch(LOST, first.err)
    assert not Path("results").exists()


def test_other_settings_in_another_process_are_an_error(folder):
    first, second = run_in_processes(FLAGS, sabotage=lambda rank: rank and FLAGS.extend(["--lr", "0.5"]))
    assert (first.code, second.code) == (2, 2)
    assert re.fullmatch(r"error: all processes need the same .* \(lr is 0.5 and 0.001\)\n", first.err)


def test_a_locked_folder_ends_all(folder):
    lock = FolderLock(Path("results") / RUN)
    first, second = run_in_processes(FLAGS)
    lock.release()
    assert (first.code, second.code) == (2, 2)
    assert re.fullmatch(f"error: results/{RUN} is being written by process .*\n", first.err)
    assert re.fullmatch(LOST, second.err)


def test_a_process_without_memory_says_so_and_the_others_end(folder):
    first, second = run_in_processes(FLAGS, sabotage=lambda rank: rank and at_step(STEP, out_of_memory))
    assert (first.code, second.code) == (2, 2)
    assert re.fullmatch("error: out of memory: .*\n", second.err)
    assert re.fullmatch(LOST, first.err)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            str(ROOT / "main.py")]


def test_torchrun(folder):
    """As a user starts it."""
    flags = [*FLAGS, *NO_DROPOUT, "--num_epochs", "1", "--results_dir"]
    assert main([*flags, "one"]) == 0
    done = subprocess.run([*TORCHRUN, *flags, "two"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("# results in two")) == (0, 1), done.stderr
    assert_close(folder / "two", folder / "one")


def test_torchrun_with_a_wrong_flag(folder):
    done = subprocess.run([*TORCHRUN, *FLAGS, "--lr", "fast"], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "error: argument --lr: invalid positive value: 'fast'" in done.stderr


def test_torchrun_that_is_stopped(folder):
    """It passes SIGTERM on; the run stops after the same step in all processes, and resumes."""
    with open("said", "w", encoding="utf-8") as said:
        process = subprocess.Popen([*TORCHRUN, *FLAGS, "--num_epochs", "100000"], stdout=said, stderr=said)
        try:
            deadline = time.time() + 300
            while not (folder / "results" / RUN / "checkpoint.pt").exists() and time.time() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=300)
        finally:
            process.kill()
    stopped = re.search("# stopped by SIGTERM in epoch ([0-9]+), after ([0-9]+) of its batches; to resume: torchrun",
                        Path("said").read_text())
    last = load_last(folder / "results" / RUN)["state"]
    assert (last["epochs"] + 1, last["part"]["batches"]) == tuple(map(int, stopped.groups()))
    stopping = {"sabotage": lambda rank: at_step(0, send(signal.SIGTERM))}
    again = run_in_processes([*FLAGS, "--num_epochs", "100000", "--resume"], **stopping)
    assert [process.code for process in again] == [143, 143]
    assert f"# resumes after epoch {last['epochs']}" in again[0].out


@pytest.mark.parametrize("environment", [{}, {"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "2"}], ids=str)
def test_without_torchrun_there_is_one_process(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    distributed.join()
    assert (distributed.process_count(), distributed.rank(), distributed.is_first()) == (1, 0, True)


def test_an_environment_that_makes_no_sense(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"process first of torchrun does not reach the others: .*'first'"):
        distributed.join()
