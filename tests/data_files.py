"""Small data files in MulT's format and in MMSA's, for tests."""

import pickle

import numpy as np

from src.data.specs import find_spec
from src.dataset import load_dataset


def make_splits(task="sentiment", lens=(6, 9, 11), dims=(12, 5, 8), sizes=(12, 6, 6), seed=0):
    """Random splits of a task, "sentiment" (with ids of MOSI's kind) or "emotion" (IEMOCAP's four, without ids).

    `lens` and `dims` are those of text, audio and vision, `sizes` those of train, valid and test. Sample i starts with
    i % 3 steps of padding in every stream; no other step is zero.
    """
    random = np.random.RandomState(seed)
    return {
        split: _make_split(split, task, lens, dims, size, random)
        for split, size in zip(("train", "valid", "test"), sizes, strict=True)
    }


def _make_split(split, task, lens, dims, size, random):
    arrays = {}
    for key, steps, width in zip(("text", "audio", "vision"), lens, dims, strict=True):
        arrays[key] = random.normal(size=(size, steps, width)).astype(np.float32)
        for i, sample in enumerate(arrays[key]):
            sample[: i % 3] = 0
    if task == "sentiment":
        arrays["labels"] = random.uniform(-3, 3, (size, 1, 1)).astype(np.float32)
        arrays["id"] = np.array([(f"{split}{i}", f"{i}.5", f"{i + 1}.25") for i in range(size)], dtype="S")
    else:
        arrays["labels"] = np.eye(2, dtype=np.float32)[random.randint(0, 2, (size, 4))]
    return arrays


def write_dataset(folder, stem, splits, aligned):
    """Write the splits as a data set's file of that alignment; returns its path."""
    path = folder / f"{stem}_data{'' if aligned else '_noalign'}.pkl"
    path.write_bytes(pickle.dumps(splits, protocol=4))
    return path


def give_data(folder, **options):
    """An unaligned data set `mine` in data/ of a folder, by the options of make_splits; already converted."""
    (folder / "data").mkdir()
    write_dataset(folder / "data", "mine", make_splits(**options), aligned=False)
    load_dataset(find_spec("mine"), folder / "data")


def make_mmsa_splits(aligned=False, lens=(6, 9, 11), dims=(12, 5, 8), sizes=(12, 6, 6), seed=0, bound=3):
    """Random splits as MMSA has them, with sequences at the front of their steps and the keys of its files; the labels
    go from -bound to bound.

    Sample i has 1 + i % T steps in a stream of T, or in all of them if `aligned`. Behind a text BERT has left numbers.
    """
    random = np.random.RandomState(seed)
    return {
        split: _make_mmsa_split(split, aligned, lens, dims, size, bound, random)
        for split, size in zip(("train", "valid", "test"), sizes, strict=True)
    }


def _make_mmsa_split(split, aligned, lens, dims, size, bound, random):
    steps = [1 + np.arange(size) % length for length in lens]
    arrays = {}
    for key, length, width, real in zip(("text", "audio", "vision"), lens, dims, steps, strict=True):
        arrays[key] = random.normal(size=(size, length, width))
        if key != "text":
            arrays[key][np.arange(length) >= real[:, None]] = 0
    mask = np.arange(lens[0]) < steps[0][:, None]
    arrays["text_bert"] = np.stack([random.randint(1, 30000, mask.shape) * mask, mask, 0 * mask], axis=1).astype(float)
    if not aligned:
        arrays |= {"audio_lengths": steps[1].tolist(), "vision_lengths": steps[2]}
    labels = random.uniform(-bound, bound, size).round(1)
    return {
        **arrays, "regression_labels": labels, "classification_labels": (np.sign(labels) + 1),
        "annotations": ["Negative", "Neutral", "Positive"] * (size // 3), "raw_text": np.array(["A TEXT"] * size),
        "id": [f"{split}{i}$_${i}" for i in range(size)],
    }
