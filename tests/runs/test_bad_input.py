"""Bad input as a user meets it: one line that says what is wrong, exit code 2, and nothing created or changed."""

import errno
import json
import os
import shutil

import pytest
import torch

from main import main
from src.data.specs import find_spec
from src.runs.run_folder import RunFolder
from src.sealed import unseal
from tests.data.test_dataset import DEFECTS, FILES
from tests.data_files import make_splits, write_dataset

SMALL = "--dataset mine --device cpu --embed_dim 8 --num_heads 2 --nlevels 1 --num_epochs 1 --batch_size 5"
DONE, CUT, MASKED, CUT_MASKED = (
    f"results/mine/unaligned/MulT-{name}/seed1111" for name in ("done", "cut", "masked", "cutmasked"))
RESUME = f"{SMALL} --name cut --resume"


def train(options=""):
    """A small run with these flags after its own; returns the exit code."""
    return main(f"{SMALL} {options}".split())


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder with the data set `mine`, a finished run and one that a full disk cut short."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "data").mkdir()
    for aligned, lens in ((False, (6, 9, 11)), (True, (7, 7, 7))):
        write_dataset(folder / "data", "mine", make_splits(lens=lens), aligned)

    def full_disk(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train("--name done") == 0
        assert train("--name masked --mask_padding") == 0
        patch.setattr(RunFolder, "finish", full_disk)
        assert train("--name cut") == 2
        assert train("--name cutmasked --mask_padding") == 2
    return folder


@pytest.fixture
def folder(template, tmp_path, monkeypatch):
    """A working folder of its own with what `template` has."""
    folder = tmp_path / "work"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def write(path, content):
    """Spoil a file: give it this content."""
    def spoil(folder):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return spoil


def cut(path, share):
    """Spoil a file: keep a share of it."""
    def spoil(folder):
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: int(len(content) * share)])
    return spoil


def flip(path):
    """Changes a digit of a number."""
    def spoil(folder):
        content = (folder / path).read_bytes()
        place = content.index(b'valid_loss": ') + 15
        (folder / path).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
    return spoil


def remove(path):
    """Spoil a folder: take a file away."""
    return lambda folder: (folder / path).unlink()


def edit(path, change):
    """Spoil a file that holds a dict, of torch or JSON."""
    def spoil(folder):
        if path.endswith(".pt"):
            content = torch.load(folder / path, weights_only=True)
            change(content)
            torch.save(content, folder / path)
        else:
            content = unseal(json.loads((folder / path).read_text()))
            change(content)
            (folder / path).write_text(json.dumps(content))
    return spoil


def first_format(path):
    """Make a file one of the first format."""
    return edit(path, lambda content: content.update(format=1))


def new_data(folder):
    """Give `mine` other numbers."""
    write_dataset(folder / "data", "mine", make_splits(seed=9), aligned=False)


def wider_data(folder):
    """Give `mine` other features."""
    write_dataset(folder / "data", "mine", make_splits(dims=(13, 5, 8)), aligned=False)


class Harmful:
    """Its pickle runs something when it is loaded freely."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


FLAGS = [  # after SMALL, unless they name another data set
    ("--colour red", "unrecognized arguments: --colour red"),
    ("stray", "unrecognized arguments: stray"),
    ("--lr", "argument --lr: expected one argument"),
    ("--lr fast", "argument --lr: invalid positive value: 'fast'"),
    ("--lr 0", "0 is not a positive number"),
    ("--lr -0.1", "-0.1 is not a positive number"),
    ("--lr nan", "nan is not a positive number"),
    ("--lr inf", "inf is not a positive number"),
    ("--clip 0", "0 is not a positive number"),
    ("--num_epochs 0", "argument --num_epochs: 0 is out of range; it must be from 1"),
    ("--num_epochs 1.5", "argument --num_epochs: invalid"),
    ("--batch_size 0", "argument --batch_size: 0 is out of range"),
    ("--batch_size 13", "--batch_size 13 is more than the 12 training samples; give 12 or less"),
    ("--batch_chunk 0", "argument --batch_chunk: 0 is out of range"),
    ("--attn_dropout -0.1", "-0.1 is not a dropout rate; it must be 0 or more and below 1"),
    ("--out_dropout 1", "1 is not a dropout rate"),
    ("--embed_dropout nan", "nan is not a dropout rate"),
    ("--num_heads 3", "width 8 cannot be divided into 3 attention heads"),
    ("--num_heads 0", "argument --num_heads: 0 is out of range"),
    ("--embed_dim 0", "argument --embed_dim: 0 is out of range"),
    ("--nlevels 0", "argument --nlevels: 0 is out of range"),
    ("--nlevels 4000000000", "4000000000 is out of range; it must be from 1 to 1000"),
    ("--kernel_l 0", "argument --kernel_l: 0 is out of range"),
    ("--when -1", "argument --when: -1 is out of range"),
    ("--early_stop -1", "argument --early_stop: -1 is out of range"),
    ("--seed -1", "argument --seed: -1 is out of range"),
    ("--seed 4294967296", "4294967296 is out of range"),
    ("--log_interval 0", "argument --log_interval: 0 is out of range"),
    ("--optim Adamant", "argument --optim: invalid choice: 'Adamant'"),
    ("--preset paper", "--preset paper: MulT's Table 5 has no row for 'mine'"),
    ("--preset best", "--preset best is neither paper nor stock, and no file either"),
    ("--model LSTM",
     "--model: no model is called 'LSTM'; there are PMR, PMR-report, MulT, MulT-FFL, EF-LSTM, LF-LSTM, Linear"),
    ("--lonly --aonly", "argument --aonly: not allowed with argument --lonly"),
    ("--aonly --vonly", "argument --vonly: not allowed with argument --aonly"),
    ("--lonly --aonly --vonly", "argument --aonly: not allowed with argument --lonly"),
    ("--no_cuda --device cuda", "--no_cuda contradicts --device cuda"),
    ("--device cuda:99", "--device cuda:99 cannot be used here"),
    ("--device meta", "--device meta cannot be used here"),
    ("--device abacus", "--device abacus cannot be used here"),
    ("--pool mean", "MulT has no use for pool='mean' (an option of PMR)"),
    ("--message_update none", "MulT has no use for message_update='none' (an option of PMR)"),
    ("--no_dynamic_filter", "MulT has no use for dynamic_filter=False (an option of PMR)"),
    ("--model PMR --vonly", "PMR has no use for only='vonly'"),
    ("--model PMR --lonly", "PMR has no use for only='lonly'"),
    ("--model PMR --modalities lx", "modalities is 'lx'"),
    ("--model PMR --pool last,mean", "pool is 'last,mean'"),
    ("--model PMR --message_form wide", "message_form"),
    ("--name a/b", "'a/b' cannot be part of a folder's name"),
    ("--dataset ../mine", "--dataset '../mine' is not a name"),
    ("--dataset mosei", "data/mosei_senti_data_noalign.pkl is missing: python -m src download"),
    ("--dataset yours", "data/yours_data_noalign.pkl is missing: put it there"),
    ("--eval", "argument --eval: expected one argument"),
    (f"--eval {DONE}", "--eval takes its settings from the run: leave out --batch_size, --dataset"),
    (f"--repeat {DONE}", "--repeat takes its settings from the run: leave out --batch_size, --dataset"),
]
FOLDERS = [
    ("--data_path nowhere", "nowhere/mine_data_noalign.pkl is missing", None),
    ("--data_path data/other.pkl", "data/other.pkl/mine_data_noalign.pkl is missing", None),
    ("", "data/mine_data_noalign.pkl", lambda folder: (
        (folder / "data/mine_data_noalign.pkl").unlink(), (folder / "data/mine_data_noalign.pkl").mkdir())),
    ("--aligned", "data/mine_data.pkl is missing, but mine_data_noalign.pkl is there: leave out --aligned",
     remove("data/mine_data.pkl")),
    ("--results_dir data/mine_data.pkl", "results cannot be written to data/mine_data.pkl/mine", None),
    ("--results_dir file/results", "results cannot be written to file/results/mine", write("file", b"")),
    ("--results_dir /proc/results", "results cannot be written to /proc/results/mine", None),
    ("--name file", "results cannot be written to", write("results/mine/unaligned/MulT-file", b"")),
    ("--name file", "results cannot be written to", write("results/mine/unaligned/MulT-file/seed1111", b"")),
]
EVAL, REPEAT = f"--eval {DONE}", f"--repeat {DONE}"
RUNS = [  # whole command lines
    ("--eval nowhere", "nowhere/checkpoint.pt is missing", None),
    ("--eval data", "data/checkpoint.pt is missing: data is not the folder of a run", None),
    ("--eval data/mine_data.pkl", "data/mine_data.pkl/checkpoint.pt is missing", None),
    (f"{EVAL} --lr 1", "leave out --lr", None),
    (f"{EVAL} --resume", "leave out --resume", None),
    (EVAL, "checkpoint.pt is missing", remove(f"{DONE}/checkpoint.pt")),
    (EVAL, "is damaged or not a checkpoint", write(f"{DONE}/checkpoint.pt", b"")),
    (EVAL, "is damaged or not a checkpoint", write(f"{DONE}/checkpoint.pt", b"not a checkpoint")),
    (EVAL, "is damaged or not a checkpoint", cut(f"{DONE}/checkpoint.pt", 0.5)),
    (EVAL, "is damaged or not a checkpoint", cut(f"{DONE}/checkpoint.pt", 0.99)),
    (EVAL, "is damaged or not a checkpoint",
     lambda folder: torch.save({"format": 1, "model": Harmful()}, folder / DONE / "checkpoint.pt")),
    (EVAL, "has format 0; this version reads 1 to 3", edit(f"{DONE}/checkpoint.pt", lambda x: x.update(format=0))),
    (f"--eval {MASKED}", "has format 1, of a time when mask_padding had another rule for steps that see nothing",
     first_format(f"{MASKED}/checkpoint.pt")),
    (EVAL, "by another version of this code", edit(f"{DONE}/checkpoint.pt", lambda x: x.pop("config"))),
    (EVAL, "there is no setting depth",
     edit(f"{DONE}/checkpoint.pt", lambda x: x["config"]["settings"].update(depth=3))),
    (EVAL, "lr is", edit(f"{DONE}/checkpoint.pt", lambda x: x["config"]["settings"].update(lr="fast"))),
    (EVAL, "checkpoint.pt does not fit the data or the code",
     edit(f"{DONE}/checkpoint.pt", lambda x: x["config"]["settings"].update(model="MulT-FFL"))),
    (EVAL, "checkpoint.pt does not fit the data or the code", wider_data),
    (EVAL, "is not reproduced: valid loss was", new_data),
    (EVAL, "result.json is damaged", cut(f"{DONE}/result.json", 0.5)),
    (EVAL, "result.json has format 7; this version reads 1 to 3",
     edit(f"{DONE}/result.json", lambda x: x.update(format=7))),
    (EVAL, "it has no test_selected.epoch", edit(f"{DONE}/result.json", lambda x: x["test_selected"].pop("epoch"))),
    (EVAL, "its valid is not metrics", edit(f"{DONE}/result.json", lambda x: x["valid"].update(mae="low"))),
    ("--repeat nowhere", "nowhere has no result.json: only a finished run can be repeated", None),
    (f"--repeat {CUT}", "only a finished run can be repeated; finish it with --resume", None),
    (f"{REPEAT} --seed 3", "leave out --seed", None),
    (f"--repeat {MASKED}", "config.json has format 1, of a time when mask_padding",
     first_format(f"{MASKED}/config.json")),
    (REPEAT, "config.json is missing", remove(f"{DONE}/config.json")),
    (REPEAT, "config.json is damaged", cut(f"{DONE}/config.json", 0.3)),
    (REPEAT, "nlevels is None", edit(f"{DONE}/config.json", lambda x: x["settings"].update(nlevels=None))),
    (REPEAT, "data/mine_data_noalign.pkl is missing", remove("data/mine_data_noalign.pkl")),
    (REPEAT, "its environment has no number of threads",
     edit(f"{DONE}/result.json", lambda x: x.update(environment={}))),
    (f"{RESUME} --lr 0.5", "holds another run, unfinished (lr is 0.001 and 0.5: there and asked for)", None),
    (f"{RESUME} --num_heads 4 --optim SGD", "num_heads is 2 and 4, optim is Adam and SGD", None),
    (RESUME, "(data is ", new_data),
    (RESUME, "input_dims is (12, 5, 8) and (13, 5, 8)", wider_data),
    (f"{SMALL} --name done --resume --lr 0.5", "holds a run of other settings (lr is 0.001 and 0.5", None),
    (RESUME, "last.pt is damaged or not a checkpoint", write(f"{CUT}/last.pt", b"")),
    (RESUME, "last.pt is damaged or not a checkpoint", write(f"{CUT}/last.pt", b"PK\3\4 and more")),
    (RESUME, "last.pt is damaged or not a checkpoint", cut(f"{CUT}/last.pt", 0.9)),
    (RESUME, "last.pt has format 4; this version reads 1 to 3", edit(f"{CUT}/last.pt", lambda x: x.update(format=4))),
    (f"{SMALL} --name cutmasked --mask_padding --resume", "last.pt has format 1, of a time when mask_padding",
     first_format(f"{CUT_MASKED}/last.pt")),
    (RESUME, "last.pt was written by another version", edit(f"{CUT}/last.pt", lambda x: x.pop("config"))),
    (RESUME, "last.pt was written by another version", edit(f"{CUT}/last.pt", lambda x: x["config"].pop("data"))),
    (RESUME, "the saved training does not fit this model",
     edit(f"{CUT}/last.pt", lambda x: x["state"].pop("optimizer"))),
    (RESUME, "the saved training does not fit this model",
     edit(f"{CUT}/last.pt", lambda x: x["state"]["model"].popitem())),
    (RESUME, "metrics.jsonl has lost lines", cut(f"{CUT}/metrics.jsonl", 0.5)),
    (RESUME, "metrics.jsonl is damaged", flip(f"{CUT}/metrics.jsonl")),
    (RESUME, "log.txt has lost lines", remove(f"{CUT}/log.txt")),
    (RESUME, "result.json is damaged", write(f"{CUT}/result.json", b"{}")),
]


def data_defects():
    """Every defect that a data file can have, as arguments, words and what makes it."""
    for defect in DEFECTS:
        name, task, aligned, mutate, words = defect.values
        def spoil(folder, task=task, mutate=mutate, name=name, aligned=aligned):
            splits = make_splits(task)
            mutate(splits)
            write_dataset(folder / "data", find_spec(name).stem, splits, aligned)
        yield pytest.param(f"--dataset {name}{' --aligned' * aligned}", words, spoil, id=f"data: {defect.id}")
    for title, (content, words) in FILES.items():
        yield pytest.param(SMALL, words, write("data/mine_data_noalign.pkl", content), id=f"data: {title}")


CASES = [
    *(pytest.param(f"{SMALL} {flags}", words, None, id=f"flags: {flags}") for flags, words in FLAGS),
    *(pytest.param(f"{SMALL} {flags}", words, spoil, id=f"folders: {words}") for flags, words, spoil in FOLDERS),
    *(pytest.param(command, words, spoil, id=f"runs: {words}") for command, words, spoil in RUNS),
    *data_defects(),
]


def snapshot(folder):
    """Every path under a folder with the content of the files, but for converted data."""
    paths = (path for path in folder.rglob("*") if not any(part.endswith(".cache") for part in path.parts))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.mark.parametrize("command, words, spoil", CASES)
def test_bad_input_is_one_line_and_changes_nothing(folder, capsys, command, words, spoil):
    if spoil:
        spoil(folder)
    before = snapshot(folder)
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.err[:-1].isprintable()
    assert words in captured.err
    assert snapshot(folder) == before


def test_the_cases_are_many():
    assert len(CASES) >= 60
