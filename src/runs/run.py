"""One run, from settings to report: data -> model -> fit -> report. It fills a run folder, or resumes what is there."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from src.data.formats import SPLITS
from src.dataset import Dataset, fingerprint, load_dataset
from src.errors import UserError
from src.models import build, makes_decisions
from src.runs.decisions import record_decisions
from src.runs.log import TrainingLog, result_lines
from src.runs.result import make_result
from src.runs.resume import difference_of_runs, differences_of_environment, is_finished, unfinished
from src.runs.run_folder import RunFolder, load_checkpoint
from src.runs.stock_checkpoint import initialise
from src.settings import Settings
from src.train import Step, fit
from src.training.distributed import broadcast, collect, device_of_process, is_first
from src.training.machine import (
    choose_arithmetic,
    environment,
    explained,
    find_data_device,
    find_device,
    keep_freed_memory,
    memory_advice,
    speed_up,
)
from src.training.state import Epoch, TrainingState
from src.training.stop import StopRequested, StopSignals


@dataclass(frozen=True)
class Prepared:
    """The settings, data and model of a run; `config` is its config.json, but for the sources of the settings."""

    settings: Settings
    dataset: Dataset
    model: torch.nn.Module
    device: torch.device
    config: dict[str, Any]


def prepare(settings: Settings, wanted: tuple[str, ...] = SPLITS) -> Prepared:
    """Read the splits `wanted` of the data and build the model; UserError where settings, data and machine do not fit
    together.
    """
    choose_arithmetic(settings.deterministic, settings.precision)
    keep_freed_memory()
    device = find_device(device_of_process(settings.device))
    dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir, wanted,
                           settings.asked)
    with explained("the model does not fit; try a smaller --embed_dim or --nlevels"):
        model = build(settings, dataset).to(device)
    if settings.init_from:
        initialise(model, settings.init_from)
    settings.check_batches(dataset)
    config = {
        "settings": settings.recorded(), "input_dims": dataset.input_dims, "input_lens": dataset.input_lens,
        "protocol": dataset.protocol, **dataset.task.record(),
        "data": fingerprint(dataset), "data_file": dataset.source, "environment": environment(device),
    }
    dataset = dataset.to(find_data_device(settings.data_device, device, dataset.nbytes))
    if settings.compile and device.type == "cuda":
        dataset = dataset.of_few_lengths()
    return Prepared(settings, dataset, speed_up(model, device, settings.precision, settings.compile), device, config)


def train(settings: Settings, sources: dict[str, str], path: Path, resume: bool = False) -> None:
    """Train into a run folder and report. `sources` says where each setting came from. With `resume`, the run that is
    in the folder is resumed, or left as it is if it is finished.
    """
    start = time.time()
    if broadcast(resume and is_first() and is_finished(path, settings)):
        print(f"# {path} is finished: nothing to do")
        return
    run = prepare(settings)
    for config in collect([run.config]):
        if difference := difference_of_runs(config, run.config):
            raise UserError(f"all processes need the same settings and data, and two have others ({difference})")
    if not is_first():
        follow(run)
        return
    with RunFolder(path) as folder, TrainingLog(folder, settings, run.dataset) as log, StopSignals() as stop:
        state, start = begin(folder, log, run, sources, resume, start)
        for _ in fit_into(folder, log, stop, run, state, start):
            pass
        report(folder, run.dataset, state, make_result(settings, run.dataset, state, time.time() - start))


def follow(run: Prepared) -> None:
    """Train in a process other than the first, which alone has the folder."""
    state, settings = new_state(run), run.settings
    with StopSignals() as stop, explained(memory_advice(settings.batch_size, settings.batch_chunk)):
        if saved := broadcast(None):
            state.load(saved)
        for _ in fit(state, run.dataset, **settings.training(), after_step=lambda step: stop.check()):
            pass


def new_state(run: Prepared) -> TrainingState:
    """The state of training before the first step."""
    asked = run.settings
    return TrainingState(run.model, optim=asked.optim, lr=asked.lr, when=asked.when, seed=asked.seed, device=run.device)


def begin(folder: RunFolder, log: TrainingLog, run: Prepared, sources: dict[str, str], resume: bool,
          start: float) -> tuple[TrainingState, float]:
    """Begin in an open RunFolder, or with `resume` where the run in it was cut short.

    `start` is the time() at which the run began to prepare. Returns the state, and `start` less the seconds before.
    """
    state = new_state(run)
    last = unfinished(folder.path, run.config) if resume else None
    broadcast(last and last["state"])
    if last is None:
        folder.begin()
        log.head(run.settings, sources, run.dataset, state)
        folder.write_json("config.json", {**run.config, "sources": sources})
        return state, start
    state.load(last["state"])
    folder.resume(last)
    log.resume(state, differences_of_environment(last["config"]["environment"], run.config["environment"]))
    if state.is_best:  # the process may have died before it wrote the checkpoint
        folder.save_checkpoint(run.model, state.epochs, run.config)
    return state, start - last["seconds"]


def fit_into(folder: RunFolder, log: TrainingLog, stop: StopSignals, run: Prepared, state: TrainingState,
             start: float) -> Iterator[Epoch]:
    """Train from a state into the RunFolder that `begin` opened.

    Yields each epoch once it is logged, and saves it when the next one is asked for. StopRequested, with the part of
    the epoch saved, where a signal has come.
    """
    def after_step(step: Step) -> None:
        log.step(step)
        stop.check()

    def save() -> None:
        folder.save_last(state.saved(), run.config, time.time() - start)

    with explained(memory_advice(run.settings.batch_size, run.settings.batch_chunk)):
        try:
            for epoch in fit(state, run.dataset, **run.settings.training(), after_step=after_step):
                log.epoch(epoch)
                yield epoch
                save()
                if state.is_best:
                    folder.save_checkpoint(run.model, epoch.number, run.config)
        except StopRequested as stopped:
            save()
            stopped.where = f" in epoch {state.epochs + 1}, after {state.part.batches} of its batches"
            raise


def report(folder: RunFolder, dataset: Dataset, state: TrainingState, result: dict[str, Any]) -> None:
    """Write and show the outcome of a finished run."""
    selected = state.selected
    assert selected and selected.test
    folder.save_arrays("predictions.npz", {
        f"{split}_{name}": value
        for split, evaluation in (("valid", selected.valid), ("test", selected.test))
        for name, value in {
            "ids": dataset.splits[split].ids, "predictions": evaluation.predictions.numpy(),
            "labels": dataset.splits[split].labels.numpy(),
        }.items()
    })
    if makes_decisions(result["model"]):
        state.model.load_state_dict(load_checkpoint(folder.path)["model"])  # of the selected epoch
        folder.save_arrays("decisions.npz", record_decisions(state.model, dataset.splits["test"], state.device))
    folder.log(*result_lines(dataset.task, result, selected.test), f"# results in {folder.path}")
    folder.finish(result)
