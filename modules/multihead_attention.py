"""Multi-head attention (Vaswani et al. 2017, section 3.2.2) and the mask that says what may be attended to."""

import torch
from torch import nn
from torch.nn import functional as F

from modules.cpu_kernels import WIDEST_HEAD, attention, usable
from modules.side_by_side import Linear, linear
from modules.trimming import keep, uncut_length


def attention_mask(target_len, source_len, *, causal=False, source_padding=None, kept=None, source_kept=None,
                   device=None):
    """Which source steps each target step may attend to, or None where it may attend to all.

    `causal` hides the source steps more than |T_t - T_s| after the target step: MulT's mask, causal only where the
    lengths agree. `source_padding` (B, T_s) hides padding, except from a target step that would see nothing else:
    that one attends as if there were no padding, so an empty modality gives no NaN. Of sequences that were cut,
    `kept` and `source_kept` are the steps: the causal mask is then that of the uncut ones.

    Returns bool, True where attention is allowed: (T_t, T_s), or (B, 1, T_t, T_s) with source_padding.
    """
    if not causal and source_padding is None:
        return None
    target_len, source_len = uncut_length(target_len, kept), uncut_length(source_len, source_kept)
    allowed = torch.ones(target_len, source_len, dtype=torch.bool, device=device)
    if causal:
        allowed = allowed.tril(abs(target_len - source_len))
    allowed = keep(keep(allowed, kept, dim=0), source_kept, dim=1)
    if source_padding is None:
        return allowed
    visible = allowed & ~source_padding[..., None, None, :]  # (B, 1, T_t, T_s)
    return torch.where(visible.any(dim=-1, keepdim=True), visible, allowed)


def attend(q, k, v, allowed, dropout):
    """Scaled dot-product attention: q (..., h, T_t, c), k and v (..., h, T_s, c) -> (..., h, T_t, c)."""
    leading = q.shape[:-3]
    q, k, v = (x.flatten(0, -4) for x in (q, k, v))  # (S, h, T, c)
    if allowed is not None and allowed.dim() > 4:
        allowed = allowed.flatten(0, -4)  # (S, 1, T_t, T_s)
    if usable(q) and q.size(-1) <= WIDEST_HEAD:
        attended = attention(q, k, v, allowed, dropout)
    else:
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
    return attended.unflatten(0, leading)


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention of h heads. Parameter names and initialisation are the original MulT's."""

    def __init__(self, embed_dim, num_heads, attn_dropout=0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"width {embed_dim} cannot be divided into {num_heads} attention heads")
        self.num_heads = num_heads
        self.attn_dropout = attn_dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query, key, value, allowed=None):
        """query (B, T_t, d), key and value (B, T_s, d) -> (B, T_t, d); `allowed` as attention_mask returns it."""
        q, k, v = self._heads(query, key, value)
        dropout = self.attn_dropout if self.training else 0.0
        attended = attend(q, k, v, allowed, dropout)
        return self.out_proj(attended.transpose(-3, -2).flatten(-2))  # (..., T_t, d)

    def weights(self, query, key, value, allowed=None):
        """What `forward` weighs the values by, without dropout: (B, h, T_t, T_s)."""
        q, k, _ = self._heads(query, key, value)
        scores = q @ k.transpose(-2, -1) / q.size(-1) ** 0.5  # (B, h, T_t, T_s)
        return (scores if allowed is None else scores.masked_fill(~allowed, float("-inf"))).softmax(dim=-1)

    def _heads(self, query, key, value):
        """Projected query, key and value: (B, T, d) -> (B, h, T, d/h)."""
        weights, biases = self.in_proj_weight.chunk(3, dim=-2), self.in_proj_bias.chunk(3, dim=-1)
        if query is key is value:
            projected = linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            projected = map(linear, (query, key, value), weights, biases)
        return [x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2) for x in projected]
