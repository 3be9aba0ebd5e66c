"""Disturbances of a test split. They are the same for every run: all are drawn from the number of the sample alone.

    missing m   a share of the samples has nothing but padding in stream m
    frames      a share of the real steps of every stream is zeros, which is padding
    noise       normal noise on every real step, in standard deviations of each feature over the training split
    shift m     stream m comes so many steps later against the others. Its last real steps come first, so that none is
                lost: our choice, since a stream that was cut would also lack what it said

A share draws a number for each sample or step and takes those below it, so that a larger share contains a smaller one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from src.dataset import Split, lose
from src.report.drawing import MODALITY_NAMES

from modules.multimodal import MODALITIES
from modules.sequence import Sequence, first_real_steps

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


class Disturbance(NamedTuple):
    """A disturbance of one kind and strength, of one modality or of all."""

    kind: str
    modality: str  # "" for all
    strength: float

    @property
    def curve(self) -> str:
        """Its name without the strength."""
        return f"{self.kind} {MODALITY_NAMES[self.modality]}" if self.modality else self.kind


DISTURBANCES = (
    *(Disturbance("missing", m, share) for m in MODALITIES for share in SHARES),
    *(Disturbance("frames", "", share) for share in SHARES),
    *(Disturbance("noise", "", strength) for strength in (0.25, 0.5, 1, 2)),
    *(Disturbance("shift", m, steps) for m in MODALITIES for steps in (1, 2, 4, 8)),
)
UNITS = {"missing": "share of samples", "frames": "share of steps", "noise": "standard deviations", "shift": "steps"}


@dataclass(frozen=True)
class DisturbedSplit(Split):
    """A split whose batches are disturbed as they are made. `change(m, stream, indices)` disturbs stream number m."""

    change: Callable[[int, Sequence, Tensor], Sequence]

    def batch(self, indices: Any, device: str | torch.device = "cpu",
              trimmed: bool = False) -> tuple[tuple[Sequence, ...], Tensor]:
        """As of a split, disturbed."""
        indices = torch.as_tensor(indices)
        streams, labels = super().batch(indices, device, trimmed)
        return tuple(self.change(m, stream, indices) for m, stream in enumerate(streams)), labels


def disturb(split: Split, disturbance: Disturbance, spreads: tuple[Tensor, ...]) -> DisturbedSplit:
    """The split under a disturbance; `spreads` are those of `feature_spreads`."""
    kind, modality, strength = disturbance
    functions: dict[str, Callable] = {
        "missing": partial(miss, strength), "frames": partial(lose_steps, strength),
        "noise": partial(add_noise, strength, spreads), "shift": partial(shift, int(strength)),
    }
    function = functions[kind]

    def change(m: int, stream: Sequence, indices: Tensor) -> Sequence:
        return function(m, stream, indices) if modality in ("", MODALITIES[m]) else stream
    return DisturbedSplit(split.features, split.padding, split.labels, split.ids, change)


def miss(share: float, m: int, stream: Sequence, indices: Tensor) -> Sequence:
    """Some samples lose the stream."""
    drawn = torch.tensor([draws(m, i, 1)[0] for i in indices.tolist()])
    return lose(stream, (drawn < share).unsqueeze(1))


def lose_steps(share: float, m: int, stream: Sequence, indices: Tensor) -> Sequence:
    """Some steps become padding."""
    drawn = torch.stack([torch.from_numpy(draws(m, i, 1 + stream.length)[1:]) for i in indices.tolist()])
    return lose(stream, stream.kept(drawn, dim=1) < share)


def add_noise(strength: float, spreads: tuple[Tensor, ...], m: int, stream: Sequence, indices: Tensor) -> Sequence:
    """Noise on real steps."""
    width = stream.x.size(-1)
    noise = torch.stack([
        torch.from_numpy(np.random.default_rng((m, i, 1)).standard_normal((stream.length, width), dtype=np.float32))
        for i in indices.tolist()
    ])
    noise = (stream.kept(noise, dim=1) * (strength * spreads[m])).to(stream.x.device)
    assert stream.padding is not None
    return stream.on(stream.x + noise.masked_fill(stream.padding.unsqueeze(-1), 0))


def shift(steps: int, m: int, stream: Sequence, indices: Tensor) -> Sequence:
    """The steps from the first real one on turn round by so many."""
    assert stream.padding is not None
    x, padding = stream.x.clone(), stream.padding.clone()
    for row, first in enumerate(first_real_steps(stream.padding).tolist()):
        x[row, first:] = x[row, first:].roll(steps, dims=0)
        padding[row, first:] = padding[row, first:].roll(steps, dims=0)
    return stream._replace(x=x, padding=padding)


def draws(m: int, i: int, count: int) -> np.ndarray:
    """The first numbers from 0 to 1 of sample i in stream m: one for the sample, then one for each step."""
    return np.random.default_rng((m, i)).random(count, dtype=np.float32)


def feature_spreads(split: Split) -> tuple[Tensor, ...]:
    """The standard deviation of each feature over the real steps of a split, (d_m,) for each modality."""
    spreads = []
    for x, padding in zip(split.features, split.padding, strict=True):
        count, sums = 0, torch.zeros(2, x.size(2), dtype=torch.float64)
        for rows in torch.arange(len(x)).split(256):
            real = x[rows][~padding[rows]].double().cpu()
            count += len(real)
            sums += torch.stack([real.sum(dim=0), real.square().sum(dim=0)])
        mean, mean_square = sums / max(count, 1)
        spreads.append((mean_square - mean.square()).clamp(min=0).sqrt().float())
    return tuple(spreads)
