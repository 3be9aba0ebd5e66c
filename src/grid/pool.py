"""Some runs at a time until all have ended: on this machine, or wherever their processes are started."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import torch
from tqdm import tqdm

from src.files import BUSY
from src.grid.plan import Run
from src.runs.resume import JUST_FINISHED

MAIN = Path(__file__).parents[2] / "main.py"
LAST_LINES = 5  # of the console of a failed run
POLL_SECONDS = 0.5


class Process(Protocol):
    """The part of a Popen that `execute` uses."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def wait(self) -> int: ...


Failures = list[tuple[Run, list[str]]]  # each failed run with the last lines of its console


def start_run(flags: Sequence[str], console: IO, environment: Mapping[str, str]) -> subprocess.Popen:
    """Start main.py, which resumes the run if it can; its console goes to an open file."""
    return start_python([str(MAIN), *flags, "--resume"], stdout=console, stderr=subprocess.STDOUT, env=environment)


def start_python(arguments: Sequence[str], **options: Any) -> subprocess.Popen:
    """Start Python with these arguments and Popen's options; it gets SIGTERM when this process dies."""
    launcher = [sys.executable, "-P", str(Path(__file__).with_name("die_with_parent.py")), str(os.getpid())]
    return subprocess.Popen([*launcher, sys.executable, *arguments],
                            process_group=0, **options)  # Ctrl-C is for the grid, which stops its runs once


def last_lines(log: Path) -> list[str]:
    """The last lines of a console that went to a file."""
    return log.read_text(errors="replace").splitlines()[-LAST_LINES:]


def had_by_another(code: int | None, log: Path) -> bool:
    """Whether a run ended with a code because another process, such as a second grid, has its folder."""
    return code == 2 and any(words in log.read_text(errors="replace") for words in (BUSY, JUST_FINISHED))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]


def environment_of(slot: int, jobs: int) -> dict[str, str]:
    """The environment of a run in one of `jobs` slots: its GPU round robin, and its share of the cores."""
    environment = dict(os.environ)
    if gpus := visible_gpus():
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    return environment


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """The runs that are not finished. Prints how many are finished."""
    left = [run for run in runs if not run.finished]
    print(f"# {len(runs)} runs, {len(runs) - len(left)} of them finished before", flush=True)
    return left


def execute_here(runs: Sequence[Run], jobs: int, logs: Path) -> Failures:
    """Run all on this machine, at most `jobs` at a time; returns the failures."""
    jobs = min(jobs, len(runs))
    def start(run: Run, slot: int, log: Path) -> Process:
        log.write_text("")
        with log.open("a", encoding="utf-8") as console:  # a second grid may write there too
            return start_run(run.flags, console, environment_of(slot, jobs))
    return execute(runs, jobs, logs, start)


def print_failures(failed: Failures) -> None:
    """Print the failed runs, on stderr."""
    for run, last_lines in failed:
        print(f"# FAILED: {run.title}", *(f"#   {line}" for line in last_lines), sep="\n", file=sys.stderr)


@dataclass
class Job:
    """A run that has been started."""

    run: Run
    process: Process
    log: Path
    started: float
    epochs: int = 0


def execute(runs: Sequence[Run], jobs: int, logs: Path, start: Callable[[Run, int, Path], Process]) -> Failures:
    """Run all, `jobs` at a time, each by `start(run, slot, log)` with its console in a file of `logs`.

    A run that another process has waits until that ends; then its result is taken, or it is resumed. A terminal shows a
    bar of all epochs, and a line for each slot. A line is printed for each run that has ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, failed, ended, told = list(runs), [], 0, False
    running: dict[int, Job] = {}
    hidden, epochs = not sys.stderr.isatty(), sum(run.settings.num_epochs for run in runs)
    bar = tqdm(total=epochs, unit="epoch", disable=hidden, desc=f"0/{len(runs)} runs", smoothing=0.1)
    lines = [tqdm(bar_format="  {desc}", position=slot + 1, disable=hidden, leave=False) for slot in range(jobs)]
    try:
        while waiting or running:
            for slot in range(jobs):
                if slot not in running and (run := next(filter(Run.is_free, waiting), None)):
                    waiting.remove(run)
                    log = logs / (run.title.replace(" ", "-") + ".log")
                    running[slot] = Job(run, start(run, slot, log), log, time.time())
            if not (running or told):
                tqdm.write(f"# another process has the runs that are left; waiting for its results: {len(waiting)}")
                told = True
            time.sleep(POLL_SECONDS)
            for slot, job in list(running.items()):
                code, title = job.process.poll(), job.run.title
                before, job.epochs = job.epochs, job.run.epochs_done(since=job.started - 1)
                bar.update(job.epochs - before)
                lines[slot].set_description_str(f"{title}: epoch {job.epochs} of {job.run.settings.num_epochs}")
                if code is None:
                    continue
                del running[slot]
                lines[slot].set_description_str("")
                if had_by_another(code, job.log):
                    waiting.append(job.run)
                    continue
                ended += 1
                bar.set_description(f"{ended}/{len(runs)} runs")
                outcome = f"{'FAILED' if code else 'done'} in {time.time() - job.started:.0f} s"
                tqdm.write(f"# [{ended}/{len(runs)}] {title}: {outcome}")
                sys.stdout.flush()
                if code:
                    failed.append((job.run, last_lines(job.log)))
    finally:
        for job in running.values():
            job.process.terminate()
        for job in running.values():
            job.process.wait()
        for shown in (*lines, bar):
            shown.close()
    return failed
