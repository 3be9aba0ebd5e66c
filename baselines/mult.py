"""MulT, the Multimodal Transformer (Tsai et al., ACL 2019, arXiv 1906.00295), numerically the original code.

State dict names are those of the public repository, so its weights load as they are. Quirks of it that are kept:
memory encoders have at least 3 layers; padding takes part in attention; the "causal" mask is nearly vacuous where
lengths differ; with `only`, all three memory encoders stay in the state dict, two of them idle (frozen here); a memory
encoder gives no position to a step whose first feature is exactly 0, as it is before the first update of the biases
where target and visible source are padding.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from modules.multimodal import MODALITIES, MultimodalModel, by_modality
from modules.record import Decisions, Record
from modules.sequence import Sequence
from modules.transformer import TransformerEncoder
from src.options import CAUSAL_MASK, MOST_LAYERS, OUR_CHOICE, Choices, Option, count

MIN_MEMORY_LAYERS = 3


def other_modalities(target: str) -> list[str]:
    """The two sources of a target's crossmodal encoders, in their order of concatenation."""
    return [m for m in MODALITIES if m != target]


class MulT(MultimodalModel):
    """Crossmodal encoders for the six pairs of modalities, then a memory encoder for each target (MulT, figure 2).

    `input_dims`, `input_lens` and `kernel_sizes` are (language, audio, vision); MulT takes sequences of any length,
    so it makes no use of the lengths. `only` ("lonly", "aonly", "vonly") keeps one target. Attention dropout goes by
    the source: `attn_dropout` for language and the memory encoders, `_a` for audio, `_v` for vision. `mask_padding`,
    which the original does not have, hides padding from every attention.
    """

    source_feed_forward = False
    presets: ClassVar = {"tuned": {"mask_padding": True, "embed_dim": 40, "num_heads": 5}}  # docs/measured/defaults.md
    options = (
        CAUSAL_MASK,
        Option("only", switches={
            f"--{target[0]}only": (f"{target[0]}only", f"keep the crossmodal fusion into {target} alone")
            for target in ("language", "audio", "vision")
        }),
        Option("memory_layers", f"layers of the memory encoders; 0: as many as --nlevels, at least {MIN_MEMORY_LAYERS}",
               count(0, MOST_LAYERS), search=Choices((0, 1, 2, 3), OUR_CHOICE)),
    )

    def __init__(self, *, input_dims: tuple, input_lens: tuple, output_dim: int, embed_dim: int, num_heads: int,
                 layers: int, attn_mask: bool = True, only: str | None = None, memory_layers: int = 0,
                 kernel_sizes: tuple = (1, 1, 1), attn_dropout: float = 0.0, attn_dropout_a: float = 0.0,
                 attn_dropout_v: float = 0.0, relu_dropout: float = 0.0, embed_dropout: float = 0.0,
                 res_dropout: float = 0.0, out_dropout: float = 0.0, mask_padding: bool = False) -> None:
        if only not in (None, "lonly", "aonly", "vonly"):
            raise ValueError(f"only is {only!r}; it can be lonly, aonly, vonly or None")
        targets = MODALITIES if only is None else (only[0],)
        super().__init__(
            input_dims=input_dims, output_dim=output_dim, embed_dim=embed_dim, kernel_sizes=kernel_sizes,
            hidden_dim=2 * embed_dim * len(targets), embed_dropout=embed_dropout, out_dropout=out_dropout,
            mask_padding=mask_padding,
        )
        self.targets = targets
        shared: dict[str, Any] = {"relu_dropout": relu_dropout, "res_dropout": res_dropout,
                                  "embed_dropout": embed_dropout, "attn_mask": attn_mask}
        source_dropout = by_modality((attn_dropout, attn_dropout_a, attn_dropout_v))
        for target in targets:
            for source in other_modalities(target):
                self.add_module(f"trans_{target}_with_{source}", TransformerEncoder(
                    embed_dim, num_heads, layers, source_dropout[source],
                    source_feed_forward=self.source_feed_forward, **shared,
                ))
        for m in MODALITIES:
            memory = TransformerEncoder(
                2 * embed_dim, num_heads, memory_layers or max(layers, MIN_MEMORY_LAYERS), attn_dropout, **shared
            )
            self.add_module(f"trans_{m}_mem", memory.requires_grad_(m in targets))

    def forward(self, text: Sequence | Tensor, audio: Sequence | Tensor, vision: Sequence | Tensor,
                decisions: Decisions | None = None) -> tuple[Tensor, Tensor]:
        """Sequences of features, or (B, T_m, d_m) each -> prediction (B, output_dim), hidden (B, 2d per target).

        `decisions`, a dictionary, gets "attention": by encoder and layer, as "trans_l_with_a.layers.0", the mean over
        heads of its weights (B, T_t, T_s).
        """
        Z, record = self.project(MODALITIES, text, audio, vision), Record.into(decisions)
        hidden = torch.cat([self._remember(target, Z, record) for target in self.targets], dim=-1)
        return self.read_out(hidden), hidden

    def _remember(self, target: str, Z: dict[str, Sequence], record: Record) -> Tensor:
        """The crossmodal encoders of a target, then the last step of its memory encoder: (B, 2d)."""
        names = {source: f"trans_{target}_with_{source}" for source in other_modalities(target)}
        fused = torch.cat([
            self.get_submodule(name)(Z[target], Z[source], record=record.of(name)) for source, name in names.items()
        ], dim=-1)  # (B, T_t, 2d)
        sequence, name = Z[target]._replace(x=fused, padding=fused[..., 0] == 0), f"trans_{target}_mem"
        return self.get_submodule(name)(sequence, last_of=[0], record=record.of(name)).squeeze(1)
