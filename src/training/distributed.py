"""Several processes that torchrun started train as one. In one process every function here returns what it is given.

Each process has the same command line and the same model. They meet at three points: each computes its share of a
batch; they take the mean of gradients and losses; the first process alone writes. An error in one ends all: torchrun
stops the others. DistributedDataParallel is not used: the gradients are one vector, whose mean is one call.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from src.errors import UserError


def join() -> None:
    """Meet the other processes that torchrun started, if there are any; UserError where they are not reached."""
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        return
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"process {os.environ['RANK']} of torchrun does not reach the others: {reason}") from error
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it stays open until the process ends


def process_count() -> int:
    """The number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if process_count() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def share(indices: Tensor, *key: int) -> tuple[Tensor, float]:
    """This process's part of a batch and its weight: the mean over processes of weighted losses is the batch's loss.

    The key, such as seed, epoch and step, decides dropout's next draws, which are this process's own.
    """
    if (count := process_count()) == 1:
        return indices, 1.0
    torch.manual_seed(int(np.random.SeedSequence((*key, rank())).generate_state(1, np.uint64)[0]))
    own = indices[rank()::count]
    return (own, count * len(own) / len(indices)) if len(own) else (indices[:1], 0.0)


def mean(values: Tensor) -> Tensor:
    """The mean over processes, in place."""
    if (count := process_count()) > 1:
        with meeting():
            distributed.all_reduce(values)
        values /= count
    return values


def largest(number: int) -> int:
    """The largest number that a process has."""
    if process_count() == 1:
        return number
    value = torch.tensor([number])
    with meeting():
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
    return int(value)


def broadcast(value: Any) -> Any:
    """The value that the first process has."""
    if process_count() == 1:
        return value
    held = [value]
    with meeting():
        distributed.broadcast_object_list(held, src=0)
    return held[0]


def collect(results: list) -> list:
    """The results for a list of items, in its order, of which each process has those of every `process_count()`th item.
    """
    if (count := process_count()) == 1:
        return results
    every: list[list] = [[] for _ in range(count)]
    with meeting():
        distributed.all_gather_object(every, results)
    return [every[i % count][i // count] for i in range(sum(map(len, every)))]


@contextmanager
def meeting() -> Iterator[None]:
    """UserError where another process is gone while all of them exchange values."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo/" in str(error):
            raise UserError("another process of this run has ended, for the reason that it gave; "
                            "--resume resumes the run after its last epoch") from error
        raise


def device_of_process(name: str) -> str:
    """The device that this process takes for --device: each of several has a GPU of its own."""
    if process_count() == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return name
    if name not in ("auto", "cuda"):
        raise UserError(f"--device {name} would be the device of all {process_count()} processes; give cuda or cpu")
    return f"cuda:{os.environ['LOCAL_RANK']}"


def leave(code: int) -> int:
    """The exit code of a process that has nothing more to do. After an error one of several ends at once, since torch
    can wait for a process that is gone while the interpreter ends.
    """
    if process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        if code:
            os._exit(code)
        distributed.destroy_process_group()
    return code
