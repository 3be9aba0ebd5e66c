"""Whether a GPU gives what it should, and how fast it is: one page, to send back.

    python -m src gpu_check --minutes 10 --stock DIR --out gpu_check.md

The page names the card, the driver and the versions. Then come the tests of tests/test_gpu.py; the steps a second of 1
to 8 runs that share the GPU; the time of a training step beside plain torch and, with --stock, the original, also in
bfloat16, in TF32 and compiled; and the plan of the whole comparison, on made-up files of the true sizes. A part that
fails says so in a line, and the others go on. A part that the minutes do not reach is left out.
"""

import argparse
import os
import pickle
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.data.formats import MODALITY_KEYS, SPLITS
from src.data.specs import find_spec
from src.errors import Parser, UserError, command
from src.files import write_whole
from src.report.table_formats import markdown_table
from src.tools import benchmark
from src.tools.benchmark import CASES, WAYS, Contender
from src.training.machine import environment

ROOT = Path(__file__).resolve().parents[2]
TIMED = ("mult-aligned", "mosei-unaligned", "pmr-aligned", "pmr-unaligned")
SHARED = "pmr-aligned"  # the case whose steps a second are counted
JOBS = (1, 2, 4, 8)
SECONDS = 5  # of counting
WAIT = 60  # seconds that a part needs at least
PLAN = 180  # seconds that the cases of the benchmark leave for the plan
SAMPLES = {"mosi": (1284, 229, 686), "mosei": (16326, 1871, 4659), "iemocap": (2717, 798, 938)}
SIZES = {  # (T, d) of text, audio and vision in MulT's files, by data set and whether they are aligned
    ("mosi", True): ((50, 300), (50, 5), (50, 20)), ("mosi", False): ((50, 300), (375, 5), (500, 20)),
    ("mosei", True): ((50, 300), (50, 74), (50, 35)), ("mosei", False): ((50, 300), (500, 74), (500, 35)),
    ("iemocap", True): ((20, 300), (20, 74), (20, 35)), ("iemocap", False): ((20, 300), (400, 74), (500, 35)),
}
ROOM = 25e9  # bytes of all made-up files and of what they are converted to


class Clock:
    """The time that is left of so many minutes."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """In seconds."""
        return self.end - time.monotonic()


def machine(arguments: argparse.Namespace, clock: Clock) -> str:
    """The card, the driver and the versions."""
    rows: list[tuple[str, Any]] = list(environment(torch.device(arguments.device)).items())
    rows += [("system", platform.platform()), ("CPU cores", os.cpu_count()), ("CUDA of torch", torch.version.cuda)]
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        rows += [("nvidia-smi", line) for line in output_of(asked, 30).splitlines()]
    return markdown_table(("", ""), [(name, str(value)) for name, value in rows])


def tests(arguments: argparse.Namespace, clock: Clock) -> str:
    """pytest's closing line for the tests of a GPU, and the lines of those that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "-rfE", "tests/test_gpu.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=clock.left, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines() or [f"pytest ended with code {done.returncode}"]
    return "\n".join([f"`{lines[-1]}`", *(f"- {line}" for line in lines if line.startswith(("FAILED", "ERROR")))])


def steps(arguments: argparse.Namespace, clock: Clock) -> str:
    """The table of the benchmark, with a line for each case that failed or was left out."""
    results, lines = {}, []
    for name in TIMED:
        case = CASES[name]
        asked = ["--device", arguments.device, "--ways", *WAYS, "--repetitions", "20", "--warm_up", "5"]
        asked += ["--stock", arguments.stock] if arguments.stock else []
        if clock.left < WAIT + PLAN:
            lines.append(f"- {case.title}: not run, the time is over")
            continue
        try:
            results[case.title] = benchmark.measure(case, benchmark.parse_arguments(asked))
        except UserError as error:
            lines.append(f"- {case.title}: {error}")
    return "\n".join([benchmark.table(results, "seconds a step"), "", *lines]).strip()


def sharing(arguments: argparse.Namespace, clock: Clock) -> str:
    """The training steps a second of several processes that share the GPU, all together."""
    rows = []
    for jobs in JOBS:
        if clock.left < WAIT:
            break
        rows.append((str(jobs), f"{steps_a_second(jobs, arguments.device):.1f}"))
    return markdown_table(("runs", f"steps a second, {CASES[SHARED].title}"), rows)


def steps_a_second(jobs: int, device: str) -> float:
    """Of so many processes together, each of which trains on without waiting for the others."""
    asked = benchmark.parse_arguments(["--device", device])

    def count(contender: Contender) -> int:
        taken, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            contender.step(counted=True)
            taken += 1
        return taken

    with ExitStack() as stack, ThreadPoolExecutor(jobs) as threads:
        contenders = [Contender(CASES[SHARED], "ours", asked) for _ in range(jobs)]
        for contender in contenders:
            stack.callback(contender.process.communicate)
        list(threads.map(lambda contender: contender.step(counted=False), contenders))  # all have started
        return sum(threads.map(count, contenders)) / SECONDS


def plan(arguments: argparse.Namespace, clock: Clock) -> str:
    """What `run_all.sh --dry_run` says of the whole comparison, on made-up files."""
    with tempfile.TemporaryDirectory(dir=arguments.folder, ignore_cleanup_errors=True) as folder:
        if shutil.disk_usage(folder).free < ROOM:
            raise UserError(f"the made-up files need {ROOM / 1e9:.0f} GB in {folder}; give another --folder")
        make_files(Path(folder))
        return output_of([sys.executable, "-m", "src", "grid", "--dry_run", "--jobs", str(arguments.jobs),
                          "--results_dir", f"{folder}/results", "--", "--data_path", folder], clock.left)


def make_files(folder: Path) -> None:
    """Write data files of random numbers that have the shapes of MulT's; 64 samples are repeated."""
    random = np.random.default_rng(0)
    for (name, aligned), sizes in SIZES.items():
        spec, splits = find_spec(name), {}
        few = {key: random.normal(size=(64, *size)).astype(np.float32)
               for key, size in zip(MODALITY_KEYS, sizes, strict=True)}
        for split, samples in zip(SPLITS, SAMPLES[name], strict=True):
            labels = random.uniform(-3, 3, (samples, 1, 1)) if spec.task.output_dim == 1 else \
                np.eye(2)[random.integers(2, size=(samples, 4))]
            streams = {key: np.resize(x, (samples, *x.shape[1:])) for key, x in few.items()}
            splits[split] = {**streams, "labels": labels}
        with open(folder / spec.names(aligned)[0], "wb") as file:
            pickle.dump(splits, file, 4)


def output_of(command: Sequence[str], seconds: float) -> str:
    """What a command prints; UserError with its last line where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode:
        raise UserError((done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1])
    return done.stdout.strip()


Part = Callable[[argparse.Namespace, Clock], str]
PARTS: dict[str, Part] = {  # by heading; the first needs no GPU
    "The machine": machine, "Tests": tests, "Runs that share the GPU": sharing, "A training step": steps,
    "The whole comparison, on made-up files": plan,
}


def section(part: Part, arguments: argparse.Namespace, clock: Clock) -> str:
    """The text of a part, or the line that says why there is none."""
    if part is not machine and not torch.cuda.is_available():
        return "Not run: there is no GPU; torch.cuda.is_available() is False."
    if clock.left < WAIT:
        return "Not run: the time is over; give more --minutes."
    try:
        return part(arguments, clock)
    except subprocess.TimeoutExpired:
        return "Ended: the time is over; give more --minutes."
    except (UserError, OSError, RuntimeError) as error:
        return f"FAILED: {' '.join(str(error).split())}"


@command
def main(argv: Sequence[str] | None) -> None:
    """Make the page, part by part; it is written again after each."""
    parser = Parser(prog="python -m src gpu_check", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="that all of it may take")
    parser.add_argument("--stock", metavar="DIR", help="a checkout of the original, to compare with")
    parser.add_argument("--jobs", type=int, default=4, help="runs at a time in the plan of the whole comparison")
    parser.add_argument("--folder", help=f"where {ROOM / 1e9:.0f} GB of made-up files have room for a while "
                                         "(default: the system's temporary folder)")
    parser.add_argument("--out", default="gpu_check.md", help="the page (default: gpu_check.md)")
    arguments = parser.parse_args(argv)
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    clock, page = Clock(arguments.minutes), "# What a GPU gave\n"
    for heading, part in PARTS.items():
        print(f"# {heading} ...", file=sys.stderr)
        page += f"\n## {heading}\n\n{section(part, arguments, clock)}\n"
        write_whole(arguments.out, page.encode())
    print(page)
    print(f"# written to {arguments.out}: please send it back", file=sys.stderr)
