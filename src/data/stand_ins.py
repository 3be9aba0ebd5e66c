"""What stands for the things of a pickle while it is read by safe_pickle.py: of the names that a pickle can give, those
in BUILDERS, and no other, make one of these.
"""

import pickle
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

SIMPLE_KINDS = "biufSUO"  # dtype kinds: bool, integers, floats, bytes, str, and objects, which are unpickled in turn
PLAIN_TYPES = (str, bytes, bytearray, int, float, type(None), np.generic)
MOST_PARTS, MOST_BITS = 16, 64  # of a key of a dict: of a tuple, and of a number
MOST_ALIKE = 100  # keys of a dict with one hash: floats have up to 34
LONGEST_CODE = 32  # characters of a dtype's code
FACTORIES = ("dict", "float", "int", "list", "long", "str", "tuple", "unicode")  # of a defaultdict, Python 2's too


class RefusedPickle(pickle.UnpicklingError):
    """The pickle asks for something that is neither an array nor a plain container."""


class Stretch:
    """A long string, left in the file: where it starts, its size in bytes, and what makes a string of its bytes."""

    def __init__(self, start: int, size: int, kind: Callable[[Any], Any]):
        self.start, self.size, self.kind = start, size, kind

    def __len__(self) -> int:
        return self.size


def text_of_python_2(content: Any) -> str:
    return str(content, "latin1")


def text(content: Any) -> str:
    """The str of Python 3 that these bytes are."""
    return str(content, "utf-8", "surrogatepass")


def bytes_of_text(content: Any) -> bytes:
    """The bytes that these bytes are as a str of Python 3: so it writes them for Python 2."""
    return text(content).encode("latin1")


class PickledDtype:
    """Stands for numpy.dtype."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        simple = isinstance(code, str) and len(code) <= LONGEST_CODE
        self.dtype: Any = np.dtype(code) if simple else None
        if self.dtype is None or self.dtype.kind not in SIMPLE_KINDS:
            raise RefusedPickle(f"an array of type {code!r}" if simple else "an array of an unknown type")

    def __setstate__(self, state: Any) -> None:
        _, byteorder, subarray, names, fields = state[:5]
        if subarray is not None or names is not None or fields is not None:
            raise RefusedPickle("an array of structures")
        if byteorder in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(byteorder)


class PickledArray:
    """Stands for numpy.ndarray until the pickle is read. Its contents are bytes, a Stretch, or a list of objects."""

    content: Any = None
    shape: Any = None
    dtype: Any = None
    axes: Any = None
    order = "C"

    def __setstate__(self, state: Any) -> None:
        _, self.shape, pickled_dtype, fortran_order, self.content = state
        self.dtype = pickled_dtype.dtype
        if fortran_order and self.dtype.kind != "O":  # numpy lists objects in C order whatever the flag says
            self.order = "F"


class PickledScalar:
    """Stands for numpy's scalar until the pickle is read."""

    def __init__(self, pickled_dtype: Any, content: Any):
        self.dtype, self.content = pickled_dtype.dtype, content


class PickledDict:
    """Stands for a dict until the pickle is read. Its keys are plain and small: to hash a tuple that holds tuples many
    times over, or a long one many times, would never end, nor would comparing many of one hash.
    """

    def __init__(self) -> None:
        self.items: list[tuple[Any, Any]] = []
        self.alike: dict[int, int] = {}  # keys of each hash

    def __setitem__(self, key: Any, value: Any) -> None:
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > MOST_PARTS or not all(map(is_plain_key, parts)):
            raise pickle.UnpicklingError("a dict with a key that is not plain")
        self.items.append((key, value))
        self.alike[hash(key)] = self.alike.get(hash(key), 0) + 1
        if self.alike[hash(key)] > MOST_ALIKE:
            raise pickle.UnpicklingError("a dict with keys that were made to be slow")

    def __setstate__(self, state: Any) -> None:
        """Attributes, which an OrderedDict of Python 2 brings along, are left out."""


def is_plain_key(key: Any) -> bool:
    """Whether it is a text or a number of a size that numbers have."""
    if isinstance(key, int):
        return key.bit_length() <= MOST_BITS
    if isinstance(key, PickledScalar) and key.dtype.kind == "f":
        return key.dtype.itemsize * 8 <= MOST_BITS
    return isinstance(key, (*PLAIN_TYPES, PickledScalar, Stretch))


class Anything(PickledDict):
    """Stands for whatever a checkpoint names or makes: it takes what it is given, and is a set too."""

    def __new__(cls, *arguments: Any) -> "Anything":
        """Made without a call, too."""
        made = super().__new__(cls)
        PickledDict.__init__(made)
        return made

    def __init__(self, *arguments: Any) -> None:
        """Arguments are left alone."""

    def add(self, item: Any) -> None:
        """An entry, which is hashed."""
        self[item] = None

    def append(self, *items: Any) -> None:
        """Entries, which are not."""

    extend = append


def build_dict(items: Iterable = ()) -> PickledDict:
    """Stands for OrderedDict, whose items come next, or as pairs under Python 2."""
    made = PickledDict()
    for key, value in items:
        made[key] = value
    return made


def refuse_call(*arguments: Any) -> None:
    """Stands for a plain type, which may be the factory of a defaultdict and is not called."""
    raise RefusedPickle("a call of a plain type")


def build_array_from_buffer(buffer: Any, pickled_dtype: Any, shape: Any, order: Any,
                            axis_order: Any = None) -> PickledArray:
    """Stands for numpy's _frombuffer, which pickle protocol 5 uses. Since numpy 2.3 a transposed array has the order
    "K", and then `shape` is that of the buffer, before its axes take their order.
    """
    array = PickledArray()
    array.content, array.dtype, array.shape, array.order = buffer, pickled_dtype.dtype, shape, order
    if order == "K" and axis_order is not None:
        array.order, array.axes = "C", axis_order
    return array


def build_bytes(text: Any, encoding: Any = "latin1") -> Stretch | bytes:
    """Stands for _codecs.encode, by which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise RefusedPickle("bytes in an encoding other than latin1")
    return Stretch(text.start, text.size, bytes_of_text) if isinstance(text, Stretch) else text.encode("latin1")


BUILDERS: dict[tuple[str, str], Callable] = {
    ("__builtin__", "bytes"): lambda: b"",  # as Python 3 writes it for Python 2
    ("numpy", "dtype"): PickledDtype,
    ("numpy", "ndarray"): PickledArray,
    ("_codecs", "encode"): build_bytes,
    ("collections", "OrderedDict"): build_dict,
    ("collections", "defaultdict"): lambda factory=None: PickledDict(),  # nothing is added to what was read
    **{(module, name): refuse_call for module in ("builtins", "__builtin__") for name in FACTORIES},
}
for numpy_core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    BUILDERS[f"{numpy_core}.multiarray", "_reconstruct"] = lambda subtype, shape, code: PickledArray()  # filled next
    BUILDERS[f"{numpy_core}.multiarray", "scalar"] = PickledScalar
    BUILDERS[f"{numpy_core}.numeric", "_frombuffer"] = build_array_from_buffer
