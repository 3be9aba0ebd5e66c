"""The library of cpu_kernels.cpp, which is built on first use, in about three seconds."""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any

from modules.kernels import build

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
INT, POINTER = ctypes.c_int64, ctypes.c_void_p


def fields(kind: type, *names: str) -> list[tuple[str, type]]:
    """Fields of a ctypes structure, all of one kind."""
    return [(name, kind) for name in names]


class Strides(ctypes.Structure):
    """As in cpu_kernels.cpp."""

    _fields_ = fields(INT, "sample", "step", "head")


class Attention(ctypes.Structure):
    """As in cpu_kernels.cpp."""

    _fields_ = [
        *fields(INT, "samples", "heads", "width", "T_t", "T_s", "segments"), *fields(ctypes.POINTER(INT), "lengths"),
        *fields(POINTER, "q", "k", "v"), *fields(Strides, "of_q", "of_k", "of_v"),
        *fields(POINTER, "hidden", "firsts", "counts"),
        *fields(ctypes.c_float, "scale"), *fields(ctypes.c_uint32, "threshold"),
        *fields(ctypes.c_float, "keep_scale"), *fields(ctypes.c_uint64, "seed"),
        *fields(POINTER, "out", "log_sum", "grad_out", "grad_q", "grad_k", "grad_v"),
        *fields(Strides, "of_grad_q", "of_grad_k", "of_grad_v"),
    ]


class Norm(ctypes.Structure):
    """As in cpu_kernels.cpp."""

    _fields_ = [
        *fields(INT, "rows", "width"), *fields(POINTER, "x", "weight", "bias"),
        *fields(ctypes.c_float, "eps"),
        *fields(POINTER, "statistics", "out", "grad_out", "grad_x", "grad_weight", "grad_bias"),
    ]


@functools.cache
def library() -> Any:
    """The loaded library, or None where there is no compiler or, with a line, it fails. The next process tries anew."""
    try:
        loaded = build.load(SOURCE, os.environ.get("CXX", "c++"))
    except FileNotFoundError:  # there is no compiler, as the log says
        return None
    except OSError as error:
        build.say(f"{error}; torch computes in their place, about half as fast, until a later start can build them")
        return None
    dropout = [INT, ctypes.c_uint32, ctypes.c_float, ctypes.c_uint64, ctypes.c_int]
    for name, arguments in {
        "attention": [ctypes.POINTER(Attention), ctypes.c_int, ctypes.c_int],
        "layer_norm": [ctypes.POINTER(Norm), ctypes.c_int],
        "add_dropout": [POINTER, POINTER, POINTER, *dropout],
        "relu_dropout": [POINTER, POINTER, *dropout],
        "relu_dropout_backward": [POINTER, POINTER, POINTER, INT, ctypes.c_float, ctypes.c_int],
    }.items():
        getattr(loaded, name).argtypes, getattr(loaded, name).restype = arguments, None
    return loaded

