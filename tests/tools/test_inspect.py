"""What a data file holds, line by line; that main.py is spoken for truly; the picture of a sample."""

import hashlib
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from main import main as train
from src.data.specs import KNOWN, find_spec
from src.dataset import load_dataset
from src.report.drawing import draw_streams, standard_scores
from src.tools.inspect_file import main
from tests.data_files import make_mmsa_splits, make_splits, write_dataset


def output(capsys, *arguments):
    """The lines of a command that finds nothing to refuse."""
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out.splitlines()


def complaint(capsys, *arguments):
    """What a command prints before the line that it ends with, and that line."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return out.splitlines(), err


def test_a_reader_that_has_seen_enough_ends_it_quietly(tmp_path):
    path = write(tmp_path, make_splits())
    read, unread = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-m", "src", "inspect", path], stdout=unread, stderr=subprocess.PIPE,
                           text=True, check=False)
    os.close(unread)
    assert (ended.returncode, ended.stderr) == (141, "")


def write(folder, splits, name="mosi_data_noalign.pkl"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(splits, protocol=4))
    return path


def test_every_line_of_a_mult_file(tmp_path, capsys):
    splits = make_splits(sizes=(6, 4, 4))
    train = splits["train"]
    for split in splits.values():
        split["labels"][:] = 0
    train["labels"][:, 0, 0] = [-3, -0.4, 0.6, 2.6, 3, 1.2]
    train["vision"][2] = 0
    train["audio"][3, -1] = -np.inf
    train["audio"] = train["audio"].astype(np.float64)
    train["words"] = ["a"] * 6
    lines = output(capsys, path := write(tmp_path, splits))
    assert lines[0].startswith(f"{path}: {path.stat().st_size:,} bytes, SHA-256 ")
    assert lines[0].endswith(", MulT's layout")
    assert lines[1:8] == [  # two samples each with 0, 1 and 2 steps of padding
        "train",
        "  text    6 x 6 x 12 float32; padding 16.7 %; steps: median 5, most 6; 0 empty; 0 nan, 0 +inf, 0 -inf",
        "  audio   6 x 9 x 5 float64; padding 11.1 %; steps: median 8, most 9; 0 empty; 0 nan, 0 +inf, 5 -inf",
        "  vision  6 x 11 x 8 float32; padding 22.7 %; steps: median 10, most 11; 1 empty; 0 nan, 0 +inf, 0 -inf",
        "  labels  6 x 1 x 1 float32; -3: 1, 0: 1, 1: 2, 3: 2",
        "  id      6 x 3 |S6; unique; train0|0.5|1.25, train1|1.5|2.25, train2|2.5|3.25, ...",
        "  words   a list of 6, not used",
    ]
    assert lines[-2:] == ["main.py changes: train audio: 5 elements of -inf set to 0",
                          f"main.py takes it: --dataset mosi --data_path {path}"]


def test_emotions_and_samples_without_ids(tmp_path, capsys):
    splits = make_splits("emotion")
    splits["valid"]["labels"] = np.eye(2)[[[0, 1, 1, 0]] * 4 + [[0, 0, 1, 0]] * 2]
    lines = output(capsys, write(tmp_path, splits, "iemocap_data_noalign.pkl"))
    valid = lines[lines.index("valid"):]
    assert valid[4:6] == ["  labels  6 x 4 x 2 float64; Neutral: 0, Happy: 4, Sad: 6, Angry: 0",
                          "  no id: samples are numbered"]
    assert not any(line.startswith("LEAKAGE") for line in lines)


def test_mmsa_by_its_tree(tmp_path, capsys):
    splits = make_mmsa_splits(bound=1)
    splits["test"]["regression_labels"] = np.array([-1, -0.6, 0.2, 0.2, 0, 1])
    lines = output(capsys, path := write(tmp_path, splits, "SIMS/Processed/unaligned_39.pkl"))
    assert lines[0].endswith(", MMSA's layout")
    test = lines[lines.index("test"):]
    assert test[1].endswith("6 x 6 x 12 float64; padding 41.7 % behind; steps: median 3.5, most 6; 0 empty; "
                            "0 nan, 0 +inf, 0 -inf")  # and not what BERT left behind the text
    assert any(line.endswith("6 float64; -1: 1, -0.6: 1, 0: 1, 0.2: 2, 1: 1") for line in test)
    assert lines[-2:] == ["main.py changes: padding behind text, audio, vision moved to the front",
                          f"main.py takes it: --dataset sims --data_path {path}"]


def test_ids_in_two_splits_are_leakage(tmp_path, capsys):
    splits = make_splits()
    splits["test"]["id"] = np.concatenate([splits["train"]["id"][4:6], splits["test"]["id"][2:]])
    splits["valid"]["id"][1] = splits["valid"]["id"][0]
    lines = output(capsys, write(tmp_path, splits))
    assert "LEAKAGE: 2 ids are in train and in test, as train4|4.5|5.25" in lines
    assert sum(line.startswith("LEAKAGE") for line in lines) == 1
    assert "; 1 REPEATED; valid0|" in lines[lines.index("valid") + 5]


@pytest.mark.parametrize("name, flags, taken", [
    ("MOSEI/Processed/aligned_50.pkl", [], "--dataset mosei --data_path {} --aligned"),
    ("mine_data.pkl", [], "--dataset mine --data_path {} --aligned"),
    ("some.pkl", [], "--dataset some --data_path {}"),
    ("aligned_50.pkl", ["--dataset", "mosi", "--aligned"], "--dataset mosi --data_path {} --aligned"),
])
def test_whose_file_it_is(tmp_path, capsys, name, flags, taken):
    path = write(tmp_path, make_splits(lens=(7, 7, 7)), name)
    assert output(capsys, path, *flags)[-1] == f"main.py takes it: {taken.format(path)}"


def test_published_files_are_told_by_their_hash(tmp_path, capsys, monkeypatch):
    path = write(tmp_path, make_mmsa_splits(aligned=True, lens=(7, 7, 7)), "aligned_50.pkl")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    mosi, mosei, *others = KNOWN
    monkeypatch.setattr("src.data.specs.KNOWN", (mosi, replace(mosei, mmsa_sha256=(digest,)), *others))
    assert output(capsys, path)[-1] == f"main.py takes it: --dataset mosei --data_path {path} --aligned"
    assert "is mosei's file by its SHA-256" in complaint(capsys, path, "--dataset", "mosi")[1]


def spoil(split, key, value, place=(0, 0, 0)):
    def spoiled(splits):
        splits[split][key][place] = value
    return spoiled


def drop(split, key):
    return lambda splits: splits[split].pop(key)


@pytest.mark.parametrize("change, shown", [
    (spoil("train", "text", np.nan, (1, 2)), "12 nan, 0 +inf, 0 -inf"),
    (spoil("valid", "vision", np.inf), "0 nan, 1 +inf, 0 -inf"),
    (spoil("test", "labels", 7), "7: 1"),
    (spoil("test", "labels", np.nan), "6 x 1 x 1 float32"),
    (drop("valid", "audio"), "valid"),
    (lambda splits: splits.pop("test"), "valid"),
    (lambda splits: splits["train"].update(text=["no"]), "a list of 1"),
    (lambda splits: splits["train"].update(text=np.zeros((3, 0, 2))), "3 x 0 x 2 float64"),
    (lambda splits: splits["train"].update(labels=np.zeros((12, 3))), "12 x 3 float64"),
    (lambda splits: splits["train"].update(labels=np.zeros((12, 3, 2))), "12 x 3 x 2 float64; 0: 72"),
    (lambda splits: splits.update(train=3), "train: a int, not used"),
])
def test_what_is_refused_is_shown_and_refused_with_the_words_of_a_run(tmp_path, capsys, change, shown):
    splits = make_splits()
    change(splits)
    path = write(tmp_path, splits)
    lines, error = complaint(capsys, path)
    assert any(shown in line for line in lines)
    assert train(["--dataset", "mosi", "--data_path", str(path), "--results_dir", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err == error
    assert {item.name for item in tmp_path.iterdir()} == {path.name}  # not even a cache


@pytest.mark.parametrize("content", [
    b"\x80\x04K\x01.garbage"[:3], b"", b"no pickle", pickle.dumps({"train": print}), pickle.dumps({1, 2}),
    pickle.dumps([1, 2]), pickle.dumps({"train": {}}),
])
def test_other_pickles_and_other_files(tmp_path, capsys, content):
    path = tmp_path / "mosi_data_noalign.pkl"
    path.write_bytes(content)
    _, error = complaint(capsys, path)
    assert train(["--dataset", "mosi", "--data_path", str(path), "--results_dir", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err == error


def test_a_file_that_no_run_reads(tmp_path, capsys):
    lines, error = complaint(capsys, write(tmp_path, make_splits(), "demo_data_noalign.pkl"))
    assert "test" in lines
    assert "main.py makes demo itself; give the file another name" in error


def test_a_file_that_was_damaged_behind_its_cache(tmp_path, capsys):
    path = write(tmp_path, make_splits())
    load_dataset(find_spec("mosi"), path)
    stat = path.stat()
    path.write_bytes(b"\0" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "is damaged; main.py would take what an earlier run kept of it" in complaint(capsys, path)[1]


@pytest.mark.parametrize("name, words", [("nowhere.pkl", "nowhere.pkl is missing; name a data file"),
                                         (".", "is a folder; name a data file, as mosi_data_noalign.pkl")])
def test_what_is_no_file(tmp_path, capsys, name, words):
    write(tmp_path, make_splits())
    assert words in complaint(capsys, tmp_path / name)[1]


def test_a_picture(tmp_path, capsys):
    path, picture = write_dataset(tmp_path, "mosi", make_splits(), aligned=False), tmp_path / "out.png"
    lines = output(capsys, path, "--split", "train", "--sample", "2", "--picture", picture)
    assert f"picture in {picture}" in lines
    assert min(imread(picture).shape[:2]) > 400


def test_a_picture_is_of_what_training_sees(tmp_path, capsys, monkeypatch):
    """Of MMSA's sequences the padding comes to the front, and what BERT left behind the text is gone."""
    splits, drawn = make_mmsa_splits(), {}
    monkeypatch.setattr("src.tools.inspect_file.draw_streams", lambda title, streams: drawn.update(streams) or Figure())
    output(capsys, write(tmp_path, splits, "mosi.pkl"), "--sample", "1", "--picture", tmp_path / "out.png")
    for key, stream in drawn.items():  # sample 1 has two steps
        np.testing.assert_array_equal(stream[-2:], splits["test"][key][1, :2].astype(np.float32))
        assert not stream[:-2].any()
    assert list(drawn) == ["text", "audio", "vision"]


def test_a_picture_shades_padding_and_scores_features():
    stream = np.zeros((6, 2), dtype=np.float32)
    stream[2:, 0], stream[2:, 1] = [1, 3, 1, 3], 5
    stream[4] = 0  # a gap
    figure = draw_streams("a sample", {"text": stream, "audio": stream[:4], "vision": np.zeros((3, 2))})
    text, *_ = figure.axes
    image = np.asarray(text.images[0].get_array().filled(np.nan))
    np.testing.assert_array_equal(np.isnan(image[0]), [1, 1, 0, 0, 1, 0])
    np.testing.assert_allclose(image[:, [2, 3, 5]], [[-1.41421, 0.70711, 0.70711], [0, 0, 0]], atol=1e-4)
    shaded = [(patch.get_x(), patch.get_width()) for patch in text.patches]
    assert shaded == [(0.5, 2), (4.5, 1)]


def test_scores_of_what_is_not_finite():
    scores = standard_scores(np.array([[1.0, np.nan], [3.0, -np.inf], [np.inf, np.nan]]))
    np.testing.assert_array_equal(scores, [[-1, np.nan], [1, np.nan], [np.nan, np.nan]])


@pytest.mark.parametrize("flags, words", [
    (["--sample", "1"], "are for --picture"), (["--split", "test"], "are for --picture"),
    (["--sample", "6", "--picture", "x.png"], "test has the samples 0 to 5"),
    (["--sample", "-1", "--picture", "x.png"], "out of range"),
    (["--picture", "nowhere/x.png"], "nowhere/x.png cannot be written"),
    (["--picture", "x.what"], "x.what cannot be written"), (["--dataset", "a/b"], "is not a name"),
])
def test_wrong_flags(tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    assert words in complaint(capsys, write(tmp_path, make_splits()), *flags)[1]
