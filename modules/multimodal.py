"""What every model here begins and ends with: three modalities brought to one width, and the residual read-out."""

from torch import nn
from torch.nn import functional as F

from modules.dropout import Dropout
from modules.position_embedding import padding_mask
from modules.trimming import kept_steps

MODALITIES = ("l", "a", "v")  # language, audio, vision: the order of every argument and tuple


def by_modality(values):
    """The dictionary of a tuple given in the order of MODALITIES."""
    return dict(zip(MODALITIES, values, strict=True))


class MultimodalModel(nn.Module):
    """Base of MulT, MulT-FFL and PMR; subclasses fuse what `project` gives and hand the result to `read_out`.

    The layers are named as in the original MulT, and like there a modality that already has width d keeps a
    projection in the state dict that is never applied. It is frozen, so that no optimizer touches it. A kernel over
    several steps is always applied.

    `mask_padding` hides padding from every attention. `trim_padding` then cuts the front padding that a batch's
    sequences share, which gives the same results sooner.
    """

    def __init__(self, *, input_dims, output_dim, embed_dim, hidden_dim, kernel_sizes=(1, 1, 1), embed_dropout=0.0,
                 out_dropout=0.0, modalities=MODALITIES, mask_padding=False, trim_padding=False):
        super().__init__()
        if trim_padding and not mask_padding:
            raise ValueError("trim_padding gives the same results only where padding is hidden; add mask_padding")
        self.mask_padding = mask_padding
        self.trim_padding = trim_padding
        self.embed_dropout = Dropout(embed_dropout)
        self.out_dropout = Dropout(out_dropout)
        dims, kernels = by_modality(input_dims), by_modality(kernel_sizes)
        self.projected = tuple(m for m in modalities if dims[m] != embed_dim or kernels[m] != 1)
        for m in modalities:
            projection = nn.Conv1d(dims[m], embed_dim, kernels[m], padding="same", bias=False)
            self.add_module(f"proj_{m}", projection.requires_grad_(m in self.projected))
        self.proj1 = nn.Linear(hidden_dim, hidden_dim)
        self.proj2 = nn.Linear(hidden_dim, hidden_dim)
        self.out_layer = nn.Linear(hidden_dim, output_dim)

    def project(self, modalities, text, audio, vision, padding=None):
        """Each of the modalities asked for, as a sequence of width d.

        Takes (B, T_m, d_m) features and their padding masks (B, T_m), which without `padding` are those steps whose
        features are all 0. Returns two dictionaries by modality: (B, T_m, d) sequences and (B, T_m) masks.
        """
        inputs = by_modality((text, audio, vision))
        masks = by_modality(map(padding_mask, inputs.values()) if padding is None else padding)
        inputs["l"] = self.embed_dropout(text)  # only the text, as in the original
        sequences = {}
        for m in modalities:
            projection = self.get_submodule(f"proj_{m}")
            if inputs[m].size(-1) != projection.in_channels:
                raise ValueError(
                    f"modality {m} has {inputs[m].size(-1)} features; the model takes {projection.in_channels}"
                )
            sequences[m] = (
                projection(inputs[m].transpose(1, 2)).transpose(1, 2) if m in self.projected else inputs[m]
            )  # (B, T_m, d)
        return sequences, {m: masks[m] for m in modalities}

    def kept_steps(self, padding, pairs=(), causal=False):
        """As modules.trimming.kept_steps, and None, which is all steps, for each where nothing is to be cut."""
        return kept_steps(padding, pairs, causal) if self.trim_padding else dict.fromkeys((*padding, *pairs))

    def read_out(self, hidden):
        """(B, hidden_dim) -> (B, output_dim), through one residual block."""
        residual = self.proj2(self.out_dropout(F.relu(self.proj1(hidden))))
        return self.out_layer(residual + hidden)
