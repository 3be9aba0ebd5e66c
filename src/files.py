"""Files that are whole or absent, folders that one process writes at a time, and what may be read.

docs/guide/bounds.md says what an input file may cost.
"""

import codecs
import errno
import os
import platform
import secrets
import stat
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from src.errors import UserError, printable

BUSY = "is being written by"  # of the message where another process has the folder
MOST_TEXT, MOST_LOG = 1 << 20, 1 << 26  # bytes of a record of a run or a file of settings, and of a log
FREE_SIZE = 1 << 20  # bytes, a size for which no file is suspect
MOST_HOLES = 100  # times the bytes on the disk that a file has
MOST_DENSE = 100  # times its size that a zip unpacks to


def open_file(path: str | Path) -> BufferedReader:
    """Open a file for reading. OSError where it is a pipe or device, which may never end, or nearly all holes, which
    take no place on a disk and read as zeros.
    """
    no_waiting = getattr(os, "O_NONBLOCK", 0)  # for the writer of a pipe
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | no_waiting))  # noqa: SIM115, returned
    status = os.fstat(file.fileno())
    stored = getattr(status, "st_blocks", 0) * 512  # bytes; some systems do not say
    fault = None
    if not stat.S_ISREG(status.st_mode):
        fault = "it is a pipe or a device, not a file"
    elif stored and status.st_size > FREE_SIZE + MOST_HOLES * stored and has_holes(file, status.st_size):
        fault = f"{stored:,} of its {status.st_size:,} bytes were written, the others are holes"
    if fault:
        file.close()
        raise OSError(errno.EINVAL, fault, str(path))
    return file


def has_holes(file: BufferedReader, size: int) -> bool:
    """Whether an open file has holes: some systems are late to say how much of it they hold."""
    hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return hole < size


def read_text(path: str | Path, most: int = MOST_TEXT, errors: str = "strict") -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark, as PowerShell writes; OSError where it is longer."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"it is longer than {most >> 20} MB", str(path))
        content = file.read()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig", errors).replace("\r\n", "\n").replace("\r", "\n")


def check_zip(path: str | Path, most: int = MOST_DENSE) -> None:
    """OSError where a zip unpacks to more than `most` times its size; BadZipFile where it is none, or a member is not
    what was written. numpy compares only the checksums of members that it reads to their end, torch none. zipfile does
    not count the members, of which a damaged length hides some.
    """
    with open_file(path) as file, zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > FREE_SIZE + most * os.fstat(file.fileno()).st_size:
            raise OSError(errno.EFBIG, f"it would unpack to {unpacked:,} bytes", str(path))
        if broken := archive.testzip():
            raise zipfile.BadZipFile(f"{broken} is not what was written")
        file.seek(-len(archive.comment) - 12, os.SEEK_END)
        if (members := int.from_bytes(file.read(2), "little")) not in (len(archive.infolist()), 0xFFFF):  # of ZIP64
            raise zipfile.BadZipFile(f"it has not the {members} members that it says")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name for the block to write a file under; then the disk keeps it, and it is renamed to `path`.

    The name is of this block alone, so that several processes may write the same file. An older file of that name stays
    until the rename. An error leaves no temporary file, and an OSError names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        keep_names(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def keep(file: IO) -> None:
    """Have the disk keep the content of an open file."""
    file.flush()
    os.fsync(file.fileno())


def keep_names(folder: str | Path) -> None:
    """Have the disk keep the names of a folder's files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """The right to write a folder, from the constructor until `release` or the end of the process.

    The locked file lies beside the folder, so that the folder can be moved aside. It names its owner.
    UserError where another process holds the lock; OSError where the file cannot be made.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.path = folder.with_name(f".{folder.name}.lock")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path, thread_local=False)
        try:
            self._lock.acquire(timeout=0.05, poll_interval=0.01)  # the last owner may just be removing the file
        except Timeout as error:
            raise UserError(f"{folder} {BUSY} {self._owner()}; let it end, or give this run its own "
                            "--name or --results_dir") from error
        with suppress(OSError):  # a full disk: the lock holds all the same
            self.path.write_text(f"process {os.getpid()} on {platform.node()}")

    def _owner(self) -> str:
        with suppress(OSError):
            return printable(self.path.read_text(errors="replace")[:200]) or "another process"
        return "another process"

    def release(self) -> None:
        with suppress(OSError):  # the disk has become read-only: the lock ends all the same
            self.path.unlink()
        self._lock.release()


def is_held(folder: str | Path) -> bool:
    """Whether another process writes a folder."""
    try:
        FolderLock(folder).release()
    except UserError:
        return True
    except OSError:  # who writes there will say what is wrong
        pass
    return False


@contextmanager
def wait_for(path: str | Path, what: str) -> Iterator[None]:
    """Hold the lock of a file in the block; if another process has it, print that `what` is waited for."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"# waiting for {what}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def alone_in(folder: str | Path) -> FileLock:
    """Keep other processes out of a block with the same folder, which exists."""
    return FileLock(Path(folder) / "lock")
