"""Sinusoidal positions (Vaswani et al. 2017, section 3.5).

Differences from the paper, all of them MulT's: the table is [sin | cos] in halves instead of interleaved, its
wavelengths run to 10000 over d // 2 - 1 steps, step t has position t + 1, and a padded step has the zero vector.
"""

import functools
import math

import torch
from torch import Tensor, nn

from modules.layers import Dropout
from modules.sequence import Sequence


@functools.lru_cache(maxsize=64)
def sinusoidal_table(length: int, dim: int, dtype: torch.dtype = torch.float32,
                     device: torch.device | None = None) -> Tensor:
    """Positions 1..length as (length, dim). An odd dim ends in a channel of zeros.

    Computed in the given dtype: the angles of the original are float32, and so are ours in a float32 model.
    """
    half = dim // 2
    rates = torch.exp(torch.arange(half, dtype=dtype, device=device) * -(math.log(10000) / max(half - 1, 1)))
    angles = torch.arange(1, length + 1, dtype=dtype, device=device)[:, None] * rates  # (length, half)
    return torch.cat([angles.sin(), angles.cos(), angles.new_zeros(length, dim % 2)], dim=1)


class PositionEmbedding(nn.Module):
    """Dropout(sqrt(d) x + position): how a sequence enters an encoder."""

    def __init__(self, embed_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = math.sqrt(embed_dim)
        self.dropout = Dropout(dropout)

    def forward(self, sequence: Sequence) -> Tensor:
        """Its features with positions, (B, T, d). Steps that are padding get no position; the others keep theirs."""
        x = sequence.x
        positions = sequence.kept(sinusoidal_table(sequence.length, x.size(-1), x.dtype, x.device), dim=0)  # (T, d)
        if sequence.padding is not None:
            positions = positions * ~sequence.padding.unsqueeze(-1)  # (B, T, d)
        return self.dropout(torch.add(positions, x, alpha=self.scale))
