"""Read a pickle of numpy arrays and plain containers without running anything that the file chooses.

A pickle is a program that may call whatever it names. Here the few names that numpy's own pickles use stand for
builders written below, every other name is refused, and arrays are made from raw bytes of simple types only: numpy's
own hooks would let a forged pickle pass off bytes as object pointers.
"""

import pickle

import numpy as np

from src.errors import printable

SIMPLE_KINDS = "biufSUO"  # dtype kinds: bool, integers, floats, bytes, str, and objects, which are unpickled in turn
PLAIN_TYPES = (str, bytes, bytearray, int, float, type(None), np.generic)


class RefusedPickle(pickle.UnpicklingError):
    """The pickle asks for something that is neither an array nor a plain container."""


class PickledDtype:
    """Stands for numpy.dtype."""

    def __init__(self, code, align=False, copy=False):
        self.dtype = np.dtype(code) if isinstance(code, str) else None
        if self.dtype is None or self.dtype.kind not in SIMPLE_KINDS:
            raise RefusedPickle(f"an array of type {code!r}")

    def __setstate__(self, state):
        _, byteorder, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise RefusedPickle("an array of structures")
        if byteorder in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(byteorder)


class PickledArray:
    """Stands for numpy.ndarray: `array` is the array, once the pickle has given its contents."""

    array = None

    def __setstate__(self, state):
        _, shape, pickled_dtype, fortran_order, content = state
        dtype = pickled_dtype.dtype
        if dtype.kind == "O":
            if not isinstance(content, list):
                raise pickle.UnpicklingError("objects that are not in a list")
            fortran_order = False  # numpy lists objects in C order whatever the flag says
            flat = np.empty(len(content), dtype=object)
            flat[:] = content
        else:
            raw = content.encode("latin1") if isinstance(content, str) else content  # str from Python 2
            flat = np.frombuffer(raw, dtype)
        self.array = flat.reshape(shape, order="F" if fortran_order else "C")


def build_empty_array(subtype, shape, code):
    """Stands for numpy's _reconstruct: an array whose contents come next."""
    return PickledArray()


def build_array_from_buffer(buffer, pickled_dtype, shape, order):
    """Stands for numpy's _frombuffer, which pickle protocol 5 uses."""
    return np.frombuffer(buffer, pickled_dtype.dtype).reshape(shape, order=order)


def build_scalar(pickled_dtype, content):
    """Stands for numpy's scalar."""
    raw = content.encode("latin1") if isinstance(content, str) else content
    dtype = pickled_dtype.dtype
    return np.frombuffer(raw, dtype)[0] if dtype.itemsize else dtype.type()


def build_bytes(text, encoding="latin1"):
    """Stands for _codecs.encode, by which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise RefusedPickle(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def build_empty_bytes():
    """Stands for bytes, by which Python 3 writes b"" for Python 2."""
    return b""


BUILDERS = {
    ("__builtin__", "bytes"): build_empty_bytes,
    ("numpy", "dtype"): PickledDtype,
    ("numpy", "ndarray"): PickledArray,
    ("_codecs", "encode"): build_bytes,
}
for numpy_core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    BUILDERS[f"{numpy_core}.multiarray", "_reconstruct"] = build_empty_array
    BUILDERS[f"{numpy_core}.multiarray", "scalar"] = build_scalar
    BUILDERS[f"{numpy_core}.numeric", "_frombuffer"] = build_array_from_buffer


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows the names in BUILDERS and no other."""

    def find_class(self, module, name):
        if (module, name) not in BUILDERS:
            raise RefusedPickle(printable(f"{module}.{name}"))

        def builder(*arguments):  # a new one for each use, since a pickle may alter what it is given
            return BUILDERS[module, name](*arguments)
        return builder


def load_arrays(file):
    """The dicts, lists, tuples, arrays, strings and numbers of a pickle, Python 2's included.

    Raises RefusedPickle, naming it, where the file holds anything else, and UnpicklingError where it is damaged.
    """
    try:
        return _with_arrays(ArrayUnpickler(file, encoding="latin1").load(), {})
    except (RefusedPickle, OSError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        reason = f"{type(error).__name__}: {printable(error)}"
        raise pickle.UnpicklingError(f"damaged or not a pickle ({reason})") from error


def _with_arrays(value, done):
    """The value with every PickledArray in it replaced by its array. `done` holds what was met before, by id, so that
    lists that hold each other many times are walked once.
    """
    if isinstance(value, PLAIN_TYPES):
        return value
    if id(value) not in done:
        done[id(value)] = value, _converted(value, done)
    return done[id(value)][1]


def _converted(value, done):
    if isinstance(value, PickledArray):
        if value.array is None:
            raise pickle.UnpicklingError("an array without contents")
        value = value.array
    if isinstance(value, dict):
        return {_with_arrays(key, done): _with_arrays(item, done) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_with_arrays(item, done) for item in value])
    if not isinstance(value, np.ndarray):
        raise RefusedPickle(f"a {type(value).__name__}")
    if value.dtype == object:
        for i, item in enumerate(value.flat):
            value.flat[i] = _with_arrays(item, done)
    return value
