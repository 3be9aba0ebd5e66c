"""Data sets: what is known of each, which file is its, and the checked tensors that training reads.

NAME_data.pkl holds word-aligned sequences, NAME_data_noalign.pkl unaligned ones. src/data/formats.py says what is in
them, src/data/cache.py how they are read.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from src.data.cache import Converted, read_file
from src.data.demo import make_demo
from src.data.formats import MODALITY_KEYS, SPLITS, read_layout
from src.data.sources import download_command
from src.data.training_arrays import convert, in_memory
from src.errors import UserError
from src.tasks import EmotionClassification, SentimentRegression, UnitSentimentRegression, task_of_labels

MMSA_FOLDER = "https://drive.google.com/drive/folders/1A2S4pqCHryGmiqnNSPLv7rEg63WvjCSk"


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before its file is read."""

    name: str  # of its results folder
    stem: str  # of its files: {stem}_data.pkl and {stem}_data_noalign.pkl
    task: object = None  # None: the shape of the labels tells
    paper: dict = field(default_factory=dict)  # the settings it was published with, by flag
    paper_source: str = ""
    make: Callable | None = None  # makes it in memory, in place of a file
    mmsa_folder: str | None = None  # of MMSA's data, which holds its files in Processed/
    mmsa_steps: int = 50  # the number in their names
    mmsa_sha256: tuple = ()  # of those files, from MMSA's README, since their names do not tell the data set

    def file(self, data_path, aligned):
        """The path of its pickle: `data_path` itself if that is a file, else MulT's file or MMSA's, whichever is there;
        MulT's if none is.
        """
        folder = Path(data_path)
        if os.path.isfile(folder):
            return folder
        candidates = [folder / name for name in self.names(aligned)]
        return next(filter(os.path.isfile, candidates), candidates[0])

    def names(self, aligned):
        """What its pickle may be called in a data folder: MulT's name, then MMSA's."""
        names = [f"{self.stem}_data{'' if aligned else '_noalign'}.pkl"]
        if self.mmsa_folder:
            name = f"{'' if aligned else 'un'}aligned_{self.mmsa_steps}.pkl"
            names += [name, f"{self.mmsa_folder}/Processed/{name}"]
        return names


def table_5(**row):
    """A row of MulT's Table 5 as flags. Its "crossmodal attention block dropout" is `attn_dropout` there; that it
    also sets relu_dropout and res_dropout, the two other dropouts of a block, is our reading.
    """
    block = row.pop("block_dropout")
    shared = {"embed_dim": 40, "nlevels": 4, "kernel_a": 3, "kernel_v": 3, "out_dropout": 0.1}
    return {**shared, "attn_dropout": block, "relu_dropout": block, "res_dropout": block, **row}


KNOWN = (
    DatasetSpec(
        "mosi", "mosi", SentimentRegression(),
        table_5(batch_size=128, lr=1e-3, num_heads=10, kernel_l=1, embed_dropout=0.2, block_dropout=0.2, clip=0.8,
                num_epochs=100),
        "MulT Table 5, MOSI; kernel_l is 1 or 3 there",
        mmsa_folder="MOSI",
        mmsa_sha256=("d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
                     "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524"),
    ),
    DatasetSpec(
        "mosei", "mosei_senti", SentimentRegression(),
        table_5(batch_size=16, lr=1e-3, num_heads=8, kernel_l=1, embed_dropout=0.3, block_dropout=0.1, clip=1.0,
                num_epochs=20),
        "MulT Table 5, MOSEI; kernel_l is 1 or 3 there",
        mmsa_folder="MOSEI",
        mmsa_sha256=("45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
                     "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f"),
    ),
    DatasetSpec(
        "iemocap", "iemocap", EmotionClassification(),
        table_5(batch_size=32, lr=2e-3, num_heads=10, kernel_l=3, kernel_a=5, embed_dropout=0.3, block_dropout=0.25,
                clip=0.8, num_epochs=30),
        "MulT Table 5, IEMOCAP",
    ),
    DatasetSpec(
        "sims", "sims", UnitSentimentRegression(),
        mmsa_folder="SIMS", mmsa_steps=39,
        mmsa_sha256=("c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",),
    ),
    DatasetSpec(
        "demo", "demo", SentimentRegression(),
        {"batch_size": 32, "lr": 2e-3, "embed_dim": 24, "num_heads": 4, "nlevels": 2, "embed_dropout": 0.0,
         "attn_dropout": 0.0, "relu_dropout": 0.0, "res_dropout": 0.0, "clip": 1.0, "num_epochs": 15},
        "this project's choice for its demo", make_demo,
    ),
)


def find_spec(name):
    """The spec of a data set: a known one by its name or file stem in any case, or one that is told by its file."""
    for spec in KNOWN:
        if name.strip().lower() in (spec.name, spec.stem):
            return spec
    if Path(name).name != name or name in ("", ".", ".."):
        raise UserError(f"--dataset {name!r} is not a name; give NAME of NAME_data.pkl, and its folder by --data_path")
    return DatasetSpec(name, name)


def told_by_path(path):
    """The spec of the data set that a file's path tells, and whether it is aligned; None for what it does not tell."""
    found = {}
    for spec in KNOWN:
        for aligned in (True, False):
            for name in map(Path, spec.names(aligned)):
                if Path(path).parts[-len(name.parts):] == name.parts:
                    found.setdefault(len(name.parts), []).append((spec, aligned))
    if found:
        best = found[max(found)]  # MOSI/Processed/aligned_50.pkl says more than aligned_50.pkl
        return best[0] if len(best) == 1 else (None, best[0][1])
    if match := re.fullmatch(r"(.+)_data(_noalign)?\.pkl", Path(path).name):
        return DatasetSpec(match[1], match[1]), match[2] is None
    return None, None


@dataclass(frozen=True)
class Split:
    """N samples. Modalities are in the order language, audio, vision."""

    features: tuple  # three (N, T_m, d_m) float32 tensors
    padding: tuple  # three (N, T_m) bool tensors, True where a step is padding
    labels: torch.Tensor  # (N, 1) float32 or (N, K) int64
    ids: list  # N strings

    def __len__(self):
        return len(self.labels)

    def batch(self, indices, device="cpu"):
        """The features, padding and labels of some samples on a device."""
        indices = torch.as_tensor(indices)
        there = indices.to(self.features[0].device)
        return (
            tuple(x[there].to(device) for x in self.features),
            tuple(x[there].to(device) for x in self.padding),
            self.labels[indices].to(device),
        )

    def to(self, device):
        """The split with its features and padding on a device. The labels, which metrics need, stay on the CPU."""
        features, padding = (tuple(x.to(device) for x in tensors) for tensors in (self.features, self.padding))
        return replace(self, features=features, padding=padding)


@dataclass(frozen=True)
class Dataset:
    """The splits, by name, and their task."""

    task: object
    splits: dict
    notes: list  # lines for the log about what reading changed
    protocol: str = "MulT"  # or "MMSA": whose splits these are
    source: dict = field(default_factory=dict)  # "file", its "sha256", and where it was "read_from"

    @property
    def input_dims(self):
        """(d_l, d_a, d_v)"""
        return tuple(x.size(2) for x in self.splits["train"].features)

    @property
    def input_lens(self):
        """(T_l, T_a, T_v)"""
        return tuple(x.size(1) for x in self.splits["train"].features)

    @property
    def nbytes(self):
        """The size of the features and padding."""
        return sum(x.nbytes for split in self.splits.values() for x in (*split.features, *split.padding))

    def to(self, device):
        """The data set with its splits on a device."""
        return replace(self, splits={name: split.to(device) for name, split in self.splits.items()})


def load_dataset(spec, data_path="data", aligned=False, cache_dir=None, wanted=SPLITS):
    """Read and check a data set, of which it returns the splits `wanted`; of the others nothing is read once the file
    has been converted. UserError, in one line, names the file, the place in it and the fault.
    """
    if spec.make:
        _, raw = read_layout(spec.make(aligned), spec.name)
        return make_dataset(Converted(convert(raw, spec.name, in_memory)[0]), spec, aligned, spec.name, wanted)
    path = find_file(spec, data_path, aligned)
    converted = read_file(path, cache_dir, lambda splits: check_splits(splits, spec, aligned, path), wanted)
    check_owner(converted.sha256, spec, path)
    return make_dataset(converted, spec, aligned, path, wanted)


def check_owner(sha256, spec, path):
    """UserError where a file is known as one of another data set."""
    if (owner := owner_of(sha256)) not in (None, spec):
        raise UserError(f"{path} is {owner.name}'s file by its SHA-256; name that of {spec.name} by --data_path")


def owner_of(sha256):
    """The spec of the data set that a published file of this SHA-256 is of, or None."""
    return next((spec for spec in KNOWN if sha256 in spec.mmsa_sha256), None)


def find_file(spec, data_path, aligned):
    """The path of a data set's file; UserError where it is not there."""
    path = spec.file(data_path, aligned)
    try:
        if not path.is_file():
            raise UserError(missing_file_message(spec, path, data_path, aligned))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return path


def make_dataset(converted, spec, aligned, where, wanted):
    """The Dataset of a converted file, or of what was made in memory."""
    chosen = {name: converted.splits[name] for name in wanted}
    task = check_splits(chosen, spec, aligned, where).of_protocol(converted.protocol)
    splits = {
        name: Split(
            features=tuple(torch.from_numpy(split.features[key]) for key in MODALITY_KEYS),
            padding=tuple(torch.from_numpy(split.padding[key]) for key in MODALITY_KEYS),
            labels=task.read_labels(split.labels, f"{where}, {name} labels"),
            ids=split.ids,
        )
        for name, split in chosen.items()
    }
    notes = [f"{where}, {note}" for note in converted.notes]
    source = {"file": str(where), "sha256": converted.sha256, "read_from": converted.place}
    return Dataset(task, splits, notes, converted.protocol, source)


def missing_file_message(spec, path, data_path, aligned):
    """Which file is missing and what to do about it."""
    other = spec.file(data_path, not aligned)
    fetch = f"{download_command(spec.name, data_path)} fetches it, and so does --download" if spec.paper else ""
    if other.is_file():
        use = f"{path} is missing, but {other.name} is there: {'leave out' if aligned else 'add'} --aligned to use it"
        return f"{use}; {fetch}" if fetch else use
    if spec.mmsa_folder and not spec.paper:
        name = f"{spec.mmsa_folder}/Processed/unaligned_{spec.mmsa_steps}.pkl"
        return f"{path} is missing: get {name} of MMSA's data at {MMSA_FOLDER} and put it into {data_path}"
    if fetch:
        return f"{path} is missing: {fetch}"
    known = ", ".join(known.name for known in KNOWN)
    return f"{path} is missing: put it there, name its folder by --data_path, or use a known data set ({known})"


def check_splits(splits, spec, aligned, where):
    """The task of the splits, raw or converted; UserError where labels or shapes break the format."""
    task = spec.task
    for name, split in splits.items():
        place = f"{where}, {name} labels"
        task = task or task_of_labels(split.labels.shape, place)
        if not task.takes(split.labels.shape):
            raise UserError(f"{place} have shape {split.labels.shape}, not that of {spec.name}'s task")
        task.read_labels(split.labels, place)
    check_shapes(splits, aligned, where)
    return task


def check_shapes(splits, aligned, where):
    """Every split has the steps and features of train, and aligned modalities have the same steps."""
    for name, split in splits.items():
        for key in MODALITY_KEYS:
            shape, train_shape = (s.shape(key)[1:] for s in (split, splits["train"]))
            if shape != train_shape:
                raise UserError(f"{where}, {name} {key} has (steps, features) {shape}, but train has {train_shape}")
    lengths = [splits["train"].shape(key)[1] for key in MODALITY_KEYS]
    if aligned and len(set(lengths)) > 1:
        raise UserError(
            f"{where} is not aligned: text, audio and vision have {lengths} steps; leave out --aligned and name "
            "the file ..._data_noalign.pkl"
        )
