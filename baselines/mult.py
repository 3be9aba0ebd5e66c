"""MulT, the Multimodal Transformer (Tsai et al., ACL 2019, arXiv 1906.00295), numerically the original code.

State dict names are those of the public repository, so its weights load as they are. Quirks of it that are kept:
memory encoders have at least 3 layers; padding takes part in attention; the "causal" mask is nearly vacuous where
lengths differ; with `only`, all three memory encoders stay in the state dict, two of them idle (frozen here); a memory
encoder gives no position to a step whose first feature is exactly 0, as it is before the first update of the biases
where target and visible source are padding.
"""

import torch

from modules.multimodal import MODALITIES, MultimodalModel, by_modality
from modules.side_by_side import side_by_side
from modules.transformer import TransformerEncoder
from modules.trimming import keep
from src.options import Option

MIN_MEMORY_LAYERS = 3
LAST = (-1,)


def other_modalities(target):
    """The two sources of a target's crossmodal encoders, in their order of concatenation."""
    return [m for m in MODALITIES if m != target]


class MulT(MultimodalModel):
    """Crossmodal encoders for the six pairs of modalities, then a memory encoder for each target (MulT, figure 2).

    `input_dims`, `input_lens` and `kernel_sizes` are (language, audio, vision); MulT takes sequences of any length,
    so it makes no use of the lengths. `only` ("lonly", "aonly", "vonly") keeps one target. Attention dropout goes by
    the source: `attn_dropout` for language and the memory encoders, `_a` for audio, `_v` for vision. `mask_padding`,
    which the original does not have, hides padding from every attention, and `trim_padding` cuts what a batch shares.
    """

    source_feed_forward = False
    options = (
        Option("attn_mask", switches={
            "--no_attn_mask --attn_mask": (False, "switch the causal mask OFF, as the original's --attn_mask does; "
                                                  "without this flag it is on"),
        }),
        Option("only", switches={
            f"--{target[0]}only": (f"{target[0]}only", f"keep the crossmodal fusion into {target} alone")
            for target in ("language", "audio", "vision")
        }),
    )

    def __init__(self, *, input_dims, input_lens, output_dim, embed_dim, num_heads, layers, attn_mask=True, only=None,
                 kernel_sizes=(1, 1, 1), attn_dropout=0.0, attn_dropout_a=0.0, attn_dropout_v=0.0, relu_dropout=0.0,
                 embed_dropout=0.0, res_dropout=0.0, out_dropout=0.0, mask_padding=False, trim_padding=False):
        if only not in (None, "lonly", "aonly", "vonly"):
            raise ValueError(f"only is {only!r}; it can be lonly, aonly, vonly or None")
        targets = MODALITIES if only is None else (only[0],)
        super().__init__(
            input_dims=input_dims, output_dim=output_dim, embed_dim=embed_dim, kernel_sizes=kernel_sizes,
            hidden_dim=2 * embed_dim * len(targets), embed_dropout=embed_dropout, out_dropout=out_dropout,
            mask_padding=mask_padding, trim_padding=trim_padding,
        )
        self.targets = targets
        self.attn_mask = attn_mask
        dropout = {"relu_dropout": relu_dropout, "res_dropout": res_dropout, "embed_dropout": embed_dropout}
        source_dropout = by_modality((attn_dropout, attn_dropout_a, attn_dropout_v))
        for target in targets:
            for source in other_modalities(target):
                self.add_module(f"trans_{target}_with_{source}", TransformerEncoder(
                    embed_dim, num_heads, layers, source_dropout[source], attn_mask=attn_mask,
                    source_feed_forward=self.source_feed_forward, **dropout,
                ))
        for m in MODALITIES:
            memory = TransformerEncoder(
                2 * embed_dim, num_heads, max(layers, MIN_MEMORY_LAYERS), attn_dropout, attn_mask=attn_mask, **dropout
            )
            self.add_module(f"trans_{m}_mem", memory.requires_grad_(m in targets))

    def forward(self, text, audio, vision, padding=None):
        """(B, T_m, d_m) each -> prediction (B, output_dim), hidden (B, 2d per target).

        `padding` is three (B, T_m) bool masks, True where a step is padding; without it, all-zero steps are.
        """
        Z, padding = self.project(MODALITIES, text, audio, vision, padding)  # (B, T_m, d)
        pairs = [(target, source) for target in self.targets for source in other_modalities(target)]
        kept = self.kept_steps(padding, pairs, causal=self.attn_mask)
        crossmodal = dict(zip(pairs, side_by_side(
            (self.get_submodule(f"trans_{target}_with_{source}") for target, source in pairs),
            (self._crossmodal_inputs(Z, padding, kept, target, source) for target, source in pairs),
        ), strict=True))  # (B, T_t, d)
        fused = {t: torch.cat([crossmodal[t, s] for s in other_modalities(t)], dim=-1) for t in self.targets}
        memory = side_by_side(
            (self.get_submodule(f"trans_{target}_mem") for target in self.targets),
            ((fused[t], None, fused[t][..., 0] == 0, None, self._hidden(padding[t], kept[t]), LAST, kept[t])
             for t in self.targets),
        )  # (B, 1, 2d)
        hidden = torch.cat(memory, dim=-1).squeeze(1)  # (B, 2d per target)
        return self.read_out(hidden), hidden

    def _crossmodal_inputs(self, Z, padding, kept, target, source):
        """What the encoder of a pair takes: of each sequence the steps that are kept."""
        target_kept, source_kept = kept[target], kept[target, source]
        return (
            keep(Z[target], target_kept, dim=1), keep(Z[source], source_kept, dim=1),
            keep(padding[target], target_kept, dim=1), keep(padding[source], source_kept, dim=1),
            self._hidden(padding[source], source_kept), None, target_kept, source_kept,
        )

    def _hidden(self, padding, kept):
        return keep(padding, kept, dim=1) if self.mask_padding else None
