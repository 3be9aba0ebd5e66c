"""Which samples of a split make a batch.

A trimmed batch is as long as its longest sample, so samples of like length belong together.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from src.dataset import Split

WINDOW = 16  # batches that are sorted together


def training_batches(split: Split, batch_size: int, generator: torch.Generator,
                     by_length: bool = False) -> Sequence[Tensor]:
    """The indices of an epoch's batches, in a random order drawn from `generator`.

    With `by_length` that order is cut into windows, each window sorted by length into batches, and the batches taken
    in a random order: a sample still meets others in every epoch, but mostly some of its own length.
    """
    order = torch.randperm(len(split), generator=generator)
    if not by_length:
        return order.split(batch_size)
    lengths = split.sample_lengths
    windows = [window[lengths[window].argsort(stable=True)] for window in order.split(WINDOW * batch_size)]
    batches = torch.cat(windows).split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def evaluation_batches(split: Split, batch_size: int, by_length: bool = False) -> Sequence[Tensor]:
    """The indices of batches in the split's order, or from its shortest sample to its longest."""
    order = split.sample_lengths.argsort(stable=True) if by_length else torch.arange(len(split))
    return order.split(batch_size)
