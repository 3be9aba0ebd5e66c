"""One process to a folder, by a lock that its death releases."""

import fcntl
import os
import platform
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from src.errors import UserError, printable

BUSY = "is being written by"  # of the message where another process has the folder


class FolderLock:
    """The right to write a folder, held from making it until `release` or the end of the process.

    The lock is on a file beside the folder, which says whose it is, so that the folder itself can be moved aside under
    it. UserError where another process holds it; OSError where the file cannot be made.
    """

    def __init__(self, folder):
        folder = Path(folder)
        self.path = folder.with_name(f".{folder.name}.lock")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = None
        while self._descriptor is None:
            self._descriptor = self._take(folder)
        with suppress(OSError):  # a full disk: the lock holds all the same
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"process {os.getpid()} on {platform.node()}".encode())

    def _take(self, folder):
        """A locked descriptor of the file; None where its last owner has just removed the file."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError as error:
            owner = printable(os.pread(descriptor, 200, 0).decode(errors="replace")) or "another process"
            os.close(descriptor)
            raise UserError(
                f"{folder} {BUSY} {owner}; let it end, or give this run its own --name or --results_dir"
            ) from error
        except FileNotFoundError:
            pass
        os.close(descriptor)
        return None

    def release(self):
        """Let others have the folder."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def wait_for(lock, what):
    """Take the lock of an open file, after whoever has it; the user is told if that takes waiting for `what`."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"# waiting for {what}", file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


@contextmanager
def alone_in(folder):
    """Wait until no other process is inside this with the same folder, which is there."""
    with (Path(folder) / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
