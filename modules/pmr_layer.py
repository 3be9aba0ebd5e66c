"""One layer of Progressive Modality Reinforcement (Lv et al., CVPR 2021, section 3), in the order of its figures.

    Z_m <- MRU_{C->m}(Z_C, Z_m)              each modality is reinforced by the message hub
    Z_C <- MUM(Z_L, Z_V, Z_A, Z_C)           the hub is renewed from the modalities just reinforced

The hub is Z_C = [Z_L, Z_V, Z_A], three segments in time. With the causal mask, step t of segment p of a target sees
step s of segment q of a source where s <= t + |T_p - T_q|. That is MulT's mask, whose sequences are one segment each.

Ours, not the paper's, for long streams: a hub of K steps, so that the cost grows linearly with the lengths,

    Z_C = Q + CA(Q, LN[Z_L, Z_V, Z_A]),  Q (K, d) learned; hidden steps are not attended to

which then goes through the same units and message update (with weights K long). Its steps have no time, so that no
mask is between it and others, and what reaches a step through it is not causal. And SA of a modality within a window
of W steps: t - W < s <= t with the causal mask, |t - s| < W without.

The paper's code and settings were never released. Choices of this project, not of the paper: the mask by segments;
residuals around the two branches of an MRU (`residual=False` is the literal form); one layer norm for source and target
as in MulT; and the low-rank form of the message weights W_m, whose literal size grows with the square of T_C d.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.layers import Dropout, FeedForward, LayerNorm
from modules.multihead_attention import MultiheadAttention
from modules.record import OFF, Record
from modules.sequence import Mask, Segment, Sequence, join, mask


class HubTokens(nn.Module):
    """The hub as K learned queries that attend to all modalities."""

    def __init__(self, tokens: int, embed_dim: int, num_heads: int, attn_dropout: float = 0.0) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(tokens, embed_dim))
        self.layer_norm = LayerNorm(embed_dim)
        self.cross_attn = MultiheadAttention(embed_dim, num_heads, attn_dropout)

    def forward(self, streams: Iterable[Sequence]) -> Sequence:
        """Sequences of width d -> Z_C, features (B, K, d)."""
        source, K = join(streams), len(self.queries)
        Q = Sequence.of(self.queries.expand(source.x.size(0), -1, -1))  # (B, K, d)
        Q = Q._replace(segments=(Segment(K, K, timed=False),))
        Z = self.layer_norm(source.x)
        return Q.on(Q.x + self.cross_attn(Q.x, Z, Z, mask(Q, source)))  # Z_C = Q + CA(Q, LN[Z_L, Z_V, Z_A])


class DynamicFilter(nn.Module):
    """Mixes two branches by a learned gate for each step and feature; by G = 1/2 unless `learned` (an ablation)."""

    def __init__(self, embed_dim: int, learned: bool = True) -> None:
        super().__init__()
        self.learned = learned
        if learned:
            self.w_self = nn.Linear(embed_dim, embed_dim, bias=False)
            self.w_cross = nn.Linear(embed_dim, embed_dim)

    def forward(self, self_branch: Tensor, cross_branch: Tensor, record: Record = OFF) -> Tensor:
        """Two (B, T_t, d) branches -> (B, T_t, d)."""
        if not self.learned:
            return (self_branch + cross_branch) / 2
        G = (self.w_self(self_branch) + self.w_cross(cross_branch)).sigmoid()  # G = sigmoid(self W_s + cross W_c + b)
        record.write("gates", G)
        return torch.lerp(cross_branch, self_branch, G)  # G * self + (1 - G) * cross


class ModalityReinforcementUnit(nn.Module):
    """MRU_{s->t}: the target attends to the source and to itself, filtered, then feed-forward. `attn_mask` switches
    the causal mask on, `self_window` limits the attention to itself.
    """

    def __init__(self, embed_dim: int, num_heads: int, attn_dropout: float = 0.0, relu_dropout: float = 0.0,
                 res_dropout: float = 0.0, dynamic_filter: bool = True, residual: bool = True,
                 attn_mask: bool = False, self_window: int = 0) -> None:
        super().__init__()
        self.residual, self.attn_mask, self.self_window = residual, attn_mask, self_window
        self.layer_norm = LayerNorm(embed_dim)
        self.cross_attn = MultiheadAttention(embed_dim, num_heads, attn_dropout)
        self.self_attn = MultiheadAttention(embed_dim, num_heads, attn_dropout)
        self.filter = DynamicFilter(embed_dim, dynamic_filter)
        self.res_dropout = Dropout(res_dropout)
        self.ffn = FeedForward(embed_dim, relu_dropout, res_dropout)

    def forward(self, source: Sequence, target: Sequence, record: Record = OFF) -> Sequence:
        """The target, reinforced: features (B, T_t, d)."""
        cross_mask = mask(target, source, self.attn_mask)
        self_mask = mask(target, target, self.attn_mask, self.self_window)
        return target.on(self.reinforce(source.x, target.x, cross_mask, self_mask, record))

    def reinforce(self, source: Tensor, target: Tensor, cross_mask: Mask | None, self_mask: Mask | None,
                  record: Record = OFF) -> Tensor:
        """Source (B, T_s, d) and target (B, T_t, d) -> (B, T_t, d)."""
        Z_s, Z_t = self.layer_norm(source), self.layer_norm(target)
        cross_branch = self.cross_attn(Z_t, Z_s, Z_s, cross_mask, record)  # CA(Z_t, Z_s): (B, T_t, d)
        self_branch = self.self_attn(Z_t, Z_t, Z_t, self_mask)  # SA(Z_t): (B, T_t, d)
        mixed = self.filter(self_branch, cross_branch, record.of("filter"))  # (B, T_t, d)
        mixed = self.res_dropout.added_to(target, mixed) if self.residual else self.res_dropout(mixed)
        return self.ffn(mixed)


class LowRankMessageWeights(nn.Module):
    """W_m z_m + b_m where each of the k rows of W_m is a sum of r outer products of a time and a feature vector."""

    def __init__(self, length: int, embed_dim: int, width: int, rank: int) -> None:
        super().__init__()
        bound = (3 / rank) ** 0.25  # each element of W_m then has the variance of torch's linear layer, 1 / (3 T_C d)
        self.time = nn.Parameter(torch.empty(width, rank, length).uniform_(-bound, bound) * length**-0.5)
        self.feature = nn.Parameter(torch.empty(width, rank, embed_dim).uniform_(-bound, bound) * embed_dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, message: Sequence) -> Tensor:
        """(B, T_C, d) -> (B, k)"""
        return torch.einsum("btd,krt,krd->bk", message.x, message.kept(self.time, dim=2), self.feature) + self.bias


class FullMessageWeights(nn.Module):
    """W_m z_m + b_m as the paper writes it: a k x T_C d matrix over the flattened message."""

    def __init__(self, length: int, embed_dim: int, width: int) -> None:
        super().__init__()
        linear = nn.Linear(length * embed_dim, width)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, message: Sequence) -> Tensor:
        """(B, T_C, d) -> (B, k)"""
        weight = message.kept(self.weight.unflatten(1, (-1, message.x.size(2))), dim=1)  # (k, T_C, d)
        return F.linear(message.x.flatten(1), weight.flatten(1), self.bias)


class MessageUpdateModule(nn.Module):
    """MUM: the messages of the modalities to the hub, weighted by an attention over modalities, then feed-forward.

    `units` are MRU_{m->C}, `weights` the W_m and b_m by modality. Without weights the messages are averaged (an
    ablation), as they are with a single modality, where the softmax has nothing to weigh.
    """

    def __init__(self, units: Mapping[str, ModalityReinforcementUnit], weights: Mapping[str, nn.Module] | None,
                 embed_dim: int, message_dim: int = 8, relu_dropout: float = 0.0, res_dropout: float = 0.0) -> None:
        super().__init__()
        self.reinforce = nn.ModuleDict(units)
        self.weighted = weights is not None and len(units) > 1
        if self.weighted:
            self.weights = nn.ModuleDict(weights)
            self.score = nn.Linear(message_dim, 1, bias=False)  # U, shared by the modalities
        self.ffn = FeedForward(embed_dim, relu_dropout, res_dropout)

    def forward(self, Z: Mapping[str, Sequence], Z_C: Sequence, record: Record = OFF) -> Sequence:
        """Reinforced modalities and hub -> renewed hub, features (B, T_C, d)."""
        messages = {m: unit(Z[m], Z_C, record.of(f"reinforce.{m}")) for m, unit in self.reinforce.items()}  # Z_{m->C}
        stacked = torch.stack([message.x for message in messages.values()], dim=1)  # (B, M, T_C, d)
        if not self.weighted:
            return Z_C.on(self.ffn(stacked.mean(dim=1)))
        mu = torch.cat([self._score(m, message) for m, message in messages.items()], dim=1)  # (B, M)
        alpha = mu.softmax(dim=1)  # alpha_m = softmax_m(mu_m)
        record.write("alphas", alpha)
        return Z_C.on(self.ffn(torch.einsum("bm,bmtd->btd", alpha, stacked)))  # FFN(sum_m alpha_m Z_{m->C})

    def _score(self, m: str, message: Sequence) -> Tensor:
        """mu_m = U^T tanh(W_m z_m + b_m), (B, 1). Steps that are hidden have no say in the weights either."""
        if message.hidden is not None:
            message = message.on(message.x.masked_fill(message.hidden.unsqueeze(-1), 0))
        return self.score(self.weights[m](message).tanh())


class ReinforcementLayer(nn.Module):
    """Modality reinforcement for every modality, then the message update (PMR, figure 2).

    `units` are MRU_{C->m} by modality. Without an `update` the hub, and so the messages of the low-level features,
    stays (an ablation).
    """

    def __init__(self, units: Mapping[str, ModalityReinforcementUnit], update: MessageUpdateModule | None) -> None:
        super().__init__()
        self.reinforce = nn.ModuleDict(units)
        self.update = update

    def forward(self, Z: Mapping[str, Sequence], Z_C: Sequence,
                record: Record = OFF) -> tuple[dict[str, Sequence], Sequence]:
        """Modalities and hub -> the same, one layer higher."""
        Z = {m: unit(Z_C, Z[m], record.of(f"reinforce.{m}")) for m, unit in self.reinforce.items()}  # Z_m^[i+1]
        return Z, Z_C if self.update is None else self.update(Z, Z_C, record.of("update"))  # Z_C^[i+1]
