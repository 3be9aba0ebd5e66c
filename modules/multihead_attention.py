"""Multi-head attention (Vaswani et al. 2017, section 3.2.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules import kernels
from modules.record import OFF, Record
from modules.sequence import Mask


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention of h heads. Parameter names and initialisation are the original MulT's."""

    def __init__(self, embed_dim: int, num_heads: int, attn_dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"width {embed_dim} cannot be divided into {num_heads} attention heads")
        self.num_heads = num_heads
        self.attn_dropout = attn_dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None = None,
                record: Record = OFF) -> Tensor:
        """query (B, T_t, d), key and value (B, T_s, d) -> (B, T_t, d). `mask` says what each target step sees."""
        q, k, v = self._heads(query, key, value)
        if record.wants("attention"):
            record.write("attention", self.weights(q, k, mask).mean(dim=1))  # (B, T_t, T_s)
        attended = kernels.attention(q, k, v, mask, self.attn_dropout if self.training else 0.0)  # (B, T_t, h, c)
        return self.out_proj(attended.flatten(2))  # (B, T_t, d)

    @staticmethod
    def weights(q: Tensor, k: Tensor, mask: Mask | None) -> Tensor:
        """softmax(q k^T / sqrt(c)) without dropout: (B, h, T_t, T_s). A step that sees nothing weighs all by 0."""
        scores = torch.einsum("bthc,bshc->bhts", q, k) / q.size(-1) ** 0.5
        if mask is None:
            return scores.softmax(dim=-1)
        seen, blind = mask.dense()
        weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
        return weights if blind is None else weights.masked_fill(blind, 0)

    def _heads(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Projected query, key and value: (B, T, d) -> (B, T, h, d/h). Equal inputs are projected together."""
        d, W, b = query.size(-1), self.in_proj_weight, self.in_proj_bias
        if query is key is value:
            projected = F.linear(query, W, b).split(d, dim=-1)
        elif key is value:
            projected = F.linear(query, W[:d], b[:d]), *F.linear(key, W[d:], b[d:]).split(d, dim=-1)
        else:
            projected = map(F.linear, (query, key, value), W.split(d), b.split(d))
        return [x.unflatten(-1, (self.num_heads, -1)) for x in projected]
