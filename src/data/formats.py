"""The layouts that people's files have, told apart by content and read into one: MulT's and MMSA's.

Both are a dict of "train", "valid" and "test", each a dict of arrays "text", "audio" and "vision" (N, T_m, d_m).

MulT: "labels" (N, ...) of any shape that src/tasks/choice.py reads, and perhaps "id" (N, ...). A sequence ends
at its last step; the padding is in front of it.

MMSA: "regression_labels" (N,), "id" (N,), and much that is not needed here. A sequence starts at step 0; the padding
is behind it. Unaligned files tell the lengths of "audio_lengths" and "vision_lengths" (N,), and row 1 of "text_bert"
(N, 3, T_l) is BERT's mask over the text, whose sum is the text's length: behind it BERT leaves numbers that are no
words. In aligned files that length is every modality's, as in MMSA's own loader, so that steps stay aligned. A length
that a file does not tell is where its last step that is not all zeros ends.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from src.data.safe_pickle import release_pages
from src.errors import UserError, printable

SPLITS = ("train", "valid", "test")
MODALITY_KEYS = ("text", "audio", "vision")  # in the order of modules.multimodal.MODALITIES
LONGEST_ID, MOST_FIELDS = 1000, 16  # characters of a field of an id, and fields
CHUNK_BYTES = 1 << 25  # of an array, at a time


@dataclass(frozen=True)
class RawSplit:
    """A split as its file has it."""

    features: dict  # {modality key: (N, T_m, d_m) array of any numbers}
    labels: np.ndarray  # (N, ...)
    ids: list  # N strings
    lengths: dict = field(default_factory=dict)  # {modality key: (N,) steps before its padding}; none: padding in front

    def shape(self, key: str) -> tuple[int, ...]:
        """(N, T_m, d_m)"""
        return self.features[key].shape


def read_layout(raw: Any, where: str | Path) -> tuple[str, dict[str, RawSplit]]:
    """The protocol, "MulT" or "MMSA", and {split: RawSplit} of a file's dict; UserError where it has neither layout.

    `where` names the file in messages. Only the features' shapes are looked at here, not their numbers.
    """
    protocol = "MMSA" if _is_mmsa(_item(raw, SPLITS[0], where)) else "MulT"
    splits = {}
    for name in SPLITS:
        place = f"{where}, {name}"
        arrays = _item(raw, name, where)
        labels = (_mmsa_labels if protocol == "MMSA" else _mult_labels)(arrays, place)
        features = {key: _features(arrays, key, len(labels), place) for key in MODALITY_KEYS}
        if not np.isfinite(labels).all():
            raise UserError(f"{place} labels hold {np.sum(~np.isfinite(labels))} numbers that are not finite")
        splits[name] = RawSplit(features, labels, _ids(arrays.get("id"), len(labels), place))
    if protocol == "MMSA":
        splits = _with_lengths(raw, splits, where)
    return protocol, splits


def _is_mmsa(split: Any) -> bool:
    return isinstance(split, dict) and "regression_labels" in split and "labels" not in split


def _item(container: Any, key: str, where: str | Path) -> Any:
    if not isinstance(container, dict):
        raise UserError(f"{where} is a {type(container).__name__}, not a dict that holds {key!r}")
    if key not in container:
        there = ", ".join(sorted(map(printable, container))) or "nothing"
        raise UserError(f"{where} has no {key!r}; it has {there}")
    return container[key]


def _numbers(array: Any, where: str) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise UserError(f"{where} is {kind}, not an array of numbers")
    return array


def _mult_labels(arrays: Any, place: str) -> np.ndarray:
    labels = _numbers(_listed(_item(arrays, "labels", place)), f"{place} labels")
    if labels.ndim == 0:
        raise UserError(f"{place} labels has shape (); expected (samples, ...)")
    return labels


def _mmsa_labels(arrays: Any, place: str) -> np.ndarray:
    """(N,) regression labels, an array or a list -> (N, 1, 1)."""
    labels = _numbers(_listed(_item(arrays, "regression_labels", place)), f"{place} regression_labels")
    if labels.ndim != 1:
        raise UserError(f"{place} regression_labels has shape {labels.shape}; expected (samples,)")
    return labels.reshape(-1, 1, 1)


def _listed(numbers: Any) -> Any:
    """A plain list of numbers as an array, anything else as it is."""
    plain = isinstance(numbers, list) and all(isinstance(number, (int, float, np.number)) for number in numbers)
    return np.array(numbers) if plain else numbers


def _features(arrays: Any, key: str, samples: int, place: str) -> np.ndarray:
    array = _numbers(_item(arrays, key, place), f"{place} {key}")
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{place} {key} has shape {array.shape}; expected (samples, steps, features)")
    if len(array) != samples:
        raise UserError(f"{place} has {len(array)} samples of {key} but {samples} labels")
    return array


def _ids(raw: Any, samples: int, place: str) -> list[str]:
    """One string a sample: its fields joined by '|', or its number where the file has no ids."""
    if raw is None:
        return [str(i) for i in range(samples)]
    if not isinstance(raw, (np.ndarray, list, tuple)) or getattr(raw, "ndim", 1) == 0 or len(raw) != samples:
        raise UserError(f"{place} does not have one id for each of its {samples} samples; mend or drop 'id'")
    try:
        return ["|".join(map(_id_field, _id_fields(item))) for item in raw]
    except (ValueError, SystemError) as error:
        raise UserError(f"{place} id is damaged; mend or drop 'id'") from error


def _id_fields(item: Any) -> Any:
    """The fields of an id; ValueError where they are more, or hold more, than an id's do."""
    fields = item.ravel() if isinstance(item, np.ndarray) else item if isinstance(item, (list, tuple)) else [item]
    if len(fields) > MOST_FIELDS:
        raise ValueError("too many fields")
    return fields


def _id_field(value: Any) -> str:
    if isinstance(value, (dict, list, tuple, np.ndarray)):
        raise ValueError("a field that is a container")
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) > LONGEST_ID:
        raise ValueError("too long")
    return text


def _with_lengths(raw: Any, splits: dict[str, RawSplit], where: str | Path) -> dict[str, RawSplit]:
    """The splits of an MMSA file with the lengths of their sequences, without those that have their padding in front.
    """
    told = {name: _told_lengths(raw[name], splits[name], f"{where}, {name}") for name in SPLITS}
    train = splits["train"]
    aligned = "audio" not in told["train"] and len({train.shape(key)[1] for key in MODALITY_KEYS}) == 1
    moved: tuple[str, ...] = MODALITY_KEYS
    if aligned:
        if sum(_tail_votes(train.features[key]) for key in MODALITY_KEYS) < 0:
            moved = ()
    else:
        moved = tuple(key for key in MODALITY_KEYS if _tail_votes(train.features[key]) >= 0)
    for name, split in splits.items():
        if moved:
            split.lengths.update(_lengths(split, told[name], moved, aligned))
    return splits


def _told_lengths(arrays: Any, split: RawSplit, place: str) -> dict[str, np.ndarray]:
    """{modality key: (N,) length} that an MMSA split tells."""
    told = {}
    for key in ("audio", "vision"):
        if arrays.get(f"{key}_lengths") is not None:
            told[key] = _numbers(_listed(arrays[f"{key}_lengths"]), f"{place} {key}_lengths")
    samples, steps, _ = split.shape("text")
    bert = arrays.get("text_bert")
    if isinstance(bert, np.ndarray) and bert.dtype.kind in "biuf" and bert.shape == (samples, 3, steps):
        told["text"] = bert[:, 1].astype(np.float64).sum(axis=1)
    for key, lengths in told.items():
        if lengths.shape != (samples,) or not np.isfinite(lengths).all():
            raise UserError(f"{place} does not tell one length of {key} for each of its {samples} samples")
        told[key] = np.clip(lengths.astype(np.int64), 1, split.shape(key)[1])
    return told


def _lengths(split: RawSplit, told: dict[str, np.ndarray], moved: Iterable[str],
             aligned: bool) -> dict[str, np.ndarray]:
    """{modality key: (N,) length} of the modalities whose padding is behind."""
    if aligned and "text" in told:
        return dict.fromkeys(moved, told["text"])
    lengths = {key: told[key] if key in told else last_steps(split.features[key]) for key in moved}
    return dict.fromkeys(moved, np.max(list(lengths.values()), axis=0)) if aligned else lengths


def _tail_votes(array: np.ndarray) -> int:
    """In how many samples the last step alone is all zeros, less those in which the first alone is."""
    first, last = (~array[:, step].any(axis=1) for step in (0, -1))
    release_pages(array)
    return int((last & ~first).sum()) - int((first & ~last).sum())


def last_steps(array: np.ndarray) -> np.ndarray:
    """The steps of each sequence up to its last one that is not all zeros, at least 1: (N, T, d) -> (N,)."""
    lengths = np.empty(len(array), dtype=np.int64)
    for rows in chunks_of(array):
        real: np.ndarray = np.any(array[rows], axis=2)
        lengths[rows] = np.where(real.any(axis=1), array.shape[1] - real[:, ::-1].argmax(axis=1), 1)
        release_pages(array)
    return lengths


def chunks_of(array: np.ndarray) -> list[slice]:
    """Slices over the samples of an array, of some megabytes each."""
    size = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    return [slice(start, start + size) for start in range(0, len(array), size)]
