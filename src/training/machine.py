"""The machine that a run computes on: devices, precision, memory, versions."""

import ctypes
import os
import platform
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from modules.cpu_library import library
from src.errors import UserError
from src.training.distributed import process_count

CPU_IS_FULL = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")
MALLOPT = {"M_MMAP_THRESHOLD": (-3, 2**25), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**26)}


def keep_freed_memory():
    """Let glibc keep what a training step frees for the next one, where it would give it back to the system and fault
    it in again, page by page: a few per cent of a step. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOPT.values():
            mallopt(option, value)


def choose_arithmetic(deterministic, precision="float32"):
    """Make a GPU compute the same numbers each time, or let it be fast. It must be called before a GPU is used."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = False


def find_device(name):
    """The torch device of --device; UserError where this machine has none such."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither cpu nor cuda")
        torch.empty(0, device=device)
        if device.index is not None and device.type == "cuda":
            torch.cuda.set_device(device)  # for what does not ask which, such as nccl
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--device {name} cannot be used here: {reason}; try --device cpu") from error
    return device


def find_data_device(name, device, size):
    """Where data of so many bytes is held for a model on a device; UserError where it cannot be there."""
    if name == "cuda" and device.type != "cuda":
        raise UserError(f"--data_device cuda: the model is on {device}; leave it out or train with --device cuda")
    if name == "cpu" or device.type == "cpu":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    if name == "cuda" and size > free:
        raise UserError(f"--data_device cuda: the data takes {size / 1e9:.1f} GB and {device} has {free / 1e9:.1f} GB "
                        "free; use --data_device cpu")
    return device if name == "cuda" or size <= free / 2 else torch.device("cpu")


def speed_up(model, device, precision="float32", compiled=False):
    """Let a model compute in bfloat16 where that is safe, its predictions in float32, or in float64; and compile it."""
    if precision == "bfloat16":
        forward = torch.autocast(device.type, torch.bfloat16)(model.forward)
        model.forward = lambda *inputs: tuple(x.float() for x in forward(*inputs))
    if precision == "float64":
        of_doubles = model.double().forward
        model.forward = lambda text, audio, vision, padding=None: of_doubles(
            text.double(), audio.double(), vision.double(), padding)
    if compiled:
        model.compile()
    return model


def is_out_of_memory(error):
    """Whether an exception says that memory ran out, on a GPU or not."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in CPU_IS_FULL)


class TrainingError(UserError):
    """Training fails by what its settings ask for: it diverges, or memory is too small. Others may do."""


@contextmanager
def explained(advice):
    """TrainingError, with the advice, where memory runs out inside; UserError where --deterministic asks too much."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if is_out_of_memory(error):
            raise TrainingError(f"out of memory: {advice}") from error
        if "deterministic implementation" in reason:
            raise UserError(f"--deterministic cannot be had on this device: {reason.split('.')[0]}") from error
        raise


def memory_advice(batch_size, batch_chunk):
    """What to try where a step does not fit."""
    if batch_chunk >= batch_size:
        return f"not even 1 sample of --batch_size {batch_size} fits; try a smaller --embed_dim or --nlevels"
    parts = f"{batch_chunk} parts" if batch_chunk > 1 else "1 part"
    return (
        f"--batch_size {batch_size} in {parts} does not fit; try --batch_chunk {min(2 * batch_chunk, batch_size)}, "
        "which computes the same step in smaller parts"
    )


def environment(device):
    """What a number depends on besides the settings."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processes": process_count(),
        "threads": torch.get_num_threads(),
        "cpu_kernels": "compiled" if library() else "none: there is no C++ compiler, and training on a CPU is slower",
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "git_commit": git_commit(),
    }


def git_commit():
    """The commit of this code, with '+changes' where the work tree differs; 'unknown' outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
