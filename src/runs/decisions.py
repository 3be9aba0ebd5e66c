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
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from src.dataset import Split
from src.runs.run_folder import read_arrays

SAMPLES = 8
MOST_STEPS = 48, 128  # of attention, in rows and columns; of a gate those in columns
LAYER = re.compile(r"layers\.(\d+)")


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
    """Of modules that differ in the number of their layer alone, the last."""
    by_layer = sorted(modules, key=lambda name: list(map(int, LAYER.findall(name))))
    return list({LAYER.sub("layers", name): name for name in by_layer}.values())


def read_decisions(folder: Path) -> dict[str, Any] | None:
    """{"ids": (n,), "steps": (3,), and "gates", "alphas" and "attention", each {module: (n, ...)}} of a run; None where
    it recorded none. UserError where the file cannot be read.
    """
    if not (path := folder / "decisions.npz").is_file():
        return None
    read: dict[str, Any] = {"ids": (), "gates": {}, "alphas": {}, "attention": {}}
    for name, array in read_arrays(path).items():
        kind, _, module = name.partition("/")
        if module:
            read.setdefault(kind, {})[module] = array.astype(np.float32)
        else:
            read[kind] = array
    return read


def smaller(values: ndarray, sizes: Sequence[int]) -> ndarray:
    """The means of neighbouring steps along each axis, so that it has no more steps than its size."""
    for axis, most in enumerate(sizes):
        if (steps := values.shape[axis]) > most:
            starts = np.arange(most) * steps // most
            counts = np.diff(starts, append=steps)
            values = (np.add.reduceat(values, starts, axis=axis).swapaxes(axis, -1) / counts).swapaxes(axis, -1)
    return values
