"""The samples of a converted array, read from its file when they are asked for and checked when they are first read.

They are read and not mapped: where a mapped file is cut, the system kills the process.
"""

import io
import os
import weakref
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.errors import UserError

MANIFEST = "manifest.json"  # beside the file; without it the source is converted again
CHUNK = 64  # samples that are read at a time where all are


def header_of(shape: Sequence[int]) -> bytes:
    """What stands before the numbers of a .npy file of float32 of this shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)})
    return header.getvalue()


class Rows:
    """An array (N, T, d) of float32 in a .npy file; `rows[indices]` and `rows[indices, first_step:]` are tensors.

    `sums` are the CRC-32 of the samples' bytes. ValueError where the file is not of this shape. UserError where a
    sample that is read is not what was written: the manifest is then removed.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path: Path, shape: Sequence[int], sums: Sequence[int]) -> None:
        self.path, self.shape, self.sums = path, tuple(shape), np.asarray(sums, dtype=np.uint32)
        self.nbytes = 4 * int(np.prod(shape))
        self.checked = np.zeros(len(self), dtype=bool)
        header = header_of(self.shape)
        self.start = len(header)
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
        weakref.finalize(self, os.close, self.descriptor)
        size = os.fstat(self.descriptor).st_size
        if os.pread(self.descriptor, self.start, 0) != header or size != self.start + self.nbytes:
            raise ValueError(f"{path} is not whole")
        if self.sums.shape != (len(self),):
            raise ValueError(f"{path} has other samples")

    def __len__(self) -> int:
        return self.shape[0]

    def size(self, axis: int) -> int:
        """N, T or d"""
        return self.shape[axis]

    def __getitem__(self, wanted: Any) -> torch.Tensor:
        indices, steps = wanted if isinstance(wanted, tuple) else (wanted, slice(None))
        first = steps.start or 0
        numbers = np.arange(len(self))[indices if isinstance(indices, slice) else np.asarray(indices)]
        read = np.empty((numbers.size, self.shape[1] - first, self.shape[2]), dtype="<f4")
        for place, number in enumerate(numbers.flat):
            self._read(int(number), first, read[place])
        return torch.from_numpy(read.astype(np.float32, copy=False)).view(*numbers.shape, *read.shape[1:])

    def to(self, device: str | torch.device) -> "Rows | torch.Tensor":
        """All samples in the memory of a device; on the CPU they stay in the file."""
        if torch.device(device).type == "cpu":
            return self
        whole = torch.empty(self.shape, device=device)
        for first in range(0, len(self), CHUNK):
            whole[first:first + CHUNK] = self[first:first + CHUNK].to(device)
        return whole

    def _read(self, number: int, first: int, into: np.ndarray) -> None:
        """Read the steps of a sample from the `first` on, the whole sample when it is checked."""
        if self.checked[number]:
            self._fill(number, first, into)
            return
        whole = np.empty(self.shape[1:], dtype="<f4") if first else into
        self._fill(number, 0, whole)
        if zlib.crc32(whole.data) != self.sums[number]:
            raise self._damage(f"sample {number} is not what was written")
        self.checked[number] = True
        if first:
            into[:] = whole[first:]

    def _fill(self, number: int, first: int, into: np.ndarray) -> None:
        steps, width = self.shape[1:]
        place = self.start + 4 * width * (number * steps + first)
        try:
            taken = os.preadv(self.descriptor, [into.data.cast("B")], place) if into.nbytes else 0
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror}; give the same command again") from error
        if taken != into.nbytes:
            raise self._damage(f"it ends in sample {number}")

    def _damage(self, reason: str) -> UserError:
        with suppress(OSError):
            self.path.with_name(MANIFEST).unlink()
        return UserError(f"{self.path} is damaged ({reason}); give the same command again, with --resume to go on: "
                         "the data file is converted again then")
