"""What a result.json must hold, so that its readers need not ask."""

import math

from src.models import MODELS
from src.tasks import PROTOCOLS, task_of_result


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
