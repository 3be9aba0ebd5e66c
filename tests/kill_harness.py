"""Kills runs at random moments, resumes them, and compares what they leave with runs that were never interrupted:

    python tests/kill_harness.py --kills 50 --seed 0

A run is main.py on made-up data, in a process of its own (forked, so that torch is imported once). It is cut short
several times, each time in one of three ways: SIGKILL after a random time; SIGKILL in the middle of a random write,
with what was being written cut off at a random byte, or just before or after a renaming; SIGTERM after a random time,
which writes a checkpoint in the middle of an epoch. Then it is resumed to its end. metrics.jsonl, result.json,
predictions and checkpoint must be those of the uninterrupted run to the last bit, times apart. Ends with 1 if not.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from main import main
from src.runs.run_folder import read_metrics
from src.sealed import unseal
from tests.data_files import make_splits, write_dataset

SMALL = ["--dataset", "mine", "--data_path", "../data", "--device", "cpu", "--embed_dim", "8", "--num_heads", "2",
         "--nlevels", "1", "--batch_size", "20", "--num_epochs", "5", "--attn_dropout", "0.2"]
VARIANTS = (
    ["--model", "MulT"],
    ["--model", "PMR", "--optim", "RMSprop", "--when", "0", "--batch_chunk", "2"],
    ["--model", "MulT-FFL", "--aligned", "--lr", "0.1", "--early_stop", "1", "--num_epochs", "6"],
)
WRITES = 40  # more than the disk is asked for in a run


def start(flags, folder, sabotage=lambda: None):
    """A process that runs main.py in a folder without a console; returns its id."""
    if process := os.fork():
        return process
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    sabotage()
    os._exit(main(flags))


def wait(process):
    """How a process ended: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die_in_write(count, moment, share):
    """From here on, the process kills itself the `count`th time that it asks the disk to keep something.

    moment: "halfway", with only a share of what was being written, or "before" or "after" a renaming.
    """
    fsync, replace, calls = os.fsync, os.replace, iter(range(WRITES * 100))
    def die():
        os.kill(os.getpid(), signal.SIGKILL)
    def dying_fsync(descriptor):
        if moment == "halfway" and next(calls) == count:
            cut_off(descriptor, share)
            die()
        fsync(descriptor)
    def dying_replace(*names):
        now = moment != "halfway" and next(calls) == count
        if now and moment == "before":
            die()
        replace(*names)
        if now:
            die()
    os.fsync, os.replace = dying_fsync, dying_replace


def cut_off(descriptor, share):
    """Leave a share of what was written: of a file that is new all, of one that is appended to its last line."""
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    if os.path.isdir(name):
        return
    size = os.fstat(descriptor).st_size
    kept = 0 if name.endswith(".tmp") else Path(name).read_bytes().rstrip(b"\n").rfind(b"\n") + 1
    os.truncate(name, kept + int((size - kept) * share))


def interrupt(flags, folder, seconds, chance):
    """Start a run and cut it short; returns in which way, or "not at all" if it ended before."""
    way = chance.choice(["clock", "clock", "write", "write", "stop"])
    if way == "write":
        moment = chance.choice(["halfway", "before", "after"])
        arguments = (chance.randrange(WRITES if moment == "halfway" else WRITES // 4), moment, chance.random())
        code = wait(start(flags, folder, lambda: die_in_write(*arguments)))
    else:
        process = start(flags, folder)
        time.sleep(chance.uniform(0, seconds))
        os.kill(process, signal.SIGTERM if way == "stop" else signal.SIGKILL)
        code = wait(process)
    if code == -signal.SIGKILL or code in (143, -signal.SIGTERM):
        return way
    if code:
        raise SystemExit(f"error: {flags} ended with {code}")
    return "not at all"


def outcome(folder):
    """What a finished run leaves, times apart, in a form that == compares to the last bit."""
    (run,) = (path.parent for path in folder.glob("results/*/*/*/seed1111/result.json"))
    epochs, result = read_metrics(run), unseal(json.loads((run / "result.json").read_text()))
    for record in (*epochs, result):
        del record["seconds"]
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    return {
        "files": {path.name for path in run.iterdir()} - {"last.pt"},  # a kill after result.json can leave it
        "metrics.jsonl": epochs,
        "result.json": result,
        "predictions.npz": {k: (v.dtype, v.shape, v.tobytes()) for k, v in np.load(run / "predictions.npz").items()},
        "checkpoint.pt": [checkpoint["epoch"], *(x.numpy().tobytes() for x in checkpoint["model"].values())],
    }


def new_folder(scratch, name):
    """An empty working folder."""
    folder = Path(scratch, name)
    folder.mkdir()
    return folder


def write_data(folder):
    """The data set `mine`, aligned and not."""
    folder.mkdir()
    for aligned, lens in ((False, (6, 9, 11)), (True, (6, 6, 6))):
        write_dataset(folder, "mine", make_splits(lens=lens, sizes=(100, 20, 20)), aligned)


def uninterrupted(flags, folder):
    """The outcome of a run that nothing cuts short, and the seconds it takes."""
    started = time.time()
    if code := wait(start(flags, folder)):
        raise SystemExit(f"error: the uninterrupted run ended with {code}: {flags}")
    return outcome(folder), time.time() - started


def main_loop(kills, seed):
    """Kill and compare until so many kills are done; returns the exit code."""
    chance, ways, runs, differences = random.Random(seed), Counter(), 0, []
    with tempfile.TemporaryDirectory() as scratch:
        write_data(Path(scratch, "data"))
        whole = {}
        while ways["clock"] + ways["write"] < kills:
            i, folder = runs % len(VARIANTS), new_folder(scratch, f"run{runs}")
            flags = [*SMALL, *VARIANTS[i]]
            if i not in whole:
                whole[i] = uninterrupted(flags, new_folder(scratch, f"whole{i}"))
            expected, seconds = whole[i]
            flags.append("--resume")
            for _ in range(chance.randint(1, 4)):
                if ways["clock"] + ways["write"] < kills:
                    ways[interrupt(flags, folder, seconds, chance)] += 1
            if code := wait(start(flags, folder)):
                raise SystemExit(f"error: the resumed run ended with {code}: {flags}")
            runs += 1
            resumed = outcome(folder)
            differences += [f"run {runs}: {name}" for name in expected if resumed[name] != expected[name]]
    print(*differences, sep="\n", end="\n" if differences else "")
    print(f"{ways['clock'] + ways['write']} kills ({ways['clock']} by the clock, {ways['write']} inside a write) and "
          f"{ways['stop']} stops in {runs} runs: {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    sys.exit(main_loop(**vars(parser.parse_args())))
