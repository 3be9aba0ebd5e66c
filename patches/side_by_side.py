"""Train the original MulT and ours on the same data, and compare: `bash patches/side_by_side.sh --help`.

The first comparison is without dropout, from the same weights and in the same order of the data: every loss must agree
in float64. The second is with the original's dropouts and another seed for each run: a test must find no difference
between the distributions of the losses of the last epoch.
"""

import json
import pickle
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from scipy import stats

from src.data.specs import find_spec
from src.dataset import load_dataset
from src.errors import Parser, UserError, printable, run_command
from src.report.compare import compare, difference, largest, report, table
from src.report.read_runs import LOSSES, read_run
from src.report.significance import holm
from src.runs.stock_checkpoint import load_state
from src.settings import count

COMMIT = "a670936"  # of the original
TOLERANCE = 1e-4  # of each loss in each epoch
CONTROLS = 3
SIGNIFICANT = 0.05
SEED = 1111
WITHOUT_DROPOUT = [text for name in ("attn", "relu", "embed", "res", "out") for text in (f"--{name}_dropout", "0")] + [
    "--attn_dropout_a", "0", "--attn_dropout_v", "0"
]
PATCHES = Path(__file__).resolve().parent
ROOT = PATCHES.parent

Epochs = list[dict[str, Any]]  # the losses of each epoch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0 where both comparisons agree, 1 where one does not, 2 for bad input."""
    return run_command(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


def parse(argv: Sequence[str]) -> Namespace:
    """The parsed command line. The words after -- become `flags`."""
    parser = Parser(
        prog="bash patches/side_by_side.sh",
        description="Train a stock MulT, patched in a copy, and ours on the same data, and compare their losses: "
        "without dropout from the same weights, in float32 and in float64, then with dropout over several seeds. Paths "
        "are relative to this repository. After -- come flags that both main.py know, such as --nlevels 2.",
    )
    parser.add_argument("checkout", metavar="STOCK_CHECKOUT",
                        help=f"a checkout of the original at commit {COMMIT}; it stays as it is")
    parser.add_argument("--dataset", required=True, help="mosi, mosei, iemocap, demo, or NAME of NAME_data.pkl")
    parser.add_argument("--aligned", action="store_true", help="take the word-aligned sequences")
    parser.add_argument("--data_path", default="data", help="folder of the data files")
    parser.add_argument("--model", default="MulT", choices=("MulT", "PMR"), help="PMR: the stock tree has ours")
    parser.add_argument("--epochs", type=count(1), default=5, help="of each run (default 5)")
    parser.add_argument("--seeds", type=count(2), default=10, help="runs of each side with dropout (default 10)")
    parser.add_argument("--work_dir", help="folder to keep the patched copy and all logs in; it must not exist")
    own, flags = (argv[:argv.index("--")], argv[argv.index("--") + 1:]) if "--" in argv else (argv, [])
    arguments = parser.parse_args(own)
    arguments.flags = flags
    return arguments


def run(arguments: Namespace) -> int:
    """Print both comparisons. Returns the exit code."""
    spec = find_spec(arguments.dataset)
    dataset = load_dataset(spec, arguments.data_path, arguments.aligned)
    if spec.task is None and dataset.task.output_dim != 1:
        raise UserError(f"the original trains emotions under the name iemocap alone; rename {arguments.dataset}")
    if arguments.work_dir:
        try:
            Path(arguments.work_dir).mkdir(parents=True)
        except OSError as error:
            raise UserError(f"--work_dir {arguments.work_dir} cannot be made: {error.strerror}") from error
        return compare_sides(Sides(arguments, spec, Path(arguments.work_dir).resolve()))
    with tempfile.TemporaryDirectory() as folder:
        return compare_sides(Sides(arguments, spec, Path(folder)))


class Comparable(Protocol):
    """Two sides that can be trained: each run gives the path of its log and the losses of its epochs."""

    arguments: Namespace
    folder: Path

    def stock(self, name: str, seed: int, *flags: object) -> tuple[Path, Epochs]:
        """Train the original."""

    def ours(self, name: str, seed: int, *flags: object) -> tuple[Path, Epochs]:
        """Train ours."""


class Sides:
    """The patched original and ours, trained in one folder."""

    def __init__(self, arguments: Namespace, spec: Any, folder: Path) -> None:
        self.arguments, self.spec, self.folder = arguments, spec, folder
        applied = subprocess.run(["bash", PATCHES / "apply.sh", arguments.checkout, folder / "stock"],
                                 capture_output=True, text=True, check=False)
        if applied.returncode:
            raise UserError(last_line(applied).removeprefix("error: "))
        self._give_data()

    def _give_data(self) -> None:
        """Put the data file where the original may write its caches, under the name that the original expects."""
        data, aligned = self.folder / "data", self.arguments.aligned
        data.mkdir()
        stock_file = data / self.spec.file("", aligned).name.lower()
        if self.spec.make:
            stock_file.write_bytes(pickle.dumps(self.spec.make(aligned)))
        else:
            stock_file.symlink_to(self.spec.file(self.arguments.data_path, aligned).resolve())

    def stock(self, name: str, seed: int, *flags: object) -> tuple[Path, Epochs]:
        """Train the patched original."""
        log, records = (self.folder / f"stock-{name}.{ending}" for ending in ("log", "jsonl"))
        self._run(self.folder / "stock", log, "--dataset", self.spec.stem, "--data_path", self.folder / "data",
                  "--name", name, "--seed", seed, "--no_cuda", "--json_lines", records, *flags)
        return log, read_records(records)

    def ours(self, name: str, seed: int, *flags: object) -> tuple[Path, Epochs]:
        """Train ours."""
        log, results = self.folder / f"ours-{name}.log", self.folder / "results"
        self._run(ROOT, log, "--dataset", self.spec.name, "--data_path", self.arguments.data_path, "--preset", "stock",
                  "--name", name, "--seed", seed, "--device", "cpu", "--results_dir", results, *flags)
        (records,) = results.glob(f"*/*/*-{name}/seed{seed}/metrics.jsonl")
        return log, read_records(records)

    def _run(self, root: Path, log: Path, *flags: object) -> None:
        """Run the main.py of a tree and write its log to a file. Raises UserError, with its last line, if it fails."""
        aligned = ["--aligned"] if self.arguments.aligned else []
        command = [sys.executable, "main.py", "--model", self.arguments.model, *aligned, "--num_epochs",
                   self.arguments.epochs, *flags, *self.arguments.flags]
        with log.open("w") as output:
            ended = subprocess.run([str(word) for word in command], cwd=root, stdout=output, stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, text=True, check=False)
        if ended.returncode:
            side = "ours" if root == ROOT else "the patched original"
            raise UserError(f"{side} failed: {last_line(ended)}")


def last_line(ended: subprocess.CompletedProcess[str]) -> str:
    """The last line of the standard error of an ended process."""
    return printable((ended.stderr.strip().splitlines() or ["it printed no error"])[-1])


def read_records(path: Path) -> Epochs:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compare_sides(sides: Comparable) -> int:
    """Print both comparisons. Returns 0 where they find no difference, else 1."""
    words = sides.arguments
    print(f"{words.model} on {words.dataset}, {'aligned' if words.aligned else 'unaligned'}: A is the original at "
          f"{COMMIT} with the patches, B is ours; {words.epochs} epochs {' '.join(words.flags)}".rstrip())
    print("\n## Without dropout, from the same weights, in the same order\n", flush=True)
    agree = compare_exactly(sides)
    print(f"\n## With dropout, {words.seeds} seeds each\n", flush=True)
    return 0 if compare_distributions(sides) and agree else 1


def compare_exactly(sides: Comparable) -> bool:
    """Print the logs of both sides as `compare` shows them, and their largest differences.

    Returns whether they agree in float64. In float32 rounding grows from step to step. Where it turns a sign, of an
    error or under a relu, the difference can exceed any tolerance. So the runs in float32 are shown beside runs of ours
    from weights that are one rounding away.
    """
    initial, moved = (sides.folder / name for name in ("initial.pt", "moved.pt"))
    stock_log, stock = sides.stock("exact", SEED, "--order_seed", SEED, "--save_initial", initial, *WITHOUT_DROPOUT)
    ours_log, ours = sides.ours("exact", SEED, "--init_from", initial, *WITHOUT_DROPOUT)
    a, b = ({**read_run(log), "name": log.name} for log in (stock_log, ours_log))
    print(*report(a, b, compare(a, b)), sep="\n")
    controls = []
    for number in range(CONTROLS):
        torch.save(one_rounding_away(load_state(initial), number), moved)
        controls.append(sides.ours(f"control{number}", SEED, "--init_from", moved, *WITHOUT_DROPOUT)[1])
    print(f"float32: {in_words(largest_differences(stock, ours))}; ours from weights one rounding away, {CONTROLS} "
          f"times: up to {max(max(largest_differences(ours, control).values()) for control in controls):.1e}")

    _, stock = sides.stock("float64", SEED, "--order_seed", SEED, "--float64", *WITHOUT_DROPOUT)
    _, ours = sides.ours("float64", SEED, "--init_from", initial, "--precision", "float64", *WITHOUT_DROPOUT)
    apart = largest_differences(stock, ours)
    agree = all(value <= TOLERANCE for value in apart.values())
    print(f"float64: {in_words(apart)}; tolerance {TOLERANCE:.0e}: {'AGREE' if agree else 'DIFFER'}")
    return agree


def one_rounding_away(state: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """A state dict with every weight moved by about its last bit, up or down at random. A weight of 0 stays 0."""
    chance = torch.Generator().manual_seed(seed)
    return {name: weights * (1 + torch.randint(0, 2, weights.shape, generator=chance).mul(2).sub(1) * 2**-23)
            for name, weights in state.items()}


def in_words(differences: dict[str, float]) -> str:
    return ", ".join(f"{loss.replace('_', ' ')} {value:.1e}" for loss, value in differences.items())


def largest_differences(stock: Epochs, ours: Epochs) -> dict[str, float]:
    """{loss: its largest absolute difference over the epochs} of two runs.

    Raises ValueError if one run has more epochs than the other.
    """
    return {
        loss: largest([difference(a[loss], b[loss]) for a, b in zip(stock, ours, strict=True)]) for loss in LOSSES
    }


def compare_distributions(sides: Comparable) -> bool:
    """Test the losses of the last epoch and print the result. Returns whether the test finds no difference."""
    number = sides.arguments.seeds
    stock = [sides.stock(f"seed{seed}", seed)[1][-1] for seed in range(SEED, SEED + number)]
    ours = [sides.ours(f"seed{seed}", seed)[1][-1] for seed in range(SEED + number, SEED + 2 * number)]
    samples = {loss: ([record[loss] for record in stock], [record[loss] for record in ours]) for loss in LOSSES}
    found = two_samples(samples)
    rows = [
        [loss.replace("_", " "), *(f"{np.mean(side):.4f} ± {np.std(side, ddof=1):.4f}" for side in samples[loss]),
         f"{row['change']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})", f"{row['p']:.3f}"]
        for loss, row in found.items()
    ]
    same = all(row["p"] >= SIGNIFICANT for row in found.values())
    print(*table([["last epoch", "A", "B", "B - A (95 %)", "p"], *rows], coloured=False), "", sep="\n")
    print("p: two-sample Cramér-von Mises test, adjusted after Holm; the interval is Welch's")
    print("INDISTINGUISHABLE: no p below 0.05. That proves no equality: no difference of the means within the interval "
          "is excluded" if same else "DIFFERENT: a p is below 0.05")
    return same


def two_samples(samples: dict[str, tuple[list[float], list[float]]]) -> dict[str, dict[str, float]]:
    """{name: change of the mean, its 95 % interval and p} of {name: (values of A, values of B)}.

    p is of the two-sample Cramér-von Mises test, which detects differences of location, spread and shape.
    """
    adjusted = holm({name: float(stats.cramervonmises_2samp(*pair).pvalue) for name, pair in samples.items()})
    found = {}
    for name, (a, b) in samples.items():
        interval = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
        found[name] = {"change": float(np.mean(b) - np.mean(a)), "low": float(interval.low),
                       "high": float(interval.high), "p": adjusted[name]}
    return found


if __name__ == "__main__":
    sys.exit(main())
