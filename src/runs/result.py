"""The outcome of a run as plain dictionaries, and whether a second look at it agrees."""

import math
import platform

import numpy as np
import torch

from modules.cpu_library import library
from src.errors import UserError
from src.runs.run_folder import git_commit
from src.tasks import no_better_than
from src.training.distributed import process_count


def split_metrics(evaluation):
    """The loss and the metrics of an Evaluation in one dictionary; what is undefined (nan) is None."""
    values = {"loss": evaluation.loss, **evaluation.metrics}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def epoch_record(epoch, train_loss, lr, seconds):
    """The line of metrics.jsonl for an Epoch."""
    evaluated = {"valid": epoch.valid, **({"test": epoch.test} if epoch.test else {})}
    return {
        "epoch": epoch.number, "train_loss": train_loss, "lr": lr, "seconds": seconds,
        **{f"{split}_{name}": value for split, evaluation in evaluated.items()
           for name, value in split_metrics(evaluation).items()},
    }


def trivial_metrics(dataset, split):
    """The metrics of the trivial baseline, learned on train, on a split."""
    truth = dataset.splits[split].labels
    prediction = dataset.task.trivial_prediction(dataset.splits["train"].labels, len(truth))
    return dataset.task.metrics(prediction, truth)


def parameter_count(model):
    """The numbers that training can change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def environment(device):
    """What a number depends on besides the settings."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": process_count(),
        "threads": torch.get_num_threads(),
        "cpu_kernels": "compiled" if library() else "none: there is no C++ compiler, and training on a CPU is slower",
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "git_commit": git_commit(),
    }


def make_result(settings, dataset, model, device, selected, best_on_test, epochs, seconds):
    """The content of result.json."""
    trivial = {split: trivial_metrics(dataset, split) for split in ("valid", "test")}
    no_better_on = no_better_than(dataset.task, selected.test.metrics, trivial["test"])
    return {
        "model": settings.model, "dataset": settings.dataset, "aligned": settings.aligned, "seed": settings.seed,
        "protocol": dataset.protocol,
        "parameters": parameter_count(model),
        "epochs": epochs,
        "selected_epoch": selected.number,
        "selected_by": "lowest validation loss",
        "valid": split_metrics(selected.valid),
        "test": split_metrics(selected.test),
        "no_better_than_trivial": not set(dataset.task.headline).isdisjoint(no_better_on),
        "no_better_on": no_better_on,
        "trivial_baseline": {
            "name": dataset.task.trivial_baseline,
            **{split: {k: None if math.isnan(v) else v for k, v in m.items()} for split, m in trivial.items()},
        },
        "test_selected": {
            "note": "chosen by lowest test loss, as some published figures are; not a result",
            "epoch": best_on_test.number,
            "test": split_metrics(best_on_test.test),
        },
        "seconds": seconds,
        "environment": environment(device),
        "settings": settings.recorded(),
    }


def check_reproduced(result, valid, test, folder):
    """UserError unless the Evaluations have the metrics that result.json of a folder holds."""
    for split, evaluation in (("valid", valid), ("test", test)):
        now = split_metrics(evaluation)
        for name, then in result[split].items():
            same = then == now[name] or (None not in (then, now[name]) and math.isclose(then, now[name], rel_tol=1e-4))
            if not same:
                raise UserError(
                    f"{folder} is not reproduced: {split} {name} was {then} and is now {now[name]}; "
                    "has the data or the code changed?"
                )
