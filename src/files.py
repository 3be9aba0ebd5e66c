"""Files that are whole or absent, and folders that one process writes at a time."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from src.errors import UserError, printable

BUSY = "is being written by"  # of the message where another process has the folder


def write_whole(path: str | Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name, have the disk keep it, then rename it.

    An older file of that name stays until the rename. An OSError leaves no temporary file.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            keep(file)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    keep_names(path.parent)


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
        """Let others have the folder."""
        self.path.unlink(missing_ok=True)
        self._lock.release()


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


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Keep other processes out of this block with the same folder, which exists."""
    with FileLock(Path(folder) / "lock"):
        yield
