"""Finished runs in their true layout, with made-up predictions: numbers of no meaning, for tests alone."""

import json

import numpy as np

from src.data.specs import find_spec
from src.runs.result import split_metrics
from src.tasks import Classification, no_better_than
from src.train import Evaluation


def write_run(root, dataset="mosi", aligned=False, model="PMR", seed=1111, noise=1.0, samples=60, folder=None,
              protocol="MulT", ids="sample{}".format, **settings):
    """Write result.json and predictions.npz of a run whose predictions are the truth and so much noise.

    Noise of infinity predicts nothing: the train mean, or never an emotion. Returns the run's folder.
    """
    task, named = find_spec(dataset).task.of_protocol(protocol), {}
    random = np.random.default_rng(7)
    if task.output_dim == 1:
        truth = random.uniform(*task.scale, (samples, 1)).round(1)
        useful, useless = truth, np.zeros_like(truth) + 0.1
    elif isinstance(task, Classification):
        truth = random.integers(task.output_dim, size=(samples, 1))
        useful, useless = (np.eye(task.output_dim)[answers[:, 0]] for answers in (truth, np.zeros_like(truth)))
        named = task.record()
    else:
        truth = (random.random((samples, 4)) < 0.4).astype(int)
        useful, useless = (np.eye(2)[answers].reshape(samples, 8) for answers in (truth, np.zeros_like(truth)))
    if noise == float("inf"):
        predictions = useless
    else:
        predictions = useful + noise * np.random.default_rng([seed, len(model)]).normal(size=useful.shape)
    trivial, metrics = task.metrics(useless, truth), task.metrics(predictions, truth)
    shown = split_metrics(Evaluation(1.0, predictions, metrics))

    path = root / dataset / ("aligned" if aligned else "unaligned") / model / (folder or f"seed{seed}")
    path.mkdir(parents=True)
    np.savez(path / "predictions.npz", test_predictions=predictions, test_labels=truth,
             test_ids=[ids(i) for i in range(samples)])
    (path / "result.json").write_text(json.dumps(result_content(
        shown, model="PMR" if model.startswith("PMR-") else model, dataset=dataset, aligned=aligned, seed=seed,
        protocol=protocol, **named, no_better_on=no_better_than(task, metrics, trivial),
        trivial_baseline={"name": task.trivial_baseline, "test": split_metrics(Evaluation(1.0, None, trivial))},
        settings={"lr": 0.001, "seed": seed, **settings},
    )))
    return path


def result_content(test, **changes):
    """What result.json holds of a run with these test metrics, after one epoch."""
    return {
        "format": 1, "model": "PMR", "dataset": "mosi", "aligned": False, "seed": 1, "protocol": "MulT",
        "parameters": 1234567, "epochs": 1,
        "selected_epoch": 1, "valid": test, "test": test, "no_better_on": [],
        "trivial_baseline": {"name": "train mean", "test": test}, "test_selected": {"epoch": 1, "test": test},
        "seconds": 1.5, "environment": {}, "settings": {}, **changes,
    }
