"""The memory and time of each run of a grid, from a few steps on the present device (run_all.sh --dry_run).

Each model is measured once on each data set, for all seeds, in a process of its own, so that its peak memory is its
own. As many are measured at a time as the grid would run. The time of a run is that of its start and of its epochs. It
is an estimate: an early end by --early_stop, the writing of checkpoints, and other work of the machine are left out.
"""

import heapq
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import islice, repeat
from typing import Any

import torch

from src.dataset import Split
from src.errors import run_command
from src.grid.plan import Run
from src.grid.pool import MAIN, environment_of, start_python
from src.report.table_formats import markdown_table
from src.runs.result import parameter_count
from src.runs.run import Prepared, new_state, prepare
from src.settings import Settings, parse_flags, resolve
from src.tools.benchmark_worker import peak_bytes
from src.train import checked_together, evaluate, train_one_epoch
from src.training.state import PartOfEpoch

HEAD = ("", "run", "parameters", "peak memory", "a step", "an epoch", "epochs left", "time")
WORKER = "import sys; from src.grid.estimate import print_figures; sys.exit(print_figures(*sys.argv[1:]))"
SECONDS = 1.5  # of training, and of evaluation


def print_estimate(runs: Sequence[Run], jobs: int) -> int:
    """Print the runs of a grid with the cost of each and of all; returns the exit code, 1 if one cannot run."""
    jobs = min(jobs, len(runs))
    epochs_left = [None if run.finished else max(0, run.settings.num_epochs - run.epochs_done()) for run in runs]
    measured = measure_all(runs, jobs)
    rows, seconds, failed = [], [], []
    for index, (run, epochs) in enumerate(zip(runs, epochs_left, strict=True)):
        figures = measured[variant(run)]
        if isinstance(figures, str):
            failed.append(f"# {run.title} cannot run: {figures}")
            rows.append((str(index), run.title, *["?"] * 6))
            continue
        seconds.append(0 if epochs is None else figures["start_seconds"] + epochs * figures["epoch_seconds"])
        rows.append((
            str(index), run.title, f"{figures['parameters']:,}", f"{figures['peak_bytes'] / 2**20:.0f} MB",
            f"{figures['step_seconds']:.3g} s", f"{figures['epoch_seconds']:.3g} s",
            "finished" if epochs is None else str(epochs), clock(seconds[-1]),
        ))
    print(markdown_table(HEAD, rows))
    if devices := {figures["device"] for figures in measured.values() if isinstance(figures, dict)}:
        total, on = clock(time_together(seconds, jobs)), " and ".join(sorted(devices))
        print(f"\n# about {total} in all, {jobs} at a time, by a few steps on this {on}")
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed else 0


def variant(run: Run) -> tuple:
    """A key that a run shares with the runs of other seeds alone."""
    return tuple(replace(run.settings, seed=0).recorded().items())


def measure_all(runs: Sequence[Run], jobs: int) -> dict[tuple, Any]:
    """{variant: the dict of `measure`, or the last line of the complaint}, `jobs` measured at a time."""
    first_of = {variant(run): run for run in reversed(runs)}
    variants, measured = list(dict.fromkeys(map(variant, runs))), {}
    for first in range(0, len(variants), jobs):
        together = variants[first:first + jobs]
        print(f"# measuring {first + 1} to {first + len(together)} of {len(variants)}", file=sys.stderr)
        processes: list[subprocess.Popen] = []
        try:
            for slot, key in enumerate(together):
                environment = environment_of(slot, jobs)
                paths = filter(None, (str(MAIN.parent), environment.get("PYTHONPATH")))
                processes.append(start_python(
                    ["-c", WORKER, str(time.time()), *first_of[key].flags], text=True, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
                ))
            for key, process in zip(together, processes, strict=True):
                out, err = process.communicate()
                complaint = (err.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
                measured[key] = json.loads(out.splitlines()[-1]) if process.returncode == 0 else complaint
        finally:
            for process in processes:
                process.terminate()
    return measured


def time_together(seconds: Sequence[float], jobs: int) -> float:
    """The time of all runs of these seconds, each of which waits for the first free one of `jobs` slots."""
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
    """The cost of a run of these settings: some training steps and evaluations on the real data are timed."""
    run = prepare(settings)
    start_seconds = time.time() - started
    train, valid, test = (run.dataset.splits[name] for name in ("train", "valid", "test"))
    step_seconds = seconds_each(training_steps(run), checked_together(run.device))
    some = some_of(valid, settings.batch_size * math.ceil(SECONDS / step_seconds))
    evaluations = (
        evaluate(run.model, some, run.dataset.task, batch_size=math.ceil(settings.batch_size / settings.batch_chunk),
                 by_length=settings.trim_padding, device=run.device) for _ in repeat(None)
    )
    sample_seconds = seconds_each(evaluations) / len(some)
    return {
        "parameters": parameter_count(run.model), "peak_bytes": peak_bytes(run.device.type),
        "device": run.device.type, "start_seconds": start_seconds, "step_seconds": step_seconds,
        "epoch_seconds": step_seconds * len(train) / settings.batch_size + sample_seconds * (len(valid) + len(test)),
    }


def training_steps(run: Prepared) -> Iterator[Any]:
    """Train without end; yields after each step."""
    state, asked = new_state(run), run.settings
    while True:
        state.start_epoch(PartOfEpoch())
        yield from train_one_epoch(
            state, run.dataset.splits["train"], run.dataset.task, batch_size=asked.batch_size,
            batch_chunk=asked.batch_chunk, clip=asked.clip, by_length=asked.sort_batches, trimmed=asked.trim_padding,
            modality_dropout=asked.modality_dropout or 0,
        )


def seconds_each(work: Iterator[Any], together: int = 1) -> float:
    """The mean seconds of the items of an endless iterator, which come so many together; the first are not counted."""
    list(islice(work, together))
    start, taken, passed = time.perf_counter(), 0, 0.0
    while passed < SECONDS:
        taken += len(list(islice(work, together)))
        passed = time.perf_counter() - start
    return passed / taken


def some_of(split: Split, number: int) -> Split:
    """At most `number` samples of a split, drawn at random, as a split."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:number]
    features, padding = (tuple(x[chosen.to(x.device)] for x in tensors) for tensors in (split.features, split.padding))
    return Split(features, padding, split.labels[chosen], [split.ids[i] for i in chosen])
