"""A file whose bytes are mapped into memory, so that those that are not needed now are not read now.

The pages that were touched count as this process's memory until `release_pages`, though the system can take them back.
"""

import mmap

import numpy as np


class Stretch:
    """A long string, left in the file: where it starts, its size in bytes, and what makes a string of its bytes."""

    def __init__(self, start, size, kind):
        self.start, self.size, self.kind = start, size, kind

    def __len__(self):
        return self.size


class MappedFile:
    """The bytes of an open file, read from where it stands. EOFError, and nothing reserved, for more than there are."""

    def __init__(self, file):
        try:
            self.content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.position = file.tell()
        except (AttributeError, OSError):  # it is no file of the system's
            self.content = file.read()
            self.position = 0

    def skip(self, size):
        """Pass over so many bytes; returns where they start."""
        start, end = self.position, self.position + size
        if size < 0 or end > len(self.content):
            raise EOFError("it ends early")
        self.position = end
        return start

    def read(self, size):
        """The next so many bytes."""
        start = self.skip(size)
        return self.content[start:self.position]

    def readline(self):
        """The bytes up to and with the next end of line."""
        return self.read(self.content.find(b"\n", self.position) + 1 - self.position)

    def view(self, stretch):
        """The bytes of a Stretch, without a copy."""
        return memoryview(self.content)[stretch.start:stretch.start + stretch.size]


def release_pages(array):
    """Take the pages that were touched of a MappedFile, told by a view of it or an array in it, out of this process's
    memory.
    """
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, memoryview) and isinstance(array.obj, mmap.mmap):
        array.obj.madvise(mmap.MADV_DONTNEED)
