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
    notes: list[str] = field(default_factory=list)  # lines about what was guessed of it


def read_layout(raw: Any, where: str | Path) -> tuple[str, dict[str, RawSplit]]:
    """The protocol, "MulT" or "MMSA", and {split: RawSplit} of a file's dict; UserError where it has neither layout.

    `where` names the file in messages. Only the features' shapes are looked at here, not their numbers.
    """
    protocol = "MMSA" if is_mmsa(item_of(raw, SPLITS[0], where)) else "MulT"
    absent = _absent(raw, where)
    splits = {}
    for name in SPLITS:
        place = f"{where}, {name}"
        arrays = item_of(raw, name, where)
        labels = _labels_of(arrays, protocol, place)
        if not len(labels):
            raise UserError(f"{place} has no samples; each of {', '.join(SPLITS)} needs some")
        present = {key: features_of(arrays, key, len(labels), place) for key in MODALITY_KEYS if key not in absent}
        features = {key: present[key] if key in present else zeros_beside(present) for key in MODALITY_KEYS}
        if not np.isfinite(labels).all():
            raise UserError(f"{place} labels hold {np.sum(~np.isfinite(labels))} numbers that are not finite")
        splits[name] = RawSplit(features, labels, ids_of(arrays.get("id"), len(labels), place))
    for key in absent:
        others = "".join(m for m, other in zip("lav", MODALITY_KEYS, strict=True) if other != key)
        splits[SPLITS[0]].notes.append(
            f"no {key} in the file: a stream of zeros stands in for it; --modalities {others} leaves it out, with a "
            "model that has this option, as PMR"
        )
    if protocol == "MMSA":
        splits = with_lengths(raw, splits, where)
    return protocol, splits


def is_mmsa(split: Any) -> bool:
    """Whether a split has MMSA's labels and no others."""
    return isinstance(split, dict) and "regression_labels" in split and "labels" not in split


def item_of(container: Any, key: str, where: str | Path) -> Any:
    if not isinstance(container, dict):
        raise UserError(f"{where} is a {type(container).__name__}, not a dict that holds {key!r}")
    if key not in container:
        there = ", ".join(sorted(map(printable, container))) or "nothing"
        raise UserError(f"{where} has no {key!r}; it has {there}")
    return container[key]


def _absent(raw: Any, where: str | Path) -> list[str]:
    """The modality that no split has, if the others are there; UserError where it may have another name."""
    splits = [raw[name] for name in SPLITS if isinstance(raw.get(name), dict)] if isinstance(raw, dict) else []
    if len(splits) < len(SPLITS):
        return []
    absent = [key for key in MODALITY_KEYS if all(split.get(key) is None for split in splits)]
    if len(absent) != 1:
        return []
    used = (*MODALITY_KEYS, "text_bert", "labels", "id")
    for key, array in splits[0].items():
        if isinstance(array, np.ndarray) and array.ndim == 3 and key not in used:
            raise UserError(f"{where} has no {absent[0]!r}, but {printable(key)!r} of shape {array.shape}; name that "
                            f"{absent[0]!r}, or leave it out of the file")
    return absent


def zeros_beside(present: dict[str, Any], width: int = 1) -> np.ndarray:
    """A stream of zeros, so many features wide, of as many samples and steps as the first that is present."""
    samples, steps, _ = next(iter(present.values())).shape
    return np.broadcast_to(np.float32(0), (samples, steps, width))


def is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def numbers_in(array: Any, where: str) -> np.ndarray:
    """The array, if it is one of numbers; UserError where it is not."""
    if not is_numeric(array):
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise UserError(f"{where} is {kind}, not an array of numbers")
    return array


def _labels_of(arrays: Any, protocol: str, place: str) -> np.ndarray:
    """The labels of a split (N, ...); MMSA's (N,) as (N, 1, 1)."""
    of_mmsa = protocol == "MMSA"
    key = "regression_labels" if of_mmsa else "labels"
    labels = numbers_in(_listed(item_of(arrays, key, place)), f"{place} {key}")
    if labels.ndim == 0 or (of_mmsa and labels.ndim > 1):
        raise UserError(f"{place} {key} has shape {labels.shape}; expected (samples,{'' if of_mmsa else ' ...'})")
    return labels.reshape(-1, 1, 1) if of_mmsa else labels


def _listed(numbers: Any) -> Any:
    """A plain list or tuple of numbers as an array, anything else as it is."""
    plain = isinstance(numbers, (list, tuple)) and all(isinstance(x, (int, float, np.number)) for x in numbers)
    return np.array(numbers) if plain else numbers


def features_of(arrays: Any, key: str, samples: int, place: str) -> np.ndarray:
    array = numbers_in(item_of(arrays, key, place), f"{place} {key}")
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{place} {key} has shape {array.shape}; expected (samples, steps, features)")
    if len(array) != samples:
        raise UserError(f"{place} has {len(array)} samples of {key} but {samples} labels")
    return array


def ids_of(raw: Any, samples: int, place: str) -> list[str]:
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
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate, of a file name, has no UTF-8


def with_lengths(raw: Any, splits: dict[str, RawSplit], where: str | Path) -> dict[str, RawSplit]:
    """The splits of an MMSA file with the lengths of their sequences, without those that have their padding in front.
    The first split, train where there is one, tells on which side that is.
    """
    told = {name: _told_lengths(raw[name], split, place_of(name, where)) for name, split in splits.items()}
    first, train = next(iter(splits.items()))
    aligned = "audio" not in told[first] and len({train.features[key].shape[1] for key in MODALITY_KEYS}) == 1
    votes = {key: tail_votes(train.features[key]) for key in MODALITY_KEYS}
    if aligned:
        votes = dict.fromkeys(MODALITY_KEYS, sum(votes.values()))
    moved = [key for key in MODALITY_KEYS if votes[key] >= 0]
    for name, split in splits.items():
        if moved:
            split.lengths.update(_lengths(split, told[name], moved, aligned))
    return splits


def place_of(split: str, where: str | Path) -> str:
    """A split of a file in words, "" for a file that has none."""
    return f"{where}, {split}" if split else str(where)


def _told_lengths(arrays: Any, split: RawSplit, place: str) -> dict[str, np.ndarray]:
    """{modality key: (N,) length} that an MMSA split tells; UserError where they are no lengths of its sequences."""
    told = {}
    for key in ("audio", "vision"):
        if arrays.get(f"{key}_lengths") is not None and arrays.get(key) is not None:
            lengths = numbers_in(_listed(arrays[f"{key}_lengths"]), f"{place} {key}_lengths")
            told[key] = _checked_lengths(lengths, split, key, place)
    if arrays.get("text_bert") is not None and arrays.get("text") is not None:
        mask = bert_mask(arrays["text_bert"], *split.features["text"].shape[:2])
        if mask is None:
            split.notes.append("text_bert is no (N, 3, T) of ids, mask and segment for the steps of text: it is not "
                               "used, and a text ends with its last step that is not all zeros")
        else:
            told["text"] = np.maximum(mask.sum(axis=1), 1).astype(np.int64)
    return told


def _checked_lengths(lengths: np.ndarray, split: RawSplit, key: str, place: str) -> np.ndarray:
    """(N,) lengths between 1 and the steps there are; UserError where all of them, or one below 0, tell nothing."""
    features, name = split.features[key], f"{key}_lengths"
    steps = features.shape[1]
    if lengths.shape != features.shape[:1] or not np.isfinite(lengths).all():
        raise UserError(f"{place} does not tell one length of {key} for each of its {len(features)} samples")
    instead = f"mend {name!r}, or drop it from every split: lengths are then read off {key}"
    if (lengths < 0).any() or (lengths % 1).any():
        wrong = lengths[(lengths < 0) | (lengths % 1 != 0)][0]
        raise UserError(f"{place} {name} holds {wrong:g}, which is no number of steps; {instead}")
    if (lengths > steps).all():
        raise UserError(f"{place} {name} are all beyond the {steps} steps of {key}; {instead}")
    if not lengths.any() and any(features[rows].any() for rows in chunks_of(features)):
        raise UserError(f"{place} {name} are all 0, but {key} is not all zeros; {instead}")
    if beyond := int((lengths > steps).sum()):
        split.notes.append(f"{beyond} of {name} are beyond the {steps} steps of {key}, and are taken as {steps}")
    if empty := sum(bool(features[i].any()) for i in np.flatnonzero(lengths == 0)):
        split.notes.append(f"{empty} of {name} are 0 where {key} is not all zeros, and are taken as 1")
    return np.clip(lengths.astype(np.int64), 1, steps)


def bert_mask(raw: Any, samples: int, steps: int) -> np.ndarray | None:
    """The mask (N, T) of a text_bert (N, 3, T) or (N, T, 3), an array or lists, or None where it is neither."""
    if isinstance(raw, (list, tuple)):
        try:
            if len(raw) != samples or any(len(item) > max(3, steps) for item in raw):
                return None
            raw = np.array([[numbers_in(_listed(row), "a row") for row in item] for item in raw])
        except (UserError, TypeError, ValueError):
            return None
    if not is_numeric(raw):
        return None
    for axis, shape in ((1, (samples, 3, steps)), (2, (samples, steps, 3))):
        if raw.shape == shape:
            ids, mask, segment = (raw.take(i, axis) for i in range(3))
            if np.isin(mask, (0, 1)).all() and mask.any() and np.isin(segment, (0, 1)).all() and ids.max() > 1:
                return mask
    return None


def _lengths(split: RawSplit, told: dict[str, np.ndarray], moved: Iterable[str],
             aligned: bool) -> dict[str, np.ndarray]:
    """{modality key: (N,) length} of the modalities whose padding is behind."""
    if aligned and "text" in told:
        return dict.fromkeys(moved, told["text"])
    lengths = {key: told[key] if key in told else last_steps(split.features[key]) for key in moved}
    return dict.fromkeys(moved, np.max(list(lengths.values()), axis=0)) if aligned else lengths


def tail_votes(array: np.ndarray) -> int:
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
