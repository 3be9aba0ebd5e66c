"""What there is to say of two runs, or of two models over their seeds. Runs are dicts of read_runs.py."""

import math

import numpy as np

from src.errors import UserError, printable
from src.report.read_runs import LOSSES, task_name, test_metrics
from src.report.significance import holm, p_values
from src.tasks import LOWER_IS_BETTER, task_of_result

LOG_DECIMALS = 4  # of the losses in a log


def compare(a, b):
    """What there is to say of two runs, as a dict; UserError where they cannot be compared.

    Pairs are (of A, of B), None where a side lacks the value: settings, {name: pair} of those that differ, None where a
    side states none; epochs, {number: {loss: pair}}; metrics, {key: pair} of those that both have; seconds, parameters;
    largest, {loss: the largest absolute difference over the common epochs}, whose number is common_epochs.
    """
    for what, words in (("dataset", "on the data set"), ("protocol", "on the splits of"), ("task", "about")):
        if None not in (a[what], b[what]) and a[what] != b[what]:
            raise UserError(
                f"A is {words} {printable(a[what])}, B {words} {printable(b[what])}: "
                "only runs on the same can be compared"
            )
    same_kind = a["kind"] == b["kind"]
    losses = LOSSES if same_kind else LOSSES[1:]
    epochs = {
        number: {loss: tuple(epoch_loss(run, number, loss, exact=same_kind) for run in (a, b)) for loss in losses}
        for number in sorted(a["epochs"].keys() | b["epochs"].keys())
    }
    common = a["epochs"].keys() & b["epochs"].keys()
    return {
        "settings": differing_settings(a["settings"], b["settings"]),
        "epochs": epochs,
        "metrics": pairs_of_common(a["metrics"] or {}, b["metrics"] or {}),
        "seconds": tuple(sum(epoch["seconds"] for epoch in run["epochs"].values()) for run in (a, b)),
        "parameters": (a["parameters"], b["parameters"]),
        "common_epochs": len(common),
        "largest": {
            loss: largest([difference(*epochs[number][loss]) for number in common]) for loss in LOSSES[1:]
        },
    }


def epoch_loss(run, number, loss, exact):
    """A loss of an epoch, None where the run has not got so far; unless `exact`, in as many digits as a log has."""
    value = run["epochs"].get(number, {}).get(loss)
    return value if exact or value is None else round(value, LOG_DECIMALS)


def differing_settings(a, b):
    """{name: (text of A, text of B)} of the settings that differ; None where a side states none."""
    if a is None or b is None:
        return None
    return {name: (a.get(name), b.get(name)) for name in a | b if a.get(name) != b.get(name)}


def pairs_of_common(a, b):
    """{key: (value of A, value of B)} of the keys that both have."""
    return {key: (a[key], b[key]) for key in a if key in b}


def difference(a, b):
    """B - A; 0 of two equal or undefined values, None where one is missing."""
    if a is None or b is None:
        return None
    return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else b - a


def largest(differences):
    """The largest absolute value, nan if any is; None of nothing."""
    return max(map(abs, differences), key=lambda d: math.inf if math.isnan(d) else d, default=None)


def verdict(key, change):
    """Whether a change of a loss or metric is "better", "worse", "equal" or "undefined"."""
    if change is None or math.isnan(change):
        return "undefined"
    if change == 0:
        return "equal"
    lower_is_better = key in LOWER_IS_BETTER or key.endswith("loss")
    return "better" if (change < 0) == lower_is_better else "worse"


def compare_seeds(a, b):
    """Two model folders over the seeds that both have, as a dict; UserError where they cannot be compared.

    seeds; left_out, {"A": seeds that only A has, "B": ...}; samples; metrics, {key: pair of lists, a value a seed};
    p_values, {key: p} of those in a table, adjusted after Holm.
    """
    seeds = sorted(a["runs"].keys() & b["runs"].keys())
    if not seeds:
        of_a, of_b = (", ".join(map(str, side["runs"])) for side in (a, b))
        raise UserError(f"A has the seeds {of_a}, B {of_b}: no pair of runs with the same seed to compare")
    runs_a, runs_b = ([side["runs"][seed] for seed in seeds] for side in (a, b))
    try:
        check_same_samples({f"{side['name']}/seed{seed}": side["runs"][seed] for side in (a, b) for seed in seeds})
        metrics_a, metrics_b = ([test_metrics(run["result"]) for run in runs] for runs in (runs_a, runs_b))
        predictions_a, predictions_b = ([run["predictions"] for run in runs] for runs in (runs_a, runs_b))
        metrics = {key: tuple([metrics[key] for metrics in side] for side in (metrics_a, metrics_b))
                   for key in metrics_a[0]}
        task = task_of_result(runs_a[0]["result"])
        adjusted = holm(p_values(task, predictions_a, predictions_b, runs_a[0]["labels"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{a['name']} or {b['name']} is damaged: result.json and predictions.npz do not fit") from error
    return {
        "seeds": seeds, "samples": len(runs_a[0]["ids"]), "metrics": metrics, "p_values": adjusted,
        "left_out": {
            "A": sorted(a["runs"].keys() - b["runs"].keys()), "B": sorted(b["runs"].keys() - a["runs"].keys())
        },
    }


def check_same_samples(runs):
    """UserError unless all runs, by name, are on the same data set and task and the same test samples."""
    (first_name, first), *others = runs.items()
    for name, run in others:
        for words, of_first, of_other in (
            ("on the data set", *(r["result"]["dataset"] for r in (first, run))),
            ("on the splits of", *(r["result"]["protocol"] for r in (first, run))),
            ("about", *(task_name(r["result"]["test"]) for r in (first, run))),
        ):
            if of_first != of_other:
                raise UserError(
                    f"{first_name} is {words} {printable(of_first)}, {name} {words} {printable(of_other)}: "
                    "only runs on the same can be compared"
                )
        for what in ("ids", "labels"):
            if not np.array_equal(first[what], run[what]):
                raise UserError(
                    f"{first_name} and {name} have different test {what}: their samples cannot be paired; "
                    "train both on the same file"
                )
