"""The patches for a stock MulT: they only insert, the code that they use works, and the comparison concludes rightly.

The stock repository is not here. Files of comment lines stand in for its files.
"""

import json
import os
import pickle
import random
import re
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from hashlib import sha1

import pytest
import torch

from patches import side_by_side
from patches.added import data_pickle, scripted, today
from patches.side_by_side import PATCHES, ROOT
from src.data.safe_pickle import RefusedPickle
from src.models import build_model
from tests.data_files import make_splits

LINES = 300  # of a stand-in
SERIES = sorted(PATCHES.glob("*.patch"))
INSERTIONS = {  # of each file: the line of the stock file, counted before any patch, and what follows it
    "main.py": {5: ("from pmr.today", "from pmr.scripted"), 77: ("add_flags(parser)",),
                124: ("train_loader = ordered(",)},
    "modules/position_embedding.py": {19: ("    getattr(make_positions",), 75: ("        positions = positions.",)},
    "src/dataset.py": {6: ("from pmr import data_pickle as pickle",)},
    "src/models.py": {5: ("from pmr.pmr_model import PMRModel",)},
    "src/train.py": {18: ("from pmr.today", "from pmr.scripted"),
                     33: ("    save_initial(", "    model = in_wanted_precision("),
                     43: ("    elif hyp_params.model == 'PMR':", "        ctc_criterion", "        ctc_a2l_optimizer"),
                     186: ("        hyp_params.training = ",), 246: ("        write_epoch(", "         ")},
    "src/utils.py": {2: ("from pmr.today",), 5: ("@of_own_files",), 29: ("    os.makedirs(",), 32: ("@of_own_files",)},
}


@pytest.fixture
def stock_blobs(tmp_path_factory, monkeypatch):
    """Makes `apply.sh` accept the given {name: content} as the stock files."""
    def accept(contents):
        hashes = {name: sha1(b"blob %d\0" % len(content) + content) for name, content in contents.items()}
        path = tmp_path_factory.mktemp("blobs") / "stock.blobs"
        path.write_text("".join(f"{sha.hexdigest()} {name}\n" for name, sha in hashes.items()))
        monkeypatch.setenv("STOCK_BLOBS", str(path))
    return accept


def write_stock(folder, content):
    for name in INSERTIONS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def apply(*paths):
    return subprocess.run(["bash", PATCHES / "apply.sh", *paths], capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path, stock_blobs):
    """A patched copy of a tree of stand-ins."""
    content = b"".join(b"# line %d\n" % i for i in range(1, LINES + 1))
    stock_blobs(dict.fromkeys(INSERTIONS, content))
    write_stock(tmp_path / "stock", content)
    applied = apply(tmp_path / "stock", tmp_path / "tree")
    assert (applied.returncode, applied.stdout, applied.stderr) == (0, "", "")
    assert not (tmp_path / "stock/pmr").exists()
    return tmp_path / "tree"


@pytest.mark.parametrize("patch", SERIES, ids=lambda patch: patch.name)
def test_a_patch_adds_and_quotes_nothing(patch):
    first, *sections = re.split(r"^diff --git .*\n", patch.read_text(), flags=re.M)
    assert first.strip()
    for section in sections:
        for line in section.splitlines():
            assert re.match(r"\+|--- a/|@@ -\d+,0 \+\d+,\d+ @@$", line), line


def test_insertions_stand_where_they_belong(tree):
    for name, insertions in INSERTIONS.items():
        lines = (tree / name).read_text().splitlines()
        stock = [i for i, line in enumerate(lines) if line.startswith("# line ")]
        assert [lines[i] for i in stock] == [f"# line {i}" for i in range(1, LINES + 1)]
        for line, starts in insertions.items():
            after = lines[stock[line - 1] + 1:stock[line]]
            assert len(after) == len(starts) and all(map(str.startswith, after, starts)), (name, line, after)
        assert len(lines) == LINES + sum(map(len, insertions.values()))


def test_the_stock_files_are_those_that_the_patches_change():
    lines = (PATCHES / "stock.blobs").read_text().splitlines()
    assert {line.split()[1] for line in lines} == set(INSERTIONS)
    assert all(re.fullmatch(r"[0-9a-f]{40} \S+", line) for line in lines)


def test_added_code_compiles_and_imports_nothing_under_our_names(tree):
    added = list((tree / "pmr").rglob("*.py"))
    assert {path.parent.name for path in added} > {"pmr", "modules", "src", "baselines"}
    for path in added:
        compile(path.read_text(), path, "exec")
        assert not re.search(r"^\s*(from|import) (baselines|modules|src)\b", path.read_text(), re.M), path
    assert (tree / "pmr/LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_a_checkout_is_patched_where_it_is_and_once(tmp_path, stock_blobs):
    content = b"# line\n" * LINES
    stock_blobs(dict.fromkeys(INSERTIONS, content))
    stock = write_stock(tmp_path / "stock", content)
    subprocess.run(["git", "init", "-q"], cwd=stock, check=True)
    assert apply(stock).returncode == 0
    assert (stock / "pmr/modules").is_dir() and "pmr.today" in (stock / "main.py").read_text()
    again = apply(stock)
    assert again.returncode == 2
    assert re.fullmatch(r"error: .*main.py is not that of commit a670936, .*: check that one out\n", again.stderr)


@pytest.mark.parametrize("paths, words", [
    ((), "usage: bash patches/apply.sh STOCK_CHECKOUT"), (("nowhere",), "nowhere has no main.py: give a checkout of"),
])
def test_apply_reports_bad_arguments(paths, words):
    applied = apply(*paths)
    assert (applied.returncode, applied.stdout) == (2, "")
    assert re.fullmatch(rf"error: {re.escape(words)}.*\n", applied.stderr)


PMR_IN_STOCK_TREE = """
import sys, torch
from argparse import Namespace
from pmr.pmr_model import PMRModel
saved = torch.load(sys.argv[1])
model = PMRModel(Namespace(**saved["flags"])).eval()
model.load_state_dict(saved["state"])
torch.save(model(*saved["inputs"]), sys.argv[2])
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"src", "modules", "baselines"}, loaded
assert sys.modules["pmr"].__file__.startswith(sys.argv[3])
"""


def test_pmr_in_the_stock_tree_is_ours(tree, tmp_path):
    torch.manual_seed(3)
    ours = build_model("PMR", input_dims=(7, 5, 6), input_lens=(3, 4, 5), output_dim=8, embed_dim=30, num_heads=5,
                       layers=2).eval()
    inputs = [torch.randn(2, steps, width) for steps, width in ((3, 7), (4, 5), (5, 6))]
    inputs[1][0, :2] = 0
    flags = {"orig_d_l": 7, "orig_d_a": 5, "orig_d_v": 6, "l_len": 3, "a_len": 4, "v_len": 5, "output_dim": 8,
             "num_heads": 5, "layers": 2, "lonly": True, "aonly": True, "vonly": True}
    flags |= {f"{name}_dropout{m}": 0.1 for name, m in (("attn", ""), ("attn", "_a"), ("attn", "_v"), ("relu", ""),
                                                       ("embed", ""), ("res", ""), ("out", ""))}
    torch.save({"flags": flags, "state": ours.state_dict(), "inputs": inputs}, tmp_path / "in.pt")
    subprocess.run([sys.executable, "-c", PMR_IN_STOCK_TREE, tmp_path / "in.pt", tmp_path / "out.pt", tree], cwd=tree,
                   check=True)
    for there, here in zip(torch.load(tmp_path / "out.pt"), ours(*inputs), strict=True):
        torch.testing.assert_close(there, here, rtol=0, atol=0)


def test_the_scheduler_announces_as_it_did(capsys):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))], lr=1e-3)
    for verbose in (True, False):
        scheduler = today.ReduceLROnPlateau(optimizer, mode="min", patience=0, factor=0.1, verbose=verbose)
        for loss in (1.0, 2.0):
            scheduler.step(loss)
    assert capsys.readouterr().out == "Epoch     2: reducing learning rate of group 0 to 1.0000e-04.\n"
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_own_files_may_hold_modules(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    @today.of_own_files
    def load(path):
        return torch.load(path)
    assert isinstance(load(tmp_path / "module.pt"), torch.nn.Linear)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "module.pt")


def test_shuffling_follows_the_device(monkeypatch):
    data = list(range(20))
    def order(loader_class):
        torch.manual_seed(5)
        return torch.cat(list(loader_class(data, batch_size=6, shuffle=True))).tolist()
    assert order(today.DataLoader) == order(torch.utils.data.DataLoader) != data
    of_gpu = torch.Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", (None, of_gpu))
    monkeypatch.setattr(torch, "empty", lambda size: Namespace(device=torch.device("cuda", 1)))
    assert today.DataLoader(data, shuffle=True).generator is of_gpu


def test_data_files_run_nothing(tmp_path):
    class Attack:
        def __reduce__(self):
            return print, ("run",)
    (tmp_path / "data.pkl").write_bytes(pickle.dumps({"train": Attack()}))
    with (tmp_path / "data.pkl").open("rb") as file, pytest.raises(RefusedPickle):
        data_pickle.load(file)
    splits = make_splits()
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(splits))
    with (tmp_path / "data.pkl").open("rb") as file:
        assert (data_pickle.load(file)["test"]["text"] == splits["test"]["text"]).all()


def test_scripted_runs(tmp_path, capsys, monkeypatch):
    parser = ArgumentParser()
    scripted.add_flags(parser)
    args = parser.parse_args(["--json_lines", str(tmp_path / "lines"), "--save_initial", str(tmp_path / "initial.pt"),
                              "--order_seed", "5"])
    args.batch_size = 4
    loader = torch.utils.data.DataLoader(list(range(10)), batch_size=4, shuffle=True)
    generator = torch.Generator().manual_seed(5)
    ordered = scripted.ordered(loader, args)
    for _ in range(2):
        assert [batch.tolist() for batch in ordered] == [
            batch.tolist() for batch in torch.randperm(10, generator=generator).split(4)
        ]

    model = torch.nn.Linear(1, 1)
    scripted.save_initial(args, model)
    assert set(torch.load(tmp_path / "initial.pt")) == {"weight", "bias"}
    record = scripted.training_record(0.5, torch.optim.Adam(model.parameters(), lr=1e-3))
    scripted.write_epoch(args, epoch=1, **record, valid_loss=0.25)
    assert json.loads((tmp_path / "lines").read_text()) == {
        "epoch": 1, "train_loss": 0.5, "lr": 1e-3, "valid_loss": 0.25
    }
    monkeypatch.setattr("builtins.input", None)
    scripted.input("[Press Any Key]")
    assert capsys.readouterr().out == "[Press Any Key]\n"


def test_without_flags_nothing_is_scripted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = ArgumentParser()
    scripted.add_flags(parser)
    args = parser.parse_args([])
    loader = torch.utils.data.DataLoader([1, 2])
    assert scripted.ordered(loader, args) is loader
    scripted.save_initial(args, torch.nn.Linear(1, 1))
    scripted.write_epoch(args, epoch=1)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def checkout(tmp_path, stock_blobs):
    """A checkout of empty files that passes for the stock one."""
    stock_blobs(dict.fromkeys(INSERTIONS, b""))
    return write_stock(tmp_path / "stock", b"")


@pytest.mark.parametrize("arguments, words", [
    (["nowhere", "--dataset", "demo"], "nowhere has no main.py: give a checkout"),
    ([str(ROOT), "--dataset", "demo"], "main.py is not that of commit a670936"),
    (["STOCK"], "the following arguments are required: --dataset"),
    (["STOCK", "--dataset", "mosi"], "mosi_data_noalign.pkl is missing"),
    (["STOCK", "--dataset", "demo", "--model", "GRU"], "invalid choice: 'GRU'"),
    (["STOCK", "--dataset", "demo", "--seeds", "1"], "1 is out of range"),
    (["STOCK", "--dataset", "demo", "--work_dir", str(ROOT)], "cannot be made: File exists"),
])
def test_bad_arguments_are_one_line(checkout, capsys, arguments, words):
    arguments = [str(checkout) if word == "STOCK" else word for word in arguments]
    assert side_by_side.main([*arguments, "--data_path", str(checkout)]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: .*\n", captured.err)
    assert words in captured.err
    assert captured.out == ""


def test_a_checkout_with_files_of_its_own_is_refused(checkout, capsys):
    (checkout / "pmr").mkdir()
    assert side_by_side.main([str(checkout), "--dataset", "demo"]) == 2
    assert re.fullmatch(r"error: .* does not take the patches: .*; give a clean checkout\n", capsys.readouterr().err)


def test_the_script_reports_bad_arguments():
    ended = subprocess.run(["bash", ROOT / "patches/side_by_side.sh", "nowhere", "--dataset", "demo"], check=False,
                           capture_output=True, text=True, env={**os.environ, "VIRTUAL_ENV": sys.prefix})
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"error: nowhere has no main\.py.*\n", ended.stderr)


class MadeUpSides:
    """Two sides whose losses are made up: `apart` in float64, 1 in float32, and `shift` with dropout."""

    def __init__(self, folder, apart, shift):
        self.folder, self.apart, self.shift, self.random = folder, apart, shift, random.Random(1)
        self.arguments = Namespace(model="MulT", dataset="mine", aligned=True, epochs=2, seeds=8, flags=["--lr", "1"])
        self.calls = []

    def stock(self, name, seed, *flags):
        return self._side("stock", name, seed, flags, 0.0, 0.0)

    def ours(self, name, seed, *flags):
        return self._side("ours", name, seed, flags, self.apart, self.shift)

    def _side(self, side, name, seed, flags, apart, shift):
        self.calls.append((side, name, seed, flags))
        if "--save_initial" in flags:
            torch.save(torch.nn.Linear(1, 1), flags[flags.index("--save_initial") + 1])
        epochs, log = [], self.folder / f"{side}-{name}.log"
        for number in (1, 2):
            change = {"exact": side == "ours", "float64": apart}.get(name, shift + self.random.gauss(0, 0.1))
            losses = {f"{split}_loss": 1.0 / number + change for split in ("train", "valid", "test")}
            epochs.append({"epoch": number, **losses})
        log.write_text("".join(
            f"Epoch {e['epoch']:2d} | Time 1.0 sec | Valid Loss {e['valid_loss']:.4f} | Test Loss "
            f"{e['test_loss']:.4f}\n" for e in epochs
        ))
        return log, epochs


@pytest.mark.parametrize("apart, shift, exact, distribution, code", [
    (1e-6, 0.0, "AGREE", "INDISTINGUISHABLE", 0), (2e-4, 0.0, "DIFFER", "INDISTINGUISHABLE", 1),
    (0.0, 0.5, "AGREE", "DIFFERENT", 1), (0.0, float("nan"), "AGREE", "DIFFERENT", 1),
    (float("nan"), 0.0, "DIFFER", "INDISTINGUISHABLE", 1),
])
def test_what_is_concluded(tmp_path, capsys, apart, shift, exact, distribution, code):
    sides = MadeUpSides(tmp_path, apart, shift)
    assert side_by_side.compare_sides(sides) == code
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("MulT on mine, aligned: A is the original at a670936")
    assert re.search(rf"tolerance 1e-04: {exact}\b", printed)
    assert re.search(rf"^{distribution}:", printed, re.M)

    (_, _, _, stock_flags), (_, _, _, our_flags), (_, control, _, control_flags), *others = sides.calls
    *_, (_, _, _, stock_doubles), (_, _, _, our_doubles) = [call for call in others if call[1] == "float64"]
    assert {"--order_seed", "--float64"} < set(stock_doubles) and {"--init_from", "float64"} < set(our_doubles)
    moved, first = (torch.load(tmp_path / name, weights_only=weights_only) for name, weights_only in (
        ("moved.pt", True), ("initial.pt", False)
    ))
    assert control == "control0" and str(tmp_path / "moved.pt") in map(str, control_flags)
    assert 0 < (moved["weight"] - first.weight).abs().item() < 1e-6
    assert {"--order_seed", "--save_initial"} < set(stock_flags) and "--init_from" in our_flags
    assert all(flags[flags.index("--out_dropout") + 1] == "0" for flags in (stock_flags, our_flags))
    seeds = [seed for _, _, seed, flags in others if not flags]
    assert len(set(seeds)) == 16


def test_a_test_of_distributions_sees_location_and_spread():
    source = random.Random(2)
    a = [source.gauss(0, 1) for _ in range(20)]
    found = side_by_side.two_samples({
        "same": (a, [source.gauss(0, 1) for _ in range(20)]), "shifted": (a, [x + 2 for x in a]),
        "wider": (a, [source.gauss(0, 8) for _ in range(20)]),
    })
    assert found["same"]["p"] > 0.05 > max(found["shifted"]["p"], found["wider"]["p"])
    assert found["shifted"]["change"] == pytest.approx(2)
    assert found["shifted"]["low"] < 2 < found["shifted"]["high"]


def test_runs_of_unequal_length_are_not_compared():
    epoch = {"train_loss": 1.0, "valid_loss": 1.0, "test_loss": 1.0}
    with pytest.raises(ValueError, match="zip"):
        side_by_side.largest_differences([epoch], [epoch, epoch])


def test_the_patches_stand_in_the_readme():
    readme = (PATCHES / "README.md").read_text()
    assert all(patch.name in readme for patch in SERIES)
