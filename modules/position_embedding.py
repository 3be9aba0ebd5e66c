"""Sinusoidal positions and the padding mask that they respect (Vaswani et al. 2017, section 3.5).

Differences from the paper, all of them MulT's: the table is [sin | cos] in halves instead of interleaved, its
wavelengths run to 10000 over d // 2 - 1 steps, step t has position t + 1, and a padded step has the zero vector.
"""

import functools
import math

import torch
from torch import nn

from modules.dropout import Dropout
from modules.trimming import keep, uncut_length


def padding_mask(features):
    """The steps of (B, T, d_m) whose features are all 0, as (B, T) bool, True where a step is padding.

    Such steps are the front padding, interior gaps (a face out of view) and wholly empty streams alike.
    """
    return (features == 0).all(dim=-1)


@functools.lru_cache(maxsize=64)
def sinusoidal_table(length, dim, dtype=torch.float32, device=None):
    """Positions 1..length as (length, dim). An odd dim ends in a channel of zeros.

    Computed in the given dtype: the angles of the original are float32, and so are ours in a float32 model.
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half, dtype=dtype, device=device) * -(math.log(10000) / max(half - 1, 1)))
    angles = torch.arange(1, length + 1, dtype=dtype, device=device)[:, None] * rates  # (length, half)
    return torch.cat([angles.sin(), angles.cos(), angles.new_zeros(length, dim % 2)], dim=1)


class PositionEmbedding(nn.Module):
    """Dropout(sqrt(d) x + position): how a sequence enters an encoder."""

    def __init__(self, embed_dim, dropout=0.0):
        super().__init__()
        self.scale = math.sqrt(embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x, padding=None, kept=None):
        """(B, T, d) -> (B, T, d). Steps that `padding` (B, T) marks get no position; the others keep theirs.

        `kept` are the steps that x is of the sequence it was cut from (modules/trimming.py).
        """
        length, dim = x.shape[-2:]
        positions = sinusoidal_table(uncut_length(length, kept), dim, x.dtype, x.device)
        positions = keep(positions, kept, dim=0)  # (T, d)
        if padding is not None:
            positions = positions * ~padding.unsqueeze(-1)  # (B, T, d)
        return self.dropout(self.scale * x + positions)
