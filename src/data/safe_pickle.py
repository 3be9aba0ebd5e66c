"""Read a pickle of numpy arrays and plain containers without running anything that the file chooses, and without
reading what is long: an array is a view of the file, mapped into memory, so loading costs the same whatever its size.

A pickle is a program that may call whatever it names. Here the few names that numpy's own pickles use stand for
builders written below, every other name is refused, and arrays are made from raw bytes of simple types only: numpy's
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

from src.errors import printable

SIMPLE_KINDS = "biufSUO"  # dtype kinds: bool, integers, floats, bytes, str, and objects, which are unpickled in turn
PLAIN_TYPES = (str, bytes, bytearray, int, float, type(None), np.generic)
LONG = 1 << 16  # bytes; a string above that stays in the file
GROWTH, FREE_GROWTH = 16, 1 << 20  # what instructions may make: so many times the file's size, and so many bytes more
ITEM = 100  # bytes that an item of a dict takes
LONGEST_CODE = 32  # characters of a dtype's code
FACTORIES = ("dict", "float", "int", "list", "long", "str", "tuple", "unicode")  # of a defaultdict, Python 2's too


class RefusedPickle(pickle.UnpicklingError):
    """The pickle asks for something that is neither an array nor a plain container."""


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


def release_pages(array: Any) -> None:
    """Take the pages of a MappedFile out of this process's memory, given a view of it or an array in it."""
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, memoryview) and isinstance(array.obj, mmap.mmap):
        array.obj.madvise(mmap.MADV_DONTNEED)


class PickledDtype:
    """Stands for numpy.dtype."""

    def __init__(self, code, align=False, copy=False):
        simple = isinstance(code, str) and len(code) <= LONGEST_CODE
        self.dtype = np.dtype(code) if simple else None
        if self.dtype is None or self.dtype.kind not in SIMPLE_KINDS:
            raise RefusedPickle(f"an array of type {code!r}" if simple else "an array of an unknown type")

    def __setstate__(self, state):
        _, byteorder, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise RefusedPickle("an array of structures")
        if byteorder in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(byteorder)


class PickledArray:
    """Stands for numpy.ndarray until the pickle is read. Its contents are bytes, a Stretch, or a list of objects."""

    content = shape = dtype = axes = None
    order = "C"

    def __setstate__(self, state):
        _, self.shape, pickled_dtype, fortran_order, self.content = state
        self.dtype = pickled_dtype.dtype
        if fortran_order and self.dtype.kind != "O":  # numpy lists objects in C order whatever the flag says
            self.order = "F"


class PickledScalar:
    """Stands for numpy's scalar until the pickle is read."""

    def __init__(self, pickled_dtype, content):
        self.dtype, self.content = pickled_dtype.dtype, content


class PickledDict(dict):
    """A dict whose keys are plain: to hash a tuple that holds tuples many times over would never end."""

    def __setitem__(self, key, value):
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, (*PLAIN_TYPES, PickledScalar, Stretch)) for part in parts):
            raise pickle.UnpicklingError("a dict with a key that is not plain")
        super().__setitem__(key, value)

    def __setstate__(self, state):
        """Attributes, which an OrderedDict of Python 2 brings along, are left out."""


def build_dict(items=()):
    """Stands for OrderedDict, whose items come next, or as pairs under Python 2."""
    made = PickledDict()
    for key, value in items:
        made[key] = value
    return made


def refuse_call(*arguments):
    """Stands for a plain type, which may be the factory of a defaultdict and is not called."""
    raise RefusedPickle("a call of a plain type")


def build_empty_array(subtype, shape, code):
    """Stands for numpy's _reconstruct: an array whose contents come next."""
    return PickledArray()


def build_array_from_buffer(buffer, pickled_dtype, shape, order, axis_order=None):
    """Stands for numpy's _frombuffer, which pickle protocol 5 uses. Since numpy 2.3 a transposed array has the order
    "K", and then `shape` is that of the buffer, before its axes take their order.
    """
    array = PickledArray()
    array.content, array.dtype, array.shape, array.order = buffer, pickled_dtype.dtype, shape, order
    if order == "K" and axis_order is not None:
        array.order, array.axes = "C", axis_order
    return array


def build_bytes(text, encoding="latin1"):
    """Stands for _codecs.encode, by which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise RefusedPickle("bytes in an encoding other than latin1")
    return Stretch(text.start, text.size, bytes_of_text) if isinstance(text, Stretch) else text.encode("latin1")


def build_empty_bytes():
    """Stands for bytes, by which Python 3 writes b"" for Python 2."""
    return b""


BUILDERS = {
    ("__builtin__", "bytes"): build_empty_bytes,
    ("numpy", "dtype"): PickledDtype,
    ("numpy", "ndarray"): PickledArray,
    ("_codecs", "encode"): build_bytes,
    ("collections", "OrderedDict"): build_dict,
    ("collections", "defaultdict"): lambda factory=None: PickledDict(),  # nothing is added to what was read
    **{(module, name): refuse_call for module in ("builtins", "__builtin__") for name in FACTORIES},
}
for numpy_core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    BUILDERS[f"{numpy_core}.multiarray", "_reconstruct"] = build_empty_array
    BUILDERS[f"{numpy_core}.multiarray", "scalar"] = PickledScalar
    BUILDERS[f"{numpy_core}.numeric", "_frombuffer"] = build_array_from_buffer


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
            self.grow(sum(ITEM * len(x) for x in arguments if isinstance(x, list)))
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

    def load_inst(self):
        """A call by name, which a text file that starts with "i" may look like: that has no arguments to it."""
        if not self.metastack:
            raise pickle.UnpicklingError("a call without arguments")
        super().load_inst()

    def refuse_set(self):
        """Sets have no place in a data file."""
        raise RefusedPickle("a set")

    dispatch = MappingProxyType({
        **pickle._Unpickler.dispatch,
        pickle.FRAME[0]: load_frame,
        pickle.BINSTRING[0]: lambda self: self.load_string_or_stretch("<i", text_of_python_2),
        pickle.BINUNICODE[0]: lambda self: self.load_string_or_stretch("<I", text),
        pickle.BINUNICODE8[0]: lambda self: self.load_string_or_stretch("<Q", text),
        pickle.BINBYTES[0]: lambda self: self.load_string_or_stretch("<I", bytes),
        pickle.BINBYTES8[0]: lambda self: self.load_string_or_stretch("<Q", bytes),
        pickle.BYTEARRAY8[0]: lambda self: self.load_string_or_stretch("<Q", bytearray),
        pickle.EMPTY_DICT[0]: lambda self: self.append(PickledDict()),
        pickle.DICT[0]: load_dict,
        pickle.INST[0]: load_inst,
        **dict.fromkeys((pickle.EMPTY_SET[0], pickle.FROZENSET[0]), refuse_set),
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
            case dict():
                made = {self.finish(key): self.finish(item) for key, item in value.items()}
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


def text_of_python_2(content):
    """The str of Python 2 that these bytes are."""
    return str(content, "latin1")


def text(content):
    """The str of Python 3 that these bytes are."""
    return str(content, "utf-8", "surrogatepass")


def bytes_of_text(content):
    """The bytes that these bytes are as a str of Python 3: so it writes them for Python 2."""
    return text(content).encode("latin1")


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
