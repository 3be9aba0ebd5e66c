"""Which samples of a split make a batch.

What trim_padding computes of a batch goes by its longest sample, so samples of like length belong together.
"""

import torch

from modules.trimming import first_real_steps

WINDOW = 16  # batches that are sorted together


def sample_lengths(split):
    """The steps of each sample from its first real one on, all modalities together: (N,), on the CPU."""
    return sum(mask.size(1) - first_real_steps(mask) for mask in split.padding).cpu()


def training_batches(split, batch_size, generator, by_length=False):
    """The indices of an epoch's batches, in a random order drawn from `generator`.

    With `by_length` that order is cut into windows, each window sorted by length into batches, and the batches taken
    in a random order: a sample still meets others in every epoch, but mostly some of its own length.
    """
    order = torch.randperm(len(split), generator=generator)
    if not by_length:
        return order.split(batch_size)
    lengths = sample_lengths(split)
    windows = [window[lengths[window].argsort(stable=True)] for window in order.split(WINDOW * batch_size)]
    batches = torch.cat(windows).split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def evaluation_batches(split, batch_size, by_length=False):
    """The indices of batches in the split's order, or from its shortest sample to its longest."""
    order = sample_lengths(split).argsort(stable=True) if by_length else torch.arange(len(split))
    return order.split(batch_size)
