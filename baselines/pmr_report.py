"""PMR-report: PMR with the choices of a report's public code (github SZU-AdvTech-2022/332), which was read, not copied.

One reinforcement unit serves all layers and directions, and one attention its two branches. The gate sees and mixes the
branches with the target added. The message scores have dropout. The causal mask goes over whole lengths: the hub is one
segment. Projections do not pad, so a stream gets shorter by its kernel less one. The read-out has as many layers as the
fusion and reads the last step of [Z_C, Z_V, Z_L, Z_A], which is audio's.

Not as there: its message weights are drawn anew in every forward pass and never trained. Here they are PMR's.
"""

from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from modules.layers import Dropout
from modules.multimodal import MODALITIES, MultimodalModel, by_modality
from modules.pmr_layer import (
    LowRankMessageWeights,
    MessageUpdateModule,
    ModalityReinforcementUnit,
    ReinforcementLayer,
)
from modules.position_embedding import PositionEmbedding
from modules.record import OFF, Decisions, Record
from modules.sequence import Mask, Segment, Sequence, join
from modules.transformer import TransformerEncoder
from src.options import CAUSAL_MASK

HUB_ORDER = ("v", "l", "a")
MESSAGE_DIM, MESSAGE_RANK = 8, 2  # as PMR has by default


def whole(sequences: list[Sequence]) -> Sequence:
    """The sequences one after the other, as one segment."""
    joined = join(sequences)
    return joined._replace(segments=(Segment(joined.length, joined.x.size(1)),))


class ReportUnit(ModalityReinforcementUnit):
    """An MRU with one attention, whose gate sees and mixes the branches with the target added."""

    def __init__(self, *args: Any, **rates: Any) -> None:
        super().__init__(*args, **rates)
        self.self_attn = self.cross_attn

    def reinforce(self, source: Tensor, target: Tensor, cross_mask: Mask | None, self_mask: Mask | None,
                  record: Record = OFF) -> Tensor:
        """Source (B, T_s, d) and target (B, T_t, d) -> (B, T_t, d)."""
        Z_s, Z_t = self.layer_norm(source), self.layer_norm(target)
        cross_branch = self.cross_attn(Z_t, Z_s, Z_s, cross_mask, record)  # (B, T_t, d)
        self_branch = self.self_attn(Z_t, Z_t, Z_t, self_mask)  # (B, T_t, d)
        cross_branch, self_branch = (self.res_dropout.added_to(target, x) for x in (cross_branch, self_branch))
        return self.ffn(self.filter(self_branch, cross_branch, record.of("filter")))


class ReportUpdate(MessageUpdateModule):
    """A message update with dropout on its scores mu_m."""

    def __init__(self, *args: Any, score_dropout: float, **rates: Any) -> None:
        super().__init__(*args, **rates)
        self.score_dropout = Dropout(score_dropout)

    def _score(self, m: str, message: Sequence) -> Tensor:
        return self.score_dropout(super()._score(m, message))


class PMRReport(MultimodalModel):
    """PMR as a report's code has it, with trained message weights.

    `input_dims`, `input_lens` and `kernel_sizes` are (language, audio, vision). A stream that is shorter than its
    kernel is padded in front. `out_dropout` is also that of the message scores: our choice.
    """

    options = (CAUSAL_MASK,)
    defaults: ClassVar = {"kernel_l": 3, "kernel_a": 5, "kernel_v": 3}
    drops_input = MODALITIES

    def __init__(self, *, input_dims: tuple, input_lens: tuple, output_dim: int, embed_dim: int, num_heads: int,
                 layers: int, kernel_sizes: tuple = (3, 5, 3), attn_dropout: float = 0.0, relu_dropout: float = 0.0,
                 embed_dropout: float = 0.0, res_dropout: float = 0.0, out_dropout: float = 0.0,
                 attn_mask: bool = True) -> None:
        super().__init__(input_dims=input_dims, output_dim=output_dim, embed_dim=embed_dim, hidden_dim=embed_dim,
                         kernel_sizes=kernel_sizes, embed_dropout=embed_dropout, out_dropout=out_dropout)
        self.lengths = by_modality(input_lens)
        T_C = sum(max(T - k + 1, 1) for T, k in zip(input_lens, kernel_sizes, strict=True))
        self.embed = PositionEmbedding(embed_dim, embed_dropout)
        block = {"relu_dropout": relu_dropout, "res_dropout": res_dropout}
        unit = ReportUnit(embed_dim, num_heads, attn_dropout=attn_dropout, attn_mask=attn_mask, **block)
        weights = partial(LowRankMessageWeights, T_C, embed_dim, MESSAGE_DIM, MESSAGE_RANK)
        units = dict.fromkeys(MODALITIES, unit)
        self.layers = nn.ModuleList(
            ReinforcementLayer(units, ReportUpdate(units, {m: weights() for m in MODALITIES}, embed_dim, MESSAGE_DIM,
                                                   score_dropout=out_dropout, **block))
            for _ in range(layers)
        )
        self.readout = TransformerEncoder(embed_dim, num_heads, layers, attn_dropout, relu_dropout, res_dropout,
                                          embed_dropout, attn_mask)

    @property
    def notes(self) -> list[str]:
        """What the log of a run must say: which streams are padded."""
        kernels = [getattr(self, f"proj_{m}").kernel_size[0] for m in MODALITIES]
        return [f"stream {m} has {T} steps, fewer than its kernel's {k}: zeros are put in front"
                for (m, T), k in zip(self.lengths.items(), kernels, strict=True) if k > T]

    def forward(self, text: Sequence | Tensor, audio: Sequence | Tensor, vision: Sequence | Tensor,
                decisions: Decisions | None = None) -> tuple[Tensor, Tensor]:
        """Sequences of features, or (B, T_m, d_m) each -> prediction (B, output_dim), hidden (B, d).

        `decisions` gets what PMR puts into it.
        """
        Z, record = self.project(MODALITIES, text, audio, vision), Record.into(decisions)
        Z = {m: z.on(self.embed(z)) for m, z in Z.items()}  # (B, T_m, d)
        Z_C = whole([Z[m] for m in HUB_ORDER])  # (B, T_C, d)
        for i, layer in enumerate(self.layers):
            Z, Z_C = layer(Z, Z_C, record.of(f"layers.{i}"))
        sequence = whole([Z_C, *(Z[m] for m in HUB_ORDER)])._replace(padding=None)  # (B, 2 T_C, d)
        hidden = self.readout(sequence, last_of=[0], record=record.of("readout")).squeeze(1)  # (B, d)
        return self.read_out(hidden), hidden

    def _convolve(self, projection: nn.Conv1d, sequence: Sequence) -> Sequence:
        """Without padding: step t is made of the steps t to t + k - 1, and is padding where all of these are."""
        (k,) = projection.kernel_size
        missing = max(k - sequence.x.size(1), 0)
        x = F.pad(sequence.x, (0, 0, missing, 0)).transpose(1, 2)  # (B, d_m, T_m)
        assert sequence.padding is not None
        padding = F.pad(sequence.padding, (missing, 0), value=True).unfold(1, k, 1).all(dim=2)
        return Sequence.of(F.conv1d(x, projection.weight).transpose(1, 2).contiguous(), padding)
