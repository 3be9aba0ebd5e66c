"""Clips to predict: a file or arrays in any layout that training reads, and in looser ones.

A file may have any splits or none, labels or none. It is a pickle, or an .npz, of "text", "audio", "vision" and perhaps
"id". A stream is an array (N, T, d), a list of N arrays (T_i, d), or one clip, (T, d). Lists are padded in front.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.data.file_kinds import read_pickle
from src.data.formats import MODALITY_KEYS, RawSplit, ids_of, is_mmsa, numbers_in, with_lengths, zeros_beside
from src.errors import UserError, printable

OF_MMSA = ("audio_lengths", "vision_lengths", "text_bert")
Arrays = Mapping[str, Any]  # a split as its file has it


def open_clips(path: Path) -> dict[str, Arrays]:
    """The splits of a file by name, "" where it has none; UserError where it is no such file."""
    if not path.is_file():
        raise UserError(f"{path} is not there; name a data file, or an .npz with {', '.join(MODALITY_KEYS)}")
    try:
        if zipfile.is_zipfile(path):
            with np.load(path, allow_pickle=False) as arrays:
                raw: Any = dict(arrays)
        else:
            with path.open("rb") as file:
                raw = read_pickle(file, path)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {printable(error)}") from error
    return splits_of(raw, path)


def splits_of(raw: Any, where: str | Path) -> dict[str, Arrays]:
    """The splits in the content of a file; UserError where there is none."""
    if has_streams(raw):
        return {"": raw}
    if isinstance(raw, dict) and (splits := {printable(name): x for name, x in raw.items() if has_streams(x)}):
        return splits
    there = ", ".join(map(printable, raw)) if isinstance(raw, dict) and raw else f"a {type(raw).__name__}"
    raise UserError(f"{where} has no {', '.join(MODALITY_KEYS)}, nor splits that have them; it has {there[:300]}")


def has_streams(split: Any) -> bool:
    """Whether it is a dict with a stream."""
    return isinstance(split, dict) and any(split.get(key) is not None for key in MODALITY_KEYS)


def read_clips(splits: Mapping[str, Arrays], input_dims: tuple[int, ...], where: str | Path) -> dict[str, RawSplit]:
    """{split: RawSplit}, without labels, for a model that takes features of the widths `input_dims`.

    A stream of zeros stands in for one that is not there where the model was trained with such a one. UserError where
    streams do not fit the model or each other.
    """
    read = {name: read_split(split, dict(zip(MODALITY_KEYS, input_dims, strict=True)),
                             f"{where}, {name}" if name else str(where)) for name, split in splits.items()}
    if any(is_mmsa(split) or any(split.get(key) is not None for key in OF_MMSA) for split in splits.values()):
        return with_lengths(splits, read, where)
    return read


def read_split(split: Arrays, widths: Mapping[str, int], place: str) -> RawSplit:
    """The streams and ids of a split."""
    features = {key: stack(split[key], f"{place} {key}") for key in MODALITY_KEYS if split.get(key) is not None}
    counts = {key: len(array) for key, array in features.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{place} has " + ", ".join(f"{count} clips of {key}" for key, count in counts.items()))
    for key, width in widths.items():
        if key not in features and width > 1:
            raise UserError(f"{place} has no {key}, of which the model takes {width} features a step")
        array = features.setdefault(key, zeros_beside(features))
        if array.shape[2] != width:
            raise UserError(f"{place} {key} has {array.shape[2]} features a step; the model takes {width}, those that "
                            "it was trained on")
    samples = len(features["text"])
    return RawSplit(features, np.empty((samples, 0)), ids_of(listed(split.get("id")), samples, place))


def listed(ids: Any) -> Any:
    """The id of one clip as a list, anything else as it is."""
    return [str(ids)] if isinstance(ids, str) or getattr(ids, "shape", None) == () else ids


def stack(stream: Any, place: str) -> np.ndarray:
    """A stream as (N, T, d); UserError where it is none."""
    if isinstance(stream, (list, tuple)) or (isinstance(stream, np.ndarray) and stream.dtype.kind == "O"):
        clips = [numbers_in(np.asarray(clip), f"{place}, clip {i}") for i, clip in enumerate(stream)]
        if not clips or any(clip.ndim != 2 or not clip.size or clip.shape[1] != clips[0].shape[1] for clip in clips):
            raise UserError(f"{place} is no list of arrays (steps, features) of one width")
        stacked = np.zeros((len(clips), max(map(len, clips)), clips[0].shape[1]), np.float32)
        for row, clip in zip(stacked, clips, strict=True):
            row[-len(clip):] = clip
        return stacked
    array = numbers_in(stream if isinstance(stream, np.ndarray) else np.asarray(stream), place)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{place} has shape {array.shape}; expected (clips, steps, features), or (steps, features)")
    return array


def fit_to(x: np.ndarray, padding: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Clips (N, T, d) and their padding (N, T) as a model of so many `steps` takes them, and how many clips lose some.

    Shorter clips are padded in front. Of longer ones the end is kept, and steps that are no padding are lost.
    """
    missing = steps - x.shape[1]
    if missing <= 0:
        return x[:, -missing:], padding[:, -missing:], int((~padding[:, :-missing]).any(axis=1).sum() if missing else 0)
    return (np.pad(x, ((0, 0), (missing, 0), (0, 0))),
            np.pad(padding, ((0, 0), (missing, 0)), constant_values=True), 0)
