"""The time and memory of a training step: this code against the original MulT and against plain torch, side by side.

    python -m src benchmark --stock DIR                         every case, on the CPU
    python -m src benchmark --cases pmr-aligned --device cuda --repetitions 50
    python -m src benchmark --growth PMR --figure docs/measured/growth.png    cost over the length of the sequences

DIR is a checkout of the original repository. A step is forward, backward, clipping and Adam, with all dropouts on, on
random numbers. Each contender runs in a process of its own, so that its peak memory is its own; they take turns step
by step, so that what else the machine does hits all alike. A ratio is the median over turns, and so is a time.
`plain` is the same model without what makes it fast: torch's own attention, dropout and layer norm.
--parts adds ours without each of these. In the cases of padded sequences, which are as short as MOSI's, `masked` is
with --mask_padding and `trimmed` with --trim_padding too. `unmasked` is without the causal mask; the hub cases are the
attention of PMR's hub to itself alone, forward and backward. `pmr-tokens` has a hub of tokens and a window, and other
cases as its contenders. --ways adds ours in bfloat16 or TF32, or with compiled layers.
--launches counts what a GPU would launch in a step of the original, of `plain`, of ours and of ours compiled.
--limits shows what each part of our step does and takes, beside what this CPU reaches.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from src.errors import Parser, UserError, command
from src.report.table_formats import markdown_table
from src.tools import launches, limits

MOSI, MOSEI = (300, 5, 20), (300, 74, 35)  # features of text, audio and vision


@dataclass(frozen=True)
class Case:
    """A model, the sizes of its data, and the implementations that ours is compared with."""

    model: str
    lens: tuple[int, ...]
    dims: tuple[int, ...]
    batch: int
    embed_dim: int
    num_heads: int
    layers: int
    rivals: tuple[str, ...] = ()
    median_lengths: tuple[int, ...] | None = None  # of the real steps behind the front padding; None: no padding
    options: dict[str, int] = field(default_factory=dict)  # of the model's own

    @property
    def title(self) -> str:
        """MulT 50/375/500, batch 8"""
        model = " ".join([self.model, *(f"--{name} {value}" for name, value in self.options.items())])
        return f"{model} {'/'.join(map(str, self.lens))}, batch {self.batch}"


TOKENS = {"hub_tokens": 32, "self_window": 64}
CASES = {  # the model "attention" is no model, but what its name says
    "mult-aligned": Case("MulT", (50, 50, 50), MOSI, 24, 30, 5, 4, ("stock", "plain")),
    "mult-unaligned": Case("MulT", (50, 375, 500), MOSI, 8, 30, 5, 4, ("stock", "plain")),
    "pmr-aligned": Case("PMR", (50, 50, 50), MOSEI, 16, 40, 8, 4, ("plain", "unmasked")),
    "pmr-unaligned": Case("PMR", (50, 500, 500), MOSEI, 16, 40, 8, 4, ("unmasked",)),
    "pmr-tokens": Case("PMR", (50, 500, 500), MOSEI, 16, 40, 8, 4, ("mosei-unaligned", "pmr-unaligned"),
                       options=TOKENS),
    "pmr-tokens-long": Case("PMR", (50, 5000, 5000), MOSEI, 4, 40, 8, 4, options=TOKENS),
    "hub-aligned": Case("attention", (50, 50, 50), MOSEI, 16, 40, 8, 1, ("unmasked",)),
    "hub-unaligned": Case("attention", (50, 500, 500), MOSEI, 16, 40, 8, 1, ("unmasked",)),
    "mult-padded": Case("MulT", (50, 375, 500), MOSI, 24, 30, 5, 4, ("masked", "trimmed"), (10, 32, 38)),
    "pmr-padded": Case("PMR", (50, 375, 500), MOSI, 24, 40, 8, 4, ("masked", "trimmed"), (10, 32, 38)),
    "mosei-aligned": Case("MulT", (50, 50, 50), MOSEI, 16, 30, 5, 4, ("stock", "plain")),
    "mosei-unaligned": Case("MulT", (50, 500, 500), MOSEI, 16, 30, 5, 4, ("stock", "plain")),
}
DEFAULT_CASES = ("mult-aligned", "mult-unaligned", "pmr-aligned", "pmr-unaligned")
GROWTH = (1, 2, 4)
PARTS = ("kernels", "one vector", "kept memory")  # of what makes ours fast
WAYS = ("bfloat16", "tf32", "compiled")  # to run ours


class Contender:
    """An implementation of a case in a process of its own."""

    def __init__(self, case: Case, implementation: str, arguments: argparse.Namespace) -> None:
        self.implementation, self.seconds, self.peak = implementation, list[float](), 0
        without = [part for part in PARTS if implementation in ("plain", f"without {part}")]
        without += ["kernels"] * arguments.launches
        job = {**vars(arguments), **asdict(case), "implementation": implementation, "without": without}
        worker = Path(__file__).with_name("benchmark_worker.py")
        self.process = subprocess.Popen([sys.executable, "-P", str(worker), json.dumps(job)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self) -> list:
        """Its answer after a step; UserError if its process has ended."""
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # there is no answer then
            print("step", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise UserError(f"the {self.implementation} process ended with code {self.process.wait()} (see above)")
        return json.loads(answer)

    def step(self, counted: bool) -> None:
        seconds, self.peak = self.ask()
        self.seconds += [seconds] * counted

    def figures(self, ours: "Contender") -> dict[str, Any]:
        """Its time and memory, also in relation to those of another contender."""
        return {
            "seconds": statistics.median(self.seconds),
            "quartiles": statistics.quantiles(self.seconds, n=4)[::2] if len(self.seconds) > 1 else None,
            "peak_bytes": self.peak,
            "times_ours": statistics.median(b / a for a, b in zip(ours.seconds, self.seconds, strict=True)),
            "peak_times_ours": self.peak / ours.peak,
        }


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """{implementation: its figures} for a case; the implementations take turns."""
    rivals = [rival for rival in case.rivals if rival != "stock" or arguments.stock]
    rivals += [f"without {part}" for part in PARTS] if arguments.parts else []
    rivals += arguments.ways
    contenders: list[Contender] = []
    with contextlib.ExitStack() as stack:
        for implementation in ("ours", *rivals):
            contenders.append(Contender(CASES.get(implementation, case), implementation, arguments))
            stack.callback(contenders[-1].process.communicate)  # which ends it
        for turn in range(-arguments.warm_up, arguments.repetitions):
            for contender in contenders:
                contender.step(counted=turn >= 0)
    return {contender.implementation: contender.figures(contenders[0]) for contender in contenders}


def table(results: dict[str, dict[str, dict[str, Any]]], unit: str) -> str:
    """Results {title: {implementation: figures}} as a Markdown table."""
    return markdown_table(("", "", unit, "quartiles", "peak memory", "time / ours", "memory / ours"), [
        (title, name, f"{figures['seconds']:.3g}", " - ".join(f"{q:.3g}" for q in figures["quartiles"] or ()),
         f"{figures['peak_bytes'] / 2**20:.0f} MB", f"{figures['times_ours']:.2f}", f"{figures['peak_times_ours']:.2f}")
        for title, implementations in results.items() for name, figures in implementations.items()
    ])


def draw_growth(results: dict[int, dict[str, Any]], path: str) -> None:
    """Draw the time and the peak memory of a step over the steps of the three sequences together."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a step needs no figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    curves = ("seconds", 1, "seconds a step"), ("peak_bytes", 2**30, "peak memory, GiB")
    for axes, (key, scale, label) in zip(figure.subplots(1, 2), curves, strict=True):
        axes.plot(list(results), [figures[key] / scale for figures in results.values()], "o-")
        axes.set(xlabel="steps of the three sequences together", ylabel=label, xlim=(0, None), ylim=(0, None))
    figure.savefig(path, dpi=120)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m src benchmark", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=DEFAULT_CASES, metavar="CASE",
                        help=f"some of {', '.join(CASES)}")
    parser.add_argument("--stock", metavar="DIR", help="a checkout of the original, to compare with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--warm_up", type=int, default=2, help="steps that are not counted")
    parser.add_argument("--parts", action="store_true", help="also ours without each part of what makes it fast")
    parser.add_argument("--inference", action="store_true", help="time predictions instead of training steps")
    parser.add_argument("--limits", action="store_true", help="how far each part of our step is from this CPU's limit")
    parser.add_argument("--launches", action="store_true", help="count what a GPU would launch in a step")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[], metavar="WAY",
                        help=f"also ours in some of {', '.join(WAYS)}")
    parser.add_argument("--growth", metavar="CASE", choices=CASES, help="a case at 1, 2 and 4 times its lengths")
    parser.add_argument("--figure", help="draw the growth into this file")
    parser.add_argument("--json", help="also write the figures into this file")
    arguments = parser.parse_args(argv)
    if arguments.repetitions < 1 or arguments.warm_up < 0:
        raise UserError("--repetitions must be 1 or more and --warm_up 0 or more")
    if arguments.stock and not Path(arguments.stock, "src", "models.py").is_file():
        raise UserError(f"--stock {arguments.stock} is not a checkout of the original MulT: it has no src/models.py")
    return arguments


@command
def main(argv: Sequence[str] | None) -> None:
    """Measure the cases; print the figures, draw them and keep them."""
    arguments = parse_arguments(argv)
    if arguments.launches:
        print(launches.table(launches.CASES if arguments.cases == DEFAULT_CASES else arguments.cases, arguments))
        return
    if arguments.limits:
        print(limits.report([CASES[name] for name in arguments.cases], arguments))
        return
    if arguments.growth:
        case = replace(CASES[arguments.growth], rivals=())
        cases = [replace(case, lens=tuple(length * factor for length in case.lens)) for factor in GROWTH]
    else:
        cases = [CASES[name] for name in arguments.cases]
    results = {}
    for case in cases:
        print(f"# {case.title} ...", file=sys.stderr)
        results[case.title] = measure(case, arguments)
    print(table(results, "seconds a prediction" if arguments.inference else "seconds a step"))
    if arguments.figure and arguments.growth:
        draw_growth({sum(case.lens): results[case.title]["ours"] for case in cases}, arguments.figure)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
