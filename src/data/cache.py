"""Data files converted once: finite float32 .npy files beside the source, read by every run after the first.

FILE.cache/ holds `lock` and `arrays/`: {split}_{text,audio,vision}.npy, labels_and_padding.npz, and manifest.json,
written last, with the ids, with checksums and with what all was made of. They are used if the manifest names this
format and a source of the present name, size and time of change, and if all of them are there in its shapes; else they
are made again, in a folder that takes the name `arrays` when it is whole. One process at a time makes them. The
manifest has a checksum of its own, as the .npz has; that of a sample is compared when a run first reads it
(src/data/rows.py).

Where FILE.cache cannot be written, a folder under ~/.cache (or XDG_CACHE_HOME) takes its place, and where that cannot
either, memory.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from src.data.conversion import Stream
from src.data.file_kinds import read_pickle
from src.data.formats import MODALITY_KEYS, SPLITS, RawSplit, read_layout
from src.data.rows import MANIFEST, Rows, header_of
from src.errors import UserError, printable
from src.files import MOST_LOG, check_zip, keep, open_file, read_text, wait_for
from src.sealed import seal, unseal

FORMAT = 2  # of the manifest and of what the arrays mean; 1 had no checksums
HOME_FOLDER = "pmr-mult"  # under ~/.cache
Store = Callable[[str, tuple[int, ...], Iterable[np.ndarray]], Any]  # keeps the chunks of an array
LARGE = 1 << 28  # bytes; below that, converting takes about a second, and no bar is shown


@dataclass(frozen=True)
class ConvertedSplit:
    """A split as arrays in memory, its features perhaps as Rows of files."""

    features: dict  # {modality key: (N, T_m, d_m) float32, finite}
    padding: dict  # {modality key: (N, T_m) bool, True where a step is all zeros}
    labels: np.ndarray  # (N, ...), as the file's
    ids: list  # N strings


@dataclass(frozen=True)
class Converted:
    """The arrays of a data file, or of a data set that is made in memory."""

    splits: dict  # {split: ConvertedSplit}
    protocol: str = "MulT"  # or "MMSA": whose splits these are
    sha256: str | None = None  # of the file
    place: str = "memory"  # where the arrays are
    notes: list[str] = field(default_factory=list)  # lines about changes that converting made


def read_file(path: Path, cache_dir: str | Path | None, check: Callable[[dict[str, RawSplit]], Any],
              wanted: Iterable[str] = SPLITS) -> Converted:
    """The splits `wanted` of a data file from its cache, or all of them converted, and cached where that is possible.

    `check(splits)` may refuse the shapes and labels before anything is converted. UserError, naming the file and the
    place in it, where the file cannot be read or is not whole.
    """
    try:
        with open_file(path) as file:
            source = describe(path, file)
            for folder in places(path, cache_dir):
                if converted := load(folder, source, wanted):
                    return converted
            return convert_file(path, file, source, cache_dir, check)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}; copy or download it again") from error


def describe(path: Path, file: BufferedReader) -> dict[str, Any]:
    """The name, size and time of an open file, which change with its content."""
    stat = os.fstat(file.fileno())
    return {"name": path.resolve().name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def places(path: Path, cache_dir: str | Path | None) -> list[Path]:
    """The folders that may hold the cache of a file, the best first."""
    path = path.resolve()
    folder_key = hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:16]  # files of one name lie in many folders
    elsewhere = f"{path.name}-{folder_key}"
    if cache_dir is not None:
        return [Path(cache_dir) / elsewhere]
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    at_home = [home / HOME_FOLDER / elsewhere] if home.is_absolute() else []  # some users have no home
    return [path.with_name(f"{path.name}.cache"), *at_home]


def convert_file(path: Path, file: BufferedReader, source: dict[str, Any], cache_dir: str | Path | None,
                 check: Callable[[dict[str, RawSplit]], Any]) -> Converted:
    """Convert an open file into the first place that takes it."""
    protocol, splits = read_layout(read_pickle(file, path), path)
    check(splits)
    source = {**source, "sha256": sha256_of(file)}
    notes = []
    for folder in places(path, cache_dir):
        try:
            with locked(folder, path):
                converted = load(folder, source)
                if converted is None:
                    if (folder / "arrays").exists():
                        notes.append(f"what {folder} kept is damaged or of another file: it is made again")
                    with new_arrays(folder) as new:
                        arrays, changes = convert(splits, path, in_folder(new))
                        check_unchanged(path, file, source)
                        save(new, arrays, {"source": source, "protocol": protocol, "notes": changes})
                    converted = load(folder, source)
                if converted is None:
                    raise OSError("what was written there cannot be read again")
        except OSError as error:
            notes.append(f"converted data not kept in {folder}: {error.strerror or error}")
        else:
            return replace(converted, notes=notes + converted.notes)
    arrays, changes = convert(splits, path, in_memory)
    check_unchanged(path, file, source)
    return Converted(arrays, protocol, source["sha256"], notes=notes + changes)


def sha256_of(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def check_unchanged(path: Path, file: BufferedReader, source: dict[str, Any]) -> None:
    """UserError if an open file has changed since it was described."""
    if not describe(path, file).items() <= source.items():
        raise UserError(f"{path} changed while it was read; start again once it is whole")


@contextlib.contextmanager
def locked(folder: Path, path: Path) -> Iterator[None]:
    """Make a cache folder and keep other processes out of it; delete it if it has no arrays at the end."""
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
def new_arrays(folder: Path) -> Iterator[Path]:
    """An empty folder that becomes `arrays` at the end of the block, or is deleted if the block fails."""
    new, arrays = folder / "new", folder / "arrays"
    for left in (new, arrays):  # by a process that was killed, or of another source
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        new.rename(arrays)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def save(folder: Path, splits: dict[str, ConvertedSplit], manifest: dict[str, Any]) -> None:
    """Write what `convert` has not written into its folder, the manifest last."""
    def write(name: str, content: Callable[[Any], Any]) -> None:
        with (folder / name).open("wb") as file:
            content(file)
            keep(file)
    write("labels_and_padding.npz", lambda file: np.savez(file, **{
        f"{name}_{kind}": array for name, split in splits.items()
        for kind, array in (("labels", split.labels), *split.padding.items())
    }))
    manifest = {
        "format": FORMAT, **manifest,
        **{kind: {f"{name}_{key}": np.asarray(getattr(split.features[key], kind)).tolist()
                  for name, split in splits.items() for key in MODALITY_KEYS} for kind in ("shape", "sums")},
        "ids": {name: split.ids for name, split in splits.items()},
    }
    write(MANIFEST, lambda file: file.write(json.dumps(seal(manifest)).encode()))


def load(folder: Path, source: dict[str, Any], wanted: Iterable[str] = SPLITS) -> Converted | None:
    """The Converted in a cache folder, or None where there is none of this source that is whole. Of other splits than
    those `wanted` no array is read.
    """
    arrays = folder / "arrays"
    try:
        opened = os.stat(arrays).st_ino
        manifest = unseal(json.loads(read_text(arrays / MANIFEST, MOST_LOG)))
        if manifest["format"] != FORMAT or not source.items() <= manifest["source"].items():
            return None
        splits = _load_splits(arrays, manifest, wanted)
        if os.stat(arrays).st_ino != opened:  # another process has put new arrays there meanwhile
            return None
        return Converted(splits, manifest["protocol"], manifest["source"]["sha256"], str(folder), manifest["notes"])
    except Exception:  # a damaged file can fail in any way
        return None


def _load_splits(folder: Path, manifest: dict[str, Any], wanted: Iterable[str]) -> dict[str, ConvertedSplit]:
    """{split: ConvertedSplit} out of a folder; ValueError where an array does not fit the manifest."""
    splits = {}
    check_zip(folder / "labels_and_padding.npz")
    with np.load(folder / "labels_and_padding.npz", allow_pickle=False) as rest:
        for name in wanted:
            split = splits[name] = ConvertedSplit(
                features={key: Rows(folder / f"{name}_{key}.npy", *(manifest[kind][f"{name}_{key}"] for kind in
                                                                    ("shape", "sums"))) for key in MODALITY_KEYS},
                padding={key: rest[f"{name}_{key}"] for key in MODALITY_KEYS},
                labels=rest[f"{name}_labels"],
                ids=manifest["ids"][name],
            )
            for key in MODALITY_KEYS:
                features, padding = split.features[key], split.padding[key]
                if not (padding.shape == features.shape[:2] and padding.dtype == bool
                        and len(split.labels) == len(split.ids) == len(features)):
                    raise ValueError(f"{name} {key}")
    return splits


def convert(splits: dict[str, RawSplit], where: str | Path,
            store: Store) -> tuple[dict[str, ConvertedSplit], list[str]]:
    """{split: RawSplit} -> {split: ConvertedSplit}, and lines about the changes.

    `store(name, shape, chunks)` keeps the chunks of an array and returns it whole. UserError, naming the place in the
    file `where`, where features are not finite.
    """
    converted, notes = {}, []
    total = sum(array.nbytes for split in splits.values() for array in split.features.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc=f"converting {where}", leave=False,
              disable=total < LARGE or not sys.stderr.isatty()) as bar:
        for name, split in splits.items():
            streams = {key: Stream(split.features[key], key, split.lengths.get(key)) for key in MODALITY_KEYS}
            features = {
                key: store(f"{name}_{key}", stream.array.shape, stream.chunks(f"{where}, {name} {key}", bar.update))
                for key, stream in streams.items()
            }
            padding = {key: stream.padding for key, stream in streams.items()}
            converted[name] = ConvertedSplit(features, padding, np.array(split.labels), split.ids)
            notes += [f"{name}: {note}" for note in split.notes]
            notes += [line for key, stream in streams.items() for line in stream.notes(f"{name} {key}")]
    if moved := [key for key in MODALITY_KEYS if key in splits["train"].lengths]:
        notes.append(f"padding behind {', '.join(moved)} moved to the front")
    return converted, notes


def in_memory(name: str, shape: tuple[int, ...], chunks: Iterable[np.ndarray]) -> np.ndarray:
    array = np.empty(shape, dtype=np.float32)
    filled = 0
    for chunk in chunks:
        array[filled:filled + len(chunk)] = chunk
        filled += len(chunk)
    return array


def in_folder(folder: Path) -> Store:
    """Keep arrays in {name}.npy of a folder, as Rows."""
    def store(name: str, shape: tuple[int, ...], chunks: Iterable[np.ndarray]) -> Rows:
        path, sums = folder / f"{name}.npy", list[int]()
        with path.open("wb") as file:
            file.write(header_of(shape))
            for chunk in chunks:
                written = np.ascontiguousarray(chunk, dtype="<f4")
                sums += map(zlib.crc32, written)
                file.write(written.data)
            keep(file)
        return Rows(path, shape, sums)
    return store
