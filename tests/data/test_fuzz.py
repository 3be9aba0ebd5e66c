"""Files that something has damaged, in any way: every command that reads them says so, or copes, and soon."""

import copy
import json
import os
import resource
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from main import main
from src.errors import run_command
from src.report import compare, tables
from src.report.plots import find_runs
from src.sealed import unseal
from tests.data_files import make_splits, write_dataset
from tests.runs.test_bad_input import CUT, DONE, RESUME, SMALL, edit, template  # noqa: F401 (a fixture)

MEMORY = 8 << 30  # bytes that the process may have: a forged size must not take the machine with it
few = settings(max_examples=25, deadline=20_000, derandomize=True, database=None,
               suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def limited_memory():
    """Let an allocation beyond reason fail in place of filling the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def restored(template, tmp_path, monkeypatch):  # noqa: F811
    """Makes a fresh copy of the template's folder, for each example, and works in it."""
    def restore():
        os.chdir(tmp_path)
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.copytree(template, tmp_path / "work")
        os.chdir(tmp_path / "work")
        return tmp_path / "work"
    monkeypatch.chdir(tmp_path)
    return restore


@st.composite
def damage(draw):
    """A function that damages bytes: some replaced, a piece cut out, doubled, moved or filled, or the end cut off."""
    start, length = draw(st.floats(0, 1)), draw(st.integers(1, 64))
    kind = draw(st.sampled_from(["replace", "replace", "drop", "double", "move", "fill", "truncate"]))
    replacement = draw(st.binary(min_size=1, max_size=8))

    def apply(content):
        at = int(start * len(content))
        before, piece, after = content[:at], content[at:at + length], content[at + length:]
        return {
            "replace": before + replacement + content[at + len(replacement):], "drop": before + after,
            "double": before + piece + piece + after, "move": after + piece + before,
            "fill": before + replacement[:1] * len(piece) + after, "truncate": before,
        }[kind]
    return apply


STRANGE = st.sampled_from(
    [None, True, -1, 0, 0.5, 10**30, float("nan"), float("inf"), "", "x", "\x1b[2J\n", [], [1], {}]
)


@st.composite
def change(draw, depth=4):
    """A function that changes a value somewhere in nested dicts and lists: drops it or puts something strange there."""
    steps, value = draw(st.lists(st.integers(0, 30), min_size=1, max_size=depth)), draw(STRANGE)
    drop = draw(st.booleans())

    def apply(content):
        for level, step in enumerate(steps):
            keys = list(content) if isinstance(content, dict) else list(range(len(content)))
            if not keys:
                return
            key = keys[step % len(keys)]
            if level == len(steps) - 1 or not isinstance(content[key], (dict, list)):
                break
            content = content[key]
        if drop:
            del content[key]
        else:
            content[key] = copy.deepcopy(value)
    return apply


def copes(capsys, command, *arguments):
    """Whether a command ends well or in one line that says what is wrong."""
    code = command(*arguments)
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in captured.err
    assert all(line.isprintable() for line in captured.err.splitlines())
    return code in (0, 1) or (code == 2 and len(errors) == 1)


@few
@given(damage())
def test_data_files(restored, capsys, damaging):
    path = restored() / "data/mine_data_noalign.pkl"
    path.write_bytes(damaging(path.read_bytes()))
    assert copes(capsys, main, SMALL.split())


@few
@given(st.sampled_from(["train", "valid", "test"]), st.sampled_from(["text", "audio", "vision", "labels", "id"]),
       change(), STRANGE)
def test_data_of_another_form(restored, capsys, split, key, changing, value):
    folder, splits = restored(), make_splits()
    splits[split][key] = splits[split][key].tolist() if value is None else np.array(value, dtype=object)
    changing(splits)
    write_dataset(folder / "data", "mine", splits, aligned=False)
    assert copes(capsys, main, SMALL.split())


@few
@given(damage(), st.sampled_from([(f"{DONE}/checkpoint.pt", f"--eval {DONE}"), (f"{CUT}/last.pt", RESUME)]))
def test_checkpoints(restored, capsys, damaging, file_and_command):
    name, command = file_and_command
    path = restored() / name
    path.write_bytes(damaging(path.read_bytes()))
    assert copes(capsys, main, command.split())


@few
@given(change())
def test_checkpoints_of_another_form(restored, capsys, changing):
    edit(f"{DONE}/checkpoint.pt", changing)(restored())
    assert copes(capsys, main, f"--eval {DONE}".split())


@few
@given(change(depth=2))
def test_the_last_state_of_another_form(restored, capsys, changing):
    edit(f"{CUT}/last.pt", changing)(restored())
    assert copes(capsys, main, RESUME.split())


RESULT_FILES = ["result.json", "config.json", "metrics.jsonl", "predictions.npz", "log.txt"]


def read_all(capsys, folder):
    """Every command that reads a finished run copes with it."""
    run = str(folder / DONE)
    assert copes(capsys, compare.main, [run, run])
    assert copes(capsys, compare.main, ["--seeds", *[str((folder / DONE).parent)] * 2])
    assert copes(capsys, tables.main, ["--results_dir", str(folder / "results"), "--out", str(folder / "tables")])
    assert copes(capsys, run_command, lambda: find_runs(folder / "results") and 0)
    assert copes(capsys, main, [*SMALL.split(), "--name", "done", "--resume"])
    assert copes(capsys, main, ["--repeat", run])


@few
@given(damage(), st.sampled_from(RESULT_FILES))
def test_results(restored, capsys, damaging, name):
    folder = restored()
    path = folder / DONE / name
    path.write_bytes(damaging(path.read_bytes()))
    read_all(capsys, folder)


@few
@given(change(), st.sampled_from(["result.json", "config.json"]))
def test_results_of_another_form(restored, capsys, changing, name):
    folder = restored()
    path = folder / DONE / name
    content = unseal(json.loads(path.read_text()))
    changing(content)
    path.write_text(json.dumps(content))
    read_all(capsys, folder)


def test_the_damage_is_felt(restored, capsys):
    """The commands above do read the files: each complains when one is empty."""
    folder = restored()
    for name in ("checkpoint.pt", "result.json"):
        (folder / DONE / name).write_bytes(b"")
    assert main(["--eval", str(folder / DONE)]) == 2
    assert compare.main([str(folder / DONE)] * 2) == 2
    assert torch.is_tensor(torch.load(folder / CUT / "last.pt", weights_only=True)["state"]["random"])
