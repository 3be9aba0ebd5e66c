"""Read a pickle of numpy arrays and plain containers without running anything that the file chooses, and without
reading what is long: an array is a view of the file, mapped into memory, so loading costs the same whatever its size.

A pickle is a program that may call whatever it names. Here the few names that numpy's own pickles use stand for
builders of stand_ins.py, every other name is refused, and arrays are made from raw bytes of simple types only: numpy's
own hooks would let a forged pickle pass off bytes as object pointers. A small file may also be written so as to grow:
no size in it is believed that the file does not have, and what its instructions make is counted against its size.

Home-made, since libraries that refuse foreign names (torch.load with weights_only, fickling) read the whole file.
"""

import mmap
import pickle
import struct
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from src.data.stand_ins import (
    BUILDERS,
    PLAIN_TYPES,
    Anything,
    PickledArray,
    PickledDict,
    PickledDtype,
    PickledScalar,
    RefusedPickle,
    Stretch,
    bytes_of_text,
    text,
    text_of_python_2,
)
from src.errors import printable

LONG = 1 << 16  # bytes; a string above that stays in the file
GROWTH, FREE_GROWTH = 16, 1 << 24  # what instructions may make: so many times the file's size, and so many bytes more
ITEM = 100  # bytes that an item of a dict takes, an empty container, or a place in the memo
LAST_PLACE = 2**32  # of the memo
SHORT = (pickle.MARK, pickle.EMPTY_LIST, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.MEMOIZE)  # of one byte


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
        start = self.skip(size)
        return self.content[start:self.position]

    def readline(self):
        """The bytes up to and with the next end of line."""
        return self.read(self.content.find(b"\n", self.position) + 1 - self.position)

    def view(self, stretch):
        """The bytes of a Stretch, without a copy."""
        return memoryview(self.content)[stretch.start:stretch.start + stretch.size]


def release_pages(array: Any) -> None:
    """Take the pages of a MappedFile out of this process's memory, given a view of it or an array in it."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, memoryview) and isinstance(array.obj, mmap.mmap):
        array.obj.madvise(mmap.MADV_DONTNEED)


def charged(load):
    """What loads an instruction of a byte that makes an object, which is counted."""
    def load_and_count(self):
        self.grow(ITEM)
        load(self)
    return load_and_count


class ArrayUnpickler(pickle._Unpickler):
    """An unpickler that knows the names in BUILDERS and no other, and leaves long strings in the file.

    It extends the one that is written in Python: that in C reads every string and reserves memory on a file's word.
    """

    def __init__(self, file):
        self.source = MappedFile(file)
        self.growth = GROWTH * len(self.source.content) + FREE_GROWTH
        self.finished = {}  # what `finish` met before and made of it, by id
        super().__init__(self.source, encoding="latin1")

    def find_class(self, module, name):
        if (module, name) not in BUILDERS:
            raise RefusedPickle(printable(f"{module}.{name}"))

        def builder(*arguments):  # a new one for each use, since a pickle may alter what it is given
            self.grow(sum(len(x) for x in arguments if isinstance(x, (str, bytes, bytearray, Stretch))))
            self.grow(ITEM + sum(ITEM * len(x) for x in arguments if isinstance(x, (list, tuple))))
            return BUILDERS[module, name](*arguments)
        return builder

    def grow(self, size):
        """Count what an instruction makes out of what was read before."""
        self.growth -= size
        if self.growth < 0:
            raise pickle.UnpicklingError("it makes far more than it holds")

    def load_frame(self):
        """Frames say how much to read at once, which a map has no use for."""
        size, = struct.unpack("<Q", self.read(8))
        self.source.position = self.source.skip(size)

    def load_string_or_stretch(self, size_format, kind):
        """Read a string, or leave it in the file if it is long."""
        size, = struct.unpack(size_format, self.read(struct.calcsize(size_format)))
        self.append(Stretch(self.source.skip(size), size, kind) if size > LONG else kind(self.read(size)))

    def load_dict(self):
        """Items that precede their dict."""
        items = self.pop_mark()
        self.append(PickledDict())
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][key] = value

    def load_put(self):
        """A place in the memo, as text."""
        place = int(self.readline()[:-1])
        if not 0 <= place < LAST_PLACE:
            raise pickle.UnpicklingError("a place beyond the memo")
        self.memo[place] = self.stack[-1]

    def load_build(self):
        """Give a state to something. What does not say how it takes one would have its attributes overwritten."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (PickledDtype, PickledArray, PickledDict)):
            raise pickle.UnpicklingError("a state of something that has none")
        self.stack[-1].__setstate__(state)

    def load_inst(self):
        """A call by name, which a text file that starts with "i" may look like: that has no arguments to it."""
        if not self.metastack:
            raise pickle.UnpicklingError("a call without arguments")
        super().load_inst()

    def refuse_set(self):
        raise RefusedPickle("a set")

    dispatch = MappingProxyType({
        **pickle._Unpickler.dispatch,
        pickle.PUT[0]: load_put,
        pickle.BUILD[0]: load_build,
        pickle.FRAME[0]: load_frame,
        pickle.BINSTRING[0]: lambda self: self.load_string_or_stretch("<i", text_of_python_2),
        pickle.BINUNICODE[0]: lambda self: self.load_string_or_stretch("<I", text),
        pickle.BINUNICODE8[0]: lambda self: self.load_string_or_stretch("<Q", text),
        pickle.BINBYTES[0]: lambda self: self.load_string_or_stretch("<I", bytes),
        pickle.BINBYTES8[0]: lambda self: self.load_string_or_stretch("<Q", bytes),
        pickle.BYTEARRAY8[0]: lambda self: self.load_string_or_stretch("<Q", bytearray),
        pickle.DICT[0]: load_dict,
        pickle.INST[0]: load_inst,
        **dict.fromkeys((pickle.EMPTY_SET[0], pickle.FROZENSET[0]), refuse_set),
        **{code[0]: charged(pickle._Unpickler.dispatch[code[0]]) for code in SHORT},
        pickle.EMPTY_DICT[0]: charged(lambda self: self.append(PickledDict())),
    })

    def finish(self, value):
        """The value with all that stands for something else in it replaced by that. What a pickle holds many times is
        made once, so that lists that hold each other many times do not grow.
        """
        if isinstance(value, PLAIN_TYPES):
            return value
        if id(value) not in self.finished:
            self.finished[id(value)] = value, self._made(value)
        return self.finished[id(value)][1]

    def _made(self, value):
        match value:
            case Stretch():
                made = value.kind(self.source.view(value))
            case PickledScalar():
                self.grow(value.dtype.itemsize)
                made = self._flat(value)[0] if value.dtype.itemsize else value.dtype.type()
            case PickledArray(content=None):
                raise pickle.UnpicklingError("an array without contents")
            case PickledArray():
                made = self._flat(value).reshape(value.shape, order=value.order)
                made = made if value.axes is None else made.transpose(value.axes)
            case PickledDict():
                made = {self.finish(key): self.finish(item) for key, item in value.items}
            case list() | tuple():
                made = type(value)([self.finish(item) for item in value])
            case _:
                raise RefusedPickle(f"a {type(value).__name__}")
        return made

    def _flat(self, value):
        """The contents of an array or a scalar as a flat array, without a copy unless they are text."""
        content, dtype = value.content, value.dtype
        if dtype.kind == "O":
            return self._flat_objects(value)
        if isinstance(content, Stretch):
            view = self.source.view(content)
            if content.kind in (text, bytes_of_text):
                self.grow(len(content))
                flat = np.frombuffer(bytes_of_text(view), dtype)
                release_pages(view)
                return flat
            return np.frombuffer(view, dtype)
        if isinstance(content, str):  # from Python 2
            self.grow(len(content))
            content = content.encode("latin1")
        return np.frombuffer(content, dtype)

    def _flat_objects(self, value):
        if isinstance(value, PickledScalar) or not isinstance(value.content, list):
            raise pickle.UnpicklingError("objects that are not in a list")
        self.grow(len(value.content) * value.dtype.itemsize)
        flat = np.empty(len(value.content), dtype=object)
        for i, item in enumerate(value.content):
            flat[i] = self.finish(item)
        return flat


class Walker(ArrayUnpickler):
    """Goes through a pickle of any content, of which it makes nothing."""

    def find_class(self, module, name):
        return Anything

    def persistent_load(self, pid):
        """A storage, or a class with its source."""
        return Anything

    def load_frozenset(self):
        """A set made of what precedes it."""
        items = self.pop_mark()
        self.append(Anything())
        for item in items:
            self.stack[-1].add(item)

    dispatch = MappingProxyType({
        **ArrayUnpickler.dispatch, pickle.EMPTY_SET[0]: lambda self: self.append(Anything()),
        pickle.FROZENSET[0]: load_frozenset,
    })


def check_cost(file: BinaryIO, pickles: int = 1) -> None:
    """Read so many pickles of any content; UnpicklingError where loading them may take long or much memory."""
    for _ in range(pickles):
        walker = Walker(file)
        walker.load()
        file.seek(walker.source.position)


def load_arrays(file: BinaryIO) -> Any:
    """The dicts, lists, tuples, arrays, strings and numbers of a pickle, Python 2's included.

    Large arrays of numbers are read-only views of the file: its pages are read as they are touched, and may be given
    back by `release_pages`. Raises RefusedPickle, naming it, where the file holds anything else, and UnpicklingError
    where it is damaged.
    """
    try:
        unpickler = ArrayUnpickler(file)
        return unpickler.finish(unpickler.load())
    except (RefusedPickle, OSError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        reason = f"{type(error).__name__}: {printable(error)[:200]}"
        raise pickle.UnpicklingError(f"damaged or not a pickle ({reason})") from error
