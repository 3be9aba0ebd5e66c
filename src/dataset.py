"""Data sets: what is known of each, and reading one from MulT's pickle format into checked tensors.

The format is a pickled dict of "train", "valid" and "test", each a dict of arrays: "text", "audio", "vision"
(N, T_m, d_m), "labels" (N, 1, 1) for sentiment or (N, K, 2) one-hot for K emotions, and perhaps "id" (N, ...).
NAME_data.pkl holds word-aligned sequences, NAME_data_noalign.pkl unaligned ones.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from modules.position_embedding import padding_mask
from src.demo import make_demo
from src.errors import UserError, printable
from src.safe_pickle import RefusedPickle, load_arrays
from src.sources import download_command
from src.tasks import EmotionClassification, SentimentRegression, task_of_labels

SPLITS = ("train", "valid", "test")
MODALITY_KEYS = ("text", "audio", "vision")  # in the order of modules.multimodal.MODALITIES


@dataclass(frozen=True)
class DatasetSpec:
    """What is known of a data set before its file is read."""

    name: str  # of its results folder
    stem: str  # of its files: {stem}_data.pkl and {stem}_data_noalign.pkl
    task: object = None  # None: the shape of the labels tells
    paper: dict = field(default_factory=dict)  # the settings it was published with, by flag
    paper_source: str = ""
    make: Callable | None = None  # makes it in memory, in place of a file

    def file(self, data_path, aligned):
        """The path of its pickle."""
        return Path(data_path) / f"{self.stem}_data{'' if aligned else '_noalign'}.pkl"


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
    ),
    DatasetSpec(
        "mosei", "mosei_senti", SentimentRegression(),
        table_5(batch_size=16, lr=1e-3, num_heads=8, kernel_l=1, embed_dropout=0.3, block_dropout=0.1, clip=1.0,
                num_epochs=20),
        "MulT Table 5, MOSEI; kernel_l is 1 or 3 there",
    ),
    DatasetSpec(
        "iemocap", "iemocap", EmotionClassification(),
        table_5(batch_size=32, lr=2e-3, num_heads=10, kernel_l=3, kernel_a=5, embed_dropout=0.3, block_dropout=0.25,
                clip=0.8, num_epochs=30),
        "MulT Table 5, IEMOCAP",
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
        return (
            tuple(x[indices].to(device) for x in self.features),
            tuple(x[indices].to(device) for x in self.padding),
            self.labels[indices].to(device),
        )


@dataclass(frozen=True)
class Dataset:
    """The three splits, by name, and their task. `notes` are lines for the log about what reading changed."""

    task: object
    splits: dict
    notes: list

    @property
    def input_dims(self):
        """(d_l, d_a, d_v)"""
        return tuple(x.size(2) for x in self.splits["train"].features)

    @property
    def input_lens(self):
        """(T_l, T_a, T_v)"""
        return tuple(x.size(1) for x in self.splits["train"].features)


def load_dataset(spec, data_path="data", aligned=False):
    """Read and check a data set. UserError, in one line, names the file, the place in it and the fault."""
    if spec.make:
        return check_dataset(spec.make(aligned), spec, aligned, spec.name)
    path = spec.file(data_path, aligned)
    try:
        if not path.is_file():
            raise UserError(missing_file_message(spec, path, data_path, aligned))
        with path.open("rb") as file:
            raw = load_arrays(file)
    except RefusedPickle as error:
        raise UserError(
            f"{path} was not read: it holds {error}, and only numpy arrays and plain containers are safe to load"
        ) from error
    except (pickle.UnpicklingError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}; copy or download it again") from error
    return check_dataset(raw, spec, aligned, path)


def missing_file_message(spec, path, data_path, aligned):
    """Which file is missing and what to do about it."""
    other = spec.file(data_path, not aligned)
    fetch = f"{download_command(spec.name, data_path)} fetches it, and so does --download" if spec in KNOWN else ""
    if other.is_file():
        use = f"{path} is missing, but {other.name} is there: {'leave out' if aligned else 'add'} --aligned to use it"
        return f"{use}; {fetch}" if fetch else use
    if fetch:
        return f"{path} is missing: {fetch}"
    known = ", ".join(known.name for known in KNOWN)
    return f"{path} is missing: put it there, name its folder by --data_path, or use a known data set ({known})"


def check_dataset(raw, spec, aligned, where):
    """Turn the dict of a file into a Dataset; UserError where it breaks the format. `where` names it in messages."""
    splits, notes = {}, []
    task = spec.task
    for name in SPLITS:
        arrays = _item(raw, name, where)
        place = f"{where}, {name}"
        labels = _numbers(_item(arrays, "labels", place), f"{place} labels")
        task = task or task_of_labels(labels.shape, f"{place} labels")
        if type(task) is not type(task_of_labels(labels.shape, f"{place} labels")):
            raise UserError(f"{place} labels have shape {labels.shape}, not that of {spec.name}'s task")
        features = []
        for key in MODALITY_KEYS:
            array = _numbers(_item(arrays, key, place), f"{place} {key}")
            if array.ndim != 3 or 0 in array.shape:
                raise UserError(f"{place} {key} has shape {array.shape}; expected (samples, steps, features)")
            if len(array) != len(labels):
                raise UserError(f"{place} has {len(array)} samples of {key} but {len(labels)} labels")
            features.append(_finite_features(array, key, place, notes))
        if not np.isfinite(labels).all():
            raise UserError(f"{place} labels hold {np.sum(~np.isfinite(labels))} numbers that are not finite")
        splits[name] = Split(
            features=tuple(features),
            padding=tuple(padding_mask(x) for x in features),
            labels=task.read_labels(labels, f"{place} labels"),
            ids=_ids(arrays.get("id"), len(labels), place),
        )
    _check_shapes(splits, aligned, where)
    return Dataset(task, splits, notes)


def _item(container, key, where):
    if not isinstance(container, dict):
        raise UserError(f"{where} is a {type(container).__name__}, not a dict that holds {key!r}")
    if key not in container:
        there = ", ".join(sorted(map(printable, container))) or "nothing"
        raise UserError(f"{where} has no {key!r}; it has {there}")
    return container[key]


def _numbers(array, where):
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise UserError(f"{where} is {kind}, not an array of numbers")
    return array


def _finite_features(array, key, place, notes):
    """The array as a float32 tensor. -inf in audio becomes 0, as in the original; nothing else may be non-finite."""
    silent = np.isneginf(array) & (key == "audio")
    with np.errstate(over="ignore"):  # what overflows is found below
        array = array.astype(np.float32)
    if silent.any():
        notes.append(f"{place} audio: {silent.sum()} elements of -inf set to 0")
        array[silent] = 0
    broken = ~np.isfinite(array)
    if broken.any():
        sample, step, feature = np.argwhere(broken)[0]
        raise UserError(
            f"{place} {key} holds {broken.sum()} numbers that are not finite in float32, the first in "
            f"sample {sample}, step {step}, feature {feature}; repair or drop those samples"
        )
    return torch.from_numpy(array)


def _ids(raw, samples, place):
    """One string a sample: its fields joined by '|', or its number where the file has no ids."""
    if raw is None:
        return [str(i) for i in range(samples)]
    if not isinstance(raw, (np.ndarray, list, tuple)) or getattr(raw, "ndim", 1) == 0 or len(raw) != samples:
        raise UserError(f"{place} does not have one id for each of its {samples} samples; mend or drop 'id'")

    def text(field):
        return field.decode("utf-8", "replace") if isinstance(field, bytes) else str(field)
    try:
        return ["|".join(map(text, np.ravel(np.asarray(fields, dtype=object)))) for fields in raw]
    except (ValueError, SystemError) as error:
        raise UserError(f"{place} id is damaged") from error


def _check_shapes(splits, aligned, where):
    """Every split has the steps and features of train, and aligned modalities have the same steps."""
    expected = [tuple(x.shape[1:]) for x in splits["train"].features]
    for name in SPLITS:
        shapes = [tuple(x.shape[1:]) for x in splits[name].features]
        for key, shape, train_shape in zip(MODALITY_KEYS, shapes, expected, strict=True):
            if shape != train_shape:
                raise UserError(f"{where}, {name} {key} has (steps, features) {shape}, but train has {train_shape}")
    lengths = [steps for steps, _ in expected]
    if aligned and len(set(lengths)) > 1:
        raise UserError(
            f"{where} is not aligned: text, audio and vision have {lengths} steps; leave out --aligned and name "
            "the file ..._data_noalign.pkl"
        )
