"""run_all.sh's grid: what it plans, skips, refuses and reports, and that an interrupted one goes on."""

import contextlib
import json
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.data import download as sources
from src.errors import UserError
from src.files import BUSY, FolderLock
from src.grid import grid, pool
from src.grid import plan as grid_plan
from src.runs.result import difference_of_settings
from tests.data_files import give_data, make_splits, write_dataset
from tests.run_files import result_content
from tests.web_server import serving
from tests.zips import make_zip

ROOT = Path(__file__).parents[2]
SMALL = ("--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--num_epochs", "2", "--batch_size", "5",
         "--device", "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an unaligned data set `mine` in data/."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path)
    return tmp_path


def arguments(*own, main_flags=()):
    return ["--datasets", "mine", "--alignment", "unaligned", *own, "--", *SMALL, *main_flags]


def results(folder):
    return {path.parent.relative_to(folder / "results").as_posix(): json.loads(path.read_text())
            for path in (folder / "results").rglob("result.json")}


def test_the_whole_grid(folder):
    for stem in ("mosi", "mosei_senti", "iemocap"):
        for aligned in (False, True):
            write_dataset(folder / "data", stem, make_splits(), aligned)
    parsed = grid.parse_arguments([])
    runs, missing = grid_plan.plan(parsed.datasets, parsed.alignment, parsed.models, parsed.seeds, parsed.main_flags)
    unaligned, aligned = 5 * 5 + 1, 6 * 5 + 1  # Linear once, EF-LSTM on aligned data
    assert (len(runs), missing) == (3 * (unaligned + aligned), [])
    assert len({run.settings.run_path for run in runs}) == 171
    assert runs[0].title == "mosi unaligned PMR seed1111"
    assert {run.settings.preset for run in runs} == {"paper"}


@pytest.mark.parametrize("line, expected", [
    ("demo", {"datasets": ["demo"], "seeds": (1111,)}),
    ("demo --seeds 3 4", {"datasets": ["demo"], "seeds": [3, 4]}),
    ("--datasets mosi --preset stock -- --lr 1", {"main_flags": ("--results_dir", "results", "--preset", "stock",
                                                                 "--lr", "1")}),
])
def test_arguments(line, expected):
    parsed = vars(grid.parse_arguments(line.split()))
    assert {name: parsed[name] for name in expected} == expected


def test_ablations_get_folders_of_their_own():
    runs, _ = grid_plan.plan(["demo"], "aligned", ["PMR"], [1], (), ablations=True)
    assert len({run.settings.run_path for run in runs}) == len(runs) == 10
    by_name = {run.settings.name: run.settings for run in runs}
    assert by_name["no_filter"].options["dynamic_filter"] is False
    assert by_name["only_av"].options["modalities"] == "av"


def test_where_data_lies_is_not_another_setting():
    here = {"lr": 0.1, "data_path": "data", "data_device": "cpu", "cache_dir": None}
    there = {"lr": 0.1, "data_path": "/data/mosi.pkl", "data_device": "cuda", "cache_dir": "/caches"}
    assert difference_of_settings({"settings": here}, {"settings": there}) == ""
    mult = {"settings": {"model": "MulT", "attn_mask": True}}  # recorded before MulT had memory_layers
    assert difference_of_settings(mult, {"settings": mult["settings"] | {"memory_layers": 0}}) == ""
    other = {"settings": mult["settings"] | {"memory_layers": 1}}
    assert "memory_layers is 0 and 1" in difference_of_settings(mult, other)
    assert "lr is 0.1 and 0.2" in difference_of_settings({"settings": here}, {"settings": here | {"lr": 0.2}})


def test_a_grid_ends_in_tables_and_goes_on_where_it_stopped(folder, capfd):
    assert grid.main(arguments("--models", "MulT", "PMR", "--seeds", "1", "2", "--jobs", "2")) == 0
    printed = capfd.readouterr().out
    assert "# 4 runs, 0 of them finished before" in printed
    assert printed.count(": done in") == 4
    assert "## mine, unaligned" in printed
    table = (folder / "tables/mine_unaligned.md").read_text()
    assert list((folder / "figures").glob("*.png"))
    assert "mine, unaligned" in (folder / "report/index.html").read_text()

    first = results(folder)
    lost = folder / "results/mine/unaligned/PMR/seed2"
    (lost / "result.json").unlink()
    assert grid.main(arguments("--models", "MulT", "PMR", "--seeds", "1", "2", "--jobs", "2")) == 0
    assert "# 4 runs, 3 of them finished before" in capfd.readouterr().out
    assert (folder / "tables/mine_unaligned.md").read_text() == table
    for name, result in results(folder).items():
        assert (result == first[name]) == (name != "mine/unaligned/PMR/seed2")  # only its times are new


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_grid_ends_its_runs(folder, sent, code):
    command = [sys.executable, "-m", "src", "grid", *arguments("--models", "MulT", "--seeds", "1", "2"),
               "--num_epochs", "500"]
    process = subprocess.Popen(command, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, cwd=folder,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    started = folder / "results/mine/unaligned/MulT/seed1/metrics.jsonl"
    for _ in range(2400):
        if (started.parent / "last.pt").exists():  # with which it goes on
            break
        time.sleep(0.1)
    process.send_signal(sent)
    assert process.wait(timeout=60) == code
    if sent == signal.SIGKILL:
        assert is_let_go(started.parent)
    else:
        assert b"the same command continues" in process.stderr.read()
    epochs = started.read_text()
    time.sleep(1)
    assert started.read_text() == epochs
    assert (started.parent / "last.pt").is_file()
    assert results(folder) == {}


def is_let_go(run_folder):
    """Whether the process that writes a run's folder ends within a minute."""
    for _ in range(600):
        with contextlib.suppress(UserError):
            FolderLock(run_folder).release()
            return True
        time.sleep(0.1)
    return False


def test_changed_settings_are_refused(folder, capsys):
    assert grid.main(arguments("--models", "MulT", "--seeds", "1")) == 0
    before = results(folder)
    capsys.readouterr()
    assert grid.main(arguments("--models", "MulT", "--seeds", "1", "2", main_flags=("--lr", "0.5"))) == 2
    assert "holds a run of other settings (lr is 0.001 and 0.5" in capsys.readouterr().err
    assert results(folder) == before


def test_a_failed_run_is_reported_and_the_others_go_on(folder, capfd):
    blocked = folder / "results/mine/unaligned/MulT"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    assert grid.main(arguments("--models", "MulT", "PMR", "--seeds", "1")) == 1
    captured = capfd.readouterr()
    assert "# FAILED: mine unaligned MulT seed1" in captured.err
    assert "#   error: results cannot be written to" in captured.err
    assert list(results(folder)) == ["mine/unaligned/PMR/seed1"]
    assert "## mine, unaligned" in captured.out


def test_missing_data_is_named_and_the_others_run(folder, capfd):
    assert grid.main(["--datasets", "mosi", "mine", *arguments("--models", "MulT", "--seeds", "1")[2:]]) == 1
    captured = capfd.readouterr()
    assert "# left out: data/mosi_data_noalign.pkl is missing: python -m src download --dataset mosi" in captured.err
    assert list(results(folder)) == ["mine/unaligned/MulT/seed1"]


def test_missing_data_is_fetched(folder, monkeypatch, capfd):
    """What can be had runs, what cannot is named."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sources, "SOURCES", folder / "sources.json")
    with serving(make_zip({"mosi_data_noalign.pkl": pickle.dumps(make_splits())})) as server:
        source = {"name": "here", "url": server.url, "saved_as": "a.zip", "holds": ["mosi_data_noalign.pkl"]}
        (folder / "sources.json").write_text(json.dumps({"files": {}, "sources": [{**source, "provenance": ""}]}))
        line = ["--datasets", "mosi", "mosei", *arguments("--models", "MulT", "--seeds", "1", "--download")[2:]]
        assert grid.main(line) == 1
    captured = capfd.readouterr()
    assert "# mosei_senti_data_noalign.pkl could not be fetched into data (no source is known)" in captured.err
    assert "# left out: data/mosei_senti_data_noalign.pkl is missing" in captured.err
    assert list(results(folder)) == ["mosi/unaligned/MulT/seed1"]


@pytest.mark.parametrize("line, words", [
    ("--datasets mosi", "there is nothing to run"),
    ("--datasets mosi --download --models LSTM", "no model is called 'LSTM'"),
    ("--datasets mine -- --download", "--download cannot stand after --"),
    ("--datasets mine -- --eval results", "--eval cannot stand after --"),
    ("--datasets mine --jobs 0", "--jobs 0 starts nothing"),
    ("--datasets mine --cluster (", "--cluster"),
    ("--datasets mine --models LSTM", "no model is called 'LSTM'"),
    ("--datasets mine -- --colour red", "unrecognized arguments: --colour"),
    ("--colour=red", "unrecognized arguments: --colour"),
    ("--datasets mine --gpus_per_run 0.5", "--gpus_per_run is for --ray"),
    ("--datasets mine --ray --gpus_per_run -1", "-1 GPUs cannot be given out"),
    ("--datasets mine --ray --gpus_per_run 1.5", "1.5 GPUs cannot be given out"),
    ("--datasets mine --ray --index 0", "not allowed with argument --ray"),
    ("--datasets mine --index 0 --dry_run", "not allowed with argument --index"),
    ("--datasets mine --index 0 --download", "--download goes with running the whole grid"),
    ("--datasets mine --index 30", "--index 30 is not in the grid: it has 26 runs, 0 to 25"),
    ("--datasets mine --index -1", "--index -1 is not in the grid"),
])
def test_wrong_arguments_are_named(folder, capsys, line, words):
    assert grid.main(line.split()) == 2
    captured = capsys.readouterr()
    assert words in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert not (folder / "results").exists()


def test_gpus_are_given_out_round_robin(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    used = [pool.environment_of(slot, 5)["CUDA_VISIBLE_DEVICES"] for slot in range(5)]
    assert used == ["2", "5", "2", "5", "2"]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(pool.os, "cpu_count", lambda: 8)
    assert pool.environment_of(0, 3)["OMP_NUM_THREADS"] == "2"


class Ended:
    """A process that has ended."""

    def __init__(self, code):
        self.poll = lambda: code


def test_a_run_that_another_process_has_is_waited_for(folder, monkeypatch, capfd):
    runs, _ = grid_plan.plan(["mine"], "unaligned", ["MulT", "PMR"], [1], SMALL)
    another, started, polls = FolderLock(runs[0].settings.run_path), [], iter(range(1000))

    def start(run, slot, log):
        started.append(run)
        late = len(started) == 1  # another process has just come first
        log.write_text(f"error: the folder {BUSY} process 1" if late else "")
        return Ended(2 if late else 0)
    clock = SimpleNamespace(time=time.time, sleep=lambda seconds: next(polls) == 5 and another.release())
    monkeypatch.setattr(pool, "time", clock)
    assert pool.execute(runs, 2, folder / "logs", start) == []
    assert started == [runs[1], runs[1], runs[0]]
    assert "# another process has the runs that are left; waiting for its results: 1\n" in capfd.readouterr().out


def test_what_is_named_twice_counts_once():
    runs, _ = grid_plan.plan(["demo", "demo"], "aligned", ["PMR", "PMR"], [1, 2, 1], ())
    assert [run.title for run in runs] == ["demo aligned PMR seed1", "demo aligned PMR seed2"]


def test_a_run_of_other_settings_is_not_finished(folder):
    (run,), _ = grid_plan.plan(["mine"], "unaligned", ["MulT"], [1], SMALL)
    assert not run.finished
    path = run.settings.run_path
    path.mkdir(parents=True)
    result = result_content({"loss": 1, "mae": 1, "corr": 1, "acc7": 1, "acc5": 1, "acc2": 1, "f1_stock": 1},
                            settings=run.settings.recorded() | {"lr": 3.0})
    (path / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match=r"lr is 3\.0 and 0\.001"):
        _ = run.finished
