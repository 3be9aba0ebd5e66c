"""A stream of a data file on its way to what models read: finite float32, with its padding in front."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from src.data.formats import chunks_of
from src.data.safe_pickle import release_pages
from src.errors import UserError

from modules.sequence import padding_mask


class Stream:
    """One modality of one split in conversion. `silent` and `padding` are complete after the last chunk."""

    def __init__(self, array: np.ndarray, key: str, lengths: np.ndarray | None):
        self.array, self.key, self.lengths = array, key, lengths
        self.may_be_silent = key == "audio"
        self.silent = self.broken = self.cut = 0  # elements of -inf, others not finite; samples cut behind their length
        self.first_broken: tuple[int, int, int] | None = None  # sample, step, feature
        self.padding = np.empty(array.shape[:2], dtype=bool)

    def chunks(self, place: str, progress: Callable[[int], Any]) -> Iterator[np.ndarray]:
        """The features in (n, T, d) arrays of float32; at the end, UserError where any were not finite.

        `progress` is called with the bytes of each chunk.
        """
        for rows in chunks_of(self.array):
            yield self.chunk(rows)
            release_pages(self.array)
            progress(self.array[rows].nbytes)
        self.check_finite(place)

    def chunk(self, rows: slice) -> np.ndarray:
        """The features of some samples, (n, T, d) float32, their padding in front."""
        chunk = self._finite(rows)
        if self.lengths is not None:
            behind = np.arange(chunk.shape[1]) >= self.lengths[rows, None]
            self.cut += int((behind & chunk.any(axis=2)).any(axis=1).sum())
            chunk = to_front(chunk, self.lengths[rows])
        self.padding[rows] = padding_mask(torch.from_numpy(chunk)).numpy()
        return chunk

    def notes(self, place: str) -> list[str]:
        """Lines about what the chunks lost."""
        lines = []
        if self.cut and self.key != "text":  # where BERT leaves numbers
            lines.append(f"{place}: {self.cut} samples are not all zeros behind their length; that is left out")
        if self.silent:
            lines.append(f"{place}: {self.silent} elements of -inf set to 0")
        return lines

    def check_finite(self, place: str) -> None:
        """UserError if a chunk had numbers that were not finite."""
        if self.first_broken:
            sample, step, feature = self.first_broken
            raise UserError(
                f"{place} holds {self.broken} numbers that are not finite in float32, the first in "
                f"sample {sample}, step {step}, feature {feature}; repair or drop those samples"
            )

    def _finite(self, rows: slice) -> np.ndarray:
        """A chunk as float32. -inf in audio becomes 0, as in the original; nothing else may be non-finite."""
        raw = self.array[rows]
        with np.errstate(over="ignore"):  # what overflows is found below
            chunk = raw.astype(np.float32, order="C")
        if np.isfinite(chunk).all():
            return chunk
        if self.may_be_silent:
            silent = np.isneginf(raw)
            self.silent += int(silent.sum())
            chunk[silent] = 0
        broken = ~np.isfinite(chunk)
        if broken.any():
            self.broken += int(broken.sum())
            sample, step, feature = np.argwhere(broken)[0]
            self.first_broken = self.first_broken or (rows.start + sample, step, feature)
        return chunk


def to_front(sequences: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Move the first `lengths` (N,) steps of (N, T, d) sequences to their end, and zeros in front of them."""
    steps = sequences.shape[1]
    origin = np.arange(steps) - (steps - lengths)[:, None]  # (N, T): of the step that comes here
    moved = np.take_along_axis(sequences, np.maximum(origin, 0)[:, :, None], axis=1)
    moved[origin < 0] = 0
    return moved
