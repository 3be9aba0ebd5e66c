"""What every model here begins and ends with: three modalities brought to one width, and the residual read-out."""

from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from modules.layers import Dropout
from modules.sequence import Sequence, padding_mask

MODALITIES = ("l", "a", "v")  # language, audio, vision: the order of every argument and tuple
T = TypeVar("T")


def by_modality(values: Iterable[T]) -> dict[str, T]:
    """The dictionary of a tuple given in the order of MODALITIES."""
    return dict(zip(MODALITIES, values, strict=True))


class MultimodalModel(nn.Module):
    """Base of MulT, MulT-FFL and PMR; subclasses fuse what `project` gives and hand the result to `read_out`.

    The layers are named as in the original MulT, and like there a modality that already has width d keeps a
    projection in the state dict that is never applied. It is frozen, so that no optimizer touches it. A kernel over
    several steps is always applied. `mask_padding` hides padding from every attention.
    """

    drops_input: tuple[str, ...] = ("l",)  # the modalities whose features have dropout: the text, as in the original

    def __init__(self, *, input_dims: tuple, output_dim: int, embed_dim: int, hidden_dim: int,
                 kernel_sizes: tuple = (1, 1, 1), embed_dropout: float = 0.0, out_dropout: float = 0.0,
                 modalities: tuple = MODALITIES, mask_padding: bool = False) -> None:
        super().__init__()
        self.mask_padding = mask_padding
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

    def project(self, modalities: Iterable[str], *streams: Sequence | Tensor) -> dict[str, Sequence]:
        """Each of the modalities asked for, as a sequence of width d, in the model's precision.

        Takes a Sequence of features for each modality, or a tensor (B, T_m, d_m), whose all-zero steps are padding. The
        steps that were cut must be all-zero too, since a kernel over several steps would read them.
        """
        return {m: self._project(m, stream) for m, stream in by_modality(streams).items() if m in modalities}

    def _project(self, m: str, stream: Sequence | Tensor) -> Sequence:
        sequence = stream if isinstance(stream, Sequence) else Sequence.of(stream, padding_mask(stream))
        projection: nn.Conv1d = getattr(self, f"proj_{m}")
        x = sequence.x.to(projection.weight.dtype)
        if x.size(-1) != projection.in_channels:
            raise ValueError(f"modality {m} has {x.size(-1)} features; the model takes {projection.in_channels}")
        sequence = sequence.on(self.embed_dropout(x) if m in self.drops_input else x)
        if m in self.projected:
            sequence = self._convolve(projection, sequence)
        return sequence._replace(hidden=sequence.padding if self.mask_padding else None)

    def _convolve(self, projection: nn.Conv1d, sequence: Sequence) -> Sequence:
        """Features (B, T_m, d_m) -> (B, T_m, d)."""
        if projection.kernel_size == (1,):
            return sequence.on(F.linear(sequence.x, projection.weight.squeeze(2)))  # the same with less moving about
        return sequence.on(projection(sequence.x.transpose(1, 2)).transpose(1, 2).contiguous())

    def read_out(self, hidden: Tensor) -> Tensor:
        """(B, hidden_dim) -> (B, output_dim), through one residual block."""
        residual = self.proj2(self.out_dropout(F.relu(self.proj1(hidden))))
        return self.out_layer(residual + hidden)
