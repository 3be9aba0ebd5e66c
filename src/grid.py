"""Every run of a comparison, then its tables and figures: what run_all.sh starts.

    bash run_all.sh                             mosi, mosei and iemocap, both alignments, three models, five seeds
    bash run_all.sh demo                        the built-in demo with one seed
    bash run_all.sh --datasets mosi --jobs 4 -- --num_epochs 20      what stands after -- goes to main.py

A run that is finished with the same settings is skipped, and one that was cut short goes on after its last epoch, so
the same command goes on with an interrupted grid.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from src.ablations import ABLATIONS
from src.dataset import find_spec, missing_file_message
from src.download import download
from src.errors import Parser, UserError, run_command
from src.models import MODELS
from src.plots import make_figures
from src.resume import is_finished
from src.settings import Settings, parse_flags, resolve
from src.signals import Stopped, interrupted_by_signals
from src.tables import write_tables

ALIGNMENTS = {"both": (False, True), "aligned": (True,), "unaligned": (False,)}
SEEDS = (1111, 1112, 1113, 1114, 1115)
MAIN = Path(__file__).parent.parent / "main.py"
POLL_SECONDS = 0.5
LAST_LINES = 5  # of the log of a failed run


@dataclass(frozen=True)
class Run:
    """One call of main.py: its flags and the settings that they resolve to."""

    flags: tuple
    settings: Settings

    @property
    def title(self):
        """demo unaligned PMR seed1111"""
        return " ".join(self.settings.run_path.parts[-4:])

    @property
    def finished(self):
        """Whether its folder holds a result of these settings; UserError where it holds one of others."""
        return is_finished(self.settings.run_path, self.settings)

    def epochs_done(self):
        """How many epochs its folder records."""
        try:
            return (self.settings.run_path / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0


def plan(datasets, alignment, models, seeds, main_flags, ablations=False):
    """The runs of a grid, and a line for each data file that they lack."""
    runs, missing = [], []
    for dataset in datasets:
        spec = find_spec(dataset)
        for aligned in ALIGNMENTS[alignment]:
            flags = ("--dataset", dataset, *(("--aligned",) if aligned else ()), *main_flags)
            settings, _ = resolve(parse_flags(flags))
            path = spec.file(settings.data_path, aligned)
            if not spec.make and not path.is_file():
                missing.append(missing_file_message(spec, path, settings.data_path, aligned))
                continue
            variants = [("--model", model) for model in models]
            if ablations:
                variants += [("--model", "PMR", "--name", name, *switch) for name, (_, switch) in ABLATIONS.items()]
            for seed in seeds:
                for variant in variants:
                    run_flags = (*flags, *variant, "--seed", str(seed))
                    runs.append(Run(run_flags, resolve(parse_flags(run_flags))[0]))
    return runs, missing


def fetch_missing(datasets, alignment, models, main_flags):
    """Download the data files that the grid lacks; where one cannot be had, say so, since the others can still run."""
    for model in models:  # a wrong name is told before hours of downloading, not after
        settings, _ = resolve(parse_flags((*main_flags, "--model", model)))
    try:
        download([find_spec(dataset) for dataset in datasets], settings.data_path, ALIGNMENTS[alignment])
    except UserError as error:
        print(f"# {error}", file=sys.stderr)


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


class Display:
    """Runs done and left, what each running one is at, and the time left: bars on a terminal, lines in a pipe."""

    def __init__(self, runs, slots):
        self.runs, self.done = len(runs), 0
        terminal = sys.stderr.isatty()
        epochs = sum(run.settings.num_epochs for run in runs)
        self.bar = tqdm(total=epochs, unit="epoch", disable=not terminal, desc=f"0/{self.runs} runs", smoothing=0.1)
        self.slots = [
            tqdm(bar_format="  {desc}", position=slot + 1, disable=not terminal, leave=False) for slot in range(slots)
        ]

    def say(self, line):
        """A line above the bars."""
        tqdm.write(line)
        sys.stdout.flush()

    def progress(self, slot, run, epochs, new_epochs):
        """A run has reached so many epochs, some of them since the last call."""
        self.slots[slot].set_description_str(f"{run.title}: epoch {epochs} of {run.settings.num_epochs}")
        self.bar.update(new_epochs)

    def finish(self, slot, outcome):
        """A run has ended."""
        self.done += 1
        self.slots[slot].set_description_str("")
        self.bar.set_description(f"{self.done}/{self.runs} runs")
        self.say(f"# [{self.done}/{self.runs}] {outcome}")

    def close(self):
        """Take the bars off the terminal."""
        for bar in (*self.slots, self.bar):
            bar.close()


def execute(runs, jobs, logs):
    """Run all, `jobs` at a time, each with its output in a file of `logs`; returns [(run, last lines)] that failed."""
    logs.mkdir(parents=True, exist_ok=True)
    gpus, waiting, running, failed = visible_gpus(), list(reversed(runs)), {}, []
    display = Display(runs, jobs)
    try:
        while waiting or running:
            for slot in range(jobs):
                if slot not in running and waiting:
                    running[slot] = start(waiting.pop(), logs, environment_of(slot, jobs, gpus))
            time.sleep(POLL_SECONDS)
            for slot, job in list(running.items()):
                epochs = job.run.epochs_done() if job.has_begun() else 0
                display.progress(slot, job.run, epochs, epochs - job.epochs)
                job.epochs = epochs
                if (code := job.process.poll()) is None:
                    continue
                del running[slot]
                seconds = time.time() - job.started
                display.finish(slot, f"{job.run.title}: {'done' if code == 0 else 'FAILED'} in {seconds:.0f} s")
                if code:
                    failed.append((job.run, job.log.read_text(errors="replace").splitlines()[-LAST_LINES:]))
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
    process: subprocess.Popen
    log: Path
    started: float
    epochs: int = 0

    def has_begun(self):
        """Whether what stands in the run's folder is this job's, and not an earlier one's."""
        try:
            return (self.run.settings.run_path / "log.txt").stat().st_mtime >= self.started - 1
        except OSError:
            return False


def start(run, logs, environment):
    """Start a run, its console going to a file."""
    log = logs / (run.title.replace(" ", "-") + ".log")
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, str(MAIN), *run.flags, "--resume"], stdout=file,
                                   stderr=subprocess.STDOUT, env=environment,
                                   process_group=0)  # Ctrl-C is for the grid, which stops its runs once
    return Job(run, process, log, time.time())


def parse_arguments(argv):
    """The command line of run_all.sh."""
    parser = Parser(prog="bash run_all.sh", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", nargs="?", choices=["demo"], help="demo: only the built-in demo, with one seed")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", default=["mosi", "mosei", "iemocap"])
    parser.add_argument("--models", nargs="+", metavar="MODEL", default=list(MODELS))
    parser.add_argument("--alignment", choices=ALIGNMENTS, default="both")
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help=f"default: {' '.join(map(str, SEEDS))}")
    parser.add_argument("--jobs", type=int, default=None,
                        help="runs at a time, given out over the GPUs (default: one a GPU, or one; demo: one a core)")
    parser.add_argument("--preset", help="paper or stock, for every run")
    parser.add_argument("--ablations", action="store_true", help="also PMR with each of its switches")
    parser.add_argument("--download", action="store_true", help="first fetch the data files that are missing")
    parser.add_argument("--results_dir", default="results")
    parser.add_argument("--tables", default="tables", help="folder of the tables")
    parser.add_argument("--figures", default="figures", help="folder of the figures")
    end = argv.index("--") if "--" in argv else len(argv)
    arguments = parser.parse_args(argv[:end])
    preset = ("--preset", arguments.preset) if arguments.preset else ()
    arguments.main_flags = ("--results_dir", arguments.results_dir, *preset, *argv[end + 1:])
    if arguments.plan == "demo":
        arguments.datasets = ["demo"]
    arguments.seeds = arguments.seeds or (SEEDS[:1] if arguments.plan == "demo" else SEEDS)
    if arguments.jobs is None:
        arguments.jobs = len(visible_gpus()) or (os.cpu_count() or 1 if arguments.plan == "demo" else 1)
    if misplaced := {"download", "eval"} & set(parse_flags(arguments.main_flags)):
        raise UserError(f"--{misplaced.pop()} cannot stand after --: it is not a setting of a run")
    if arguments.jobs < 1:
        raise UserError(f"--jobs {arguments.jobs} starts nothing; give 1 or more")
    return arguments


def run_grid(arguments):
    """Plan, skip what is finished, run the rest, then write tables and figures; returns the exit code."""
    if arguments.download:
        fetch_missing(arguments.datasets, arguments.alignment, arguments.models, arguments.main_flags)
    runs, missing = plan(arguments.datasets, arguments.alignment, arguments.models, arguments.seeds,
                         arguments.main_flags, arguments.ablations)
    for line in missing:
        print(f"# left out: {line}", file=sys.stderr)
    if not runs:
        raise UserError("there is nothing to run: no data set of the grid is there")
    left = [run for run in runs if not run.finished]
    print(f"# {len(runs)} runs, {len(runs) - len(left)} of them finished before", flush=True)
    failed = execute(left, min(arguments.jobs, len(left)), Path(arguments.results_dir) / "logs") if left else []

    if len(failed) < len(runs):
        tables, problems = write_tables(arguments.results_dir, arguments.tables, arguments.ablations)
        figures = make_figures(arguments.results_dir, arguments.figures)
        for table in tables:
            print("\n" + (Path(arguments.tables) / f"{table.name}.md").read_text(encoding="utf-8"))
        print(f"# {len(tables)} tables in {arguments.tables}, {len(figures)} figures in {arguments.figures}")
        for line in problems:
            print(f"# left out: {line}", file=sys.stderr)
    for run, last_lines in failed:
        print(f"# FAILED: {run.title}", *(f"#   {line}" for line in last_lines), sep="\n", file=sys.stderr)
    return 1 if failed or missing else 0


def main(argv=None):
    """Run the grid; returns the exit code: 0 if all is well, 1 if a run failed or data is missing, 2 for bad input."""
    try:
        with interrupted_by_signals():
            return run_command(lambda: run_grid(parse_arguments(sys.argv[1:] if argv is None else argv)))
    except Stopped as stopped:
        print(f"# stopped by {stopped.signal}; the same command goes on with the runs that are left", file=sys.stderr)
        return stopped.code


if __name__ == "__main__":
    sys.exit(main())
