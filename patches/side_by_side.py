"""Train the original MulT and ours on the same data, and compare: `bash patches/side_by_side.sh --help`.

First without dropout, from the same weights and in the same order of the data: then every loss must agree, in float64.
Then, where
chance has a part, with the original's dropouts and other seeds for each run: then the losses of the last epoch must be
draws of one distribution, as far as a test can tell.
"""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from patches.make_patches import PATCHES, ROOT
from patches.series import BLOBS, COMMIT, SERIES
from src.data.specs import find_spec
from src.dataset import load_dataset
from src.errors import Parser, UserError, printable, run_command
from src.report.compare import report, table
from src.report.comparison import compare, difference, largest
from src.report.read_runs import LOSSES, read_run
from src.report.significance import holm
from src.runs.stock_checkpoint import load_state
from src.settings import count

TOLERANCE = 1e-4  # of each loss in each epoch
CONTROLS = 3
SIGNIFICANT = 0.05
SEED = 1111
WITHOUT_DROPOUT = [text for name in ("attn", "relu", "embed", "res", "out") for text in (f"--{name}_dropout", "0")] + [
    "--attn_dropout_a", "0", "--attn_dropout_v", "0"
]
ORIGINAL_URL = "https://github.com/yaohungt/Multimodal-Transformer"


def main(argv=None):
    """Compare as the command line says; returns 0 where both ways agree, 1 where one does not, 2 for bad input."""
    return run_command(lambda: run(parse(sys.argv[1:] if argv is None else argv)))


def parse(argv):
    """The command line; what follows -- is kept as `flags`."""
    parser = Parser(
        prog="bash patches/side_by_side.sh",
        description="Train a stock MulT, patched in a copy, and ours on the same data, and compare their losses: "
        "without dropout from the same weights, in float32 and in float64, then with dropout over several seeds. Paths "
        "are relative to this repository. After -- come flags that both main.py know, such as --nlevels 2.",
    )
    parser.add_argument("checkout", metavar="STOCK_CHECKOUT", help=f"a checkout of {ORIGINAL_URL}; it stays as it is")
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


def run(arguments):
    """Both comparisons, printed; returns the exit code."""
    check_checkout(Path(arguments.checkout))
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


def check_checkout(checkout):
    """UserError unless the files to be patched are those of the commit the patches are for."""
    for name, blob in BLOBS.items():
        path = checkout / name
        if not path.is_file():
            raise UserError(f"{checkout} has no {name}: give a checkout of {ORIGINAL_URL}")
        content = path.read_bytes()
        if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != blob:
            raise UserError(f"{path} is not that of commit {COMMIT[:7]}, which the patches are for: check that one out")


class Sides:
    """Runs either side in a folder of their own. Each run gives its log and the losses of its epochs."""

    def __init__(self, arguments, spec, folder):
        self.arguments, self.spec, self.folder = arguments, spec, folder
        shutil.copytree(arguments.checkout, folder / "stock",
                        ignore=shutil.ignore_patterns(".git", "data", "pre_trained_models", "__pycache__"))
        applied = subprocess.run(
            ["git", "apply", "--unidiff-zero", *(PATCHES / patch.name for patch in SERIES)], cwd=folder / "stock",
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(folder)}, capture_output=True, text=True, check=False,
        )
        if applied.returncode:
            reason = last_line(applied)
            raise UserError(f"{arguments.checkout} does not take the patches: {reason}; give a clean checkout")
        self._give_data()

    def _give_data(self):
        """The data file in a folder where the original may write its caches, under the name it looks for."""
        data, aligned = self.folder / "data", self.arguments.aligned
        data.mkdir()
        stock_file = data / self.spec.file("", aligned).name.lower()
        if self.spec.make:
            stock_file.write_bytes(pickle.dumps(self.spec.make(aligned)))
        else:
            stock_file.symlink_to(self.spec.file(self.arguments.data_path, aligned).resolve())

    def stock(self, name, seed, *flags):
        """A run of the patched original: (path of its log, records of its epochs)."""
        log, records = (self.folder / f"stock-{name}.{ending}" for ending in ("log", "jsonl"))
        self._run(self.folder / "stock", log, "--dataset", self.spec.stem, "--data_path", self.folder / "data",
                  "--name", name, "--seed", seed, "--no_cuda", "--json_lines", records, *flags)
        return log, read_records(records)

    def ours(self, name, seed, *flags):
        """The same of ours."""
        log, results = self.folder / f"ours-{name}.log", self.folder / "results"
        self._run(ROOT, log, "--dataset", self.spec.name, "--data_path", self.arguments.data_path, "--preset", "stock",
                  "--name", name, "--seed", seed, "--device", "cpu", "--results_dir", results, *flags)
        (records,) = results.glob(f"*/*/*-{name}/seed{seed}/metrics.jsonl")
        return log, read_records(records)

    def _run(self, root, log, *flags):
        """Run the main.py of a tree with its log in a file; UserError, with its last line, where it fails."""
        aligned = ["--aligned"] if self.arguments.aligned else []
        command = [sys.executable, "main.py", "--model", self.arguments.model, *aligned, "--num_epochs",
                   self.arguments.epochs, *flags, *self.arguments.flags]
        with log.open("w") as output:
            ended = subprocess.run([str(word) for word in command], cwd=root, stdout=output, stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, text=True, check=False)
        if ended.returncode:
            side = "ours" if root == ROOT else "the patched original"
            raise UserError(f"{side} failed: {last_line(ended)}")


def last_line(ended):
    """The last thing that an ended process complained of."""
    return printable((ended.stderr.strip().splitlines() or ["it says nothing"])[-1])


def read_records(path):
    """The epochs of a JSON-lines file, as dicts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compare_sides(sides):
    """Print both comparisons; returns 0 where they find no difference, else 1."""
    words = sides.arguments
    print(f"{words.model} on {words.dataset}, {'aligned' if words.aligned else 'unaligned'}: A is the original at "
          f"{COMMIT[:7]} with the patches, B is ours; {words.epochs} epochs {' '.join(words.flags)}".rstrip())
    print("\n## Without dropout, from the same weights, in the same order\n", flush=True)
    agree = compare_exactly(sides)
    print(f"\n## With dropout, {words.seeds} seeds each\n", flush=True)
    return 0 if compare_distributions(sides) and agree else 1


def compare_exactly(sides):
    """Print the logs of both sides as `compare` shows them, and how far apart they are. Whether they agree is told in
    float64.

    In float32 rounding grows from step to step, and a sign that it turns, of an error or under a relu, can carry it
    beyond any tolerance. So these runs are shown beside runs of ours from weights that are one rounding away.
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


def one_rounding_away(state, seed):
    """A state dict with every weight moved by about its last bit, up or down as a seed has it; 0 stays 0."""
    chance = torch.Generator().manual_seed(seed)
    return {name: weights * (1 + torch.randint(0, 2, weights.shape, generator=chance).mul(2).sub(1) * 2**-23)
            for name, weights in state.items()}


def in_words(differences):
    """{loss: difference} on a line."""
    return ", ".join(f"{loss.replace('_', ' ')} {value:.1e}" for loss, value in differences.items())


def largest_differences(stock, ours):
    """{loss: its largest absolute difference over the epochs} of two runs; they must have equally many."""
    return {
        loss: largest([difference(a[loss], b[loss]) for a, b in zip(stock, ours, strict=True)]) for loss in LOSSES
    }


def compare_distributions(sides):
    """Print a test on the losses of the last epoch; whether it finds no difference."""
    number = sides.arguments.seeds
    stock = [sides.stock(f"seed{seed}", seed)[1][-1] for seed in range(SEED, SEED + number)]
    ours = [sides.ours(f"seed{seed}", seed)[1][-1] for seed in range(SEED + number, SEED + 2 * number)]
    samples = {loss: tuple([record[loss] for record in side] for side in (stock, ours)) for loss in LOSSES}
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


def two_samples(samples):
    """{name: change of the mean, its 95 % interval and p} of {name: (values of A, values of B)}.

    The Cramér-von Mises test sees differences of location, spread and shape.
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
