"""What a grid will take: memory and time of each run, from a few steps on the present device (run_all.sh --dry_run).

Each model is measured once on each data set, for all seeds, in a process of its own, as many at a time as the grid
would run. The time of a run is that of starting and of its epochs. It is an estimate: that --early_stop may end a run
sooner, what writing checkpoints takes, and what else the machine does is left out.
"""

import heapq
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta

from src.grid.pool import environment_of, visible_gpus
from src.grid.run_process import MAIN, start_tethered
from src.report.table_formats import markdown_table

HEAD = ("", "run", "parameters", "peak memory", "a step", "an epoch", "epochs left", "time")


def print_estimate(runs, jobs):
    """Print the runs of a grid with what each takes, and all together; returns the exit code, 1 if one cannot run."""
    jobs = min(jobs, len(runs))
    epochs_left = [None if run.finished else max(0, run.settings.num_epochs - run.epochs_done()) for run in runs]
    measured = measure(runs, jobs)
    rows, seconds, failed = [], [], {}
    for index, (run, epochs) in enumerate(zip(runs, epochs_left, strict=True)):
        figures = measured[variant(run)]
        if isinstance(figures, str):
            failed[run.title] = figures
            rows.append((str(index), run.title, *["?"] * 6))
            continue
        seconds.append(0 if epochs is None else figures["start_seconds"] + epochs * figures["epoch_seconds"])
        left = "finished" if epochs is None else str(epochs)
        rows.append((str(index), run.title, *shown(figures), left, clock(seconds[-1])))
    print(markdown_table(HEAD, rows))
    on = " and ".join(sorted({figures["device"] for figures in measured.values() if isinstance(figures, dict)}))
    if on:
        print(f"\n# about {clock(time_together(seconds, jobs))} in all, {jobs} at a time, by a few steps on this {on}")
    for title, line in failed.items():
        print(f"# {title} cannot run: {line}", file=sys.stderr)
    return 1 if failed else 0


def variant(run):
    """What a run has in common with those of other seeds."""
    return replace(run.settings, seed=0)


def measure(runs, jobs):
    """{variant: what estimate_worker says of it, or the last line of its complaint}, `jobs` measured at a time."""
    variants = list({variant(run): run for run in reversed(runs)}.items())[::-1]
    measured = {}
    for first in range(0, len(variants), jobs):
        print(f"# measuring {first + 1} to {min(first + jobs, len(variants))} of {len(variants)}", file=sys.stderr)
        processes = []
        try:
            for slot, (settings, run) in enumerate(variants[first:first + jobs]):
                processes.append((settings, start_worker(run, environment_of(slot, jobs, visible_gpus()))))
            for settings, process in processes:
                out, err = process.communicate()
                complaint = (err.strip().splitlines() or [f"it ended with code {process.returncode}"])[-1]
                measured[settings] = json.loads(out.splitlines()[-1]) if process.returncode == 0 else complaint
        finally:
            for _, process in processes:
                process.terminate()
    return measured


def start_worker(run, environment):
    """Start measuring a run."""
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(MAIN.parent), environment.get("PYTHONPATH"))))
    return start_tethered(["-m", "src.grid.estimate_worker", str(time.time()), *run.flags], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def time_together(seconds, jobs):
    """How long runs of these seconds take when each waits for the first free one of `jobs` slots."""
    free_at = [0.0] * jobs
    for duration in seconds:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


def shown(figures):
    """Parameters, peak memory, and seconds of a step and an epoch, as text."""
    return (f"{figures['parameters']:,}", f"{figures['peak_bytes'] / 2**20:.0f} MB",
            f"{figures['step_seconds']:.3g} s", f"{figures['epoch_seconds']:.3g} s")


def clock(seconds):
    """1:23:45"""
    return str(timedelta(seconds=round(seconds)))
