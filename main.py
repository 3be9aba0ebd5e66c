"""Train a model on a data set and report it, or evaluate a finished run again; --help lists the flags."""

import sys
import time

from src.dataset import load_dataset
from src.errors import UserError, run_command
from src.result import check_reproduced, make_result
from src.run_folder import RunFolder, read_result
from src.settings import find_device, parse_flags, resolve
from src.stock_checkpoint import initialise
from src.train import evaluate, fit
from src.trained import load_trained
from src.training_log import TrainingLog, result_lines


def main(argv=None):
    """Run the command line; returns the exit code."""
    try:
        return run_command(lambda: dispatch(parse_flags(argv)))
    except KeyboardInterrupt:
        return 130


def dispatch(flags):
    """Do what the flags ask for."""
    if "eval" in flags:
        evaluate_again(flags.pop("eval"), flags)
    else:
        train(flags)


def train(flags):
    """Flags -> settings -> data -> model -> fit -> report."""
    start = time.time()
    settings, sources = resolve(flags)
    device = find_device(settings.device)
    dataset = load_dataset(settings.spec, settings.data_path, settings.aligned)
    model = settings.build_model(dataset).to(device)
    if settings.init_from:
        initialise(model, settings.init_from)

    run = RunFolder(settings.run_path)
    log = TrainingLog(run, settings, dataset)
    log.head(settings, sources, dataset, model, device)
    config = {"settings": settings.recorded(), "input_dims": dataset.input_dims, "input_lens": dataset.input_lens}
    run.write_json("config.json", {**config, "sources": sources})

    try:
        selected, best_on_test = fit(
            model, dataset, device=device, **settings.training(), on_batch=log.on_batch, on_epoch=log.on_epoch,
            on_best=lambda epoch: run.save_checkpoint(model, epoch, config),
        )
    finally:
        log.close()

    result = make_result(
        settings, dataset, model, device, selected, best_on_test, log.epochs, time.time() - start
    )
    run.save_predictions(**{
        f"{split}_{name}": value
        for split, evaluation in (("valid", selected.valid), ("test", selected.test))
        for name, value in {
            "ids": dataset.splits[split].ids, "predictions": evaluation.predictions.numpy(),
            "labels": dataset.splits[split].labels.numpy(),
        }.items()
    })
    run.write_json("result.json", result)
    run.log(*result_lines(dataset.task, result, selected.test), f"# results in {run.path}")


def evaluate_again(folder, flags):
    """Rebuild the model of a run from its checkpoint alone, evaluate it, and compare with what the run reported."""
    if not_allowed := set(flags) - {"data_path", "device"}:
        raise UserError(f"--eval takes its settings from the run: leave out --{', --'.join(sorted(not_allowed))}")
    model, dataset, settings, epoch = load_trained(folder, **flags)
    valid, test = (
        evaluate(model, dataset.splits[split], dataset.task, batch_size=settings.batch_size,
                 device=find_device(settings.device))
        for split in ("valid", "test")
    )
    print(*dataset.task.log_lines(test.metrics), f"# epoch {epoch} of {folder}", sep="\n")
    if (result := read_result(folder)) is None:
        print(f"# {folder} has no result.json: the run did not finish, and there is nothing to compare with")
    else:
        check_reproduced(result, valid, test, folder)
        print("# reproduces result.json")


if __name__ == "__main__":
    sys.exit(main())
