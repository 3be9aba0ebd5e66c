"""The checked tensors that training reads.

src/data/specs.py names the file of a data set, src/data/formats.py describes its content, src/data/cache.py reads it.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.data.asked import compare
from src.data.cache import Converted, convert, in_memory, read_file
from src.data.formats import MODALITY_KEYS, SPLITS, read_layout
from src.data.rows import Rows
from src.data.specs import DatasetSpec, find_file
from src.errors import UserError
from src.tasks.choice import ANYTHING, Asked, Choice, choose, shape_of

from modules.sequence import Sequence, first_real_steps

SAMPLES_LOOKED_AT = 64  # of each split, so that the fingerprint of a large data set takes no time
WINDOW = 16  # batches that are sorted together
FEW = 4  # lengths that a trimmed stream has where they are to be few


@dataclass(frozen=True)
class Split:
    """N samples. Modalities are in the order language, audio, vision."""

    features: tuple  # three (N, T_m, d_m) float32 tensors, or Rows of files that give such
    padding: tuple  # three (N, T_m) bool tensors, True where a step is padding
    labels: torch.Tensor  # (N, 1) float32 or (N, K) int64
    ids: list  # N strings
    few_lengths: bool = field(default=False, kw_only=True)  # whether trimmed streams have one of a FEW lengths

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def first_real_steps(self) -> torch.Tensor:
        """The first real step of each modality and sample, (3, N), on the CPU; of one without any, its last step."""
        return torch.stack([first_real_steps(mask) for mask in self.padding]).cpu()

    @property
    def sample_lengths(self) -> torch.Tensor:
        """The steps of each sample from its first real one on, all modalities together: (N,), on the CPU."""
        return sum(mask.size(1) for mask in self.padding) - self.first_real_steps.sum(dim=0)

    def batch(self, indices: Any, device: str | torch.device = "cpu",
              trimmed: bool = False) -> tuple[tuple[Sequence, ...], torch.Tensor]:
        """The streams of some samples, a Sequence of features for each modality, and their labels, on a device.

        If `trimmed`, the front padding that all of these samples share is cut.
        """
        indices = torch.as_tensor(indices)
        there = indices.to(self.features[0].device)
        cuts = self.first_real_steps[:, indices].amin(dim=1).tolist() if trimmed else [0] * len(self.features)
        if self.few_lengths:
            cuts = [cut - cut % math.ceil(x.size(1) / FEW) for x, cut in zip(self.features, cuts, strict=True)]
        streams = tuple(
            Sequence.of(x[there, cut:].to(device), padding[there, cut:].to(device), cut)
            for x, padding, cut in zip(self.features, self.padding, cuts, strict=True)
        )
        return streams, self.labels[indices].to(device)

    def to(self, device: str | torch.device) -> "Split":
        """The split with its features and padding on a device. The labels, which metrics need, stay on the CPU."""
        features, padding = (tuple(x.to(device) for x in tensors) for tensors in (self.features, self.padding))
        return replace(self, features=features, padding=padding)


@dataclass(frozen=True)
class Dataset:
    """The splits, by name, and their task."""

    task: Any  # of src/tasks.py
    splits: dict
    notes: list[str]  # lines for the log about changes that reading made
    protocol: str = "MulT"  # or "MMSA": whose splits these are
    choice: str = ""  # the task and why it was chosen, for the log
    source: dict = field(default_factory=dict)  # "file", its "sha256", and where it was "read_from"

    @property
    def input_dims(self) -> tuple[int, ...]:
        """(d_l, d_a, d_v)"""
        return tuple(x.size(2) for x in self.splits["train"].features)

    @property
    def input_lens(self) -> tuple[int, ...]:
        """(T_l, T_a, T_v)"""
        return tuple(x.size(1) for x in self.splits["train"].features)

    @property
    def nbytes(self) -> int:
        """The size of the features and padding."""
        return sum(x.nbytes for split in self.splits.values() for x in (*split.features, *split.padding))

    def to(self, device: str | torch.device) -> "Dataset":
        return replace(self, splits={name: split.to(device) for name, split in self.splits.items()})

    def of_few_lengths(self) -> "Dataset":
        """The data set with few lengths of trimmed streams, for each of which a GPU keeps graphs."""
        return replace(self, splits={name: replace(split, few_lengths=True) for name, split in self.splits.items()})


def load_dataset(spec: DatasetSpec, data_path: str | Path = "data", aligned: bool = False,
                 cache_dir: str | Path | None = None, wanted: Iterable[str] = SPLITS,
                 asked: Asked = ANYTHING) -> Dataset:
    """Read and check a data set; returns the splits `wanted`. The others are not read once the file has been converted.
    `asked` are the flags about labels.

    UserError, in one line, names the file, the place in it and the fault.
    """
    if spec.make:
        _, raw = read_layout(spec.make(aligned), spec.name)
        return make_dataset(Converted(convert(raw, spec.name, in_memory)[0]), spec, aligned, spec.name, wanted,
                            asked)
    path = find_file(spec, data_path, aligned)
    converted = read_file(path, cache_dir, lambda splits: check_splits(splits, spec, aligned, path, asked), wanted)
    guesses = compare(converted.splits, spec, aligned, path, converted.sha256)
    dataset = make_dataset(converted, spec, aligned, path, wanted, asked)
    return replace(dataset, notes=guesses + dataset.notes)


def make_dataset(converted: Converted, spec: DatasetSpec, aligned: bool, where: str | Path,
                 wanted: Iterable[str], asked: Asked) -> Dataset:
    """The Dataset of a converted file, or of arrays that were made in memory."""
    chosen = {name: converted.splits[name] for name in wanted}
    choice = check_splits(chosen, spec, aligned, where, asked)
    task = choice.task.of_protocol(converted.protocol)
    splits = {
        name: Split(
            features=tuple(x if isinstance(x := split.features[key], Rows) else torch.from_numpy(x)
                           for key in MODALITY_KEYS),
            padding=tuple(torch.from_numpy(split.padding[key]) for key in MODALITY_KEYS),
            labels=task.read_labels(split.labels, f"{where}, {name} labels"),
            ids=split.ids,
        )
        for name, split in chosen.items()
    }
    if not asked.recorded:
        try:
            task = task.weighted(asked.class_weights, splits["train"].labels)
        except ValueError as error:
            raise UserError(str(error)) from error
    notes = [f"{where}, {note}" for note in converted.notes]
    notes += [f"{where}, {name} labels: {change}" for name, split in chosen.items()
              if (change := task.changes(split.labels))]
    if task.weights:
        weights = zip(task.labels, task.weights, strict=True)
        notes.append("class weights: " + ", ".join(f"{label} {weight:.4g}" for label, weight in weights))
    source = {"file": str(where), "sha256": converted.sha256, "read_from": converted.place}
    return Dataset(task, splits, notes, converted.protocol, str(choice), source)


def check_splits(splits: dict, spec: DatasetSpec, aligned: bool, where: str | Path,
                 asked: Asked = ANYTHING) -> Choice:
    """The task of the splits, raw or converted, by their training labels; UserError where they are not those asked for,
    or labels or shapes break the format.
    """
    compare(splits, spec, aligned, where)
    choice = choose(splits["train"].labels, asked, spec.tasks, spec.known_by, f"{where}, train labels")
    of_train = splits["train"].labels.shape[1:]
    for name, split in splits.items():
        place = f"{where}, {name} labels"
        if split.labels.shape[1:] != of_train:
            raise UserError(f"{place} has shape {split.labels.shape}; expected {shape_of(of_train)}, as in train")
        choice.task.read_labels(split.labels, place)
    for name, split in splits.items():
        for key in MODALITY_KEYS:
            shape, train_shape = (s.features[key].shape[1:] for s in (split, splits["train"]))
            if shape != train_shape:
                raise UserError(f"{where}, {name} {key} has (steps, features) {shape}, but train has {train_shape}")
    return choice


def lose(stream: Sequence, lost: torch.Tensor) -> Sequence:
    """A stream in which the steps that `lost` (B, T), or (B, 1) for all of a sample, marks are padding."""
    assert stream.padding is not None
    lost = lost.to(stream.x.device)
    return stream._replace(x=stream.x.masked_fill(lost.unsqueeze(-1), 0), padding=stream.padding | lost)


def lost_modalities(samples: int, share: float, *key: int) -> torch.Tensor:
    """The number of the modality that each of some samples loses, with the probability `share`, else -1: (samples,).

    The key, such as seed, epoch and step, decides the draws. No other draws depend on them.
    """
    random = np.random.default_rng(key)
    return torch.from_numpy(np.where(random.random(samples) < share, random.integers(0, 3, samples), -1))


def fingerprint(dataset: Dataset) -> str:
    """A short text that differs between data sets: a hash of all labels and ids, and of the features of some samples.
    """
    digest = hashlib.sha256()
    for name, split in sorted(dataset.splits.items()):
        streams, _ = split.batch(torch.arange(0, len(split), -(-len(split) // SAMPLES_LOOKED_AT)))
        for content in (name.encode(), "\n".join(split.ids).encode(), split.labels.numpy(),
                        *(stream.x.contiguous().numpy() for stream in streams)):
            digest.update(content)
    return digest.hexdigest()[:16]


def training_batches(split: Split, batch_size: int, generator: torch.Generator,
                     by_length: bool = False) -> tuple[torch.Tensor, ...]:
    """The indices of an epoch's batches, in a random order drawn from `generator`.

    A trimmed batch is as long as its longest sample. With `by_length` that order is cut into windows, each window is
    sorted by length into batches, and the batches come in a random order: a sample meets other samples in every epoch,
    mostly some of its own length.
    """
    order = torch.randperm(len(split), generator=generator)
    if not by_length:
        return order.split(batch_size)
    lengths = split.sample_lengths
    windows = [window[lengths[window].argsort(stable=True)] for window in order.split(WINDOW * batch_size)]
    batches = torch.cat(windows).split(batch_size)
    return tuple(batches[i] for i in torch.randperm(len(batches), generator=generator))


def evaluation_batches(split: Split, batch_size: int, by_length: bool = False) -> tuple[torch.Tensor, ...]:
    """The indices of batches in the split's order, or from its shortest sample to its longest."""
    order = split.sample_lengths.argsort(stable=True) if by_length else torch.arange(len(split))
    return order.split(batch_size)
