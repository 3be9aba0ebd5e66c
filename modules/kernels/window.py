"""Self-attention within a window, in blocks of torch's operations: time and memory grow with T times the window.

A block of W target steps sees the source steps of its own block and of the one before, and also those of the one after
where the mask is not causal. torch's flex_attention would do the same on a GPU, but without dropout.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.sequence import Mask


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask, dropout: float) -> Tensor:
    """q, k and v (B, T, h, c) -> (B, T, h, c), by n = T / W blocks that see S = 2 W or 3 W steps."""
    (B, T), W = q.shape[:2], mask.window
    missing, after = -T % W, 0 if mask.causal else W
    S = 2 * W + after
    q = F.pad(q, (0, 0, 0, 0, 0, missing)).unflatten(1, (-1, W)).flatten(0, 1).transpose(1, 2)  # (B n, h, W, c)
    k, v = (F.pad(x, (0, 0, 0, 0, W, missing + after)).unfold(1, S, W).flatten(0, 1).transpose(2, 3)
            for x in (k, v))  # (B n, h, S, c)
    seen = q.new_ones(B, T, dtype=torch.bool) if mask.hidden is None else ~mask.hidden
    seen = F.pad(seen, (W, missing + after)).unfold(1, S, W).flatten(0, 1)[:, None, None]  # (B n, 1, 1, S)
    lag = torch.arange(W, device=q.device).unsqueeze(1) - torch.arange(-W, S - W, device=q.device)  # t - s: (W, S)
    seen = seen & (lag < W) & (lag > (-1 if mask.causal else -W))  # (B n, 1, W, S)
    blind = ~seen.any(dim=-1, keepdim=True)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen | blind, dropout_p=dropout)
    return out.masked_fill(blind, 0).transpose(1, 2).unflatten(0, (B, -1)).flatten(1, 2)[:, :T]
