"""What a file's name, folder, hash and content tell, compared with what was asked for: the one place for every command.

A contradiction is a UserError that names both sides and the flag to give. A guess is a line for the log.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.data.formats import MODALITY_KEYS
from src.data.specs import DatasetSpec, hinted_by_name, is_known, owner_of, told_by_path
from src.errors import UserError

LOOKED_AT = 64  # samples
LARGE = 1000  # below that, features may be whole numbers; of the ids of some words, one is surely above


def compare(splits: Mapping[str, Any], spec: DatasetSpec, aligned: bool, path: str | Path,
            sha256: str | None = None) -> list[str]:
    """Lines about what was guessed of a file with these splits, raw or converted, that was asked for as a data set.

    UserError where the file is of another data set, is aligned otherwise than asked for, or holds token ids as text.
    """
    told, told_aligned = told_by_path(path)
    check_owner(path, spec, told, sha256)
    for name, split in splits.items():
        if are_token_ids(text := split.features["text"]):
            raise UserError(
                f"{path}, {name} text has shape {text.shape} and holds whole numbers, as token ids are: no features; "
                "put the embeddings of the words there, such as the 768 features of MMSA's own text"
            )
    notes = [f"{path} is read as {spec.name}, though its name says {told.name}"] if told not in (None, spec) else []
    return notes + compare_alignment(splits["train"], aligned, told_aligned, path)


def check_owner(path: str | Path, spec: DatasetSpec, told: DatasetSpec | None, sha256: str | None) -> None:
    """UserError where a file is known as one of another data set."""
    hint = hinted_by_name(path) if is_known(spec) else None  # a set of the user's own may have any name
    for owner, reason in ((told, "path"), (owner_of(sha256), "SHA-256"), (None if told else hint, "name")):
        if owner and is_known(owner) and owner != spec:
            raise UserError(
                f"{path} is {owner.name}'s file by its {reason}, and was asked for as {spec.name}; give "
                f"--dataset {owner.name}, or name that of {spec.name} by --data_path"
            )


def compare_alignment(train: Any, aligned: bool, told: bool | None, path: str | Path) -> list[str]:
    """Lines about the alignment of a file; UserError where it is not the one that was asked for. `told` is what its
    name says.
    """
    steps = [train.features[key].shape[1] for key in MODALITY_KEYS]
    same = len(set(steps)) == 1
    if aligned and not same:
        raise UserError(
            f"{path} is not aligned: text, audio and vision have {steps} steps; leave out --aligned and name "
            "the file ..._data_noalign.pkl"
        )
    if aligned and told is False:
        raise UserError(f"{path} is unaligned by its name, but --aligned was given; leave that out, or rename the file")
    if told and not aligned and same:
        raise UserError(f"{path} is aligned by its name and its {steps[0]} steps; give --aligned, or rename the file")
    if told and not aligned:
        return [f"{path} is read as unaligned: its name says aligned, but text, audio and vision have {steps} steps"]
    if same and not aligned:
        return [f"{path} is read as unaligned, but all modalities have {steps[0]} steps; if they are aligned, give "
                "--aligned"]
    return []


def are_token_ids(text: np.ndarray) -> bool:
    """Whether an array (N, T, d) holds what a tokenizer gives: whole numbers, some of them large, or one a step, or
    MMSA's three of ids, mask and segment, (N, 3, T) or (N, T, 3).
    """
    some = np.asarray(text[:LOOKED_AT])
    if not np.isfinite(some).all() or (some < 0).any() or (some != np.floor(some)).any() or some.max() <= 1:
        return False
    of_bert = any(some.shape[axis] == 3 and some.take(1, axis).max() <= 1 for axis in (1, 2))
    return bool(some.max() >= LARGE) or some.shape[2] == 1 or of_bert
