"""Some runs at a time until all have ended: on this machine, or wherever their processes are started."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from src.grid.grid_display import Display
from src.grid.plan import Run
from src.grid.run_process import last_lines, start_process

POLL_SECONDS = 0.5


def visible_gpus():
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]


def environment_of(slot, jobs, gpus):
    """The environment of a run in one of `jobs` slots: its GPU round robin, and its share of the cores."""
    environment = dict(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


def execute_here(runs, jobs, logs):
    """Run all on this machine, `jobs` at a time; returns what `execute` does."""
    gpus = visible_gpus()

    def start(run, slot, log):
        with log.open("w", encoding="utf-8") as console:
            return start_process(run.flags, console, environment_of(slot, jobs, gpus))
    return execute(runs, jobs, logs, start)


def execute(runs, jobs, logs, start):
    """Run all, `jobs` at a time, each with its console in a file of `logs`; returns [(run, last lines)] that failed.

    `start(run, slot, log)` returns what has `poll`, `terminate` and `wait` of a Popen.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, failed = list(reversed(runs)), {}, []
    display = Display(runs, jobs)
    try:
        while waiting or running:
            for slot in range(jobs):
                if slot not in running and waiting:
                    run = waiting.pop()
                    log = logs / (run.title.replace(" ", "-") + ".log")
                    running[slot] = Job(run, start(run, slot, log), log, time.time())
            time.sleep(POLL_SECONDS)
            for slot, job in list(running.items()):
                display.progress(slot, job.run, *job.new_epochs())
                if (code := job.process.poll()) is None:
                    continue
                del running[slot]
                seconds = time.time() - job.started
                display.finish(slot, f"{job.run.title}: {'done' if code == 0 else 'FAILED'} in {seconds:.0f} s")
                if code:
                    failed.append((job.run, last_lines(job.log)))
    finally:
        for job in running.values():
            job.process.terminate()
        for job in running.values():
            job.process.wait()
        display.close()
    return failed


@dataclass
class Job:
    """A run that has been started."""

    run: Run
    process: object  # a Popen, or what `start` of `execute` has in its place
    log: Path
    started: float
    epochs: int = 0

    def new_epochs(self):
        """How many epochs it has done, and how many of them since the last call."""
        before, self.epochs = self.epochs, self.run.epochs_done() if self._has_begun() else 0
        return self.epochs, self.epochs - before

    def _has_begun(self):
        """Whether what stands in the run's folder is this job's, and not an earlier one's."""
        try:
            return (self.run.settings.run_path / "log.txt").stat().st_mtime >= self.started - 1
        except OSError:
            return False
