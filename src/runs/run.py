"""One run, from settings to report: data -> model -> fit -> report. It fills a run folder, or goes on with one."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from src.data.formats import SPLITS
from src.dataset import Dataset, load_dataset
from src.errors import UserError, printable
from src.models import build
from src.runs.log import TrainingLog, result_lines
from src.runs.result import is_count, make_result
from src.runs.resume import difference_of_runs, differences_of_environment, fingerprint, is_finished, unfinished
from src.runs.run_folder import RunFolder, load_checkpoint
from src.runs.stock_checkpoint import initialise
from src.settings import read_settings
from src.train import fit
from src.training.distributed import ONE_PROCESS
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


@dataclass(frozen=True)
class Prepared:
    """What a run trains and on what; `config` is what its folder keeps of that."""

    dataset: Dataset
    model: torch.nn.Module
    device: torch.device
    config: dict


def prepare(settings, wanted=SPLITS, processes=ONE_PROCESS):
    """Read the splits `wanted` of the data and build the model; UserError where settings, data and machine do not fit
    together.
    """
    choose_arithmetic(settings.deterministic, settings.precision)
    keep_freed_memory()
    device = find_device(processes.device(settings.device))
    with processes.local_first():
        dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir, wanted)
    with explained("the model does not fit; try a smaller --embed_dim or --nlevels"):
        model = build(settings, dataset).to(device)
    if settings.init_from:
        initialise(model, settings.init_from)
    settings.check_batches(dataset)
    config = {
        "settings": settings.recorded(), "input_dims": dataset.input_dims, "input_lens": dataset.input_lens,
        "protocol": dataset.protocol, "data": fingerprint(dataset), "data_file": dataset.source,
        "environment": environment(device),
    }
    dataset = dataset.to(find_data_device(settings.data_device, device, dataset.nbytes))
    return Prepared(dataset, speed_up(model, device, settings.precision, settings.compile), device, config)


def train(settings, sources, path, resume=False, processes=ONE_PROCESS):
    """Train into a run folder. `sources` says where each setting came from; with `resume`, what is there goes on."""
    start = time.time()
    with processes.agreeing():
        finished = resume and processes.rank == 0 and is_finished(path, settings)
    if processes.broadcast(finished):
        print(f"# {path} is finished: nothing to do")
        return
    with processes.agreeing():
        run_of = prepare(settings, processes=processes)
    with processes.agreeing():
        if difference := difference_of_runs(processes.broadcast(run_of.config), run_of.config):
            raise UserError(f"all processes need the same settings and data, and it has others ({difference})")
    if processes.rank == 0:
        lead(settings, sources, path, resume, run_of, start, processes)
    else:
        follow(settings, run_of, processes)


def lead(settings, sources, path, resume, run_of, start, processes):
    """Train in the first process, the one that has the run folder, and report."""
    dataset = run_of.dataset
    with ExitStack() as stack:
        with processes.agreeing():
            run = stack.enter_context(RunFolder(path))
            log = stack.enter_context(TrainingLog(run, settings, dataset))
            stop = stack.enter_context(processes.stop_signals())
            last = begin(run, log, run_of, settings, sources, resume)
        selected, best_on_test, seconds = fit_into(run, log, stop, run_of, settings, last, start, processes=processes)
        result = make_result(
            settings, dataset, run_of.model, run_of.device, selected, best_on_test, log.epochs, seconds
        )
        report(run, dataset, selected, result)


def follow(settings, run_of, processes):
    """Train in one of the other processes."""
    with processes.agreeing():
        pass  # the first one opens the folder
    with processes.stop_signals() as stop, explained(memory_advice(settings.batch_size, settings.batch_chunk)):
        try:
            fit(run_of.model, run_of.dataset, device=run_of.device, **settings.training(), state=processes.broadcast(),
                on_batch=lambda *batch: stop.check(), processes=processes)
        except UserError as error:  # it is that of all, and the first one says it
            raise SystemExit(2) from error


def begin(run, log, run_of, settings, sources, resume):
    """Begin an open RunFolder; but with `resume`, where there is something to go on with, return that, for fit_into."""
    last = unfinished(run.path, run_of.config) if resume else None
    if last is None:
        run.begin()
        log.head(settings, sources, run_of.dataset, run_of.model, run_of.device)
        run.write_json("config.json", {**run_of.config, "sources": sources})
    return last


def fit_into(run, log, stop, run_of, settings, last, start, after_epoch=lambda epoch: None, processes=ONE_PROCESS):
    """Train what is Prepared into a RunFolder that `begin` has opened, from `last`, which that returned.

    `start` is the time at which the run began to prepare. Returns what `fit` does, and the seconds that it all took.
    `after_epoch(Epoch)` is called after each, once the epoch is in the log; what it raises ends the run.
    """
    model, config = run_of.model, run_of.config
    start -= last["seconds"] if last else 0

    def on_resume(progress):
        run.go_on(last)
        log.go_on(progress, differences_of_environment(last["config"]["environment"], config["environment"]))

    def on_batch(*batch):
        log.on_batch(*batch)
        stop.check()

    def on_epoch(epoch, *figures):
        log.on_epoch(epoch, *figures)
        after_epoch(epoch)

    with explained(memory_advice(settings.batch_size, settings.batch_chunk)):
        selected, best_on_test = fit(
            model, run_of.dataset, device=run_of.device, **settings.training(), processes=processes,
            state=processes.broadcast(last and last["state"]), on_resume=on_resume, on_batch=on_batch,
            on_epoch=on_epoch, on_best=lambda epoch: run.save_checkpoint(model, epoch, config),
            on_progress=lambda progress: run.save_last(progress.state(), config, time.time() - start),
        )
    return selected, best_on_test, time.time() - start


def report(run, dataset, selected, result):
    """Write and show what a finished run came to."""
    run.save_predictions(**{
        f"{split}_{name}": value
        for split, evaluation in (("valid", selected.valid), ("test", selected.test))
        for name, value in {
            "ids": dataset.splits[split].ids, "predictions": evaluation.predictions.numpy(),
            "labels": dataset.splits[split].labels.numpy(),
        }.items()
    })
    run.log(*result_lines(dataset.task, result, selected.test), f"# results in {run.path}")
    run.finish(result)


def load_trained(folder, **changes):
    """The model of a run on its device, its data set, its settings, and the epoch it is of.

    `changes` are settings that differ from the run's, such as where its data is now or the device. UserError where the
    checkpoint is not one of this code, or does not fit the data.
    """
    checkpoint = load_checkpoint(folder)
    try:
        recorded, state, epoch = checkpoint["config"]["settings"], checkpoint["model"], checkpoint["epoch"]
        if not is_count(epoch):
            raise TypeError("its epoch is no number")
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/checkpoint.pt was written by another version of this code: {error}") from error
    settings = replace(read_settings(recorded, f"{folder}/checkpoint.pt"), **changes)
    choose_arithmetic(settings.deterministic, settings.precision)
    device = find_device(settings.device)
    dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir)
    with explained(f"the model of {folder} does not fit on {device}"):
        model = build(settings, dataset).to(device)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"{folder}/checkpoint.pt does not fit the data or the code: {reason}") from error
    return speed_up(model.eval(), device, settings.precision), dataset, settings, epoch
