"""Clips to predict: a file or arrays in any layout that training reads, and in looser ones.

A file may have any splits or none, labels or none. It is a pickle, or an .npz, of "text", "audio", "vision" and perhaps
"id". A stream is an array (N, T, d), a list of N arrays (T_i, d), or one clip, (T, d). Lists are padded in front.
"""

import contextlib
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from src.data.file_kinds import read_pickle
from src.data.formats import (
    MODALITY_KEYS,
    RawSplit,
    ids_of,
    is_mmsa,
    numbers_in,
    place_of,
    tail_votes,
    with_lengths,
    zeros_beside,
)
from src.data.safe_pickle import load_arrays
from src.errors import UserError, printable
from src.files import check_zip, open_file

OF_MMSA = ("audio_lengths", "vision_lengths", "text_bert")
READ = (*MODALITY_KEYS, "id", *OF_MMSA)  # arrays of an .npz
Arrays = Mapping[str, Any]  # a split as its file has it


def open_clips(path: Path) -> dict[str, Arrays]:
    """The splits of a file by name, "" where it has none; UserError where it is no such file."""
    if not path.is_file():
        there = "is no file" if path.exists() else "is not there"
        raise UserError(f"{path} {there}; name a data file, or an .npz with {', '.join(MODALITY_KEYS)}")
    try:
        if names := names_in_npz(path):
            return splits_of(dict.fromkeys(names) | read_npz(path, [name for name in READ if name in names]), path)
        with open_file(path) as file:
            return splits_of(read_pickle(file, path), path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{path} cannot be read ({type(error).__name__}): {printable(error)}") from error


def names_in_npz(path: Path) -> list[str]:
    """The names of the arrays in an .npz, none where a file is something else."""
    if not zipfile.is_zipfile(path):
        return []
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return [name.removesuffix(".npy") for name in names] if all(name.endswith(".npy") for name in names) else []


def read_npz(path: Path, names: list[str]) -> dict[str, Any]:
    """Arrays of an .npz, unpacked to files that are mapped and gone from their folder, so that none is in memory."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        return {name: read_npy(Path(archive.extract(f"{name}.npy", folder))) for name in names}


def read_npy(path: Path) -> Any:
    """An array of numbers or text, mapped; one of objects as from a pickle, which runs no code."""
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) == (1, 0) and np.lib.format.read_array_header_1_0(file)[2].hasobject:
            return load_arrays(file)
    return np.load(path, mmap_mode="r", allow_pickle=False)


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


class Taken(NamedTuple):
    """What a model takes of a stream."""

    width: int  # features
    steps: int
    needed: bool  # whether the stream has to be there


def read_clips(splits: Mapping[str, Arrays], taken: Mapping[str, Taken], aligned: bool,
               where: str | Path) -> dict[str, RawSplit]:
    """{split: RawSplit}, without labels, for a model and whether it was trained on aligned streams.

    Zeros stand in for a stream that is not there and need not be. UserError where streams do not fit the model or each
    other.
    """
    read = {name: read_split(split, taken, aligned, place_of(name, where)) for name, split in splits.items()}
    lengths = any(split.get(key) is not None for key in OF_MMSA for split in splits.values()
                  if "labels" not in split)  # beside which training does not look at them either
    listed = any(isinstance(x, Listed) for split in read.values() for x in split.features.values())
    if lengths and listed:
        raise UserError(f"{where} has lengths beside lists of clips; cut each clip to its length, and drop "
                        f"{', '.join(OF_MMSA)}")
    if lengths or (not listed and any(map(is_mmsa, splits.values()))):
        return with_lengths(splits, read, where)
    for split in read.values():
        if behind := [key for key, x in split.features.items() if isinstance(x, np.ndarray) and tail_votes(x) > 0]:
            split.notes.append(f"of {', '.join(behind)}, more clips end in zeros than begin with them; that fits only "
                               "a model that was trained on such clips")
    return read


def read_split(split: Arrays, taken: Mapping[str, Taken], aligned: bool, place: str) -> RawSplit:
    """The streams and ids of a split."""
    features = {key: read_stream(split[key], of.steps, f"{place} {key}") for key, of in taken.items()
                if split.get(key) is not None}
    counts = {key: len(array) for key, array in features.items()}
    if len(set(counts.values())) > 1:
        raise UserError(f"{place} has " + ", ".join(f"{count} clips of {key}" for key, count in counts.items()))
    if aligned:
        check_aligned(features, place)
    short = {key: sum(steps < taken[key].steps for steps in steps_of(stream)) for key, stream in features.items()}
    notes = [f"{count} of {counts[key]} clips are shorter than {taken[key].steps} steps of {key}; zeros are put in "
             "front" for key, count in short.items() if count]
    for key, (width, _, needed) in taken.items():
        if key not in features and needed:
            raise UserError(f"{place} has no {key}, of which the model takes {width} features a step")
        array = features.setdefault(key, zeros_beside(features, width))
        if array.shape[2] != width:
            raise UserError(f"{place} {key} has {array.shape[2]} features a step; the model takes {width}, those that "
                            "it was trained on")
    samples = len(features["text"])
    return RawSplit(features, np.empty((samples, 0)), ids_of(of_one_clip(split.get("id")), samples, place),
                    notes=notes)


def check_aligned(features: Mapping[str, Any], place: str) -> None:
    """UserError where streams of a clip differ in their steps."""
    for i, clip in enumerate(zip(*map(steps_of, features.values()), strict=True)):
        if len(set(clip)) > 1:
            raise UserError(f"{place} has {', '.join(map(str, clip))} steps of {', '.join(features)} in clip {i}, and "
                            "the model was trained on aligned streams, which have the same steps")


def steps_of(stream: "np.ndarray | Listed") -> list[int]:
    """The steps of each clip."""
    return list(map(len, stream.clips)) if isinstance(stream, Listed) else [stream.shape[1]] * len(stream)


def of_one_clip(ids: Any) -> Any:
    """An id as a list, anything else as it is."""
    return [str(ids)] if isinstance(ids, str) or getattr(ids, "shape", None) == () else ids


class Listed:
    """A list of N arrays (T_i, d) as an array (N, T, d) of at most so many `steps`, which is made a slice at a time.

    Shorter clips are padded in front, of longer ones the end is kept.
    """

    def __init__(self, clips: list[np.ndarray], steps: int) -> None:
        longest = max(map(len, clips))
        self.clips, self.shape = clips, (len(clips), min(longest, steps), clips[0].shape[1])
        self.cut = sum(len(clip) > steps and bool(clip[:-steps].any()) for clip in clips)  # clips that lose something

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, rows: slice) -> np.ndarray:
        clips = self.clips[rows]
        stacked = np.zeros((len(clips), *self.shape[1:]), np.result_type(*clips))
        for row, clip in zip(stacked, clips, strict=True):
            row[-len(clip):] = clip[-len(row):]
        return stacked


def read_stream(stream: Any, steps: int, place: str) -> "np.ndarray | Listed":
    """A stream as (N, T, d), of lists no more than so many steps; UserError where it is none."""
    if isinstance(stream, (list, tuple)) or (isinstance(stream, np.ndarray) and stream.dtype.kind == "O"):
        clips = [numbers_in(as_array(clip), f"{place}, clip {i}") for i, clip in enumerate(stream)]
        if not clips or any(clip.ndim != 2 or not clip.size or clip.shape[1] != clips[0].shape[1] for clip in clips):
            raise UserError(f"{place} is no list of arrays (steps, features) of one width")
        return Listed(clips, steps)
    array = numbers_in(as_array(stream), place)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{place} has shape {array.shape}; expected (clips, steps, features), or (steps, features)")
    return array


def as_array(numbers: Any) -> Any:
    """An array of a tensor, of nested lists or of objects, anything else as it is."""
    with contextlib.suppress(ValueError, TypeError):  # lists of unequal length, and tensors that numpy does not know
        if isinstance(numbers, torch.Tensor):
            numbers = numbers.detach().cpu()
            return (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).numpy()
        objects = isinstance(numbers, np.ndarray) and numbers.dtype.kind == "O"
        return np.asarray(numbers.tolist() if objects else numbers)
    return numbers


def fit_to(x: np.ndarray, padding: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Clips (N, T, d) and their padding (N, T) as a model of so many `steps` takes them, and how many clips lose some.

    Shorter clips are padded in front. Of longer ones the end is kept, and steps that are no padding are lost.
    """
    missing = steps - x.shape[1]
    if missing <= 0:
        return x[:, -missing:], padding[:, -missing:], int((~padding[:, :-missing]).any(axis=1).sum() if missing else 0)
    return (np.pad(x, ((0, 0), (missing, 0), (0, 0))),
            np.pad(padding, ((0, 0), (missing, 0)), constant_values=True), 0)
