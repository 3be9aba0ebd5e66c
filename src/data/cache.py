"""Data files converted once: float32 .npy files beside the source, mapped by every run after the first.

FILE.cache/ holds `lock` and `arrays/`: {split}_{text,audio,vision}.npy, labels_and_padding.npz, and manifest.json,
written last, with the ids and with what all was made of. They are used if the manifest names this format and a source
of the present name, size and time of change, and if all of them are there in its shapes; else they are made again, in
a folder that takes the name `arrays` when it is whole. One process at a time makes them.

Where FILE.cache cannot be written, a folder under ~/.cache (or XDG_CACHE_HOME) takes its place, and where that cannot
either, memory.
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from src.data.formats import MODALITY_KEYS, SPLITS, read_layout
from src.data.safe_pickle import RefusedPickle, load_arrays
from src.data.training_arrays import ConvertedSplit, convert, in_folder, in_memory, mapped
from src.errors import UserError, printable
from src.files import wait_for

FORMAT = 1  # of the manifest and of what the arrays mean
HOME_FOLDER = "pmr-mult"  # under ~/.cache


@dataclass(frozen=True)
class Converted:
    """A data file, converted, or what stands for one."""

    splits: dict  # {split: ConvertedSplit}
    protocol: str = "MulT"  # or "MMSA": whose splits these are
    sha256: str | None = None  # of the file
    place: str = "memory"  # where the arrays are
    notes: list = field(default_factory=list)  # lines about what converting changed


def read_file(path, cache_dir, check, wanted=SPLITS):
    """The splits `wanted` of a data file from its cache, or all of them converted, and cached where that is possible.

    `check(splits)` looks at the shapes and labels before anything is converted. UserError, naming the file and the
    place in it, where the file cannot be read or is not whole.
    """
    try:
        with path.open("rb") as file:
            source = describe(path, file)
            for folder in places(path, cache_dir):
                if converted := load(folder, source, wanted):
                    return converted
            return convert_file(path, file, source, cache_dir, check)
    except RefusedPickle as error:
        raise UserError(
            f"{path} was not read: it holds {error}, and only numpy arrays and plain containers are safe to load"
        ) from error
    except (pickle.UnpicklingError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}; copy or download it again") from error


def describe(path, file):
    """What tells an open file's content from an earlier one without reading it."""
    stat = os.fstat(file.fileno())
    return {"name": path.resolve().name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def places(path, cache_dir):
    """The folders that may hold the cache of a file, the best first."""
    path = path.resolve()
    folder_key = hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:16]  # files of one name lie in many folders
    elsewhere = f"{path.name}-{folder_key}"
    if cache_dir is not None:
        return [Path(cache_dir) / elsewhere]
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return [path.with_name(f"{path.name}.cache"), home / HOME_FOLDER / elsewhere]


def convert_file(path, file, source, cache_dir, check):
    """Convert an open file into the first place that takes it."""
    protocol, splits = read_layout(load_arrays(file), path)
    check(splits)
    source = {**source, "sha256": sha256_of(file)}
    notes = []
    for folder in places(path, cache_dir):
        try:
            with locked(folder, path):
                converted = load(folder, source)
                if converted is None:
                    with new_arrays(folder) as new:
                        arrays, changes = convert(splits, path, in_folder(new))
                        check_unchanged(path, file, source)
                        save(new, arrays, {"source": source, "protocol": protocol, "notes": changes})
                    converted = Converted(arrays, protocol, source["sha256"], str(folder), changes)
        except OSError as error:
            notes.append(f"converted data not kept in {folder}: {error.strerror or error}")
        else:
            return replace(converted, notes=notes + converted.notes)
    arrays, changes = convert(splits, path, in_memory)
    check_unchanged(path, file, source)
    return Converted(arrays, protocol, source["sha256"], notes=notes + changes)


def sha256_of(file):
    """The SHA-256 of an open file."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(path, file, source):
    """UserError if an open file is no longer what it was."""
    if not describe(path, file).items() <= source.items():
        raise UserError(f"{path} changed while it was read; start again once it is whole")


@contextlib.contextmanager
def locked(folder, path):
    """Hold a cache folder, made if need be, against other processes; it goes again if it has no arrays at the end."""
    with contextlib.ExitStack() as stack:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the last holder has removed the folder: make it again
                stack.enter_context(wait_for(folder / "lock", f"another process that converts {printable(path)}"))
                break
        try:
            yield
        finally:
            if not (folder / "arrays").exists():
                with contextlib.suppress(OSError):  # what else is in there stays
                    (folder / "lock").unlink()
                    folder.rmdir()


@contextlib.contextmanager
def new_arrays(folder):
    """An empty folder that becomes `arrays` if nothing goes wrong, and that is gone if something does."""
    new, arrays = folder / "new", folder / "arrays"
    for left in (new, arrays):  # by a process that was killed, or of another source
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        new.rename(arrays)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def save(folder, splits, manifest):
    """Write what `convert` has not written into its folder, the manifest last."""
    def write(name, content):
        with (folder / name).open("wb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
    write("labels_and_padding.npz", lambda file: np.savez(file, **{
        f"{name}_{kind}": array for name, split in splits.items()
        for kind, array in (("labels", split.labels), *split.padding.items())
    }))
    manifest = {
        "format": FORMAT, **manifest,
        "shapes": {f"{name}_{key}": split.shape(key) for name, split in splits.items() for key in MODALITY_KEYS},
        "ids": {name: split.ids for name, split in splits.items()},
    }
    write("manifest.json", lambda file: file.write(json.dumps(manifest).encode()))


def load(folder, source, wanted=SPLITS):
    """The Converted in a cache folder, or None where there is none of this source that is whole. Of other splits than
    those `wanted` no array is read.
    """
    arrays = folder / "arrays"
    try:
        opened = os.stat(arrays).st_ino
        manifest = json.loads((arrays / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT or not source.items() <= manifest["source"].items():
            return None
        splits = _load_splits(arrays, manifest, wanted)
        if os.stat(arrays).st_ino != opened:  # another process has put new arrays there meanwhile
            return None
        return Converted(splits, manifest["protocol"], manifest["source"]["sha256"], str(folder), manifest["notes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None


def _load_splits(folder, manifest, wanted):
    """{split: ConvertedSplit} out of a folder; ValueError where an array is not what it should be."""
    splits = {}
    with np.load(folder / "labels_and_padding.npz", allow_pickle=False) as rest:
        for name in wanted:
            split = splits[name] = ConvertedSplit(
                features={key: mapped(folder / f"{name}_{key}.npy") for key in MODALITY_KEYS},
                padding={key: rest[f"{name}_{key}"] for key in MODALITY_KEYS},
                labels=rest[f"{name}_labels"],
                ids=manifest["ids"][name],
            )
            for key in MODALITY_KEYS:
                features, padding = split.features[key], split.padding[key]
                if not (
                    list(features.shape) == manifest["shapes"][f"{name}_{key}"] and features.dtype == np.float32
                    and padding.shape == features.shape[:2] and padding.dtype == bool
                    and len(split.labels) == len(split.ids) == len(features)
                ):
                    raise ValueError(f"{name} {key}")
    return splits
