"""One layer of Progressive Modality Reinforcement (Lv et al., CVPR 2021, section 3).

The names are the paper's: the message hub Z_C reinforces each modality through a modality reinforcement unit (MRU)
with a dynamic filter, and the message update module (MUM) then renews the hub from the reinforced modalities.

The paper's code and settings were never released. Choices of this project, not of the paper: residuals around the
two branches of an MRU (`residual=False` is the literal form), one layer norm for source and target as in MulT, and
the low-rank form of the message weights W_m, whose literal size grows with the square of T_C d.
"""

import torch
from torch import nn
from torch.nn import functional as F

from modules.dropout import Dropout
from modules.multihead_attention import MultiheadAttention, attention_mask
from modules.side_by_side import LayerNorm, Linear, side_by_side
from modules.transformer import FeedForward
from modules.trimming import keep

MESSAGE_UPDATES = ("attention", "mean", "none")
MESSAGE_FORMS = ("lowrank", "full")


class DynamicFilter(nn.Module):
    """G * self + (1 - G) * cross with a learned gate, or with G = 1/2 where `learned` is off (an ablation).

    G = sigmoid(self . W_self + cross . W_cross + b) for each step and feature: (B, T_t, d). `gate` is a module, so
    that a forward hook on it reads G.
    """

    def __init__(self, embed_dim, learned=True):
        super().__init__()
        self.learned = learned
        if learned:
            self.w_self = Linear(embed_dim, embed_dim, bias=False)
            self.w_cross = Linear(embed_dim, embed_dim)
            self.gate = nn.Sigmoid()

    def forward(self, self_branch, cross_branch):
        """Two (B, T_t, d) branches -> (B, T_t, d)."""
        if not self.learned:
            return (self_branch + cross_branch) / 2
        gate = self.gate(self.w_self(self_branch) + self.w_cross(cross_branch))
        return torch.lerp(cross_branch, self_branch, gate)


class ModalityReinforcementUnit(nn.Module):
    """MRU_{s->t}: the target attends to the source and to itself, filtered, then feed-forward."""

    def __init__(self, embed_dim, num_heads, attn_dropout=0.0, relu_dropout=0.0, res_dropout=0.0, dynamic_filter=True,
                 residual=True):
        super().__init__()
        self.residual = residual
        self.variant = attn_dropout
        self.layer_norm = LayerNorm(embed_dim)
        self.cross_attn = MultiheadAttention(embed_dim, num_heads, attn_dropout)
        self.self_attn = MultiheadAttention(embed_dim, num_heads, attn_dropout)
        self.filter = DynamicFilter(embed_dim, dynamic_filter)
        self.res_dropout = Dropout(res_dropout)
        self.ffn = FeedForward(embed_dim, relu_dropout, res_dropout)

    def forward(self, source, target, source_padding=None, target_padding=None):
        """source (B, T_s, d), target (B, T_t, d) -> (B, T_t, d). Steps that a mask marks are not attended to."""
        Z_s, Z_t = self.layer_norm(source), self.layer_norm(target)
        cross_branch = self.cross_attn(Z_t, Z_s, Z_s, self._allowed(Z_t, Z_s, source_padding))
        self_branch = self.self_attn(Z_t, Z_t, Z_t, self._allowed(Z_t, Z_t, target_padding))
        filtered = self.filter(self_branch, cross_branch)  # (B, T_t, d)
        return self.ffn(self.res_dropout.added_to(target, filtered) if self.residual else self.res_dropout(filtered))

    @staticmethod
    def _allowed(query, key, key_padding):
        return attention_mask(query.size(-2), key.size(-2), source_padding=key_padding, device=query.device)


class LowRankMessageWeights(nn.Module):
    """W_m z_m + b_m where each of the k rows of W_m is a sum of r outer products of a time and a feature vector."""

    def __init__(self, length, embed_dim, width, rank):
        super().__init__()
        bound = (3 / rank) ** 0.25  # each element of W_m then has the variance of torch's linear layer, 1 / (3 T_C d)
        self.time = nn.Parameter(torch.empty(width, rank, length).uniform_(-bound, bound) * length**-0.5)
        self.feature = nn.Parameter(torch.empty(width, rank, embed_dim).uniform_(-bound, bound) * embed_dim**-0.5)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, message, kept=None):
        """(B, T_C, d) -> (B, k). `kept` are the steps of the hub that the message has, where it was cut."""
        return torch.einsum("btd,krt,krd->bk", message, keep(self.time, kept, dim=2), self.feature) + self.bias


class FullMessageWeights(nn.Linear):
    """W_m z_m + b_m as the paper writes it: a k x T_C d matrix over the flattened message."""

    def __init__(self, length, embed_dim, width):
        super().__init__(length * embed_dim, width)

    def forward(self, message, kept=None):
        """(B, T_C, d) -> (B, k). `kept` are the steps of the hub that the message has, where it was cut."""
        weight = keep(self.weight.unflatten(1, (-1, message.size(2))), kept, dim=1)  # (k, T_C, d)
        return F.linear(message.flatten(1), weight.flatten(1), self.bias)


class MessageUpdateModule(nn.Module):
    """MUM: the messages of the modalities to the hub, weighted by an attention over modalities, then feed-forward.

    `message_update="mean"` averages them instead (an ablation), as it is with a single modality, where the softmax
    has nothing to weigh. `alpha` is a module, so that a forward hook on it reads the message weights (B, M).
    """

    def __init__(self, embed_dim, num_heads, hub_len, attn_dropouts, relu_dropout=0.0, res_dropout=0.0,
                 dynamic_filter=True, residual=True, message_update="attention", message_form="lowrank",
                 message_dim=8, message_rank=2):
        super().__init__()
        self.reinforce = nn.ModuleDict({
            m: ModalityReinforcementUnit(
                embed_dim, num_heads, attn_dropout, relu_dropout, res_dropout, dynamic_filter, residual
            )
            for m, attn_dropout in attn_dropouts.items()
        })
        self.weighted = message_update == "attention" and len(attn_dropouts) > 1
        if self.weighted:
            self.weights = nn.ModuleDict({
                m: FullMessageWeights(hub_len, embed_dim, message_dim) if message_form == "full"
                else LowRankMessageWeights(hub_len, embed_dim, message_dim, message_rank)
                for m in attn_dropouts
            })
            self.score = nn.Linear(message_dim, 1, bias=False)  # U, shared by the modalities
            self.alpha = nn.Softmax(dim=1)
        self.ffn = FeedForward(embed_dim, relu_dropout, res_dropout)

    def forward(self, Z, Z_C, padding, hub_padding=None, hub_kept=None):
        """Reinforced modalities {m: (B, T_m, d)} and hub (B, T_C, d) -> renewed hub (B, T_C, d).

        `hub_kept` are the steps of the hub that are there, where it was cut (modules/trimming.py).
        """
        messages = dict(zip(self.reinforce, side_by_side(
            self.reinforce.values(), ((Z[m], Z_C, padding[m], hub_padding) for m in self.reinforce)
        ), strict=True))  # Z_{m->C}: (B, T_C, d)
        stacked = torch.stack(list(messages.values()), dim=1)  # (B, M, T_C, d)
        if not self.weighted:
            return self.ffn(stacked.mean(dim=1))
        if hub_padding is not None:  # what is hidden has no say in the weights either
            messages = {m: z.masked_fill(hub_padding.unsqueeze(-1), 0) for m, z in messages.items()}
        mu = torch.cat([self.score(self.weights[m](z, hub_kept).tanh()) for m, z in messages.items()], dim=1)  # (B, M)
        return self.ffn(torch.einsum("bm,bmtd->btd", self.alpha(mu), stacked))


class ReinforcementLayer(nn.Module):
    """Modality reinforcement for every modality, then the message update (PMR, figure 2).

    The update sees the modalities just reinforced and the hub of before. `message_update="none"` keeps the hub, and
    so the messages of the low-level features, for good (an ablation). `hub_dropout` is the attention dropout where
    the hub is the source, `attn_dropouts` {m: p} where modality m is.
    """

    def __init__(self, embed_dim, num_heads, hub_len, attn_dropouts, hub_dropout=0.0, relu_dropout=0.0,
                 res_dropout=0.0, dynamic_filter=True, residual=True, message_update="attention",
                 message_form="lowrank", message_dim=8, message_rank=2):
        super().__init__()
        if message_update not in MESSAGE_UPDATES:
            raise ValueError(f"message_update is {message_update!r}; it can be {', '.join(MESSAGE_UPDATES)}")
        if message_form not in MESSAGE_FORMS:
            raise ValueError(f"message_form is {message_form!r}; it can be {', '.join(MESSAGE_FORMS)}")
        self.reinforce = nn.ModuleDict({
            m: ModalityReinforcementUnit(
                embed_dim, num_heads, hub_dropout, relu_dropout, res_dropout, dynamic_filter, residual
            )
            for m in attn_dropouts
        })
        self.update = None if message_update == "none" else MessageUpdateModule(
            embed_dim, num_heads, hub_len, attn_dropouts, relu_dropout, res_dropout, dynamic_filter, residual,
            message_update=message_update, message_form=message_form, message_dim=message_dim,
            message_rank=message_rank,
        )

    def forward(self, Z, Z_C, padding=None, hub_padding=None, hub_kept=None):
        """{m: (B, T_m, d)} and hub (B, T_C, d) -> the same, one layer higher. Marked steps are not attended to.

        `hub_kept` are the steps of the hub that are there, where it was cut (modules/trimming.py).
        """
        padding = padding or dict.fromkeys(Z)
        Z = dict(zip(self.reinforce, side_by_side(
            self.reinforce.values(), ((Z_C, Z[m], hub_padding, padding[m]) for m in self.reinforce)
        ), strict=True))
        if self.update is not None:
            Z_C = self.update(Z, Z_C, padding, hub_padding, hub_kept)
        return Z, Z_C
