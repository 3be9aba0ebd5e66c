"""Packing computational sequences: what a sample takes of each stream, what is counted, and what a user is told."""

import json
import pickle
import shlex
import sys

import h5py
import numpy as np
import pytest

from main import main as train
from src.data.specs import find_spec
from src.dataset import load_dataset
from src.tools.convert import main
from tests.csd_files import write_csd

VIDEOS = ["vid-1", "vid_2", "vid3", "vid4"]
FOLDS = {"train": VIDEOS[:2], "valid": VIDEOS[2:3], "test": VIDEOS[3:]}
WIDTHS = {"text": 4, "audio": 3, "vision": 2}
RATES = {"text": 1.0, "audio": 0.5, "vision": 0.25}  # seconds a step


def stream(key, seconds=8):
    """Steps of a video, the first feature telling when each begins (and 100 more, so that none is zero)."""
    starts = np.arange(0, seconds, RATES[key])
    features = np.ones((len(starts), WIDTHS[key])) * (100 + starts[:, None])
    return features, np.stack([starts, starts + RATES[key]], axis=1)


@pytest.fixture
def folder(tmp_path):
    """Sequences of four videos of 8 seconds, each with segments at 1.5 to 3 and 4 to 7.5, and their folds."""
    for key in WIDTHS:
        write_csd(tmp_path / f"{key}.csd", {video: stream(key) for video in VIDEOS})
    labels = {video: ([[i - 1.5, 9], [i - 0.5, 9]], [[1.5, 3], [4, 7.5]]) for i, video in enumerate(VIDEOS)}
    write_csd(tmp_path / "labels.csd", labels)
    (tmp_path / "folds.json").write_text(json.dumps(FOLDS))
    return tmp_path


def command(folder, *more, out="data/mosi_data_noalign.pkl", folds="folds.json", columns=("1",)):
    files = [part for key in (*WIDTHS, "labels") for part in (f"--{key}", str(folder / f"{key}.csd"))]
    return [*files, "--folds", str(folder / folds), "--out", str(folder / out), "--steps", "4", "5", "20",
            *(["--label_columns", *columns] if columns else []), *more]


def complaint(capsys, arguments):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def converted(folder):
    return load_dataset(find_spec("mosi"), folder / "data")


def first_steps(dataset, split, sample):
    """When the real steps of a sample begin, by modality, and how many steps of padding are in front."""
    found = {}
    here = dataset.splits[split]
    for key, features, padding in zip(WIDTHS, here.features, here.padding, strict=True):
        real = features[sample][~padding[sample], 0] - 100
        assert (padding[sample, :len(padding[sample]) - len(real)]).all()
        found[key] = real.tolist()
    return found


def test_a_sample_takes_the_steps_whose_middle_it_holds(folder, capsys):
    assert main(command(folder)) == 0
    printed = capsys.readouterr().out
    assert "train: 4 samples\nvalid: 2 samples\ntest: 2 samples\n" in printed
    assert "audio: segments cut to their last 5 steps: 4\n" in printed  # of the 7 in 4 to 7.5
    assert "not finite" not in printed
    dataset = converted(folder)
    assert (dataset.input_lens, dataset.input_dims, dataset.protocol) == ((4, 5, 20), (4, 3, 2), "MulT")
    assert dataset.splits["train"].ids == ["vid-1|1.5|3.0", "vid-1|4.0|7.5", "vid_2|1.5|3.0", "vid_2|4.0|7.5"]
    assert dataset.splits["train"].labels.ravel().tolist() == [-1.5, -0.5, -0.5, 0.5]
    assert first_steps(dataset, "test", 0) == {"text": [1, 2], "audio": [1.5, 2, 2.5],
                                               "vision": np.arange(1.5, 3, 0.25).tolist()}
    assert first_steps(dataset, "test", 1) == {"text": [4, 5, 6], "audio": [5, 5.5, 6, 6.5, 7],
                                               "vision": np.arange(4, 7.5, 0.25).tolist()}
    assert train(["--dataset", "mosi", "--data_path", str(folder / "data"), "--results_dir", str(folder / "results"),
                  "--device", "cpu", "--num_epochs", "1", "--batch_size", "4"]) == 0


def test_steps_are_taken_in_their_order_in_time(folder):
    features, intervals = stream("text")
    order = np.random.default_rng(0).permutation(len(features))
    write_csd(folder / "text.csd", dict.fromkeys(VIDEOS, (features[order], intervals[order])))
    assert main(command(folder)) == 0
    assert first_steps(converted(folder), "valid", 1)["text"] == [4, 5, 6]


@pytest.mark.parametrize("labels_too", [True, False])
def test_entries_of_segments_are_taken_as_they_are(folder, labels_too):
    """As the SDK leaves sequences that it has aligned to the labels, whose numbers are the segments'."""
    write_csd(folder / "text.csd", {
        f"{video}[{i}]": (np.full((2 + i, 4), 7 + i), [[50, 51]] * (2 + i)) for video in VIDEOS for i in (0, 1)
    })
    if labels_too:
        labels = {f"{video}[{i}]": ([[i - 0.5]], [[i, i + 1]]) for video in VIDEOS for i in (0, 1)}
        write_csd(folder / "labels.csd", labels)
    assert main(command(folder)) == 0
    dataset = converted(folder)
    assert [first_steps(dataset, "test", i)["text"] for i in (0, 1)] == [[-93, -93], [-92, -92, -92]]
    assert first_steps(dataset, "test", 0)["audio"] == ([0, 0.5] if labels_too else [1.5, 2, 2.5])


def test_what_is_left_out_or_changed_is_counted(folder, capsys):
    labels = {video: ([[0.5], [1]], [[1, 3], [4, 7.5]]) for video in [*VIDEOS, "elsewhere"]}
    labels["vid_2"] = ([[0.5], [1], [np.nan]], [[1, 3], [100, 101], [4, 6]])  # the second has no steps
    write_csd(folder / "labels.csd", labels)
    (folder / "folds.json").write_text(json.dumps(FOLDS | {"test": ["vid4", "unlabelled"]}))
    features, intervals = stream("audio")
    features[2:6] = [[np.nan, -np.inf, np.inf], [1e300, 1, 1], [1, 1, 1], [-np.inf, 1, 1]]
    write_csd(folder / "audio.csd", {video: (features, intervals) for video in VIDEOS if video != "vid3"})
    assert main(command(folder)) == 0
    printed = capsys.readouterr().out.splitlines()
    assert {
        "train: 3 samples", "left out: segments of videos in no fold: 2", "left out: segments without text: 1",
        "left out: segments without a finite label: 1", "videos of the folds without labels: 1",
        "audio: segments that have none: 2", "audio: numbers that are not finite, set to 0: 15",
    } <= set(printed)
    dataset = converted(folder)
    assert dataset.splits["valid"].padding[1].all()
    assert dataset.splits["train"].features[1][0][1:].tolist() == [[0, 0, 0], [0, 1, 1], [1, 1, 1], [0, 1, 1]]


NAMES = ("sentiment", "happy", "sad", "anger", "surprise", "disgust", "fear")


def write_labels(folder, values, name="labels", metadata=()):
    """Two segments a video with these labels, (2, K)."""
    write_csd(folder / "labels.csd", dict.fromkeys(VIDEOS, (values, [[1.5, 3], [4, 7.5]])), name, metadata)


@pytest.mark.parametrize("width, name, metadata, words", [
    (6, "Emotion Labels", {}, "6 columns of labels: 1 happy, 2 sad, 3 anger, 4 surprise, 5 disgust, 6 fear; choose"),
    (7, "something", {}, "has 7 columns of labels: 1, 2, 3, 4, 5, 6, 7; choose by --label_columns"),
    (2, "something", {"dimension names": ["valence", "arousal"]}, "1 valence, 2 arousal; choose"),
    (2, "something", {"dimension names": ["valence"]}, "has 2 columns of labels: 1, 2; choose"),
    (2, "something", {"dimension names": None}, "has 2 columns of labels: 1, 2; choose"),
    (2, "something", {"dimension namescomputational sequence version": ["valence", "x"]}, "1 valence, 2 x; choose"),
])
def test_several_columns_of_labels_are_shown(folder, capsys, width, name, metadata, words):
    write_labels(folder, np.ones((2, width)), name, metadata)
    assert words in complaint(capsys, command(folder, columns=None))


def test_the_sdk_s_labels_have_the_sentiment_first(folder, capsys):
    write_labels(folder, [[-2, *range(6)], [1.5, *range(6)]], "All Labels")
    assert main(command(folder, columns=None)) == 0
    assert f"labels: sentiment; of the columns {', '.join(f'{i + 1} {n}' for i, n in enumerate(NAMES))}\n" in (
        capsys.readouterr().out)
    assert converted(folder).splits["valid"].labels.ravel().tolist() == [-2, 1.5]


@pytest.mark.parametrize("columns", [("happy", "fear"), ("2", "7"), ("Happy", "7")])
def test_emotions_are_present_above_0(folder, capsys, columns):
    write_labels(folder, [[-2, 0, 9, 9, 9, 9, 1 / 3], [1.5, 3, 0, 0, 0, 0, 0]], "All Labels")
    assert main(command(folder, out="data/mine_data_noalign.pkl", columns=columns)) == 0
    printed = capsys.readouterr().out
    assert "labels: happy, fear; of the columns 1 sentiment, 2 happy, 3 sad, " in printed
    assert printed.endswith(" --task emotions --label_names happy fear\n")
    labels = pickle.loads((folder / "data/mine_data_noalign.pkl").read_bytes())["valid"]["labels"]
    assert labels.tolist() == [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]


@pytest.mark.parametrize("columns, words", [
    (("joy",), "--label_columns joy: "), (("0",), "the columns 1 sentiment, 2 happy"), (("8",), "--label_columns 8: "),
    (("sentiment", "happy"), "mixes emotions, which are yes or no, with scores"),
    (("happy", "sad"), "not that of a task known of mosi"),
])
def test_columns_that_cannot_be_had(folder, capsys, columns, words):
    write_labels(folder, np.ones((2, 7)), "All Labels")
    assert words in complaint(capsys, command(folder, columns=columns))


@pytest.mark.parametrize("columns, flags, labels, typed", [
    (("happy",), (), [[[1, 0]], [[0, 1]]], "--task emotions --label_names happy"),
    (("happy",), ("--task", "score", "--scale", "0", "3"), [[[0]], [[3]]], "--task score --scale 0 3"),
    (("sad", "happy"), ("--task", "scores"), [[[1, 0]], [[2.5, 3]]], "--task scores --label_names sad happy"),
    (("sentiment", "sad"), ("--scale", "-3", "3"), [[[-0.5, 1]], [[0.5, 2.5]]],
     "--task scores --label_names sentiment sad --scale -3 3"),
    (("sentiment",), (), [[[-0.5]], [[0.5]]], "--task sentiment"),
    (("4",), ("--task", "classes"), [[[0]], [[1]]], "--task classes"),
])
def test_labels_become_what_the_flags_want(folder, capsys, columns, flags, labels, typed):
    """The last line has the command that trains on them."""
    write_labels(folder, [[-0.5, 0, 1, 0, 0, 0, 0], [0.5, 3, 2.5, 1, 0, 0, 0]], "All Labels")
    assert main(command(folder, *flags, out="data/mine_data_noalign.pkl", columns=columns)) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"data {typed}\n")
    assert pickle.loads((folder / "data/mine_data_noalign.pkl").read_bytes())["valid"]["labels"].tolist() == labels
    train_on = shlex.split(printed.splitlines()[-1].partition("main.py ")[2])
    assert train([*train_on, "--results_dir", str(folder / "results"), "--device", "cpu", "--num_epochs", "1",
                  "--batch_size", "4", "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1"]) == 0


def test_labels_that_say_no_task_are_asked_for(folder, capsys):
    write_labels(folder, [[1], [5]])
    assert "give --task classes" in complaint(capsys, command(folder, out="data/mine_data_noalign.pkl", columns=None))


def test_a_label_off_the_scale_is_left_out(folder, capsys):
    """As three of CMU-MOSEI's labels of 2018 were. A label that is a rounding beyond is on the scale."""
    write_csd(folder / "labels.csd", {
        video: ([[3.0000002], [3.5 if video == VIDEOS[0] else 1]], [[1.5, 3], [4, 7.5]]) for video in VIDEOS
    })
    assert main(command(folder)) == 0
    assert "left out: segments with a label off the scale -3 to 3: 1\n" in capsys.readouterr().out
    assert converted(folder).splits["train"].labels.ravel().tolist() == [3, 3, 1]


def numbered(key, spans):
    """{video[k]: the steps of a stream within the k-th span}, as the SDK's `align` leaves them."""
    features, intervals = stream(key)
    inside = [np.flatnonzero((intervals[:, 0] >= a) & (intervals[:, 1] <= b)) for a, b in spans]
    return {f"{video}[{k}]": (features[i], intervals[i]) for video in VIDEOS for k, i in enumerate(inside)}


SECONDS = [[i, i + 1] for i in range(8)]


def test_ids_that_count_words_are_joined_in_time(folder, capsys):
    """The ids [0] and [1] are also those of the segments at 1.5 to 3 and 4 to 7.5."""
    for key in WIDTHS:
        write_csd(folder / f"{key}.csd", numbered(key, SECONDS))
    assert main(command(folder)) == 0
    assert "text: videos whose ids count words, joined in time: 4\n" in capsys.readouterr().out
    dataset = converted(folder)
    assert [first_steps(dataset, "test", i)["text"] for i in (0, 1)] == [[1, 2], [4, 5, 6]]
    assert first_steps(dataset, "test", 0)["audio"] == [1.5, 2, 2.5]


def test_ids_that_count_segments_in_another_order_are_joined_in_time(folder):
    write_csd(folder / "text.csd", numbered("text", [[4, 7], [1, 3]]))
    assert main(command(folder)) == 0
    assert [first_steps(converted(folder), "test", i)["text"] for i in (0, 1)] == [[1, 2], [4, 5, 6]]


@pytest.mark.parametrize("is_segment", [lambda entry: "vid3" in entry, lambda entry: entry[-2] in "01"])
def test_both_kinds_of_ids_in_one_sequence(folder, capsys, is_segment):
    """Segments in one video and words in the others; segments and words in every video."""
    words, segments = numbered("text", SECONDS), numbered("text", [[1, 3], [4, 8]])
    write_csd(folder / "text.csd", {entry: segments.get(entry) if is_segment(entry) else words[entry] for entry in words
                                    if entry in segments or not is_segment(entry)})
    assert "text.csd mixes two kinds of ids" in complaint(capsys, command(folder))


def test_a_video_that_a_fold_names_twice_counts_once(folder):
    (folder / "folds.json").write_text(json.dumps(FOLDS | {"valid": ["vid3", "vid3"]}))
    assert main(command(folder)) == 0
    assert len(converted(folder).splits["valid"]) == 2


def test_folds_may_be_the_module_of_the_sdk(folder):
    (folder / "folds.py").write_text("# the folds\n" + "".join(
        f"standard_{split}_fold={videos!r}\n" for split, videos in FOLDS.items()
    ) + "raise SystemExit('it ran')\n")
    assert main(command(folder, folds="folds.py")) == 0
    assert len(converted(folder).splits["train"]) == 4


def rewrite_folds(content):
    return lambda folder: (folder / "folds.json").write_text(content)


def rewrite(name, entries):
    return lambda folder: write_csd(folder / f"{name}.csd", entries)


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / "text.csd").unlink(), "text.csd is missing; name a .csd file"),
    (lambda folder: (folder / "text.csd").write_text("no"), "text.csd is damaged or no HDF5 (OSError: "),
    (lambda folder: (folder / "text.csd").write_bytes((folder / "text.csd").read_bytes()[:3000]), "text.csd"),
    (lambda folder: h5py.File(folder / "text.csd", "w").close(), "text.csd is no computational sequence"),
    (rewrite("text", {"vid-1": (np.array([[b"a word"]]), [[0, 1]])}), "vid-1 features are not numbers"),
    (rewrite("text", {"vid-1": ([1, 2], [[0, 1]])}), "vid-1 has features of shape (2,)"),
    (rewrite("text", {"vid-1": ([[1, 2]], [[0, 1], [1, 2]])}), "intervals of shape (2, 2); expected (steps, 2)"),
    (rewrite("text", {"vid-1": ([[1, 2]], [[0, 1]]), "vid3": ([[1]], [[0, 1]])}), "vid3 has features of shape (1, 1)"),
    (rewrite("audio", {"other": ([[1]], [[0, 1]])}), "audio.csd has none of the videos that are labelled"),
    (rewrite("text", {"vid-1": ([[1.0]], [[1, 2]])}), "no segment of valid has text in"),
    (rewrite("labels", {"vid-1": ([[1]], [[0, 9]])}), "labels.csd labels no video of valid in"),
    (rewrite("labels", {"vid-1[0]": ([[1], [2]], [[0, 1], [1, 2]])}), "vid-1[0] has 2 labels"),
    (rewrite("labels", {video: ([[4]], [[0, 9]]) for video in VIDEOS}), "sentiment goes from -3 to 3"),
    (rewrite_folds('{"train": []'), "folds.json holds no folds; expected JSON"),
    (rewrite_folds('{"train": "vid-1", "valid": ["vid3"], "test": ["vid4"]}'), "folds.json holds no folds"),
    (rewrite_folds('[1]'), "folds.json holds no folds"),
    (rewrite_folds(json.dumps(FOLDS | {"test": ["vid3"]})), "1 videos in more than one split, as vid3"),
    (lambda folder: (folder / "folds.json").unlink(), "folds.json cannot be read: No such file"),
])
def test_files_that_do_not_fit(folder, capsys, spoil, words):
    spoil(folder)
    assert words in complaint(capsys, command(folder))
    assert not list(folder.glob("data/*"))


@pytest.mark.parametrize("out, words", [
    ("data/mosi_data.pkl", "name it so"), ("mosi.pkl", "name it so"), ("unaligned_39.pkl", "name it so"),
    ("demo_data_noalign.pkl", "name it so"), ("labels.csd/mosi_data_noalign.pkl", "cannot be written"),
])
def test_places_where_a_file_cannot_be(folder, capsys, out, words):
    assert words in complaint(capsys, command(folder, out=out))


def test_a_file_that_is_there_is_kept(folder, capsys):
    path = folder / "mine_data_noalign.pkl"
    path.write_text("mine")
    assert "is there already" in complaint(capsys, command(folder, out=path.name))
    assert path.read_text() == "mine"


def test_without_h5py_the_way_to_it_is_told(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install h5py" in complaint(capsys, command(folder))


@pytest.mark.parametrize("flags, words", [(["--steps", "0", "1", "1"], "out of range"), (["--tempo"], "--help lists")])
def test_wrong_flags(folder, capsys, flags, words):
    assert words in complaint(capsys, command(folder, *flags))
