"""Train a model on a data set and report it, or evaluate a finished run again; --help lists the flags."""

import math
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from src.dataset import load_dataset
from src.download import download
from src.errors import UserError, run_command
from src.failures import explained, memory_advice
from src.memory import keep_freed_memory
from src.repeat import first_difference, recorded_run
from src.result import check_reproduced, environment, make_result
from src.resume import differences_of_environment, fingerprint, is_finished, unfinished
from src.run_folder import RunFolder, read_result
from src.settings import choose_arithmetic, find_data_device, find_device, parse_flags, resolve
from src.signals import Stopped, StopSignals
from src.stock_checkpoint import initialise
from src.train import evaluate, fit
from src.trained import load_trained
from src.training_log import TrainingLog, result_lines


def main(argv=None):
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return run_command(lambda: dispatch(parse_flags(argv)))
    except Stopped as stopped:
        again = [*argv, "--resume"] if "--resume" not in argv else argv
        print(f"# stopped by {stopped.signal}; to go on: {shlex.join(['python', 'main.py', *again])}", file=sys.stderr)
        return stopped.code
    except KeyboardInterrupt:
        return 130


def dispatch(flags):
    """Do what the flags ask for; returns the exit code, None for 0."""
    if "eval" in flags:
        return evaluate_again(flags.pop("eval"), flags)
    if "repeat" in flags:
        return repeat(flags.pop("repeat"), flags)
    resume, wants_download = flags.pop("resume", False), flags.pop("download", False)
    settings, sources = resolve(flags)
    if wants_download:
        download([settings.spec], settings.data_path, [settings.aligned])
    return train(settings, sources, settings.run_path, resume)


def train(settings, sources, path, resume=False):
    """Settings -> data -> model -> fit -> report, into a run folder."""
    start = time.time()
    if resume and is_finished(path, settings):
        print(f"# {path} is finished: nothing to do")
        return
    choose_arithmetic(settings.deterministic)
    keep_freed_memory()
    device = find_device(settings.device)
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

    with RunFolder(path) as run, TrainingLog(run, settings, dataset) as log, StopSignals() as stop:
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

        with explained(memory_advice(settings.batch_size, settings.batch_chunk)):
            selected, best_on_test = fit(
                model, dataset, device=device, **settings.training(), state=last and last["state"], on_resume=on_resume,
                on_batch=on_batch, on_epoch=log.on_epoch,
                on_progress=lambda progress: run.save_last(progress.state(), config, time.time() - start),
                on_best=lambda epoch: run.save_checkpoint(model, epoch, config),
            )
        result = make_result(settings, dataset, model, device, selected, best_on_test, log.epochs, time.time() - start)
        report(run, dataset, selected, result)


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


def evaluate_again(folder, flags):
    """Rebuild the model of a run from its checkpoint alone, evaluate it, and compare with what the run reported."""
    refuse_settings("--eval", set(flags) - {"data_path", "cache_dir", "device"})
    model, dataset, settings, epoch = load_trained(folder, **flags)
    batch_size = math.ceil(settings.batch_size / settings.batch_chunk)
    try:
        with explained(f"--batch_size {batch_size} does not fit"):
            valid, test = (
                evaluate(model, dataset.splits[split], dataset.task, batch_size=batch_size,
                         device=find_device(settings.device))
                for split in ("valid", "test")
            )
    except FloatingPointError as error:
        raise UserError(f"{folder}: {error}") from error
    print(*dataset.task.log_lines(test.metrics), f"# epoch {epoch} of {folder}", sep="\n")
    if (result := read_result(folder)) is None:
        print(f"# {folder} has no result.json: the run did not finish, and there is nothing to compare with")
    else:
        check_reproduced(result, valid, test, folder)
        print("# reproduces result.json")


def repeat(folder, flags):
    """Train a finished run again, beside it, and say whether it came out the same; returns 0 if so, else 1."""
    refuse_settings("--repeat", set(flags) - {"data_path", "device", "resume"})
    resume = flags.pop("resume", False)
    settings, then = recorded_run(folder)
    settings, folder = replace(settings, **flags), Path(folder).resolve()
    repetition = folder.with_name(f"{folder.name}.repeat")
    torch.set_num_threads(then["threads"])
    train(settings, dict.fromkeys(settings.recorded(), f"as in {folder}"), repetition, resume)
    for line in differences_of_environment(then, recorded_run(repetition)[1]):
        print(f"# {line}: there and here")
    if difference := first_difference(folder, repetition):
        print(f"# DOES NOT REPEAT {folder}: {difference}")
        return 1
    print(f"# repeats {folder} to the last bit")


def refuse_settings(mode, flags):
    """UserError where settings are given to a mode that takes those of a run."""
    if flags:
        raise UserError(f"{mode} takes its settings from the run: leave out --{', --'.join(sorted(flags))}")


if __name__ == "__main__":
    sys.exit(main())
