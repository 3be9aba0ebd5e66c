"""Builds and loads cpu_kernels.cpp.

The library is built on first use, in about three seconds. It stays in the user's cache folder, under a name that
changes with its source, the compiler and the processor. torch's own builder of extensions would need its headers,
ninja and a minute for the same.
"""

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-std=c++17")
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
    """The loaded library, or None where it cannot be built."""
    compiler = os.environ.get("CXX", "c++")
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
        identity = b"\0".join((SOURCE.read_bytes(), version, *map(str.encode, FLAGS), processor()))
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmr-mult"
        path = cache / f"cpu_kernels-{hashlib.sha256(identity).hexdigest()[:16]}.so"
        if not path.exists():
            build(compiler, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, RuntimeError, subprocess.CalledProcessError):
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


def build(compiler: str, path: Path) -> None:
    """Compile the source into a library at `path`. It takes OpenMP from torch, and so shares torch's threads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        compiled, linked = Path(folder, "compiled.o"), Path(folder, "linked.so")
        for arguments in ((*FLAGS, "-c", SOURCE, "-o", compiled), ("-shared", compiled, "-o", linked)):
            subprocess.run([compiler, *map(str, arguments)], capture_output=True, check=True)
        linked.replace(path)


def processor() -> bytes:
    """What tells the instructions of this processor from those of another."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return f"{platform.processor()} {platform.machine()}".encode()
    return b"".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))
