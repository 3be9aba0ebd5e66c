"""Take members out of a zip whose size fields may be too small for them.

The MulT authors' archive was made without zip64, so the size of a member over 4 GiB is stored modulo 2^32. Python's
zipfile trusts that field and stops in the middle with a CRC error. Here the directory is read by zipfile, but a member
ends where its deflate stream does; its CRC-32, and its size modulo 2^32, must then be those of the directory.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from src.data.fetch import SourceError
from src.errors import printable
from src.files import open_file

CHUNK = 2**16  # bytes of the zip at a time; they may inflate to a thousand times as many
SIZE_MODULUS = 2**32  # what the size field of a zip without zip64 counts to
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field
ENCRYPTED = 1  # bit of the flags
MOST_DENSE = 32  # times its bytes in the zip, which a member may have where less is stated


def find_members(path: Path, names: Container[str]) -> dict[str, zipfile.ZipInfo]:
    """{name: ZipInfo} of those of the names that the zip holds, in whatever folder of it."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise SourceError(f"{path} is not a whole zip ({printable(error)})") from error
    members: dict[str, zipfile.ZipInfo] = {}
    for info in listed:
        inside = PurePosixPath(info.filename.replace("\\", "/"))
        if inside.name not in names or info.is_dir():
            continue
        if inside.name in members:
            raise SourceError(f"{path} holds {inside.name} twice")
        if inside.is_absolute() or ".." in inside.parts or re.match("[A-Za-z]:", info.filename):
            raise SourceError(f"{path} was refused: its member {printable(info.filename)} points out of the zip")
        members[inside.name] = info
    return members


def extract(path: Path, info: zipfile.ZipInfo, target: Path, on_bytes: Callable[[int], Any] = lambda count: None,
            expected: int = 0) -> None:
    """Write the content of a member to the file `target`; SourceError where it is damaged, and OSError of the disk.

    It is damaged where it grows beyond the size stated, that expected and `MOST_DENSE` times its bytes in the zip.
    `on_bytes` is called with the number of bytes of the zip that were just read.
    """
    size, crc, most = 0, 0, max(info.file_size, expected, MOST_DENSE * info.compress_size)
    with path.open("rb") as source, target.open("wb") as out:
        source.seek(_data_offset(source, path, info))
        for piece in _content(source, path, info, on_bytes):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            if size > most:
                raise _damaged(path, info, f"it has more than the {info.file_size:,} bytes that are stated")
            out.write(piece)
    if size % SIZE_MODULUS != info.file_size % SIZE_MODULUS or crc != info.CRC:
        raise _damaged(path, info, f"its {size:,} bytes have CRC {crc:08x}, not {info.CRC:08x}")


def _data_offset(source: BinaryIO, path: Path, info: zipfile.ZipInfo) -> int:
    if not 0 <= info.header_offset < path.stat().st_size:
        raise _damaged(path, info, "its header is missing")
    source.seek(info.header_offset)
    header = source.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise _damaged(path, info, "its header is missing")
    if info.flag_bits & ENCRYPTED:
        raise SourceError(f"{printable(info.filename)} in {path} is encrypted; unpack it by hand")
    _, name_length, extra_length = LOCAL_HEADER.unpack(header)
    return info.header_offset + LOCAL_HEADER.size + name_length + extra_length


def _content(source: BinaryIO, path: Path, info: zipfile.ZipInfo, on_bytes: Callable[[int], Any]) -> Iterator[bytes]:
    """The content in pieces, to the end of its deflate stream, whatever its size field says."""
    if info.compress_type == zipfile.ZIP_STORED:
        yield from _stored(source, path, info, on_bytes)
        return
    if info.compress_type != zipfile.ZIP_DEFLATED:
        raise SourceError(f"{printable(info.filename)} in {path} is neither stored nor deflated; unpack it by hand")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # negative: no zlib header, as in a zip
    for piece in _stored(source, path, info, on_bytes):
        try:
            yield inflater.decompress(piece)
        except zlib.error as error:
            raise _damaged(path, info, printable(error)) from error
        if inflater.unused_data:
            break
    if not inflater.eof or inflater.unused_data:
        raise _damaged(path, info, "its content does not end where it should")


def _stored(source: BinaryIO, path: Path, info: zipfile.ZipInfo, on_bytes: Callable[[int], Any]) -> Iterator[bytes]:
    """The bytes of a member as they are in the zip."""
    left = info.compress_size
    while left:
        piece = source.read(min(CHUNK, left))
        if not piece:
            raise _damaged(path, info, "the zip ends in the middle of it")
        left -= len(piece)
        on_bytes(len(piece))
        yield piece


def _damaged(path: Path, info: zipfile.ZipInfo, reason: str) -> SourceError:
    return SourceError(f"{printable(info.filename)} in {path} is damaged ({reason})")
