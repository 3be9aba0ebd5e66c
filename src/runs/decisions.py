"""What a trained model decides on a few fixed test samples: gates, message weights, attention. A run keeps them in
decisions.npz, under 1 MB.

    ids                   (n,)                 the samples
    steps                 (3,)                 of language, audio and vision
    gates/MODULE          (n, T)               a gate's mean over features
    alphas/MODULE         (n, M)               message weights
    attention/MODULE      (n, T_t, T_s)        the mean over heads; of modules in layers, that of the last layer

Steps beyond MOST_STEPS are averaged with their neighbours.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from src.dataset import Split
from src.errors import UserError
from src.runs.run_folder import read_arrays

SAMPLES = 8
MOST_STEPS = 48, 128  # of attention, in rows and columns; of a gate those in columns
AXES = {"gates": 2, "alphas": 2, "attention": 3}  # of the arrays of a kind


@torch.no_grad()
def record_decisions(model: nn.Module, split: Split, device: torch.device) -> dict[str, ndarray]:
    """The arrays of decisions.npz for a model with its trained weights, whose forward pass takes `decisions`."""
    model.eval()
    indices = [i * len(split) // min(SAMPLES, len(split)) for i in range(min(SAMPLES, len(split)))]
    of_samples: dict[str, list[ndarray]] = {}
    for i in indices:
        streams, _ = split.batch([i], device)
        decided: dict[str, dict] = {}
        model.forward(*streams, decisions=decided)  # not as compiled, for which this would be another graph
        for kind, modules in decided.items():
            for module in last_layers(list(modules)) if kind == "attention" else modules:
                values = modules[module][0].float().cpu().numpy()
                values = values.mean(axis=1) if kind == "gates" else values
                sizes = {"gates": MOST_STEPS[1:], "attention": MOST_STEPS}.get(kind, ())
                of_samples.setdefault(f"{kind}/{module}", []).append(smaller(values, sizes).astype(np.float16))
    steps = np.array([padding.size(1) for padding in split.padding])
    ids = np.array([split.ids[i] for i in indices])
    return {"ids": ids, "steps": steps, **{name: np.stack(values) for name, values in of_samples.items()}}


def last_layers(modules: Sequence[str]) -> list[str]:
    """Of modules in the order of the forward pass that differ in the number of their layer alone, the last."""
    return list({re.sub(r"layers\.\d+", "layers", name): name for name in modules}.values())


class Recorded(NamedTuple):
    """The content of a decisions.npz, its values by module."""

    ids: list[str]
    steps: list[int]
    gates: dict[str, ndarray]
    alphas: dict[str, ndarray]
    attention: dict[str, ndarray]


def read_decisions(folder: Path) -> Recorded | None:
    """The decisions of a run, None where it recorded none; UserError where the file cannot be read."""
    if not (path := folder / "decisions.npz").is_file():
        return None
    arrays = read_arrays(path)
    try:
        ids, (*steps,) = arrays["ids"].tolist(), map(int, arrays["steps"])
        kinds = {kind: {name.partition("/")[2]: array.astype(np.float32) for name, array in arrays.items()
                        if name.startswith(f"{kind}/")} for kind in AXES}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged; train the run again") from error
    shaped = all(array.ndim == axes and len(array) == len(ids)
                 for kind, axes in AXES.items() for array in kinds[kind].values())
    if not (shaped and len(steps) == 3):
        raise UserError(f"{path} is damaged; train the run again")
    return Recorded(ids, steps, **kinds)


def smaller(values: ndarray, sizes: Sequence[int]) -> ndarray:
    """The means of neighbouring steps along each axis, so that it has no more steps than its size."""
    for axis, most in enumerate(sizes):
        if (steps := values.shape[axis]) > most:
            starts = np.arange(most) * steps // most
            counts = np.diff(starts, append=steps)
            values = (np.add.reduceat(values, starts, axis=axis).swapaxes(axis, -1) / counts).swapaxes(axis, -1)
    return values
