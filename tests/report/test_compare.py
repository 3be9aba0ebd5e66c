"""Comparing runs: every kind of input, what is said of each pair, the intervals over seeds, and the errors."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from main import main as train
from src.eval_metrics import EMOTIONS
from src.report.compare import COLOUR_END, COLOURS, compare, compare_seeds, largest, main, report
from src.report.read_runs import read_run, read_seeds
from src.report.significance import MAIN, p_text
from src.runs.result import without_nan
from src.tasks import EmotionClassification, SentimentRegression
from tests.data_files import make_splits, write_dataset
from tests.run_files import result_content

RULE = "-" * 50
SENTIMENT_END = f"""\
MAE:  0.9
Correlation Coefficient:  0.7
mult_acc_7:  0.35
mult_acc_5:  0.4
F1 score:  0.8
Accuracy:  0.81
{RULE}
"""
STOCK_HEAD = """\
Start loading the data....
  - Found cached train data
  - Found cached valid data
  - Found cached test data
Finish loading the data....
### Note: You are running in unaligned mode.
"""
STOCK_EPOCHS = f"""\
Epoch  1 | Batch  30/ 53 | Time/Batch(ms) 151.57 | Train Loss 1.4000
Epoch  1 | Batch  60/ 53 | Time/Batch(ms) 9.20 | Train Loss 1.3000
{RULE}
Epoch  1 | Time 12.5000 sec | Valid Loss 1.2000 | Test Loss 1.1000
{RULE}
Saved model at pre_trained_models/mult.pt!
Epoch  2 | Batch  30/ 53 | Time/Batch(ms) 151.57 | Train Loss 1.0000
{RULE}
Epoch  2 | Time 10.0000 sec | Valid Loss 0.9500 | Test Loss 0.9000
{RULE}
Saved model at pre_trained_models/mult.pt!
"""
STOCK_LOG = STOCK_HEAD + STOCK_EPOCHS + SENTIMENT_END
EMOTION_END = "".join(
    f"{emotion}: \n  - F1 Score:  0.7{i}\n  - Accuracy:  0.8{i}\n" for i, emotion in enumerate(EMOTIONS)
)
OUR_HEAD = """\
# MulT on mosi, unaligned: 12 train, 6 valid, 6 test samples
# steps x features: language 8 x 16, audio 18 x 6, vision 20 x 8
# model = MulT  (flag)
# dataset = mosi  (flag)
# lr = 0.001  (MulT Table 5, MOSI; kernel_l is 1 or 3 there)
# device: cpu
# parameters: 164,513
"""
TEST = {"loss": 0.9, "mae": 0.9, "corr": 0.7, "acc7": 0.35, "acc5": 0.4, "acc2": 0.81, "f1": 0.79, "f1_stock": 0.8}


@pytest.fixture
def write(tmp_path):
    """Writes a text to a file of this name and returns its path."""
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return path
    return write


def write_run(folder, losses=((1.3, 1.2, 1.1), (1.0, 0.95, 0.9)), test=TEST, finished=True, dataset="mosi", **settings):
    """A run folder with these (train, valid, test) losses by epoch; every epoch took 2.5 seconds."""
    folder.mkdir(parents=True)
    settings = {"model": "PMR", "dataset": dataset, "lr": 0.001, "attn_mask": True, "name": None} | settings
    (folder / "config.json").write_text(json.dumps({"format": 1, "settings": settings}))
    (folder / "metrics.jsonl").write_text("".join(
        json.dumps({**{f"test_{key}": value for key, value in test.items()}, "epoch": i, "seconds": 2.5, "lr": 0.001,
                    "train_loss": train, "valid_loss": valid, "test_loss": test_loss}) + "\n"
        for i, (train, valid, test_loss) in enumerate(losses, 1)
    ))
    (folder / "log.txt").write_text(OUR_HEAD + STOCK_EPOCHS + SENTIMENT_END)
    if finished:
        (folder / "result.json").write_text(json.dumps(result_content(test, dataset=dataset, settings=settings)))
    return folder


def output(capsys, *arguments):
    """What a successful command prints."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def cells(text, start):
    """The cells of the line of a table that starts with this."""
    line = next(line for line in text.splitlines() if line.startswith(f"  {start} "))
    return re.split(r" {2,}", line.strip())


def complaint(capsys, *arguments):
    """The one line that a command ends with in place of a result."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# Reading


def test_a_stock_log_is_read(write):
    run = read_run(write("log", STOCK_LOG))
    assert run["epochs"] == {  # the train loss is that of the last Batch line
        1: {"train_loss": 1.3, "valid_loss": 1.2, "test_loss": 1.1, "seconds": 12.5},
        2: {"train_loss": 1.0, "valid_loss": 0.95, "test_loss": 0.9, "seconds": 10.0},
    }
    assert run["metrics"] == {"mae": 0.9, "corr": 0.7, "acc7": 0.35, "acc5": 0.4, "f1_stock": 0.8, "acc2": 0.81}
    assert run["task"].subject == "sentiment"
    assert (run["settings"], run["dataset"], run["parameters"]) == (None, None, None)


def test_the_emotions_of_a_stock_log_are_read(write):
    run = read_run(write("log", STOCK_HEAD + STOCK_EPOCHS + EMOTION_END))
    assert run["task"].subject == "the emotions Neutral, Happy, Sad, Angry"
    assert run["metrics"]["Neutral_f1"] == 0.70
    assert run["metrics"]["Angry_acc"] == 0.83
    assert len(run["metrics"]) == 8


def test_the_head_of_our_log_is_read(write):
    run = read_run(write("log.txt", OUR_HEAD + STOCK_EPOCHS))
    assert run["settings"] == {"model": "MulT", "dataset": "mosi", "lr": "0.001"}
    assert (run["dataset"], run["parameters"], run["metrics"]) == ("mosi", 164513, None)


def test_a_loss_that_was_cut_off_is_not_read(write):
    whole = STOCK_HEAD + STOCK_EPOCHS
    run = read_run(write("log", whole[:whole.index("Test Loss 0.9000") + len("Test Loss 0.9")]))
    assert list(run["epochs"]) == [1]


# Comparing


def test_two_folders(tmp_path, capsys):
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", losses=((1.3, 1.1, 1.25), (1.2, 0.95, 0.90000001), (1, 0.5, 0.5)),
                  test=TEST | {"mae": 0.8, "corr": 0.6, "f1": 0.95}, lr=0.002, pool="last")
    text = output(capsys, a, b)
    settings = text[text.index("settings that differ"):text.index("losses")].splitlines()
    assert [line.split() for line in settings[2:-1]] == [["lr", "0.001", "0.002"], ["pool", "-", "last"]]
    assert cells(text, "1") == [
        "1", "1.3000", "1.3000", "0", "1.2000", "1.1000", "-0.1000", "1.1000", "1.2500", "+0.1500"
    ]
    assert cells(text, "2")[-1] == "+1.0e-08"
    assert cells(text, "3") == ["3", "-", "1.0000", "-", "-", "0.5000", "-", "-", "0.5000", "-"]
    assert cells(text, "mae") == ["mae", "0.9000", "0.8000", "-0.1000", "▲"]
    assert cells(text, "corr") == ["corr", "0.7000", "0.6000", "-0.1000", "▼"]
    assert cells(text, "f1")[-1] == "▲"
    assert cells(text, "acc7") == ["acc7", "0.3500", "0.3500", "0", "="]
    assert cells(text, "wall time of the epochs")[1:] == ["5.0 s", "7.5 s"]
    assert cells(text, "parameters")[1:] == ["1,234,567"] * 2
    assert "largest absolute difference over 2 common epochs: valid loss 0.1, test loss 0.15" in text
    assert "note:" not in text


def test_a_folder_and_a_stock_log(tmp_path, write, capsys):
    a = write_run(tmp_path / "a", losses=((1.31, 1.20004, 1.1), (1.0, 0.95006, 0.9)))
    text = output(capsys, a, write("log", STOCK_LOG))
    assert "settings: unknown of B, since a stock log states none" in text
    assert "no train loss" in text
    assert "train A" not in text
    assert cells(text, "1") == ["1", "1.2000", "1.2000", "0", "1.1000", "1.1000", "0"]  # to the digits of a log
    assert cells(text, "2")[3] == "-0.0001"
    assert cells(text, "f1_stock") == ["f1_stock", "0.8000", "0.8000", "0", "="]
    assert not re.search(r"^  f1 ", text, re.M)  # a log has it not
    assert cells(text, "wall time of the epochs")[1:] == ["5.0 s", "22.5 s"]
    assert cells(text, "parameters")[1:] == ["1,234,567", "unknown"]


def test_two_logs_have_a_train_loss(write, capsys):
    text = output(capsys, write("a", OUR_HEAD + STOCK_EPOCHS.replace("1.3000", "1.5000") + SENTIMENT_END),
                  write("b", STOCK_LOG))
    assert cells(text, "1")[:4] == ["1", "1.5000", "1.3000", "-0.2000"]


def test_equal_settings_are_said_to_be(tmp_path, capsys):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    assert "settings: all equal" in output(capsys, a, b)


def test_settings_of_a_log_head_and_of_a_result_agree(tmp_path, write, capsys):
    folder = write_run(tmp_path / "a", model="MulT")
    text = output(capsys, folder, write("b", OUR_HEAD + STOCK_EPOCHS))
    settings = text[text.index("settings that differ"):text.index("losses")].split("\n")[2:-2]
    assert [line.split() for line in settings] == [["attn_mask", "True", "-"], ["name", "None", "-"]]


def test_nan_is_no_verdict(tmp_path, write, capsys):
    a = write_run(tmp_path / "a", test=TEST | {"corr": None})
    nan_log = STOCK_LOG.replace("Coefficient:  0.7", "Coefficient:  nan").replace("Valid Loss 0.9500", "Valid Loss nan")
    text = output(capsys, a, write("b", nan_log))
    assert cells(text, "corr") == ["corr", "nan", "nan", "0", "="]
    assert cells(text, "2")[1:4] == ["0.9500", "nan", "+nan"]
    assert "valid loss nan, test loss 0\n" in text
    assert cells(output(capsys, a, write("c", STOCK_LOG)), "corr") == ["corr", "nan", "0.7000", "+nan"]


@pytest.mark.parametrize("differences", [[0.1, float("nan"), -0.2], [float("nan"), 0.1], [0.1, float("nan")]])
def test_nan_is_the_largest_difference(differences):
    assert np.isnan(largest(differences))


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_run_cut_short_is_a_note(tmp_path, write, capsys, side):
    whole = write_run(tmp_path / "whole")
    for cut in (
        write("cut", STOCK_HEAD + STOCK_EPOCHS), write("in_metrics", STOCK_LOG[:STOCK_LOG.index("F1 score")]),
        write_run(tmp_path / "unfinished", finished=False),
    ):
        text = output(capsys, *((cut, whole) if side == "A" else (whole, cut)))
        assert f"note: {side} has no final metrics: it was cut short" in text
        assert text.count("note:") == 1
        assert cells(text, "2")[0] == "2"
        assert "final test metrics: none that both have" in text


def test_colour_is_for_terminals(tmp_path, capsys, monkeypatch):
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", losses=((1.3, 1.1, 1.25),), test=TEST | {"mae": 0.8, "corr": 0.6})
    plain = output(capsys, a, b)
    assert "\x1b" not in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    coloured = output(capsys, a, b)
    assert re.search(re.escape(COLOURS["better"]) + r" *-0.1000" + re.escape(COLOUR_END), coloured)  # a valid loss
    assert re.search(re.escape(COLOURS["worse"]) + r" *\+0.1500" + re.escape(COLOUR_END), coloured)
    assert COLOURS["better"] + "▲" + COLOUR_END in coloured
    assert COLOURS["worse"] + "▼" + COLOUR_END in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_what_a_file_holds_cannot_drive_the_terminal(tmp_path, write):
    a, b = read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", name="\x1b[2J"))
    assert "\x1b" not in "\n".join(report(a, b, compare(a, b)))


# Errors


def test_different_data_sets_and_tasks_are_errors(tmp_path, write, capsys):
    mosi, mosei = write_run(tmp_path / "a"), write_run(tmp_path / "b", dataset="mosei")
    assert "A is on the data set mosi, B on the data set mosei" in complaint(capsys, mosi, mosei)
    assert "data set mosei, B on the data set mosi" in complaint(capsys, mosei, write("c", OUR_HEAD + STOCK_EPOCHS))
    emotions = write("log", STOCK_EPOCHS + EMOTION_END)
    assert "A is about sentiment, B about the emotions Neutral, Happy" in complaint(capsys, mosi, emotions)
    assert "A is about the emotions Neutral" in complaint(capsys, emotions, write("d", STOCK_LOG))
    unfinished = write_run(tmp_path / "unfinished", finished=False)
    assert "A is about the emotions" in complaint(capsys, emotions, unfinished)
    output(capsys, mosei, write("stock", STOCK_LOG))  # a stock log may be on any data set


@pytest.mark.parametrize("spoil, words", [
    (lambda run: (run / "metrics.jsonl").unlink(), "has no metrics.jsonl"),
    (lambda run: (run / "metrics.jsonl").write_text(""), "has no finished epoch"),
    (lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1, "tra'), "is damaged"),
    (lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1}\n'), "is damaged"),
    (lambda run: (run / "metrics.jsonl").write_text("[]\n"), "is damaged"),
    (lambda run: (run / "result.json").write_text("{"), "result.json is damaged"),
    (lambda run: (run / "result.json").write_text('{"format": 1}'), "is damaged"),
    (lambda run: (run / "result.json").write_text('{"format": 1, "settings": 3}'), "is damaged"),
    (lambda run: [(run / name).unlink() for name in ("result.json", "config.json")], "is not the folder of a run"),
])
@pytest.mark.parametrize("first", [True, False])
def test_folders_that_are_no_whole_run(tmp_path, capsys, spoil, words, first):
    whole, spoilt = write_run(tmp_path / "whole"), write_run(tmp_path / "spoilt")
    spoil(spoilt)
    message = complaint(capsys, *((spoilt, whole) if first else (whole, spoilt)))
    assert words in message
    assert str(spoilt) in message


@pytest.mark.parametrize("text, words", [
    ("", "is empty"),
    (" \n\n", "is empty"),
    (STOCK_HEAD, "has no line of a finished epoch"),
    ("\0\xff" * 50, "has no line of a finished epoch"),
    (STOCK_LOG + STOCK_LOG, "holds more than one run: epoch 1 comes after a later one"),
])
def test_logs_without_a_run(write, capsys, text, words):
    assert words in complaint(capsys, write("good", STOCK_LOG), write("bad", text))


def test_paths_that_are_nothing(tmp_path, write, capsys):
    good = write("log", STOCK_LOG)
    assert "nowhere does not exist" in complaint(capsys, good, tmp_path / "nowhere")
    assert "nowhere does not exist" in complaint(capsys, "--seeds", tmp_path / "nowhere", tmp_path)
    assert "is a file; --seeds takes model folders" in complaint(capsys, "--seeds", good, good)
    assert "is not the folder of a run" in complaint(capsys, tmp_path, good)
    write_run(tmp_path / "PMR" / "seed1")
    assert "name one of its seed folders, or compare all with --seeds" in complaint(capsys, tmp_path / "PMR", good)


def test_a_wrong_command_line_is_one_line(capsys):
    assert "the following arguments are required: B" in complaint(capsys, "a")
    assert "not allowed with" in complaint(capsys, "a", "b", "--seeds", "--mask_times", "c")


def test_exit_code_through_the_interpreter(tmp_path):
    finished = subprocess.run([sys.executable, "-m", "src", "compare", "no", "where"], capture_output=True, text=True,
                              check=False)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: no does not exist")


# Seeds


def write_seed(model_folder, seed, noise, samples=40, emotions=None, **result):
    """A finished run with predictions: the labels and so much noise."""
    labels_random, random = np.random.default_rng(0), np.random.default_rng([seed, int(noise * 1000)])
    if emotions:
        labels = labels_random.integers(0, 2, (samples, len(emotions)))
        predictions = (np.eye(2)[labels] + noise * random.normal(size=(*labels.shape, 2))).reshape(samples, -1)
        test = EmotionClassification(emotions).metrics(predictions, labels)
    else:
        labels = labels_random.uniform(-3, 3, (samples, 1)).astype(np.float32)
        labels[::7] = 0
        predictions = labels + noise * random.normal(size=labels.shape).astype(np.float32)
        test = SentimentRegression().metrics(predictions, labels)
    path = model_folder / f"seed{seed}"
    path.mkdir(parents=True)
    test = {key: None if np.isnan(value) else value for key, value in test.items()}
    (path / "result.json").write_text(json.dumps(result_content(test, **result)))
    save_predictions(path, predictions, labels, [f"id{i}" for i in range(samples)])
    return path


def save_predictions(path, predictions, labels, ids):
    np.savez(path / "predictions.npz", test_predictions=predictions, test_labels=labels, test_ids=np.array(ids))


def test_all_seeds_are_compared(tmp_path, capsys):
    for seed in (1, 2, 10):
        write_seed(tmp_path / "A", seed, noise=1.0)
        write_seed(tmp_path / "B", seed, noise=0.3)
    write_seed(tmp_path / "A", 3, noise=1.1)
    (tmp_path / "A/seed3").rename(tmp_path / "A/seed4")
    write_seed(tmp_path / "A", 2000, noise=9.0).rename(tmp_path / "A/seed2.1")  # moved aside by a later run
    (tmp_path / "B/seed4").mkdir()  # has not finished
    comparison = compare_seeds(read_seeds(tmp_path / "A"), read_seeds(tmp_path / "B"))
    assert comparison["seeds"] == ([1, 2, 4, 10], [1, 2, 10])
    assert comparison["clusters"].total == 40
    assert comparison["differences"].keys() == {"mae", "corr", "acc7", "acc2", "f1_stock", MAIN}
    found = comparison["differences"]["mae"]
    assert found == comparison["differences"][MAIN]
    assert found.p_value < 0.001

    text = output(capsys, tmp_path / "A", tmp_path / "B", "--seeds")
    maes, others = ([json.loads((tmp_path / f"{side}/seed{seed}/result.json").read_text())["test"]["mae"]
                     for seed in seeds] for side, seeds in zip("AB", comparison["seeds"], strict=True))
    mae = cells(text, "mae")
    assert mae[1] == f"{np.mean(maes):.4f} ± {np.std(maes, ddof=1):.4f}"
    assert mae[3:] == [f"{found.value:+.4f}", "▲", f"[{found.low:+.4f}, {found.high:+.4f}]"]
    assert found.value == pytest.approx(np.mean(others) - np.mean(maes), abs=1e-6)
    assert found.low < found.value < found.high < 0
    assert len(cells(text, "acc5")) == 5  # no interval: it stands in no table
    assert "A  " + str(tmp_path / "A") + "  seed 1, 2, 4, 10" in text
    assert "over trained models, whose seeds are separate draws, and over 40 test samples, each alone" in text
    assert f"MAE, the main metric: t-test, p-value {p_text(found.p_value)}; others are not tested" in text


def test_seeds_of_emotions(tmp_path, capsys):
    for seed in (1, 2, 3):
        write_seed(tmp_path / "A", seed, noise=0.2, emotions=("Happy", "Sad"))
        write_seed(tmp_path / "B", seed, noise=3.0, emotions=("Happy", "Sad"))
    comparison = compare_seeds(read_seeds(tmp_path / "A"), read_seeds(tmp_path / "B"))
    assert comparison["differences"].keys() == {"Happy_acc", "Happy_f1", "Sad_acc", "Sad_f1", MAIN}
    assert max(found.p_value for found in comparison["differences"].values()) < 0.01
    text = output(capsys, tmp_path / "A", tmp_path / "B", "--seeds")
    assert cells(text, "Happy_acc")[4] == "▼"
    f1 = [comparison["differences"][key].value for key in ("Happy_f1", "Sad_f1")]
    assert cells(text, "mean F1")[1:3] == [f"{np.mean(f1):+.4f}", "▼"]
    assert "mean F1, the main metric: t-test, p-value " in text


def test_one_seed_and_an_undefined_metric(tmp_path, capsys):
    for model in "AB":
        path = write_seed(tmp_path / model, 1, noise=0.5)
        result = json.loads((path / "result.json").read_text())
        arrays = dict(np.load(path / "predictions.npz"))
        arrays["test_predictions"] = np.ones_like(arrays["test_predictions"])
        np.savez(path / "predictions.npz", **arrays)
        result["test"] |= without_nan(SentimentRegression().metrics(arrays["test_predictions"], arrays["test_labels"]))
        (path / "result.json").write_text(json.dumps(result))
    text = output(capsys, tmp_path / "A", tmp_path / "B", "--seeds")
    assert cells(text, "corr")[:5] == ["corr", "nan", "nan", "0", "="]
    assert cells(text, "mae")[3:] == ["0", "=", "[+0.0000, +0.0000]"]
    assert "±" not in text.replace("mean ± standard", "")
    assert "fewer than 3 seeds: this compares these trained models only, without a test" in text
    assert "p-value" not in text


def test_clusters_of_seeds(tmp_path, capsys):
    """The clusters of the data set, those of --cluster, and wrong patterns."""
    for model, noise in (("A", 1.0), ("B", 0.9)):
        for seed in (1, 2, 3):
            path = write_seed(tmp_path / model, seed, noise=noise)
            arrays = dict(np.load(path / "predictions.npz"))
            ids = [f"v{i % 20}|s{i % 4}|{i}" for i in range(40)]
            save_predictions(path, arrays["test_predictions"], arrays["test_labels"], ids)
    pair = tmp_path / "A", tmp_path / "B"
    text = output(capsys, *pair, "--seeds")
    assert "over 20 clusters of 40 test samples, named by their ids, such as v0" in text
    assert "unreliable" not in text
    other = output(capsys, *pair, "--seeds", "--cluster", r"\|(s\d)\|")
    assert "over 4 clusters of 40 test samples, named by their ids, such as s0" in other
    assert "only 4 clusters: with fewer than 10, the intervals are unreliable" in other
    assert cells(other, "mae")[-1] != cells(text, "mae")[-1]
    assert "has no group" in complaint(capsys, *pair, "--seeds", "--cluster", "v")
    assert "is no regular expression" in complaint(capsys, *pair, "--seeds", "--cluster", "(")
    assert "--cluster is for the intervals of --seeds" in complaint(capsys, *pair, "--cluster", "(v)")


@pytest.mark.parametrize("changed, words", [
    ("ids", "have different test ids"), ("labels", "have different test labels"), ("samples", "different test ids"),
    ("dataset", "is on the data set mosi, "), ("task", "is about sentiment, "),
])
def test_seeds_on_other_samples_are_errors(tmp_path, capsys, changed, words):
    write_seed(tmp_path / "A", 1, noise=1.0)
    emotions = ("Happy",) if changed == "task" else None
    path = write_seed(tmp_path / "B", 1, noise=1.0, samples=39 if changed == "samples" else 40, emotions=emotions,
                      dataset="mosei" if changed == "dataset" else "mosi")
    arrays = dict(np.load(path / "predictions.npz"))
    if changed in ("ids", "labels"):
        for name in {"ids": ["ids"], "labels": ["labels", "predictions"]}[changed]:  # so that metrics stay
            arrays[f"test_{name}"] = np.roll(arrays[f"test_{name}"], 1, axis=0)
        np.savez(path / "predictions.npz", **arrays)
    message = complaint(capsys, tmp_path / "A", tmp_path / "B", "--seeds")
    assert words in message
    assert "A/seed1" in message
    assert "B/seed1" in message


@pytest.mark.parametrize("spoil, words", [
    (lambda run: (run / "predictions.npz").unlink(), "predictions.npz is missing"),
    (lambda run: (run / "predictions.npz").write_bytes(b"PK\3\4"), "predictions.npz is damaged"),
    (lambda run: (run / "predictions.npz").write_bytes(b""), "predictions.npz is damaged"),
    (lambda run: np.savez(run / "predictions.npz", test_ids=[1]), "predictions.npz is damaged"),
    (lambda run: save_predictions(run, [1.0], [1.0, 2.0], ["a", "b"]), "predictions.npz is damaged"),
    (lambda run: (run / "result.json").write_text('{"format": 1}'), "result.json is damaged"),
    (lambda run: (run / "result.json").unlink(), "holds no finished seed<k> run"),
])
def test_damaged_seeds_are_errors(tmp_path, capsys, spoil, words):
    write_seed(tmp_path / "A", 1, noise=1.0)
    spoil(write_seed(tmp_path / "B", 1, noise=1.0))
    assert words in complaint(capsys, tmp_path / "A", tmp_path / "B", "--seeds")


# Logs for diff


def test_masked_logs_differ_in_numbers_alone(tmp_path, write, capsys):
    ours = write_run(tmp_path / "a")  # its log has other times, a head, and no "Saved model"
    log = (ours / "log.txt").read_text().replace("Time 12.5000", "Time 7.1234").replace("(ms) 151.57", "(ms) 3.10")
    log = re.sub("Saved model.*\n", "", log)
    (ours / "log.txt").write_text(log + "# seconds: 123\n# results in somewhere\n")
    printed = output(capsys, ours, write("stock", STOCK_LOG), "--mask_times", tmp_path / "new/masked")
    assert printed == f"diff {tmp_path}/new/masked/a.txt {tmp_path}/new/masked/b.txt\n"
    a, b = ((tmp_path / "new/masked" / name).read_text() for name in ("a.txt", "b.txt"))
    assert a == b
    assert a.splitlines()[:3] == [
        "Epoch  1 | Batch  30/ 53 | Time/Batch(ms) <time> | Train Loss 1.4000",
        "Epoch  1 | Batch  60/ 53 | Time/Batch(ms) <time> | Train Loss 1.3000", RULE,
    ]
    assert "Epoch  1 | Time <time> sec | Valid Loss 1.2000 | Test Loss 1.1000" in a
    assert a.endswith(SENTIMENT_END)

    output(capsys, ours, write("other", STOCK_LOG.replace("0.9500", "0.9501")), "--mask_times", tmp_path / "again")
    found = subprocess.run(["diff", tmp_path / "again/a.txt", tmp_path / "again/b.txt"], capture_output=True, text=True,
                           check=False)
    assert found.stdout.count("\n") == 4
    assert "> Epoch  2 | Time <time> sec | Valid Loss 0.9501 | Test Loss 0.9000" in found.stdout


def test_masked_emotions_stay(tmp_path, write, capsys):
    log = write("log", STOCK_HEAD + STOCK_EPOCHS + EMOTION_END)
    output(capsys, log, log, "--mask_times", tmp_path / "masked")
    assert (tmp_path / "masked/b.txt").read_text().endswith(EMOTION_END)


def test_masking_errors(tmp_path, write, capsys):
    log, a = write("log", STOCK_LOG), write("a.txt", STOCK_LOG)
    assert "a.txt would be overwritten" in complaint(capsys, a, log, "--mask_times", tmp_path)
    assert a.read_text() == STOCK_LOG
    assert "cannot write to" in complaint(capsys, log, log, "--mask_times", log)
    assert "is empty" in complaint(capsys, log, write("empty", ""), "--mask_times", tmp_path / "masked")
    assert "log.txt does not exist" in complaint(capsys, log, tmp_path, "--mask_times", tmp_path / "masked")
    assert not (tmp_path / "masked").exists()


# Real runs


def test_real_runs(tmp_path, capsys):
    write_dataset(tmp_path, "mine", make_splits(), aligned=False)
    for model in ("PMR", "MulT"):
        assert train([
            "--model", model, "--dataset", "mine", "--data_path", str(tmp_path), "--device", "cpu", "--seed", "1",
            "--results_dir", str(tmp_path / "results"), "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1",
            "--num_epochs", "2", "--batch_size", "5", "--log_interval", "1",
        ]) == 0
    capsys.readouterr()
    pmr, mult = (tmp_path / "results/mine/unaligned" / model / "seed1" for model in ("PMR", "MulT"))

    text = output(capsys, pmr, mult)
    assert cells(text, "model") == ["model", "PMR", "MulT"]
    assert cells(text, "mae")[1] == f"{json.loads((pmr / 'result.json').read_text())['test']['mae']:.4f}"
    assert "over 2 common epochs" in text

    # a folder and its own log tell the same
    a, b = read_run(pmr), read_run(pmr / "log.txt")
    comparison = compare(a, b)
    assert comparison["settings"] == {}
    assert comparison["largest"] == {"valid_loss": 0, "test_loss": 0}
    assert all(x == y for x, y in comparison["metrics"].values())
    assert comparison["parameters"][0] == comparison["parameters"][1] > 0
    assert b["metrics"].keys() == {"mae", "corr", "acc7", "acc5", "f1_stock", "acc2"}

    low, high = cells(output(capsys, pmr.parent, mult.parent, "--seeds"), "mae")[-1].strip("[]").split(", ")
    assert float(low) < float(high)
    output(capsys, pmr, pmr / "log.txt", "--mask_times", tmp_path / "masked")
    assert (tmp_path / "masked/a.txt").read_text() == (tmp_path / "masked/b.txt").read_text() != ""
