"""From a file's arrays to what training reads: finite float32 features, padding in front, and padding masks.

Features pass through in chunks of some megabytes, so that converting takes little memory whatever the file's size.
"""

import os
import sys
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from src.data.formats import MODALITY_KEYS, chunks_of
from src.data.mapped_file import release_pages
from src.errors import UserError

from modules.sequence import padding_mask

LARGE = 1 << 28  # bytes; below that, converting takes about a second, and no bar is shown


@dataclass(frozen=True)
class ConvertedSplit:
    """A split as arrays, in memory or mapped."""

    features: dict  # {modality key: (N, T_m, d_m) float32, finite}
    padding: dict  # {modality key: (N, T_m) bool, True where a step is all zeros}
    labels: np.ndarray  # as the file's, in MulT's shape
    ids: list  # N strings

    def shape(self, key):
        """(N, T_m, d_m)"""
        return self.features[key].shape


def convert(splits, where, store):
    """{split: RawSplit} -> {split: ConvertedSplit}, and lines about what was changed.

    `store(name, shape, chunks)` keeps the chunks of an array and returns it whole. UserError, naming the place in the
    file `where`, where features are not finite.
    """
    converted, notes = {}, []
    total = sum(array.nbytes for split in splits.values() for array in split.features.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"converting {where}", leave=False,
              disable=total < LARGE or not sys.stderr.isatty()) as bar:
        for name, split in splits.items():
            streams = {key: Stream(split.features[key], key, split.lengths.get(key)) for key in MODALITY_KEYS}
            features = {
                key: store(f"{name}_{key}", split.shape(key), stream.chunks(f"{where}, {name} {key}", bar.update))
                for key, stream in streams.items()
            }
            padding = {key: stream.padding for key, stream in streams.items()}
            converted[name] = ConvertedSplit(features, padding, np.array(split.labels), split.ids)
            notes += [f"{name} {key}: {stream.silent} elements of -inf set to 0"
                      for key, stream in streams.items() if stream.silent]
    if moved := [key for key in MODALITY_KEYS if key in splits["train"].lengths]:
        notes.append(f"padding behind {', '.join(moved)} moved to the front")
    return converted, notes


class Stream:
    """One modality of one split on its way; `silent` and `padding` are whole once its chunks have been taken."""

    def __init__(self, array, key, lengths):
        self.array, self.lengths = array, lengths
        self.may_be_silent = key == "audio"
        self.silent = self.broken = 0  # elements of -inf that became 0, and others that are not finite
        self.first_broken = None  # (sample, step, feature)
        self.padding = np.empty(array.shape[:2], dtype=bool)

    def chunks(self, place, progress):
        """The features in (n, T, d) arrays of float32; at the end, UserError where any were not finite. `progress` is
        told the bytes that are done.
        """
        for rows in chunks_of(self.array):
            chunk = self._finite(rows)
            if self.lengths is not None:
                chunk = to_front(chunk, self.lengths[rows])
            self.padding[rows] = padding_mask(torch.from_numpy(chunk)).numpy()
            yield chunk
            release_pages(self.array)
            progress(self.array[rows].nbytes)
        if self.broken:
            sample, step, feature = self.first_broken
            raise UserError(
                f"{place} holds {self.broken} numbers that are not finite in float32, the first in "
                f"sample {sample}, step {step}, feature {feature}; repair or drop those samples"
            )

    def _finite(self, rows):
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


def to_front(sequences, lengths):
    """Move the first `lengths` (N,) steps of (N, T, d) sequences to their end, and zeros in front of them."""
    steps = sequences.shape[1]
    origin = np.arange(steps) - (steps - lengths)[:, None]  # (N, T): of the step that comes here
    moved = np.take_along_axis(sequences, np.maximum(origin, 0)[:, :, None], axis=1)
    moved[origin < 0] = 0
    return moved


def in_memory(name, shape, chunks):
    """Keep an array in memory."""
    array = np.empty(shape, dtype=np.float32)
    filled = 0
    for chunk in chunks:
        array[filled:filled + len(chunk)] = chunk
        filled += len(chunk)
    return array


def in_folder(folder):
    """Keep arrays in {name}.npy of a folder, from where they are mapped."""
    def store(name, shape, chunks):
        path = folder / f"{name}.npy"
        with path.open("wb") as file:  # and not through a map, whose pages would count as this process's memory
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for chunk in chunks:
                file.write(chunk.astype("<f4", copy=False).data)
            file.flush()
            os.fsync(file.fileno())
        return mapped(path)
    return store


def mapped(path):
    """The array of a .npy file, mapped. Its pages are shared with other processes; writing to it does not reach them
    or the file.
    """
    return np.load(path, mmap_mode="c", allow_pickle=False)
