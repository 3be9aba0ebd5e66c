"""Recurrent baselines of the papers' tables: EF-LSTM joins the streams at each step, LF-LSTM their last states.

Neither has public settings. Their widths are our choice, near the published sizes on MOSEI: 0.56 M parameters of
EF-LSTM and 1.22 M of LF-LSTM. Padding stands in front, so the last step of a stream is real.
"""

import torch
from torch import Tensor, nn

from modules.layers import Dropout
from modules.sequence import Sequence
from src.options import OUR_CHOICE, Choices, Option, count

WIDTHS = Choices((64, 128, 192, 256), OUR_CHOICE)


class LSTMModel(nn.Module):
    """LSTMs over groups of streams, whose last states go through a hidden layer to the prediction."""

    options = (Option("hidden_dim", "width of each LSTM", count(1), search=WIDTHS),)

    def __init__(self, widths: tuple, output_dim: int, hidden_dim: int, out_dropout: float) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(nn.LSTM(width, hidden_dim, batch_first=True) for width in widths)
        joined = hidden_dim * len(widths)
        self.proj = nn.Linear(joined, joined // 4 + 1)
        self.out_dropout = Dropout(out_dropout)
        self.out_layer = nn.Linear(joined // 4 + 1, output_dim)

    def groups(self, streams: list[Tensor]) -> list[Tensor]:
        """The input of each LSTM, of the streams (B, T_m, d_m)."""
        raise NotImplementedError

    def forward(self, text: Sequence | Tensor, audio: Sequence | Tensor,
                vision: Sequence | Tensor) -> tuple[Tensor, Tensor]:
        """Sequences of features, or (B, T_m, d_m) each -> prediction (B, output_dim), last states (B, H)."""
        streams = [stream.x if isinstance(stream, Sequence) else stream for stream in (text, audio, vision)]
        groups = self.groups([x.to(self.proj.weight.dtype) for x in streams])
        hidden = torch.cat([lstm(x)[0][:, -1] for lstm, x in zip(self.lstms, groups, strict=True)], dim=1)
        return self.out_layer(self.out_dropout(self.proj(hidden).relu())), hidden


class EFLSTM(LSTMModel):
    """EF-LSTM: one LSTM over the streams joined at each step; for aligned data."""

    aligned_only = True

    def __init__(self, *, input_dims: tuple, input_lens: tuple, output_dim: int, hidden_dim: int = 216,
                 out_dropout: float = 0.0) -> None:
        if len(set(input_lens)) > 1:
            raise ValueError(f"EF-LSTM joins the streams at each step, and these have {input_lens} steps: take aligned "
                             "data, or LF-LSTM")
        super().__init__((sum(input_dims),), output_dim, hidden_dim, out_dropout)

    def groups(self, streams: list[Tensor]) -> list[Tensor]:
        return [torch.cat(streams, dim=2)]


class LFLSTM(LSTMModel):
    """LF-LSTM: an LSTM for each stream."""

    def __init__(self, *, input_dims: tuple, input_lens: tuple, output_dim: int, hidden_dim: int = 240,
                 out_dropout: float = 0.0) -> None:
        super().__init__(tuple(input_dims), output_dim, hidden_dim, out_dropout)

    def groups(self, streams: list[Tensor]) -> list[Tensor]:
        return streams
