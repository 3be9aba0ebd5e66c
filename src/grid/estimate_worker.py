"""Measures one run of a grid for src/grid/estimate.py, in a process of its own, so that its peak memory is its own.

    python -m src.grid.estimate_worker STARTED FLAGS...    flags of main.py; STARTED is the time() of asking

It takes a few training steps and evaluates a few batches, of the real data by the real engine, and prints a JSON line.
"""

import json
import math
import sys
import time

import torch

from src.dataset import Split
from src.errors import run_command
from src.runs.result import parameter_count
from src.runs.run import new_state, prepare
from src.settings import parse_flags, resolve
from src.tools.benchmark_worker import peak_bytes
from src.train import evaluate, train_one_epoch
from src.training.state import PartOfEpoch

FEWEST_STEPS, MOST_STEPS = 3, 30  # at a time
SECONDS = 2.0  # of training, and a quarter of that of evaluation


def measure(settings, started):
    """What a run of these settings takes, as a dict."""
    run = prepare(settings)
    model, task, device = run.model, run.dataset.task, run.device
    start_seconds = time.time() - started
    train, valid, test = (run.dataset.splits[name] for name in ("train", "valid", "test"))
    state, generator = new_state(run, settings), torch.Generator().manual_seed(0)

    def train_on(steps):
        state.start_epoch(PartOfEpoch())
        for _ in train_one_epoch(
            state, some_of(train, steps * settings.batch_size, generator), task, batch_size=settings.batch_size,
            batch_chunk=settings.batch_chunk, clip=settings.clip, by_length=settings.sort_batches,
            trimmed=settings.trim_padding,
        ):
            pass

    def evaluate_on(batches):
        batch_size = math.ceil(settings.batch_size / settings.batch_chunk)
        return evaluate(model, some_of(valid, batches * batch_size, generator), task, batch_size=batch_size,
                        by_length=settings.trim_padding, device=device)

    train_on(1)
    warm = seconds_of(train_on, 1, at_least=0)
    in_epoch = math.ceil(len(train) / settings.batch_size)
    steps = min(in_epoch, max(FEWEST_STEPS, min(MOST_STEPS, int(SECONDS / warm))))
    step_seconds = seconds_of(train_on, steps) / steps
    evaluate_on(1)
    batches = steps * settings.batch_chunk
    evaluated = min(len(valid), batches * math.ceil(settings.batch_size / settings.batch_chunk))
    sample_seconds = seconds_of(evaluate_on, batches, at_least=SECONDS / 4) / evaluated
    return {
        "parameters": parameter_count(model), "peak_bytes": peak_bytes(device.type), "device": device.type,
        "start_seconds": start_seconds, "step_seconds": step_seconds,
        "epoch_seconds": step_seconds * len(train) / settings.batch_size + sample_seconds * (len(valid) + len(test)),
    }


def some_of(split, number, generator):
    """A split of so many samples of another one, if it has them, drawn at random."""
    chosen = torch.randperm(len(split), generator=generator)[:number]
    streams, labels = split.batch(chosen)
    features, padding = zip(*((stream.x, stream.padding) for stream in streams), strict=True)
    return Split(features, padding, labels, [split.ids[i] for i in chosen]).to(split.features[0].device)


def seconds_of(work, amount, at_least=SECONDS):
    """The mean seconds of work(amount), over as many calls as take `at_least` so many together."""
    start, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - start < at_least:
        work(amount)
        calls += 1
    return (time.perf_counter() - start) / calls


def run(started, *flags):
    """Measure and print."""
    settings, _ = resolve(parse_flags(flags))
    print(json.dumps(measure(settings, float(started))))


if __name__ == "__main__":
    sys.exit(run_command(run, *sys.argv[1:]))
