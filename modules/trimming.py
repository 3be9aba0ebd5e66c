"""Cutting the front padding that all sequences of a batch share.

Where padding is hidden from attention, a padded step can change no other step, and of the steps before its first real
one a sample is asked for nothing. Leaving them out leaves every result as it is. Padding still counts, and so is not
cut, in two places: a sequence that is nothing but padding is attended to and read as if it were real; and where the
mask is causal, a target step that sees nothing but padding of a source attends to all of that.

What is kept of a sequence is a tuple of ranges of its steps, or None for all of it.
"""

from itertools import accumulate

import torch


def first_real_steps(padding):
    """The first step that padding (B, T) does not mark, as (B,): 0 where it marks all."""
    return padding.to(torch.uint8).argmin(dim=1)


def kept_steps(padding, pairs=(), causal=False):
    """What is kept of each modality of {m: (B, T_m)}, and of the source of each (target, source) in `pairs`.

    `causal` is whether MulT's mask lies on the pairs (see attention_mask). Waits for the GPU once.
    """
    lengths = {m: mask.size(1) for m, mask in padding.items()}
    first = {m: first_real_steps(mask) for m, mask in padding.items()}  # (B,)
    cuts = {m: steps.min() for m, steps in first.items()}
    for target, source in pairs:
        last_seen = first[target] + abs(lengths[target] - lengths[source])  # by the first target step that counts
        sees_real = (last_seen >= first[source]).all()
        cuts[target, source] = cuts[source] * sees_real if causal else cuts[source]
    starts = torch.stack(list(cuts.values())).tolist()
    return {key: (range(start, lengths[key[-1]]),) for key, start in zip(cuts, starts, strict=True)}


def keep(x, kept, dim):
    """The steps of x that are kept, along a dimension."""
    if kept is None:
        return x
    parts = [x.narrow(dim, steps.start, len(steps)) for steps in kept]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def joined(kept):
    """What is kept of sequences that are joined in time, one after the other."""
    if None in kept:
        return None
    starts = accumulate((steps[-1].stop for steps in kept), initial=0)
    return tuple(
        range(start + steps.start, start + steps.stop)
        for start, own in zip(starts, kept, strict=False) for steps in own
    )


def uncut_length(length, kept):
    """The steps of the sequence of which so many are kept: its last one always is."""
    return length if kept is None else kept[-1].stop
