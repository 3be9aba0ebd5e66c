"""One run, from settings to report: data -> model -> fit -> report. It fills a run folder, or goes on with one."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from src.dataset import Dataset, load_dataset
from src.errors import UserError
from src.failures import explained, memory_advice
from src.machine import choose_arithmetic, find_data_device, find_device, keep_freed_memory, speed_up
from src.processes import ONE_PROCESS
from src.result import environment, make_result
from src.resume import difference_of_runs, differences_of_environment, fingerprint, is_finished, unfinished
from src.run_folder import RunFolder
from src.stock_checkpoint import initialise
from src.train import fit
from src.training_log import TrainingLog, result_lines


@dataclass(frozen=True)
class Prepared:
    """What a run trains and on what; `config` is what its folder keeps of that."""

    dataset: Dataset
    model: torch.nn.Module
    device: torch.device
    config: dict


def prepare(settings, processes):
    """Read the data and build the model; UserError where settings, data and machine do not fit together."""
    choose_arithmetic(settings.deterministic, settings.precision)
    keep_freed_memory()
    device = find_device(processes.device(settings.device))
    with processes.local_first():
        dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir)
    with explained("the model does not fit; try a smaller --embed_dim or --nlevels"):
        model = settings.build_model(dataset).to(device)
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
        run_of = prepare(settings, processes)
    with processes.agreeing():
        if difference := difference_of_runs(processes.broadcast(run_of.config), run_of.config):
            raise UserError(f"all processes need the same settings and data, and it has others ({difference})")
    with explained(memory_advice(settings.batch_size, settings.batch_chunk)):
        if processes.rank == 0:
            lead(settings, sources, path, resume, run_of, start, processes)
        else:
            follow(settings, run_of, processes)


def lead(settings, sources, path, resume, run_of, start, processes):
    """Train in the first process, the one that has the run folder."""
    dataset, model, device, config = run_of.dataset, run_of.model, run_of.device, run_of.config
    with ExitStack() as stack:
        with processes.agreeing():
            run = stack.enter_context(RunFolder(path))
            log = stack.enter_context(TrainingLog(run, settings, dataset))
            stop = stack.enter_context(processes.stop_signals())
            last = unfinished(path, config) if resume else None
            if last is None:
                run.begin()
                log.head(settings, sources, dataset, model, device)
                run.write_json("config.json", {**config, "sources": sources})
            else:
                start -= last["seconds"]

        def on_resume(progress):
            run.go_on(last)
            log.go_on(progress, differences_of_environment(last["config"]["environment"], config["environment"]))

        def on_batch(*batch):
            log.on_batch(*batch)
            stop.check()

        selected, best_on_test = fit(
            model, dataset, device=device, **settings.training(), state=processes.broadcast(last and last["state"]),
            on_resume=on_resume, on_batch=on_batch, on_epoch=log.on_epoch,
            on_progress=lambda progress: run.save_last(progress.state(), config, time.time() - start),
            on_best=lambda epoch: run.save_checkpoint(model, epoch, config), processes=processes,
        )
        result = make_result(settings, dataset, model, device, selected, best_on_test, log.epochs, time.time() - start)
        report(run, dataset, selected, result)


def follow(settings, run_of, processes):
    """Train in one of the other processes."""
    with processes.agreeing():
        pass  # the first one opens the folder
    with processes.stop_signals() as stop:
        try:
            fit(run_of.model, run_of.dataset, device=run_of.device, **settings.training(), state=processes.broadcast(),
                on_batch=lambda *batch: stop.check(), processes=processes)
        except UserError as error:  # it is that of all, and the first one says it
            raise SystemExit(2) from error


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
