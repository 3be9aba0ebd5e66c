"""What a GPU would have to launch in a training step: `python -m src benchmark --launches`.

Operations are counted on a CPU without its kernels, on the path that a GPU takes: with torch's plain attention, one
operation for a dropout, and an Adam of few operations. An operation is at least one launch. Views and empty tensors are
none. Of the compiled layers, the kernels count that torch's compiler makes for a CPU, and the products between them.
`as graphs` counts each run of a compiled layer, forward or backward, as the one launch of its CUDA graph.

The worker of the benchmark takes `count` from this file, also where `src` is the original's.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

CASES = ("mult-aligned", "mult-unaligned", "mosei-aligned", "mosei-unaligned", "pmr-aligned", "pmr-unaligned")
BATCH = 2  # samples, on which no count depends
NO_LAUNCH = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "prim::", "profiler::")
DROPOUT = "aten::bernoulli_.float"  # a CPU drops by this, a division and a product; a GPU by one operation


class Launches(TorchDispatchMode):
    """Counts the operations within it, those of compiled graphs apart."""

    def __init__(self) -> None:
        super().__init__()
        self.eager, self.in_graphs, self.graphs, self.inside = 0, 0, 0, False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """True: what is compiled stays compiled."""
        return True

    def add(self, launches: int) -> None:
        self.in_graphs += launches * self.inside
        self.eager += launches * (not self.inside)

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not operation.is_view and not operation.name().startswith(NO_LAUNCH):
            self.add(-1 if operation.name() == DROPOUT else 1)
        return operation(*args, **(kwargs or {}))


def count(step: Callable[[], Any], compiled: bool) -> tuple[int, int]:
    """The launches of the third run of a step, kernel by kernel and with compiled graphs as one launch each."""
    launches = Launches()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if compiled:
            count_compiled(launches, stack)
        for _ in range(2):
            step()
        launches.eager = launches.in_graphs = launches.graphs = 0
        with launches:
            step()
    return launches.eager + launches.in_graphs, launches.eager + launches.graphs


def count_compiled(launches: Launches, stack: ExitStack) -> None:
    """Until the stack closes, let runs of compiled graphs, and of the kernels that the compiler makes, be counted."""
    from torch._inductor.async_compile import AsyncCompile  # noqa: PLC0415 - slow to import
    from torch._inductor.output_code import CompiledFxGraph  # noqa: PLC0415

    wait, run_graph = AsyncCompile.wait, CompiledFxGraph.__call__

    def counted(kernel: Callable) -> Callable:
        def call(*arguments: Any) -> Any:
            launches.add(1)
            return kernel(*arguments)
        return call

    def wait_counted(maker: AsyncCompile, scope: dict[str, Any]) -> None:
        wait(maker, scope)
        scope.update({name: counted(kernel) for name, kernel in scope.items() if name.startswith("cpp_fused")})

    def run_counted(graph: CompiledFxGraph, inputs: Any) -> Any:
        launches.graphs, launches.inside = launches.graphs + 1, True
        try:
            return run_graph(graph, inputs)
        finally:
            launches.inside = False

    stack.enter_context(patch.object(AsyncCompile, "wait", wait_counted))
    stack.enter_context(patch.object(CompiledFxGraph, "__call__", run_counted))


def table(names: Sequence[str], arguments: argparse.Namespace) -> str:
    """The launches of cases by implementation, as a Markdown table."""
    from src.report.table_formats import markdown_table  # noqa: PLC0415 - and not the original's
    from src.tools import benchmark  # noqa: PLC0415

    rows = []
    for name in names:
        case = replace(benchmark.CASES[name], batch=BATCH)
        rivals = ["stock"] * (arguments.stock is not None and "stock" in case.rivals)
        counts: dict[str, int] = {}
        for implementation in (*rivals, "plain", "ours", "compiled"):
            contender = benchmark.Contender(case, implementation, arguments)
            counts[implementation], as_graphs = contender.ask()
            contender.process.communicate()
        counts["compiled, as graphs"] = as_graphs
        first = next(iter(counts.values()))
        rows += [(name, what, str(n), f"{n / first:.2f}") for what, n in counts.items()]
    return markdown_table(("", "", "launches a step", "of the first"), rows)
