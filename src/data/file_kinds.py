"""A data file's content, or what the file is if it is no pickle, and the command that reads it if there is one.

Home-made, since libraries that know magic numbers (python-magic) need a system library and know no command.
"""

import pickle
import re
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

from src.data.safe_pickle import RefusedPickle, load_arrays
from src.errors import UserError

HEAD = 1024  # bytes that are looked at
TORCH = "a file of torch, which is not read here; load it with torch.load, turn its tensors into numpy arrays, and " \
        "pickle a dict of train, valid and test (a checkpoint is for --init_from)"
KINDS = {  # the first bytes: the kind, and what to do
    b"\x89HDF\r\n\x1a\n": "HDF5; `python -m src convert` packs computational sequences (.csd) into a data file",
    b"\x93NUMPY": "one array of numpy (npy); pickle a dict of train, valid and test",
    b"\x1f\x8b": "compressed by gzip; unpack it with gunzip",
    b"BZh": "compressed by bzip2; unpack it with bunzip2",
    b"\xfd7zXZ\x00": "compressed by xz; unpack it with unxz",
    b"7z\xbc\xaf\x27\x1c": "an archive of 7-Zip; unpack it with 7z x",
    b"Rar!": "a rar archive; unpack it with unrar x",
    b"version https://git-lfs": "a pointer of Git LFS, not the data; fetch that with git lfs pull",
    b"PAR1": "a parquet table; pickle a dict of train, valid and test",
}
TAR = slice(257, 262), b"ustar"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number, in a pickle of its own, of torch before 1.6
PICKLED_TEXT = re.compile(rb"[(c](d|l|t|numpy|collections|copy_reg|_codecs)")  # how protocols 0 and 1 start
NAME = re.compile(r"[\w.]+")  # of something in a module


def read_pickle(file: BufferedReader, path: Path) -> Any:
    """The content of an open pickle; UserError, naming the file, where it holds other things, is damaged, or is none.
    """
    head = file.read(HEAD)
    try:
        if kind := kind_by_bytes(head, file):
            raise UserError(f"{path} is no pickle: it is {kind}")
        file.seek(0)
        return load_arrays(file)
    except pickle.UnpicklingError as error:
        refused = isinstance(error, RefusedPickle)
        if not (refused and NAME.fullmatch(str(error))) and (kind := kind_of_text(head)):
            raise UserError(f"{path} is no pickle: it is {kind}") from error
        raise UserError(
            f"{path} was not read: it holds {error}, and only numpy arrays and plain containers are safe to load"
            if refused else f"{path} cannot be read: {error}; copy or download it again"
        ) from error


def kind_by_bytes(head: bytes, file: BufferedReader) -> str | None:
    """What a file is by its first bytes, which no pickle of arrays has."""
    where, magic = TAR
    if head[where] == magic:
        return "a tar archive; unpack it with tar xf"
    if head.startswith(ZIP):
        return kind_of_zip(file)
    if OLD_TORCH in head[:32]:
        return TORCH
    return next((kind for magic, kind in KINDS.items() if head.startswith(magic)), None)


def kind_of_zip(file: BufferedReader) -> str:
    """What a zip is by the names of its members."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return "a zip (or npz, or a file of torch) that is cut; copy or download it again"
    if names and all(name.endswith(".npy") for name in names):
        return "arrays of numpy (npz); np.load it and pickle a dict of train, valid and test"
    if any(name.endswith("/data.pkl") for name in names):
        return TORCH
    return "a zip; `python -m src download --archive FILE` takes MulT's data files out of one, unzip any others"


def kind_of_text(head: bytes) -> str | None:
    """What a file is that is no pickle, if its first bytes are text."""
    if PICKLED_TEXT.match(head):
        return None
    try:
        text = head.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        if len(head) < HEAD or error.start < HEAD - 4:  # not only a letter that the end of the head cuts
            return None
        text = head[:error.start].decode("utf-8-sig").strip()
    if not text or not all(letter.isprintable() or letter in "\r\n\t" for letter in text):
        return None
    if text[0] == "<":
        return "a web page (HTML) in place of the data; download it again"
    if text[0] in "{[":
        return "text (JSON); pickle a dict of train, valid and test, each of numpy arrays"
    return "text (a csv table?); pickle a dict of train, valid and test, each of numpy arrays"
