"""How far a training step is from what this CPU can do: `python -m src benchmark --limits`.

Each part of a step has its floating-point operations, exponentials, random decisions of dropout, and bytes, which are
the sizes of what it reads and writes. The machine's rates are measured in the same run: those of a wide product, of
torch's exponential and of the dropout kernel on data that stays in a cache, and of a copy that does not. The limit of a
part is the time that these rates give: of the first three together, or of the bytes, whichever is longer. Small data
stays in caches, where bytes cost less, so a part can be faster than its limit. With --threads 1 other work counts
for nothing.
"""

import argparse
import ctypes
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from src.errors import UserError
from src.report.table_formats import markdown_table
from src.tools import benchmark_worker
from src.tools.launches import NO_LAUNCH
from src.training.state import add_gradients

from modules import kernels
from modules.kernels import cpu

WIDE, CACHED, UNCACHED = 2048, 2**16, 2**26  # floats: the side of a product, a vector in a cache, one that is in none
SECONDS = 0.5  # for which a rate is measured
FLOAT = 4  # bytes
PASSES = ("forward", "backward", "update")
HEAD = ("", "", "part", "seconds", "share", "GFLOP", "M exp", "M decisions", "MB", "limit, seconds", "of its limit")


@dataclass
class Work:
    """What a part of a step took and did."""

    seconds: float = 0
    flops: float = 0
    exps: float = 0
    decisions: float = 0
    bytes: float = 0

    def add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            setattr(self, name, getattr(self, name) + amount)

    def limit(self, rates: "Work") -> float:
        """The seconds that it takes at some rates a second."""
        computing = self.flops / rates.flops + self.exps / rates.exps + self.decisions / rates.decisions
        return max(computing, self.bytes / rates.bytes)

    def cells(self, whole: "Work", limit: float) -> tuple[str, ...]:
        """Its part of a row under HEAD, beside the work of the whole step and its limit in seconds."""
        return (f"{self.seconds:.3g}", f"{self.seconds / whole.seconds:.0%}", f"{self.flops / 1e9:.3g}",
                f"{self.exps / 1e6:.3g}", f"{self.decisions / 1e6:.3g}", f"{self.bytes / 1e6:.3g}", f"{limit:.2g}",
                f"{limit / self.seconds:.0%}" if limit else "")


def now() -> float:
    """Seconds: of a single thread (--threads 1) its own on a CPU, to which other work adds nothing."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def best_rate(amount: float, function: Callable[[], Any]) -> float:
    """The most of an amount a second that a function does, run for some time."""
    best, end = 0.0, now() + SECONDS
    while now() < end:
        start = now()
        function()
        best = max(best, amount / (now() - start))
    return best


def machine_rates() -> Work:
    """What this machine reaches a second in matrix products, exponentials, decisions and memory, each alone."""
    wide, x, large = torch.randn(WIDE, WIDE), torch.randn(CACHED), torch.ones(UNCACHED)
    product, out, copy = torch.empty_like(wide), torch.empty_like(x), torch.empty_like(large)
    return Work(
        flops=best_rate(2 * WIDE**3, lambda: torch.mm(wide, wide, out=product)),
        exps=best_rate(CACHED, lambda: torch.exp(x, out=out)),
        decisions=best_rate(CACHED, lambda: kernels.dropout(x, 0.1)),
        bytes=best_rate(2 * FLOAT * UNCACHED, lambda: copy.copy_(large)),
    )


class Parts(TorchDispatchMode):
    """The work of each (pass, part) within it. The kernels report to it by `kernel`, all else is seen as operations."""

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[tuple[str, str], Work] = defaultdict(Work)
        self.doing = ""

    @contextmanager
    def during(self, doing: str) -> Iterator[None]:
        """Count towards a pass, which as a whole is the part ""."""
        self.doing, start = doing, now()
        yield
        self.work[doing, ""].add(seconds=now() - start)

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        start = now()
        out = operation(*args, **(kwargs or {}))
        seconds = now() - start
        if not operation.is_view and not operation.name().startswith(NO_LAUNCH):
            formula = flop_registry.get(operation.overloadpacket)
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.work[self.doing, "products" if formula else "other operations"].add(
                seconds=seconds, bytes=sum(x.nbytes for x in tensors),
                flops=formula(*args, **(kwargs or {}), out_val=out) if formula else 0)
        return out

    def kernel(self, name: str, function: Callable) -> Callable:
        """A function of the kernel library that is timed and counted."""
        part = name.removesuffix("_backward").replace("_", " ")

        def call(*arguments: Any) -> None:
            start = now()
            function(*arguments)
            self.work[self.doing, part].add(seconds=now() - start, **COUNTS[name](*arguments))

        return call


def count_attention(a: Any, backward: bool, threads: int) -> dict[str, float]:
    """Of the pairs of steps that see each other, two products forward, and five backward, where weights come again."""
    per_head = sum_of(a.counts, a.T_t * a.segments) - sum_of(a.firsts, a.T_t) if a.counts else a.T_t * a.T_s
    pairs, steps = a.samples * a.heads * per_head, a.samples * a.heads * a.width * (2 * a.T_t + 2 * a.T_s)
    return {"flops": (10 if backward else 4) * a.width * pairs, "exps": pairs,
            "decisions": pairs * (a.threshold > 0), "bytes": FLOAT * steps * (2 if backward else 1)}


def sum_of(address: int | None, count: int) -> int:
    """The sum of some int32 at an address, 0 where there is none."""
    there = ctypes.cast(address, ctypes.POINTER(ctypes.c_int32)) if address else None
    return int(np.ctypeslib.as_array(there, (count,)).sum()) if there else 0


COUNTS: dict[str, Callable[..., dict[str, float]]] = {
    "attention": count_attention,
    "layer_norm": lambda a, threads: {"bytes": FLOAT * a.rows * a.width * (3 if a.grad_out else 2)},
    "add_dropout": lambda x, branch, out, n, *_: {"decisions": n, "bytes": FLOAT * n * (3 if x else 2)},
    "relu_dropout": lambda x, out, n, *_: {"decisions": n, "bytes": 2 * FLOAT * n},
    "relu_dropout_backward": lambda grad, out, grad_x, n, *_: {"bytes": 3 * FLOAT * n},
}


def measure(case: Any, repetitions: int, warm_up: int) -> dict[tuple[str, str], Work]:
    """The work of each (pass, part) of a training step of our model, each part as in the fastest of some steps.

    Counting takes time, so a step that is not counted says what is left between the operations.
    """
    job = SimpleNamespace(**asdict(case), device="cpu", implementation="ours", without=[], inference=False)
    model = benchmark_worker.build_ours(job).train()
    inputs, labels = benchmark_worker.make_inputs(job), torch.randn(job.batch, 1)
    optimizer = benchmark_worker.build_optimizer(model, plain=False)
    library = cpu.library()

    def take(parts: Parts) -> dict[tuple[str, str], Work]:
        with parts.during("forward"):
            loss = (model(*inputs)[0] - labels).abs().mean()
        with parts.during("backward"):
            optimizer.zero_grad(set_to_none=False)
            add_gradients(loss, model)
        with parts.during("update"):
            torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], benchmark_worker.CLIP)
            optimizer.step()
        return parts.work

    uncounted, counted = [], []
    for _ in range(warm_up + repetitions):
        uncounted.append(take(Parts()))
        parts = Parts()
        proxy = SimpleNamespace(**{name: parts.kernel(name, getattr(library, name)) for name in COUNTS})
        with patch.object(cpu, "library", lambda proxy=proxy: proxy), parts:
            counted.append(take(parts))
    work = {key: min((step[key] for step in counted[warm_up:]), key=lambda part: part.seconds) for key in counted[-1]}
    for doing, name in [key for key in work if not key[1]]:
        whole = min(step[doing, name].seconds for step in uncounted[warm_up:])
        within = sum(part.seconds for (when, of), part in work.items() if when == doing and of)
        work[doing, "between operations"] = Work(max(whole - within, 0))
        del work[doing, name]
    return dict(sorted(work.items(), key=lambda item: PASSES.index(item[0][0])))


def report(cases: list, arguments: argparse.Namespace) -> str:
    """What the machine reaches, and the parts of each case's step beside it."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if kernels.state() != "compiled":
        raise UserError(f"--limits counts what the CPU kernels do, and they are {kernels.state()}")
    rates, rows = machine_rates(), []
    for case in cases:
        work, whole = measure(case, arguments.repetitions, arguments.warm_up), Work()
        for part in work.values():
            whole.add(**asdict(part))
        limits = {key: part.limit(rates) for key, part in work.items()}
        rows += [(case.title, *key, *part.cells(whole, limits[key])) for key, part in work.items()]
        rows.append((case.title, "all", "", *whole.cells(whole, sum(limits.values()))))
    reached = (f"Alone, in threads: {torch.get_num_threads()}, this CPU reaches {rates.flops / 1e9:.0f} GFLOP/s in "
               f"products, {rates.exps / 1e6:.0f} M exponentials/s, {rates.decisions / 1e6:.0f} M decisions/s and "
               f"{rates.bytes / 1e9:.1f} GB/s of memory.")
    return f"{reached}\n\n{markdown_table(HEAD, rows)}"
