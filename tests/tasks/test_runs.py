"""Each layout of labels through main.py and the commands that read its run, on tiny made-up files."""

import json
import shlex

import numpy as np
import pytest
import torch

from main import main
from src.report.compare import main as compare
from src.report.plots import main as plots
from src.report.read_runs import read_run
from src.report.tables import write_tables
from src.tools.inspect_file import main as inspect
from tests.data_files import make_mmsa_splits, make_splits, write_dataset

SMALL = ["--device", "cpu", "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--num_epochs", "1",
         "--batch_size", "5", "--preset", "stock"]


def classes(count, shape):
    return lambda n, random: (np.arange(n) % count).reshape(n, *shape)


def one_hot(count, shape):
    return lambda n, random: np.eye(count)[np.arange(n) % count].reshape(n, *shape, count)


def uniform(low, high, shape):
    return lambda n, random: random.uniform(low, high, (n, *shape))


def pairs(count):
    return lambda n, random: np.eye(2)[(np.arange(n)[:, None] + np.arange(count)) % 2]


def signs(n, random):
    return (2 * (np.arange(n) % 2) - 1).reshape(n, 1)


LAYOUTS = {  # name of the data set, labels, flags, the line of the log
    "sentiment": ("mine", uniform(-3, 3, (1, 1)), "", "task: sentiment, from -3 to 3  ((N, 1, 1): numbers within"),
    "flat sentiment": ("mine", uniform(-3, 3, ()), "", "task: sentiment, from -3 to 3  ((N,): numbers within"),
    "-1 to 1": ("mine", uniform(-1, 1, (1, 1)), "--scale -1 1", "task: score, from -1 to 1 of score  (--scale)"),
    "1 to 5": ("mine", uniform(1, 5, (1,)), "--scale 1 5 --label_names valence",
               "task: score, from 1 to 5 of valence  (--scale)"),
    "ratings": ("mine", lambda n, random: 1 + np.arange(n) % 5, "--task score --scale 1 5", "task: score, from 1 to 5"),
    "valence and arousal": ("mine", uniform(-1, 1, (2,)), "--label_names valence arousal",
                            "task: scores of valence, arousal  ((N, 2): 2 numbers a sample)"),
    "three scores": ("mine", uniform(1, 9, (1, 3)), "--scale 1 9", "task: scores, from 1 to 9 of label_1, label_2"),
    "mosei raw": ("mosei", uniform(0, 3, (1, 7)), "", "task: scores of sentiment, happy, sad, anger"),
    "emotions": ("mine", pairs(3), "--label_names joy fear anger --class_weights balanced",
                 "task: emotions of joy, fear, anger  ((N, 3, 2): a pair for each emotion)"),
    "mosei emotions": ("mosei", pairs(6), "", "task: emotions of happy, sad, anger, surprise, disgust, fear  (known"),
    "flat emotions": ("mine", lambda n, random: pairs(4)(n, random)[..., 0], "--task emotions", "task: emotions of"),
    "0 and 1": ("mine", classes(2, (1, 1)), "--task classes --label_names no yes --class_weights 1 2.5",
                "task: classes of no, yes  (--task)"),
    "0 and 1 as a score": ("mine", classes(2, (1, 1)), "--scale 0 1", "task: score, from 0 to 1 of score  (--scale)"),
    "classes": ("mine", classes(3, ()), "--class_weights balanced", "task: classes of 0, 1, 2  ((N,): all whole"),
    "classes (N, 1)": ("mine", classes(4, (1,)), "", "task: classes of 0, 1, 2, 3  ((N, 1): all whole"),
    "classes (N, 1, 1)": ("mine", classes(3, (1, 1)), "--label_names a b c", "task: classes of a, b, c  ((N, 1, 1)"),
    "one-hot": ("mine", one_hot(3, ()), "", "task: classes of 0, 1, 2  ((N, 3), one-hot)"),
    "one-hot (N, 1, K)": ("mine", one_hot(4, (1,)), "--label_names a b c d", "task: classes of a, b, c, d  ((N, 1, 4)"),
    "one-hot of two": ("mine", one_hot(2, ()), "--task classes", "task: classes of 0, 1  (--task)"),
    "MELD": ("meld", classes(7, ()), "", "task: classes of neutral, surprise, fear, sadness, joy, disgust, anger  ("),
    "IEMOCAP 6": ("iemocap", classes(6, (1,)), "", "task: classes of happy, sad, neutral, angry, excited, frustrated"),
    "UR-FUNNY": ("humor", classes(2, (1,)), "", "task: classes of not humorous, humorous  (known of ur_funny"),
    "MUStARD": ("sarcasm", signs, "", "task: classes of not sarcastic, sarcastic  (known of mustard"),
    "CH-SIMS v2": ("simsv2", uniform(-1, 1, (1, 1)), "", "task: unit_sentiment, from -1 to 1  (known of simsv2"),
}
STEMS = {"mosei": "mosei_senti"}


def write(folder, name, labels, sizes=(14, 7, 7)):
    """A data file with these labels in a folder; returns its path."""
    splits, random = make_splits(sizes=sizes), np.random.default_rng(0)
    for arrays in splits.values():
        arrays["labels"] = labels(len(arrays["labels"]), random)
    return write_dataset(folder, STEMS.get(name, name), splits, aligned=False)


def command(folder, name, *arguments):
    return ["--dataset", name, "--data_path", str(folder), "--results_dir", str(folder / "results"), *SMALL, *arguments]


def result_of(folder):
    (path,) = (folder / "results").rglob("result.json")
    return path.parent, json.loads(path.read_text())


@pytest.mark.parametrize("name, labels, flags, line", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_trained_told_and_evaluated_again(name, labels, flags, line, tmp_path, capsys):
    path = write(tmp_path, name, labels)
    assert inspect([str(path), *shlex.split(flags)]) == 0
    told = capsys.readouterr().out
    assert line in told
    *_, last = told.splitlines()
    assert last.startswith("main.py takes it: --dataset ")
    takes = shlex.split(last.removeprefix("main.py takes it: "))
    assert main([*takes, *SMALL, "--results_dir", str(tmp_path / "results")]) == 0
    out = capsys.readouterr().out
    assert f"\n# {line}" in out
    run, result = result_of(tmp_path)
    assert f"# {result['trivial_baseline']['name']} baseline on test: " in out
    config = json.loads((run / "config.json").read_text())
    for key in ("task", "labels", "scale", "class_weights", "class_values"):
        assert config.get(key) == result.get(key)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["config"]["task"] == result["task"]
    assert main(["--eval", str(run)]) == 0
    assert capsys.readouterr().out.endswith("# reproduces result.json\n")
    of_log, of_folder = read_run(run / "log.txt"), read_run(run)
    assert of_log["metrics"].items() <= of_folder["metrics"].items()
    assert of_log["task"].subject == of_folder["task"].subject


AMBIGUOUS = {
    "0 and 1": (classes(2, (1, 1)), ("--task classes", "--scale", "--task sentiment")),
    "0 and 1 (N,)": (classes(2, ()), ("--task classes", "--scale", "--task sentiment")),
    "-1 and 1": (signs, ("--task classes", "--scale", "--task sentiment")),
    "-1 to 1": (uniform(-1, 1, (1, 1)), ("--scale", "--task sentiment")),
    "one-hot of two": (one_hot(2, ()), ("--task classes", "--task scores", "--task emotions")),
    "one-hot of two (N, 1, 2)": (one_hot(2, (1,)), ("--task classes", "--task scores", "--task emotions")),
}


@pytest.mark.parametrize("labels, flags", AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_what_is_ambiguous_is_refused_in_one_line_by_every_command(labels, flags, tmp_path, capsys):
    path = write(tmp_path, "mine", labels)
    for refuse in (lambda: main(command(tmp_path, "mine")), lambda: inspect([str(path)])):
        assert refuse() == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}, train labels ")
        assert error.count("\n") == 1
        assert all(flag in error for flag in flags)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("beyond", [3.0000002, -3.00001, 3.00003])
def test_a_label_a_rounding_beyond_the_scale_is_clipped_and_counted(beyond, tmp_path, capsys):
    def labels(n, random):
        return np.append(random.uniform(-3, 3, n - 1), beyond).reshape(n, 1, 1)
    write(tmp_path, "mine", labels)
    assert main(command(tmp_path, "mine")) == 0
    assert "train labels: 1 a rounding beyond -3 to 3, clipped to it\n" in capsys.readouterr().out


def test_mmsa_files_on_another_scale(tmp_path, capsys):
    write_dataset(tmp_path, "mine", make_mmsa_splits(bound=1), aligned=False)
    assert main(command(tmp_path, "mine")) == 2
    assert "--scale LOW HIGH, such as -1 1" in capsys.readouterr().err
    assert main(command(tmp_path, "mine", "--scale", "-1", "1")) == 0
    assert "# task: score, from -1 to 1 of score  (--scale)\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["1 to 5", "valence and arousal", "emotions", "classes"])
def test_tables_figures_and_comparisons_of_every_kind(kind, tmp_path, capsys, monkeypatch):
    name, labels, flags, _ = LAYOUTS[kind]
    monkeypatch.chdir(tmp_path)
    write(tmp_path, name, labels)
    for model in ("MulT", "PMR"):
        for seed in ("1", "2"):
            assert main(command(tmp_path, name, *shlex.split(flags), "--model", model, "--seed", seed)) == 0
    (table,), problems = write_tables("results", "tables")
    assert problems == []
    assert any(note.startswith("Differences: PMR less the model of the row") for note in table.notes)
    for row in table.rows[1:]:
        assert all(len(cell.values) == 2 for cell in row.cells.values())
    folders = [f"results/{name}/unaligned/{model}" for model in ("MulT", "PMR")]
    capsys.readouterr()
    assert compare(["--seeds", *folders]) == 0
    assert compare([f"{folder}/seed1" for folder in folders]) == 0
    assert compare([f"{folder}/seed1/log.txt" for folder in folders]) == 0
    out = capsys.readouterr().out
    assert all(key in out for key in table.task.columns.values())
    assert plots(["--dataset", name]) == 0
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert f"{name}_unaligned_bars.png" in drawn
    assert (f"{name}_unaligned_confusion.png" in drawn) == (kind == "classes")


def test_a_run_with_flags_about_labels_repeats(tmp_path, capsys):
    write(tmp_path, "mine", classes(2, (1, 1)))
    flags = ["--task", "classes", "--label_names", "no", "yes", "--class_weights", "balanced"]
    assert main(command(tmp_path, "mine", *flags)) == 0
    run, result = result_of(tmp_path)
    assert result["settings"]["label_names"] == "no,yes"
    assert result["class_weights"] == pytest.approx([1, 1])
    assert main(["--repeat", str(run)]) == 0
    assert "to the last bit" in capsys.readouterr().out
    assert main(command(tmp_path, "mine", *flags, "--resume")) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("flags, words", [
    (["--scale", "1"], "expected 2 arguments"),
    (["--scale", "1", "x"], "invalid limit value: 'x'"),
    (["--scale", "5", "1"], "--scale 5,1 is no scale"),
    (["--task", "regression"], "invalid choice: 'regression'"),
    (["--label_names", "a", "a"], "--label_names a,a has a name twice"),
    (["--class_weights", "0", "1"], "0 is not a positive number"),
    (["--class_weights", "balanced"], "leave it out for sentiment"),
    (["--task", "classes"], "classes are whole numbers"),
])
def test_flags_that_do_not_fit_are_one_line(flags, words, tmp_path, capsys):
    write(tmp_path, "mine", uniform(-3, 3, (1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(command(tmp_path, "mine", *flags)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
