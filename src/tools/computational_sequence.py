"""CMU-MultimodalSDK's computational sequences: one stream of features in time, of many videos, in an HDF5 file (.csd).

The file holds one group, named after the sequence, with `metadata` and `data`; `data/ID/features` (t, d) and
`data/ID/intervals` (t, 2), in seconds, are the steps of a video, ID, or of a segment or word of it, ID
"video[number]" (github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK, mmsdk/mmdatasdk/computational_sequence).

Its published folds, as JSON or as a module of the SDK, list the videos of train, valid and test.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from src.data.formats import SPLITS
from src.errors import UserError, printable
from src.files import open_file, read_text

MOST_BYTES = 1 << 30  # of the features of an entry
MOST_DENSE, FREE_BYTES = 100, 1 << 16  # times the bytes that they take in the file, and bytes more
SEGMENT_ID = re.compile(r"(.+)\[(\d+)\]")


@contextmanager
def open_sequence(path: str | Path) -> Iterator["ComputationalSequence"]:
    """The ComputationalSequence of a file, while it is open; UserError where it is none."""
    try:
        import h5py  # noqa: PLC0415, an optional extra
    except ImportError as error:
        raise UserError(f"{path} is HDF5, and h5py, which reads that, is not installed: pip install h5py") from error
    with damaged(f"{path} is damaged or no HDF5"), ExitStack() as stack:
        if not Path(path).is_file():
            raise UserError(f"{path} is missing; name a .csd file")
        open_file(path).close()
        file = stack.enter_context(h5py.File(path, "r"))
        limit_cache(file)
        names = list(file)
        data = inside(file, f"{names[0]}/data") if len(names) == 1 else None
        if not isinstance(data, h5py.Group):
            raise UserError(f"{path} is no computational sequence: it has no single group with 'data' in it")
        sequence = ComputationalSequence(path, data, names[0], dimension_names(data.parent))
        if not all(isinstance(entry, str) for entry in sequence.ids):
            raise UserError(f"{path} is damaged: ids in it are not text; get it again")
        kept_open = stack.pop_all()
    with kept_open:
        yield sequence


@contextmanager
def damaged(fault: str) -> Iterator[None]:
    """Whatever h5py raises, of a damaged file it may be anything, as a UserError that says this."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{fault} ({type(error).__name__}: {printable(error)[:200]}); get it again") from error


def limit_cache(file: Any) -> None:
    """Let HDF5 keep few groups of a file in memory: a sequence of words has a million, and each is read once."""
    config = file.id.get_mdc_config()
    config.set_initial_size, config.initial_size, config.min_size, config.max_size = True, 1 << 20, 1 << 20, 1 << 21
    file.id.set_mdc_config(config)


def inside(group: Any, path: str) -> Any:
    """What a group has at a path, None where there is nothing; ValueError where it lies in another file, or could."""
    names = path.split("/")
    for length in range(1, len(names) + 1):
        try:
            link = group.id.links.get_info("/".join(names[:length]).encode())
        except (KeyError, RuntimeError):  # what h5py raises differs between its versions
            return None
        if link.type:  # 0 of what lies in the group itself
            raise ValueError(f"{printable(path)} is a link to elsewhere")
    return group[path]


def values(dataset: Any) -> np.ndarray:
    """The values of a dataset; ValueError where they lie in another file, or are far more than the file has."""
    if dataset is None:
        raise ValueError("it is not there")
    if dataset.is_virtual or dataset.external:
        raise ValueError("it takes values from other files")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > min(MOST_BYTES, FREE_BYTES + MOST_DENSE * stored):
        raise ValueError(f"{dataset.nbytes:,} bytes of which {stored:,} are stored")
    return np.asarray(dataset[()])


def dimension_names(group: Any) -> tuple[str, ...]:
    """The names of the features in a sequence's metadata, none where it does not list them."""
    metadata = inside(group, "metadata") or {}
    for key in metadata:
        if key.startswith("dimension names"):  # some versions of the SDK glue the next key to it
            text = values(inside(metadata, key)).ravel()[0]
            with suppress(ValueError):
                names = json.loads(text)
                if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                    return tuple(names)
    return ()


class ComputationalSequence:
    """The entries of an open file; `entry` reads one, and keeps that which it read last."""

    def __init__(self, path: str | Path, data: Any, name: str = "", columns: tuple[str, ...] = ()):
        self.path, self.data = path, data
        self.name, self.columns = name, columns  # of the file's group, and of the features where the file names them
        self.width: int | None = None  # d, once an entry was read
        self.ids = dict.fromkeys(data)  # of its entries, in order, and quick to look up
        self.numbered: dict[str, dict[int, str]] = {}  # {video: {k: id}} of the entries "video[k]", by k
        numbered = ((SEGMENT_ID.fullmatch(entry), entry) for entry in self.ids if isinstance(entry, str))
        for video, k, entry in sorted((match[1], int(match[2]), entry) for match, entry in numbered if match):
            self.numbered.setdefault(video, {})[k] = entry
        self.entry = lru_cache(maxsize=1)(self._read)

    def _read(self, entry: str) -> tuple[np.ndarray, np.ndarray]:
        """Features (t, d) and intervals (t, 2) of an entry; UserError where they are no such arrays."""
        place = f"{self.path}, {printable(entry)}"
        with damaged(f"{place} is damaged or has no features and intervals"):
            features, intervals = (values(inside(self.data, f"{entry}/{key}")) for key in ("features", "intervals"))
        for name, array in (("features", features), ("intervals", intervals)):
            if array.dtype.kind not in "biuf":
                raise UserError(f"{place} {name} are not numbers; of words, take the vectors")
        width = self.width or (features.shape[1] if features.ndim == 2 else None)
        if not width or features.ndim != 2 or features.shape[1] != width or intervals.shape != (len(features), 2):
            raise UserError(
                f"{place} has features of shape {features.shape} and intervals of shape {intervals.shape}; expected "
                f"(steps, {width or 'features'}) and (steps, 2)"
            )
        self.width = width
        return features, intervals


def read_folds(path: str | Path) -> dict[str, list[str]]:
    """{split: ids of videos} of a JSON file, or of a module of the SDK, of which nothing is run. UserError where they
    are missing, or where splits share a video.
    """
    try:
        text = read_text(path)
        folds = standard_folds(text) if Path(path).suffix == ".py" else json.loads(text)
        folds = {split: list(dict.fromkeys(check_ids(folds[split]))) for split in SPLITS}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(
            f'{path} holds no folds; expected JSON like {{"train": [ids of videos], "valid": [...], "test": [...]}} or '
            "the SDK's module with standard_train_fold, standard_valid_fold and standard_test_fold"
        ) from error
    times = Counter(video for videos in folds.values() for video in videos)
    if shared := sorted(video for video, n in times.items() if n > 1):
        raise UserError(
            f"{path} has {len(shared)} videos in more than one split, as {printable(shared[0])}; keep each in one"
        )
    return folds


def check_ids(videos: Any) -> list[str]:
    """The list, if it is one of texts; TypeError else."""
    if not isinstance(videos, list) or not all(isinstance(video, str) for video in videos):
        raise TypeError("not a list of ids")
    return videos


def standard_folds(source: str) -> dict[str, list[str]]:
    """The folds that a module such as the SDK's cmu_mosei_std_folds.py assigns as plain lists."""
    assigned = {
        node.targets[0].id: node.value for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return {split: ast.literal_eval(assigned[f"standard_{split}_fold"]) for split in SPLITS}
