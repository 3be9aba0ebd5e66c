"""The outcome of a run: result.json, what it must hold, and whether a second look at it agrees."""

import math

from src.errors import UserError
from src.models import MODELS
from src.tasks import PROTOCOLS, no_better_than, task_of_result
from src.training.machine import environment


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


def is_number(value):
    """A finite number."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_count(value):
    """A whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value):
    """Text that a terminal shows as it is."""
    return isinstance(value, str) and value.isprintable()


def is_names(value):
    """A list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def is_record(value):
    """A dict with texts for keys."""
    return isinstance(value, dict) and all(map(is_text, value))


def is_metrics(value):
    """Numbers by name; None is one that is undefined."""
    return is_record(value) and all(number is None or is_number(number) for number in value.values())


def is_flag(value):
    """True or False."""
    return isinstance(value, bool)


def is_model(value):
    """A name of the registry."""
    return is_text(value) and value in MODELS


def is_protocol(value):
    """Whose splits of a data set these are."""
    return is_text(value) and value in PROTOCOLS


SCHEMA = {  # by place: what it must be, in words and as a function
    "model": ("a model's name", is_model),
    "dataset": ("a name", is_text),
    "protocol": ("a protocol's name", is_protocol),
    "aligned": ("true or false", is_flag),
    "seed": ("a whole number", is_count),
    "parameters": ("a whole number", is_count),
    "epochs": ("a whole number", is_count),
    "selected_epoch": ("a whole number", is_count),
    "valid": ("metrics", is_metrics),
    "test": ("metrics", is_metrics),
    "no_better_on": ("names of metrics", is_names),
    "trivial_baseline.name": ("a name", is_text),
    "trivial_baseline.test": ("metrics", is_metrics),
    "test_selected.epoch": ("a whole number", is_count),
    "test_selected.test": ("metrics", is_metrics),
    "seconds": ("a number", is_number),
    "environment": ("values by name", is_record),
    "settings": ("values by name", is_record),
}


def check_result(result):
    """ValueError, with the place, unless the content of a result.json is what a finished run writes."""
    for place, (words, fits) in SCHEMA.items():
        if not fits(at(result, place)):
            raise ValueError(f"its {place} is not {words}")
    for place in ("selected_epoch", "test_selected.epoch"):
        if not 1 <= at(result, place) <= result["epochs"]:
            raise ValueError(f"its {place} is not one of its epochs")
    names, columns = set(result["test"]), set(task_of_result(result).columns.values())
    if not columns or not columns <= names & set(result["trivial_baseline"]["test"]):
        raise ValueError("its metrics are not those of a task")
    if any(set(at(result, place)) != names for place in ("valid", "test_selected.test")):
        raise ValueError("its metrics differ from split to split")


def at(result, place):
    """The value at a place such as test_selected.epoch; ValueError where there is none."""
    for key in place.split("."):
        if not isinstance(result, dict) or key not in result:
            raise ValueError(f"it has no {place}")
        result = result[key]
    return result
