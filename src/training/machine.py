"""The machine that a run computes on: devices, precision, memory, versions."""

import ctypes
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from src.errors import UserError
from src.training.compiled import compile_layers
from src.training.distributed import process_count

from modules import kernels

CPU_IS_FULL = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
COMPILER = ("torch._dynamo.exc", "torch._inductor.exc")  # where the errors of torch's compiler are
MALLOPT = {"M_MMAP_THRESHOLD": (-3, 2**25), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**26)}


def keep_freed_memory() -> None:
    """Let glibc keep the memory that a step frees for the next one, which saves a few per cent of a step. By default it
    returns it to the system and faults it in again, page by page. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOPT.values():
            mallopt(option, value)


def choose_arithmetic(deterministic: bool, precision: str = "float32") -> None:
    """Make a GPU compute the same numbers each time, or let it be fast. Must be called before a GPU is used."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # torch lets convolutions and LSTMs take it otherwise


@contextmanager
def torch_as_found() -> Iterator[None]:
    """Within it, torch has its own defaults; after it, everything that is global in torch is as it was before: random
    state, default type, threads, deterministic mode, precision.
    """
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(),
              torch.is_deterministic_algorithms_warn_only_enabled(), torch.get_float32_matmul_precision(),
              torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    with torch.random.fork_rng():
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            (dtype, threads, deterministic, warn_only, precision, torch.backends.cudnn.benchmark,
             torch.backends.cudnn.allow_tf32) = before
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
            torch.set_float32_matmul_precision(precision)


def find_device(name: str) -> torch.device:
    """The torch device of --device; UserError where this machine does not have it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither cpu nor cuda")
        torch.empty(0, device=device)
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)  # nccl and others take the current one
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {name} cannot be used here: {reason}; try --device cpu") from error
    return device


def find_data_device(name: str, device: torch.device, size: int) -> torch.device:
    """The device that holds data of `size` bytes for a model on `device`; UserError where it cannot hold it."""
    if name == "cuda" and device.type != "cuda":
        raise UserError(f"--data_device cuda: the model is on {device}; leave it out or train with --device cuda")
    if name == "cpu" or device.type == "cpu":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    if name == "cuda" and size > free:
        raise UserError(f"--data_device cuda: the data takes {size / 1e9:.1f} GB and {device} has {free / 1e9:.1f} GB "
                        "free; use --data_device cpu")
    return device if name == "cuda" or size <= free / 2 else torch.device("cpu")


def speed_up(model: nn.Module, device: torch.device, precision: str = "float32", compiled: bool = False) -> nn.Module:
    """Let a model compute in bfloat16 where that is safe, its predictions in float32, or in float64; compile layers."""
    if precision == "bfloat16":
        forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
        model.forward = lambda *streams, **asked: tuple(x.float() for x in forward(*streams, **asked))
    if precision == "float64":
        model.double()
    if compiled:
        compile_layers(model, device)
    return model


class TrainingError(UserError):
    """Training fails with these settings: it diverges, or memory is too small. Other settings may work."""


@contextmanager
def explained(advice: str) -> Iterator[None]:
    """TrainingError, with the advice, where memory runs out in the block; UserError where an operation that it uses has
    no deterministic form, or torch's compiler fails.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in CPU_IS_FULL):
            raise TrainingError(f"out of memory: {advice}") from error
        if type(error).__module__ in COMPILER:
            raise UserError(f"--compile fails here, leave it out: {reason.split(' Set TORCH')[0]}") from error
        if "deterministic implementation" in reason:
            raise UserError(f"--deterministic cannot be had on this device: {reason.split('.')[0]}") from error
        raise


def memory_advice(batch_size: int, batch_chunk: int) -> str:
    """The settings to try where a step does not fit into memory."""
    if batch_chunk >= batch_size:
        return f"not even 1 sample of --batch_size {batch_size} fits; try a smaller --embed_dim or --nlevels"
    parts = f"{batch_chunk} parts" if batch_chunk > 1 else "1 part"
    return (
        f"--batch_size {batch_size} in {parts} does not fit; try --batch_chunk {min(2 * batch_chunk, batch_size)}, "
        "which computes the same step in smaller parts"
    )


def environment(device: torch.device) -> dict[str, str | int]:
    """The machine and the versions, on which numbers depend besides the settings."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": process_count(),
        "threads": torch.get_num_threads(),
        "cpu_kernels": kernels.state(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "git_commit": git_commit(),
    }


def git_commit() -> str:
    """The commit of this code, with '+changes' where the work tree differs; 'unknown' outside a checkout, also where
    the checkout is of something else that encloses or holds this code.
    """
    root = Path(__file__).resolve().parents[2]
    elsewhere = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}  # a hook's, which are of its own repository
    variables = {name: value for name, value in os.environ.items() if name not in elsewhere}
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, env=variables, capture_output=True, text=True,
                              check=True).stdout.strip()
    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return "unknown"
        commit = git("rev-parse", "HEAD", "HEAD:src/training/machine.py").split()[0]  # an error if it has none
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
