"""The memory and time of each run of a grid, from a few steps on the present device (run_all.sh --dry_run).

Each model is measured once on each data set, for all seeds, in a process of its own, so that its peak memory is its
own, as many at a time as the grid would run. The time of a run is that of starting and of its epochs. It is an
estimate: an early end by --early_stop, the writing of checkpoints, and other work of the machine are left out.
"""

import heapq
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch

from src.dataset import Split
from src.errors import run_command
from src.grid.plan import Run
from src.grid.pool import MAIN, environment_of, start_python, visible_gpus
from src.report.table_formats import markdown_table
from src.runs.result import parameter_count
from src.runs.run import new_state, prepare
from src.settings import Settings, parse_flags, resolve
from src.tools.benchmark_worker import peak_bytes
from src.train import evaluate, train_one_epoch
from src.training.state import PartOfEpoch

HEAD = ("", "run", "parameters", "peak memory", "a step", "an epoch", "epochs left", "time")
WORKER = "import sys; from src.grid.estimate import print_figures; sys.exit(print_figures(*sys.argv[1:]))"
FEWEST_STEPS, MOST_STEPS = 3, 30  # at a time
SECONDS = 2.0  # of training, and a quarter of that of evaluation


def print_estimate(runs: Sequence[Run], jobs: int) -> int:
    """Print the runs of a grid with the cost of each and of all; returns the exit code, 1 if one cannot run."""
    jobs = min(jobs, len(runs))
    epochs_left = [None if run.finished else max(0, run.settings.num_epochs - run.epochs_done()) for run in runs]
    measured = measure_all(runs, jobs)
    rows, seconds, failed = [], [], {}
    for index, (run, epochs) in enumerate(zip(runs, epochs_left, strict=True)):
        figures = measured[variant(run)]
        if isinstance(figures, str):
            failed[run.title] = figures
            rows.append((str(index), run.title, *["?"] * 6))
            continue
        seconds.append(0 if epochs is None else figures["start_seconds"] + epochs * figures["epoch_seconds"])
        rows.append((
            str(index), run.title, f"{figures['parameters']:,}", f"{figures['peak_bytes'] / 2**20:.0f} MB",
            f"{figures['step_seconds']:.3g} s", f"{figures['epoch_seconds']:.3g} s",
            "finished" if epochs is None else str(epochs), clock(seconds[-1]),
        ))
    print(markdown_table(HEAD, rows))
    on = " and ".join(sorted({figures["device"] for figures in measured.values() if isinstance(figures, dict)}))
    if on:
        print(f"\n# about {clock(time_together(seconds, jobs))} in all, {jobs} at a time, by a few steps on this {on}")
    for title, line in failed.items():
        print(f"# {title} cannot run: {line}", file=sys.stderr)
    return 1 if failed else 0


def variant(run: Run) -> tuple:
    """A key that a run shares with the runs of other seeds alone."""
    return tuple(replace(run.settings, seed=0).recorded().items())


def measure_all(runs: Sequence[Run], jobs: int) -> dict[tuple, Any]:
    """{variant: the dict of `measure`, or the last line of the complaint}, `jobs` measured at a time."""
    gpus = visible_gpus()
    variants = list({variant(run): run for run in reversed(runs)}.items())[::-1]
    measured: dict[tuple, Any] = {}
    for first in range(0, len(variants), jobs):
        print(f"# measuring {first + 1} to {min(first + jobs, len(variants))} of {len(variants)}", file=sys.stderr)
        processes: list[tuple[tuple, subprocess.Popen]] = []
        try:
            for slot, (key, run) in enumerate(variants[first:first + jobs]):
                processes.append((key, start_worker(run, environment_of(slot, jobs, gpus))))
            for key, process in processes:
                out, err = process.communicate()
                complaint = (err.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
                measured[key] = json.loads(out.splitlines()[-1]) if process.returncode == 0 else complaint
        finally:
            for _, process in processes:
                process.terminate()
    return measured


def start_worker(run: Run, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start measuring a run in a process of its own."""
    paths = os.pathsep.join(filter(None, (str(MAIN.parent), environment.get("PYTHONPATH"))))
    return start_python(["-c", WORKER, str(time.time()), *run.flags], env={**environment, "PYTHONPATH": paths},
                        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def time_together(seconds: Sequence[float], jobs: int) -> float:
    """How long runs of these seconds take when each waits for the first free one of `jobs` slots."""
    free_at = [0.0] * jobs
    for duration in seconds:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def clock(seconds: float) -> str:
    """1:23:45"""
    return str(timedelta(seconds=round(seconds)))


def print_figures(started: str, *flags: str) -> int:
    """The worker: print the figures of the run of main.py's flags as a JSON line; `started` is time() of its start."""
    def command() -> None:
        settings, _ = resolve(parse_flags(flags))
        print(json.dumps(measure(settings, float(started))))
    return run_command(command)


def measure(settings: Settings, started: float) -> dict[str, Any]:
    """The cost of a run of these settings: some training steps and evaluated batches of the real data are timed."""
    run = prepare(settings)
    model, task, device = run.model, run.dataset.task, run.device
    start_seconds = time.time() - started
    train, valid, test = (run.dataset.splits[name] for name in ("train", "valid", "test"))
    state, generator = new_state(run), torch.Generator().manual_seed(0)
    chunk = math.ceil(settings.batch_size / settings.batch_chunk)

    def train_on(steps: int) -> None:
        state.start_epoch(PartOfEpoch())
        for _ in train_one_epoch(
            state, some_of(train, steps * settings.batch_size, generator), task, batch_size=settings.batch_size,
            batch_chunk=settings.batch_chunk, clip=settings.clip, by_length=settings.sort_batches,
            trimmed=settings.trim_padding,
        ):
            pass

    def evaluate_on(batches: int) -> None:
        evaluate(model, some_of(valid, batches * chunk, generator), task, batch_size=chunk,
                 by_length=settings.trim_padding, device=device)

    train_on(1)
    warm = seconds_of(train_on, 1, at_least=0)
    in_epoch = math.ceil(len(train) / settings.batch_size)
    steps = min(in_epoch, max(FEWEST_STEPS, min(MOST_STEPS, int(SECONDS / warm))))
    step_seconds = seconds_of(train_on, steps) / steps
    evaluate_on(1)
    batches = steps * settings.batch_chunk
    sample_seconds = seconds_of(evaluate_on, batches, at_least=SECONDS / 4) / min(len(valid), batches * chunk)
    return {
        "parameters": parameter_count(model), "peak_bytes": peak_bytes(device.type), "device": device.type,
        "start_seconds": start_seconds, "step_seconds": step_seconds,
        "epoch_seconds": step_seconds * len(train) / settings.batch_size + sample_seconds * (len(valid) + len(test)),
    }


def some_of(split: Split, number: int, generator: torch.Generator) -> Split:
    """At most `number` samples of a split, drawn at random, as a split."""
    chosen = torch.randperm(len(split), generator=generator)[:number]
    streams, labels = split.batch(chosen)
    features, padding = zip(*((stream.x, stream.padding) for stream in streams), strict=True)
    return Split(features, padding, labels, [split.ids[i] for i in chosen]).to(split.features[0].device)


def seconds_of(work: Callable[[int], Any], amount: int, at_least: float = SECONDS) -> float:
    """The mean seconds of work(amount), over as many calls as take `at_least` so many together."""
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < at_least:
        work(amount)
        calls += 1
    return (time.perf_counter() - start) / calls
