"""Files that are whole or not there: what a killed process or a full disk may leave is never read as finished."""

import os
from pathlib import Path


def write_whole(path, content):
    """Write bytes under a temporary name, have the disk keep them, then rename: a file that has its name is whole.

    What had the name before stays until then. OSError, and no temporary file, where the disk does not take them.
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


def keep(file):
    """Have the disk keep what was written to an open file."""
    file.flush()
    os.fsync(file.fileno())


def keep_names(folder):
    """Have the disk keep the names of a folder's files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
