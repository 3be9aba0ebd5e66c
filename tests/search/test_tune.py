"""A search: it is shared, survives kills, looks at validation alone, and its best settings can be trained again."""

import errno
import json
import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from main import main
from src.data.specs import find_spec
from src.dataset import load_dataset
from src.errors import UserError
from src.grid import plan as grid_plan
from src.report.tables import write_tables
from src.runs.result import difference_of_settings
from src.runs.run_folder import RunFolder
from src.search import search, study, tune
from src.search.space import PAIR, draw, search_space, start
from src.search.study import Trial
from src.settings import parse_flags, presettable, resolve
from src.training.machine import TrainingError
from tests.data_files import give_data, make_splits, write_dataset
from tests.modules.test_models import TRANSFORMERS

RUN = ["--model", "PMR", "--dataset", "mine", "--device", "cpu"]
FIXED = ["--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--num_epochs", "3"]
SEARCH = [*RUN, *FIXED, "--seeds", "1", "2"]
STUDY = "studies/mine/unaligned/PMR"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with data."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(30, 6, 6))
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A working folder with data and a search of 4 trials by one process."""
    folder = tmp_path_factory.mktemp("finished")
    give_data(folder, sizes=(30, 6, 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert tune.main([*SEARCH, "--trials", "4"]) == 0
    return folder


@pytest.fixture
def at_finished(finished, monkeypatch):
    """That folder as the working folder, for tests that leave the study as it is."""
    monkeypatch.chdir(finished)
    return finished


def preset(study=STUDY):
    with open(f"{study}/preset.json", encoding="utf-8") as file:
        return json.load(file)


def result(seed, model="PMR"):
    with open(f"results/mine/unaligned/{model}/seed{seed}/result.json", encoding="utf-8") as file:
        return json.load(file)


def complaint(capsys, *command, of=tune.main):
    """The one line that a command ends with."""
    capsys.readouterr()
    assert of([*map(str, command)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def forked(command, sabotage=lambda: None):
    """Start a search in a process of its own; returns its id."""
    if process := os.fork():
        return process
    code = 1
    try:
        sys.stdout = sys.stderr = open("console", "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        sabotage()
        code = tune.main(command)
    finally:
        os._exit(code)


def ended(process):
    """How a process ended: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def signal_in_epoch(number, sent):
    """From here on, the process sends itself a signal when its training writes its state the `number`th time."""
    save_last, calls = RunFolder.save_last, iter(range(10**6))
    def save_and_send(*arguments):
        save_last(*arguments)
        if next(calls) == number:
            os.kill(os.getpid(), sent)
    RunFolder.save_last = save_and_send


def test_the_best_settings_can_be_trained_with_again(at_finished, capsys):
    folder = at_finished
    assert tune.main([*SEARCH, "--trials", "4"]) == 0
    printed = capsys.readouterr().out
    assert "# trial 0: " not in printed  # it is finished
    assert f"python main.py {' '.join([*RUN, *FIXED])} --preset {STUDY}/preset.json" in printed
    assert {path.name for path in (folder / STUDY).glob("*.png")} == {"history.png", "importance.png"}
    assert not list((folder / STUDY).rglob("*.pt"))

    found = preset()
    found_by = found["found_by"]
    assert found_by["value"] == min(trial["value"] for trial in found_by["values"]) <= found_by["value_without_search"]
    assert (found_by["trials"], found_by["seeds"]) == ({"complete": 4, "pruned": 0, "failed": 0}, [1, 2])
    assert found_by["seconds"] > 0
    for seed in (1, 2):
        assert main([*RUN, "--preset", f"{STUDY}/preset.json", "--seed", str(seed)]) == 0
    assert sum(result(seed)["valid"]["loss"] for seed in (1, 2)) / 2 == found_by["value"]
    assert {name: result(1)["settings"][name] for name in found["settings"]} == found["settings"]
    assert main(["--repeat", "results/mine/unaligned/PMR/seed1"]) == 0

    (table,), _ = write_tables("results", "tables")
    assert any(note.startswith("PMR: settings from a search, 4 trials x 2 seeds on validation of mine, unaligned, ")
               for note in table.notes)


def test_the_first_trial_has_the_settings_without_a_search(folder):
    assert tune.main([*SEARCH, "--trials", "1"]) == 0
    for seed in (1, 2):
        assert main([*RUN, *FIXED, "--seed", str(seed)]) == 0
    assert preset()["found_by"]["value_without_search"] == sum(result(s)["valid"]["loss"] for s in (1, 2)) / 2


def test_the_test_split_is_not_looked_at(folder):
    arrays = folder / "data/mine_data_noalign.pkl.cache/arrays"
    lost = list(arrays.glob("test_*.npy"))
    assert len(lost) == 3
    for path in lost:
        path.unlink()
    assert tune.main([*SEARCH, "--trials", "1"]) == 0
    assert not any(path.exists() for path in lost)  # so the file was not converted again either
    run = folder / STUDY / "trials/0000/seed1"
    assert "Valid Loss" in (run / "log.txt").read_text()
    assert "Test" not in (run / "log.txt").read_text()
    assert "test_" not in (run / "metrics.jsonl").read_text()
    assert set(load_dataset(find_spec("mine"), folder / "data", wanted=("train", "valid")).splits) == {"train", "valid"}
    assert set(load_dataset(find_spec("demo"), wanted=("train", "valid")).splits) == {"train", "valid"}


@pytest.mark.parametrize("sent, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_processes_share_a_study_and_one_that_ends_early_loses_nothing(folder, finished, sent, code):
    command = [*SEARCH, "--trials", "4"]
    processes = [forked(command, lambda: signal_in_epoch(3, sent)), forked(command)]
    assert [ended(process) for process in processes] == [code, 0]
    assert tune.main(command) == 0
    ours, alone = preset()["found_by"], preset(finished / STUDY)["found_by"]
    assert ours["values"] == alone["values"]  # to the last bit, and none of them twice
    assert len(ours["values"]) == ours["trials"]["complete"] == 4
    logs = [path.read_text() for path in (folder / STUDY).glob("trials/*/seed*/log.txt")]
    assert (len(logs), sum("# resumes after epoch" in log for log in logs)) == (8, 1)
    assert ("the same command resumes the search" in (folder / "console").read_text()) == (sent == signal.SIGTERM)


def test_a_trial_that_lost_its_process_between_two_seeds_goes_on(folder, finished):
    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)
    def sabotage():
        Trial.keep_loss = die
    assert ended(forked([*SEARCH, "--trials", "1"], sabotage)) == -signal.SIGKILL
    for trials in (1, 2):  # more can be asked for later
        assert tune.main([*SEARCH, "--trials", str(trials)]) == 0
        assert preset()["found_by"]["values"] == preset(finished / STUDY)["found_by"]["values"][:trials]


def test_trials_that_fail_are_counted_and_the_others_go_on(folder, monkeypatch):
    fit_into, first = search.fit_into, resolve(parse_flags([*RUN, *FIXED]))[0]
    def fit_or_fail(run, log, stop, run_of, settings, *rest):
        if settings.lr != first.lr:
            raise TrainingError("out of memory: it is small")
        return fit_into(run, log, stop, run_of, settings, *rest)
    monkeypatch.setattr(search, "fit_into", fit_or_fail)
    assert tune.main([*SEARCH, "--trials", "3"]) == 0
    found_by = preset()["found_by"]
    assert found_by["trials"] == {"complete": 1, "pruned": 0, "failed": 2}
    assert found_by["values"][1:] == [
        {"trial": i, "state": "failed", "value": None, "reason": "out of memory: it is small"} for i in (1, 2)
    ]


def test_training_that_diverges_fails(folder, capsys):
    line = complaint(capsys, *SEARCH, "--lr", "1e30", "--trials", "2")
    assert "no trial was complete; the last failed: training diverged in epoch 1" in line
    assert not (folder / STUDY / "preset.json").exists()


def test_trials_that_are_worse_than_most_are_pruned_but_never_the_first(folder, monkeypatch, capsys):
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: True)
    assert tune.main([*SEARCH, "--trials", "2"]) == 0
    printed = capsys.readouterr().out
    assert "# trial 1: pruned; lowest" in printed
    assert "2 of 2 done" in printed
    assert preset()["found_by"]["trials"] == {"complete": 1, "pruned": 1, "failed": 0}
    assert len((folder / STUDY / "trials/0001/seed1/metrics.jsonl").read_text().splitlines()) == 1
    assert not (folder / STUDY / "trials/0001/seed2").exists()


def space_of(line, samples=1000):
    flags = parse_flags(line.split())
    settings, _ = resolve(flags)
    return settings, search_space(settings, flags, samples)


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "iemocap", "demo", "mine"])
@pytest.mark.parametrize("model", TRANSFORMERS)
def test_every_draw_is_valid_and_so_are_the_settings_without_a_search(model, dataset):
    settings, space = space_of(f"--model {model} --dataset {dataset}")
    drawing = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawing.enqueue_trial({name: start(settings, name) for name in space})
    draws = [draw(space, drawing.ask()) for _ in range(20)]
    assert draws[0] == {name: settings.recorded()[name] for name in draws[0]}
    for drawn in draws:
        assert set(drawn) <= set(presettable(model))
        assert drawn["embed_dim"] % drawn["num_heads"] == 0
        assert 0 <= drawn["attn_dropout"] == round(drawn["attn_dropout"], 2) <= 0.5
    assert ("pool" in space) == (model == "PMR")


def test_flags_that_are_given_are_not_searched():
    _, whole = space_of("--dataset mosi --model PMR")
    settings, space = space_of("--dataset mosi --model PMR --lr 0.1 --num_heads 6 --pool mean --no_residual --when 3")
    assert whole.keys() - space.keys() == {"lr", "pool", "residual"}
    assert space[PAIR].values == ("30 x 6", "60 x 6")  # and the width that it starts from
    assert start(settings, PAIR) == "60 x 6"
    _, space = space_of("--dataset mosi --model PMR --embed_dim 8 --num_heads 2", samples=130)
    assert PAIR not in space
    assert space_of("--dataset mine --batch_size 5")[1].keys().isdisjoint({"batch_size"})
    assert space_of("--dataset mine", samples=30)[1]["batch_size"].values == (16, 24)


@pytest.mark.parametrize("change, words", [
    (["--seeds", "1", "3"], "seeds is [1, 2] and [1, 3]"),
    (["--lr", "0.1"], "lr is 0.001 and 0.1"),
    (["--batch_size", "10"], "batch_size is "),
    (["--sampler_seed", "1"], "sampler_seed is 0 and 1"),
])
def test_another_search_in_the_same_folder_is_refused(at_finished, capsys, change, words):
    before = preset()
    line = complaint(capsys, *SEARCH, "--trials", "5", *change)
    assert f"{STUDY} holds another search (" in line
    assert words in line
    assert preset() == before


def test_a_study_of_a_pmr_without_mask_goes_on_without(folder, capsys, monkeypatch):
    """Of the time of runs of format 2, which did not record it."""
    command = [*SEARCH, "--no_readout_norm", "--trials"]
    keep = optuna.Study.set_user_attr

    def keep_as_then(study, key, value):
        settings = {name: setting for name, setting in value["settings"].items() if name != "attn_mask"}
        keep(study, key, {name: part for name, part in value.items() if name != "format"} | {"settings": settings})
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", keep_as_then)
        assert tune.main([*command, "1", "--no_causal_mask"]) == 0
    assert "(attn_mask is False and True: there and asked for)" in complaint(capsys, *command, "2", "--causal_mask")
    assert tune.main([*command, "2", "--no_causal_mask"]) == 0


def test_another_data_file_is_refused(at_finished, tmp_path, capsys):
    path = write_dataset(tmp_path, "mine", make_splits(sizes=(30, 6, 6), seed=1), aligned=False)
    assert "holds another search (data is " in complaint(capsys, *SEARCH, "--data_path", path)


def test_a_number_in_a_journal_that_was_changed_is_noticed(folder, capsys):
    assert tune.main([*SEARCH, "--trials", "1"]) == 0
    journal = Path(STUDY, "journal.log")
    journal.write_text(re.sub(r'"values":\[\d', '"values":[0', journal.read_text(), count=1))
    assert f"{STUDY}/journal.log is damaged" in complaint(capsys, *SEARCH, "--trials", "2")


def test_a_journal_that_was_being_written_when_the_power_went_is_mended(folder, capsys):
    assert tune.main([*SEARCH, "--trials", "1"]) == 0
    with open(f"{STUDY}/journal.log", "a", encoding="utf-8") as file:
        file.write('{"op_code": 5, "wor')
    assert tune.main([*SEARCH, "--trials", "2"]) == 0
    with open(f"{STUDY}/journal.log", "a", encoding="utf-8") as file:
        file.write('nothing of ours\n{"op_code": 5}\n')
    assert f"{STUDY}/journal.log is damaged" in complaint(capsys, *SEARCH, "--trials", "3")


@contextmanager
def changed_preset(folder):
    """The content of a preset's file, to be changed; then it is the file preset.json."""
    content = {
        "format": 2, "model": "PMR", "dataset": "mine", "aligned": False, "settings": {"lr": 0.01, "pool": "mean"},
        "found_by": {"seeds": [1], "trials": {"complete": 2, "pruned": 1, "failed": 0}, "seconds": 1.0},
    }
    yield content
    (folder / "preset.json").write_text(json.dumps(content))


def test_a_flag_wins_over_a_preset(folder):
    with changed_preset(folder):
        pass
    settings, sources = resolve(parse_flags([*RUN, "--preset", "preset.json", "--pool", "last"]))
    assert (settings.lr, settings.options["pool"]) == (0.01, "last")
    assert (sources["lr"], sources["pool"], sources["clip"]) == ("preset preset.json", "flag", "stock default")
    assert settings.recorded()["search"] == "3 trials x 1 seed on validation of mine, unaligned, 0.00028 hours"
    other, _ = resolve(parse_flags([*RUN, "--lr", "0.01"]))
    assert "search" not in other.recorded()
    assert difference_of_settings({"settings": settings.recorded()}, {"settings": other.recorded()}) == ""


def test_a_grid_takes_a_preset_for_its_model(folder):
    with changed_preset(folder):
        pass
    (run,), _ = grid_plan.plan(["mine"], "unaligned", ["PMR"], [1], ("--preset", "preset.json"))
    assert run.settings.lr == 0.01
    with pytest.raises(UserError, match="is for PMR"):
        grid_plan.plan(["mine"], "unaligned", ["PMR", "MulT"], [1], ("--preset", "preset.json"))


@pytest.mark.parametrize("change, words", [
    ({"model": "MulT"}, "--preset preset.json is for MulT: give that --model"),
    ({"format": 3}, "has format 3; this version reads 1 to 2"),
    ({"format": None}, "is damaged or no preset"),
    ({"found_by": {}}, "is damaged or no preset"),
    ({"dataset": "\x1b[2J"}, "is damaged or no preset"),
    ({"settings": {"lr": "high"}}, "is damaged or was written by another version of this code: lr is 'high'"),
    ({"settings": {"lr": -1}}, "-1 is not a positive number"),
    ({"settings": {"pool": 3}}, "pool is 3"),
    ({"settings": {"data_path": "/"}}, "data_path is no setting of a preset of PMR"),
    ({"settings": {"only": "lonly"}}, "only is no setting of a preset of PMR"),
    ({"settings": {"\x1b": 1}}, "is damaged or no preset"),
])
def test_a_foreign_or_damaged_preset_is_refused(folder, capsys, change, words):
    with changed_preset(folder) as content:
        content.update(change)
    assert words in complaint(capsys, *RUN, "--preset", "preset.json", of=main)
    assert not (folder / "results").exists()


@pytest.mark.parametrize("content, words", [
    (b"{", "preset.json cannot be read as a preset"), (b"\xff", "preset.json cannot be read as a preset"),
    (b"[1]", "is damaged or no preset"), (b"[" * 100000, "cannot be read as a preset"),
    (None, "--preset preset.json is neither paper nor stock, and no file either"),
])
def test_what_is_no_preset_is_refused(folder, capsys, content, words):
    if content is not None:
        (folder / "preset.json").write_bytes(content)
    assert words in complaint(capsys, *RUN, "--preset", "preset.json", of=main)


@pytest.mark.parametrize("flags, words", [
    (["--trials", "0"], "0 is out of range"),
    (["--seed", "1"], "--seed cannot be given here"),
    (["--resume"], "--resume cannot be given here"),
    (["--colour", "red"], "unrecognized arguments: --colour red"),
    (["--data_path", "nowhere"], "nowhere/mine_data_noalign.pkl is missing"),
    (["--study", "data/mine_data_noalign.pkl"], "cannot hold a study: Not a directory; see --study"),
    (["--batch_size", "100"], "--batch_size 100 is more than the 30 training samples"),
])
def test_bad_input_is_told_before_the_first_trial(folder, capsys, flags, words):
    assert words in complaint(capsys, *SEARCH, *flags)
    assert not (folder / "studies").exists()


def test_without_optuna_the_way_to_it_is_told(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for module in (search, study):
        monkeypatch.delitem(sys.modules, module.__name__)
    assert "pip install optuna" in complaint(capsys, *SEARCH)


def test_a_full_disk_is_told(folder, capsys, monkeypatch):
    def fill(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(search, "write_preset", fill)
    line = complaint(capsys, *SEARCH, "--trials", "1")
    assert f"{STUDY} cannot be written: No space left on device; once that is mended, the same command " \
        "resumes the search" in line
