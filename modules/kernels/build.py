"""Builds a library and keeps it, so that only what this user built is ever loaded.

The library stays in the user's cache folder. Its name has what it was built from and its own SHA-256, by which a
library that is cut or changed is known before it is loaded. The folder and the file must be the user's, and nobody else
may write there; else the library is built for this process alone. torch's own builder of extensions would need its
headers, ninja and a minute for the same, and checks neither.
"""

import ctypes
import hashlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-std=c++17")
PATIENCE = 50  # seconds that the compiler may take in all; it needs three
MINE_ALONE = 0o700


def load(source: Path, compiler: str) -> Any:
    """The library of a C++ source, built if there is none yet; OSError where none can be had. It takes OpenMP from
    torch, and so shares torch's threads.
    """
    end = time.monotonic() + PATIENCE
    identity = b"\0".join((source.read_bytes(), call(compiler, "--version", end=end), *map(str.encode, FLAGS),
                           processor()))
    stem, folder = f"{source.stem}-{hashlib.sha256(identity).hexdigest()[:16]}", own_folder()
    for kept in folder.glob(f"{stem}-*.so") if folder else ():
        with suppress(FileNotFoundError):  # another process has just put a whole one there
            if is_mine(kept) and kept.stem == f"{stem}-{sha256(kept)}":
                return ctypes.CDLL(str(kept))
            kept.unlink()
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        compiled, linked = Path(temporary, "compiled.o"), Path(temporary, "linked.so")
        call(compiler, *FLAGS, "-c", source, "-o", compiled, end=end)
        call(compiler, "-shared", compiled, "-o", linked, end=end)
        linked.chmod(MINE_ALONE)
        if folder:
            with linked.open("rb") as file:
                os.fsync(file.fileno())
            linked = linked.replace(folder / f"{stem}-{sha256(linked)}.so")
        return ctypes.CDLL(str(linked))


def own_folder() -> Path | None:
    """The folder that keeps libraries; None, with a line, where others could put something there, or it cannot be made.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pmr-mult" / "kernels"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=MINE_ALONE, exist_ok=True)
        if is_mine(folder):
            return folder
        reason = f"{folder} is not this user's, or others can write there"
    except (OSError, RuntimeError) as error:  # there is no home, or none that can be written
        reason = str(error)
    say(f"{reason}: built for this process alone, which takes some seconds")
    return None


def is_mine(path: Path) -> bool:
    """Whether a file or folder is this user's, and nobody else may write it. Windows does not say."""
    status = path.stat()
    return not hasattr(os, "geteuid") or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)


def sha256(path: Path) -> str:
    """The start of a file's SHA-256, long enough that nobody finds another file with it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


def call(*command: str | Path, end: float) -> bytes:
    """What a command prints; OSError where it fails, or has not ended at the time `end`. All that it started then ends
    with it.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:
        try:
            out, complaint = process.communicate(timeout=max(0, end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{command[0]} did not finish in {PATIENCE} s") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        first = next(iter(complaint.decode(errors="replace").splitlines()), "")
        raise OSError(f"{command[0]} ends with {process.returncode}: {first[:200]!a}")
    return out


def processor() -> bytes:
    """What tells the instructions of this processor from those of another."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return f"{platform.processor()} {platform.machine()}".encode()
    return b"".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))


def say(line: str) -> None:
    """Print a line about the kernels."""
    print(f"# CPU kernels: {line}", file=sys.stderr, flush=True)
