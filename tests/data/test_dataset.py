"""Data sets: what load_dataset makes of MulT's files, and that every defect is a UserError of one line that names the
file, the place in it and the fault.
"""

import pickle

import numpy as np
import pytest
import torch

from src.data.specs import find_spec
from src.dataset import load_dataset
from src.errors import UserError
from src.tasks import EmotionClassification, SentimentRegression
from tests.data_files import make_splits, write_dataset

pytestmark = pytest.mark.filterwarnings("error")
STREAMS = ("text", "audio", "vision")


def user_error(name, folder, aligned=False):
    """The message that loading ends in: one line that can be printed."""
    with pytest.raises(UserError) as error:
        load_dataset(find_spec(name), folder, aligned)
    message = str(error.value)
    assert message.isprintable(), "more than a line"
    return message


def load_splits(splits, folder, name="mosi", aligned=False):
    spec = find_spec(name)
    write_dataset(folder, spec.stem, splits, aligned)
    return load_dataset(spec, folder, aligned)


@pytest.mark.parametrize("name, of_known, stem", [
    *((name, "mosi", "mosi") for name in ("mosi", "MOSI", " Mosi ")),
    *((name, "mosei", "mosei_senti") for name in ("mosei", "MOSEI", "mosei_senti", "MOSEI_Senti")),
    *((name, "iemocap", "iemocap") for name in ("iemocap", "IEMOCAP")),
    ("Mine", "Mine", "Mine"), ("mosi2", "mosi2", "mosi2"),
])
def test_names(name, of_known, stem, tmp_path):
    spec = find_spec(name)
    assert spec.name == of_known
    assert spec.file(tmp_path, aligned=True) == tmp_path / f"{stem}_data.pkl"
    assert spec.file(str(tmp_path), aligned=False) == tmp_path / f"{stem}_data_noalign.pkl"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/mosi", "../mosi"])
def test_what_is_not_a_name(name):
    with pytest.raises(UserError, match="is not a name") as error:
        find_spec(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2"])
@pytest.mark.parametrize("name, task", [("mosi", "sentiment"), ("MOSEI", "sentiment"), ("iemocap", "emotion"),
                                        ("mine", "sentiment"), ("mine", "emotion")])
def test_load(name, task, dtype, aligned, tmp_path):
    """Every number of the file arrives, in either alignment, and the other alignment's file is not touched."""
    lens = (7, 7, 7) if aligned else (6, 9, 11)
    splits = make_splits(task, lens)
    for arrays in splits.values():
        arrays.update({key: arrays[key].astype(dtype) for key in (*STREAMS, "labels")})
        arrays["text"] = np.asfortranarray(arrays["text"])
    write_dataset(tmp_path, find_spec(name).stem, {}, not aligned)
    dataset = load_splits(splits, tmp_path, name, aligned)

    assert (dataset.input_dims, dataset.input_lens, dataset.notes) == ((12, 5, 8), lens, [])
    assert list(dataset.splits) == ["train", "valid", "test"]
    for split, arrays in splits.items():
        ours = dataset.splits[split]
        assert len(ours) == len(arrays["text"])
        for key, features in zip(STREAMS, ours.features, strict=True):
            assert features.dtype == torch.float32
            np.testing.assert_array_equal(features, arrays[key].astype(np.float32))
        if task == "sentiment":
            assert isinstance(dataset.task, SentimentRegression)
            assert ours.labels.dtype == torch.float32
            np.testing.assert_array_equal(ours.labels, arrays["labels"][:, 0].astype(np.float32))
        else:
            assert isinstance(dataset.task, EmotionClassification)
            assert ours.labels.dtype == torch.int64
            np.testing.assert_array_equal(ours.labels, arrays["labels"][:, :, 1])
    if task == "emotion":
        assert dataset.task.labels == (find_spec("iemocap").task.labels if name == "iemocap" else
                                         ("label_1", "label_2", "label_3", "label_4"))


def test_unknown_data_sets_may_have_any_number_of_emotions(tmp_path):
    splits = make_splits("emotion")
    keep_emotions(3)(splits)
    dataset = load_splits(splits, tmp_path, "mine")
    assert dataset.task.labels == ("label_1", "label_2", "label_3")
    assert dataset.splits["test"].labels.shape == (6, 3)


@pytest.mark.parametrize("aligned", [False, True])
def test_the_demo_needs_no_file(aligned, tmp_path):
    dataset = load_dataset(find_spec("Demo"), tmp_path / "missing", aligned)
    assert isinstance(dataset.task, SentimentRegression)
    assert (len(set(dataset.input_lens)) == 1) is aligned
    assert dataset.splits["test"].ids[:2] == ["demo-test-0", "demo-test-1"]


IDS = {
    "of MOSI": ([[b"03bSnISJMiM", b"1.5", b"2.25"], [b"a", b"0", b"1"]], "S", ["03bSnISJMiM|1.5|2.25", "a|0|1"]),
    "of MOSEI": ([["_0efYOjQYRc", "1.5", "2.25"], ["\u4f60", "", "1"]], "U", ["_0efYOjQYRc|1.5|2.25", "\u4f60||1"]),
    "objects": ([[b"a", "1.5", 2], ["b", None, 2.5]], object, ["a|1.5|2", "b|None|2.5"]),
    "one field": (["a", "b"], "U", ["a", "b"]),
    "in a column": ([[b"a"], [b"b"]], "S", ["a", "b"]),
    "numbers": ([7, 8], int, ["7", "8"]),
    "not of UTF-8": ([b"\xff", b"\xc3\xa9"], "S", ["\ufffd", "\xe9"]),
    "list": ([["a", b"b"], ["c", "d"]], None, ["a|b", "c|d"]),
    "list of unequal fields": ([["a"], ["c", "d"]], None, ["a", "c|d"]),
    "none": (None, None, ["0", "1"]),
}


@pytest.mark.parametrize("ids, dtype, expected", IDS.values(), ids=IDS)
def test_ids(ids, dtype, expected, tmp_path):
    splits = make_splits(sizes=(2, 2, 2))
    splits["valid"]["id"] = ids if dtype is None else np.array(ids, dtype=dtype)
    dataset = load_splits(splits, tmp_path)
    assert dataset.splits["valid"].ids == expected
    assert dataset.splits["train"].ids == ["train0|0.5|1.25", "train1|1.5|2.25"]


def test_no_ids(tmp_path):
    dataset = load_splits(make_splits("emotion"), tmp_path, "iemocap")
    assert dataset.splits["test"].ids == ["0", "1", "2", "3", "4", "5"]


def test_padding(tmp_path):
    """Front padding, which sample i has in i % 3 steps, a gap of one step in one stream, and a stream without data."""
    splits = make_splits()
    arrays = splits["valid"]
    arrays["vision"][0, 4] = 0
    arrays["audio"][3] = 0
    arrays["text"][0, 2, :-1] = 0  # all but one feature: no padding
    arrays["text"][0, 3] = -0.0
    expected = {key: np.arange(arrays[key].shape[1]) < np.arange(6)[:, None] % 3 for key in STREAMS}
    expected["vision"][0, 4] = expected["audio"][3] = expected["text"][0, 3] = True

    ours = load_splits(splits, tmp_path).splits["valid"]
    for key, padding in zip(STREAMS, ours.padding, strict=True):
        assert padding.dtype == torch.bool
        np.testing.assert_array_equal(padding, expected[key], err_msg=key)


def test_silence(tmp_path):
    """-inf in audio becomes 0, and a step of nothing else padding; how often, the notes tell by split."""
    splits = make_splits()
    splits["train"]["audio"][[0, 3, 3], [8, 4, 5], [1, 0, 4]] = -np.inf
    splits["test"]["audio"][0, 4] = -np.inf
    dataset = load_splits(splits, tmp_path)

    for arrays in splits.values():
        arrays["audio"][np.isneginf(arrays["audio"])] = 0
    for split, arrays in splits.items():
        np.testing.assert_array_equal(dataset.splits[split].features[1], arrays["audio"])
    assert torch.equal(dataset.splits["test"].padding[1][0], torch.arange(9) == 4)
    path = tmp_path / "mosi_data_noalign.pkl"
    assert dataset.notes == [
        f"{path}, train audio: 3 elements of -inf set to 0", f"{path}, test audio: 5 elements of -inf set to 0",
    ]


@pytest.mark.parametrize("indices", [[4, 0, 4], torch.tensor([4, 0, 4])], ids=["list", "tensor"])
def test_batch(indices, tmp_path):
    split = load_splits(make_splits(), tmp_path).splits["train"]
    streams, labels = split.batch(indices)
    features, padding = zip(*((stream.x, stream.padding) for stream in streams), strict=True)
    assert [x.shape for x in features] == [(3, 6, 12), (3, 9, 5), (3, 11, 8)]
    for ours, whole in zip((*features, *padding, labels), (*split.features, *split.padding, split.labels), strict=True):
        assert torch.equal(ours, torch.stack([whole[4], whole[0], whole[4]]))
    assert [stream.steps.tolist() for stream in streams] == [list(range(T)) for T in (6, 9, 11)]
    streams, labels = split.batch(indices, "meta")
    assert {x.device.type for stream in streams for x in (stream.x, stream.steps, stream.padding)} == {"meta"}
    assert labels.device.type == "meta"


def test_data_on_another_device(tmp_path):
    """Features and padding lie there, and batches come from there; the labels stay where metrics need them."""
    dataset = load_splits(make_splits(), tmp_path)
    there = dataset.to("meta")
    assert there.nbytes == dataset.nbytes == 24 * sum(steps * (4 * width + 1) for steps, width in
                                                      zip((6, 9, 11), (12, 5, 8), strict=True))
    assert {x.device.type for split in there.splits.values() for x in (*split.features, *split.padding)} == {"meta"}
    assert torch.equal(there.splits["test"].labels, dataset.splits["test"].labels)
    streams, labels = there.splits["train"].batch(torch.tensor([4, 0, 4]), "meta")
    assert [stream.x.shape for stream in streams] == [(3, 6, 12), (3, 9, 5), (3, 11, 8)]
    assert {x.device.type for stream in streams for x in (stream.x, stream.padding, labels)} == {"meta"}


def drop(*place):
    """Take an item out of the dict at a place."""
    def mutate(splits):
        *outer, key = place
        for step in outer:
            splits = splits[step]
        del splits[key]
    return mutate


def change(split, key, function):
    """Replace an array by what the function makes of it."""
    def mutate(splits):
        splits[split][key] = function(splits[split][key])
    return mutate


def change_all(split, function):
    """Replace every array of a split by what the function makes of it."""
    def mutate(splits):
        splits[split] = {key: function(array) for key, array in splits[split].items()}
    return mutate


def poke(split, key, index, value, dtype=None):
    """Write one number into an array."""
    def function(array):
        array = array.astype(dtype or array.dtype)
        array[index] = value
        return array
    return change(split, key, function)


PLACE, LABEL = (2, 5, 1), (3, 0, 0)
AT_PLACE = "holds 1 numbers that are not finite in float32, the first in sample 2, step 5, feature 1"
FORMAT = {
    "no split": (drop("valid"), "has no 'valid'; it has test, train"),
    "no splits": (dict.clear, "has no 'train'; it has nothing"),
    "split is a list": (lambda splits: splits.update(train=[1]), ", train is a list, not a dict"),
    "split is None": (lambda splits: splits.update(test=None), ", test is a NoneType, not a dict"),
    **{f"no {key}": (drop("test", key), f", test has no {key!r}; it has ") for key in (*STREAMS, "labels")},
    "key of two lines": (lambda splits: splits.update(train={"te\nxt": 1}), ", train has no 'labels'"),
    "text is a list": (change("valid", "text", np.ndarray.tolist), ", valid text is a list, not an array of numbers"),
    "labels are a float": (change("train", "labels", lambda x: 0.5), ", train labels is a float, not an array of"),
    "audio of objects": (change("train", "audio", lambda x: x.astype(object)), ", train audio is an array of object"),
    "vision of str": (change("test", "vision", lambda x: x.astype("U5")), ", test vision is an array of <U5"),
    "labels of bytes": (change("test", "labels", lambda x: x.astype("S5")), ", test labels is an array of |S5"),
    **{f"{key} of rank 2": (change("train", key, lambda x: x[0]), f", train {key} has shape") for key in STREAMS},
    "text of rank 0": (change("valid", "text", lambda x: x[0, 0, 0, None].reshape(())), ", valid text has shape ()"),
    "audio of rank 4": (change("valid", "audio", lambda x: x[None]), ", valid audio has shape (1, 6, 9, 5); expected"),
    "no steps": (change("train", "vision", lambda x: x[:, :0]), ", train vision has shape (12, 0, 8); expected"),
    "no features": (change("train", "vision", lambda x: x[..., :0]), ", train vision has shape (12, 11, 0); expected"),
    "empty split": (change_all("valid", lambda x: x[:0]), ", valid has no samples; each of train, valid, test needs"),
    **{f"{key} too few": (change("test", key, lambda x: x[1:]), f", test has 5 samples of {key} but 6 labels")
       for key in STREAMS},
    "labels too few": (change("test", "labels", lambda x: x[1:]), ", test has 6 samples of text but 5 labels"),
    "ids too few": (change("train", "id", lambda x: x[1:]), ", train does not have one id for each of its 12 samples"),
    "ids too many": (change("valid", "id", lambda x: [*x, *x]), ", valid does not have one id for each of its 6"),
    "id of rank 0": (change("valid", "id", lambda x: np.array("a")), ", valid does not have one id for each of its 6"),
    "id is a str": (change("valid", "id", lambda x: "abcdef"), ", valid does not have one id for each of its 6"),
    "id beyond Unicode": (change("valid", "id", lambda x: np.full(6, 2**32 - 1, dtype="u4").view("U1")), ", valid"),
    "fewer features": (change("test", "audio", lambda x: x[..., 1:]),
                       ", test audio has (steps, features) (9, 4), but train has (9, 5)"),
    "fewer steps": (change("valid", "text", lambda x: x[:, 1:]),
                    ", valid text has (steps, features) (5, 12), but train has (6, 12)"),
    **{f"{value} in {key}": (poke("valid", key, PLACE, value), f", valid {key} {AT_PLACE}")
       for key in STREAMS for value in (np.nan, np.inf, -np.inf) if (key, value) != ("audio", -np.inf)},
    **{f"{value} in {key}": (poke("train", key, PLACE, value, float), f", train {key} {AT_PLACE}")
       for key in STREAMS for value in (1e39, -1e39)},
    "two NaN": (change("test", "text", lambda x: np.where(np.isin(x, x[4, 3, [5, 7]]), np.nan, x)),
                ", test text holds 2 numbers that are not finite in float32, the first in sample 4, step 3, feature 5"),
}
SENTIMENT = {
    **{f"label {value}": (poke("test", "labels", LABEL, value), ", test labels hold 1 numbers that are not finite")
       for value in (np.nan, np.inf, -np.inf)},
    "label 3.5": (poke("test", "labels", LABEL, 3.5), ", test labels holds 3.5: sentiment goes from -3 to 3"),
    "label -4": (poke("train", "labels", LABEL, -4), ", train labels holds -4: sentiment goes from -3 to 3"),
    "label of int8": (poke("train", "labels", LABEL, -128, "i1"), ", train labels holds -128: sentiment goes from"),
    "labels (N, 5)": (change("train", "labels", lambda x: np.zeros((12, 5))),
                      ", train labels have shape (12, 5), not that of"),
    "labels (N, 1)": (change("valid", "labels", lambda x: x[:, 0]), ", valid labels has shape (6, 1); expected"),
    "labels (N,)": (change("valid", "labels", np.ravel), ", valid labels has shape (6,); expected (N, 1, 1)"),
    "labels (N, 1, 3)": (change("test", "labels", lambda x: x.repeat(3, axis=2)), ", test labels has shape (6, 1, 3)"),
    "labels ()": (change("valid", "labels", lambda x: np.array(1.0)), ", valid labels has shape (); expected"),
    "emotions": (lambda splits: splits.update(make_splits("emotion")), ", train labels have shape (12, 4, 2), not"),
    "emotions in test": (lambda splits: splits.update(test=make_splits("emotion")["test"]),
                         ", test labels has shape (6, 4, 2); expected (N, 1, 1), as in train"),
}
EMOTIONS = {
    "half an answer": (poke("valid", "labels", (1, 2), 0.5), ", valid labels is not one-hot"),
    "both answers": (poke("valid", "labels", (1, 2), 1), ", valid labels is not one-hot"),
    "no answer": (poke("test", "labels", (5, 0), 0), ", test labels is not one-hot"),
    "2 and -1": (poke("test", "labels", (5, 0), (2, -1)), ", test labels is not one-hot"),
    "NaN": (poke("train", "labels", (0, 0, 1), np.nan), ", train labels hold 1 numbers that are not finite"),
    "classes": (change("train", "labels", lambda x: x.argmax(axis=2)),
                ", valid labels has shape (6, 4, 2); expected (N, 4), as in train"),
    "three logits": (change("train", "labels", lambda x: np.zeros((12, 4, 3))), ", train labels have shape (12, 4, 3)"),
    "three emotions in test": (change("test", "labels", lambda x: x[:, :3]),
                               ", test labels has shape (6, 3, 2); expected (N, 4, 2)"),
    "sentiment": (lambda splits: splits.update(make_splits()), "not the number of one of the classes 0 happy, 1 sad"),
    "sentiment in valid": (change("valid", "labels", lambda x: x[:, :1, :1]),
                           ", valid labels has shape (6, 1, 1); expected"),
}


def keep_emotions(count):
    """Leave that many emotions in every split."""
    def mutate(splits):
        for arrays in splits.values():
            arrays["labels"] = arrays["labels"][:, :count]
    return mutate


UNKNOWN_SENTIMENT = {key: SENTIMENT[key] for key in ("label 3.5", "emotions in test")} | {
    "labels (N, 5)": (SENTIMENT["labels (N, 5)"][0], ", train labels hold only 0 and 1 in (N, 5)"),
}
UNKNOWN_EMOTIONS = {key: EMOTIONS[key] for key in ("both answers", "three emotions in test", "sentiment in valid")}
DEFECTS = [
    pytest.param(name, task, aligned, *defect, id=f"{name}: {title}")
    for name, task, aligned, table in (
        ("mosi", "sentiment", False, FORMAT | SENTIMENT),
        ("iemocap", "emotion", False, EMOTIONS | {"three": (keep_emotions(3), "has 3 emotions; expected Neutral")}),
        ("mine", "sentiment", False, UNKNOWN_SENTIMENT),
        ("mine", "emotion", False, UNKNOWN_EMOTIONS | {"none": (keep_emotions(0), ", train labels has shape (12, 0,")}),
        ("mosei", "sentiment", True, {"not aligned": (lambda splits: None, "is not aligned: text, audio and vision")}),
    )
    for title, defect in table.items()
]


@pytest.mark.parametrize("name, task, aligned, mutate, expected", DEFECTS)
def test_defects(name, task, aligned, mutate, expected, tmp_path):
    splits = make_splits(task)
    mutate(splits)
    path = write_dataset(tmp_path, find_spec(name).stem, splits, aligned)
    message = user_error(name, tmp_path, aligned)
    assert message.startswith(str(path))
    assert expected in message


def test_the_alignment_that_fails_is_explained(tmp_path):
    write_dataset(tmp_path, "mosi", make_splits(), aligned=True)
    message = user_error("mosi", tmp_path, aligned=True)
    assert "[6, 9, 11] steps" in message
    assert "leave out --aligned" in message
    assert "_data_noalign.pkl" in message


class Refused:
    """An object that is no array; its pickle names a function."""

    def __reduce__(self):
        return print, ("this ran",)


WHOLE = pickle.dumps(make_splits(), protocol=4)
FILES = {
    "empty": (b"", "cannot be read: damaged or not a pickle"),
    "text": (b"id,label\n1,2\n", "is no pickle: it is text"),
    "zip": (b"PK\x03\x04" * 30, "is no pickle: it is a zip"),
    "cut": (WHOLE[: len(WHOLE) // 2], "cannot be read: damaged or not a pickle"),
    "cut at the end": (WHOLE[:-1], "cannot be read: damaged or not a pickle"),
    "control characters": (b"F\x1b[2J\n.", "cannot be read: damaged or not a pickle"),
    "list": (pickle.dumps([1]), "is a list, not a dict that holds 'train'"),
    "array": (pickle.dumps(np.ones(3)), "is a ndarray, not a dict that holds 'train'"),
    "None": (pickle.dumps(None), "is a NoneType, not a dict that holds 'train'"),
    "malicious": (pickle.dumps({"train": Refused()}), "was not read: it holds builtins.print, and only numpy arrays"),
    "malicious, name of two lines": (b"\x80\x04\x8c\x04os\n\x1b\x8c\x06system\x93)R.", "was not read: it holds "),
    "times": (pickle.dumps(np.zeros(2, dtype="M8[s]")), "was not read: it holds an array of type 'M8'"),
}


@pytest.mark.parametrize("content, expected", FILES.values(), ids=FILES)
def test_files_that_cannot_be_read(content, expected, tmp_path, capfd):
    path = tmp_path / "mosi_data.pkl"
    path.write_bytes(content)
    message = user_error("mosi", tmp_path, aligned=True)
    assert message.startswith(f"{path} {expected}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("aligned, suffix", [(True, ""), (False, "_noalign")])
@pytest.mark.parametrize("name, stem, advice", [
    ("mosi", "mosi", "src download --dataset mosi "), ("MOSEI", "mosei_senti", "src download --dataset mosei "),
    ("iemocap", "iemocap", "src download --dataset iemocap "),
    ("mine", "mine", "--data_path"),
    ("mine", "mine", "mosi, mosei, iemocap, sims, simsv2, meld, ur_funny, mustard, ravdess, demo"),
])
@pytest.mark.parametrize("place", ["folder", "no folder", "folder in place of the file"])
def test_missing_files(name, stem, advice, aligned, suffix, place, tmp_path):
    folder = tmp_path if "place" in place else tmp_path / "data"
    path = folder / f"{stem}_data{suffix}.pkl"
    if place == "folder":
        folder.mkdir()
    elif place == "folder in place of the file":
        path.mkdir()
    message = user_error(name, folder, aligned)
    assert message.startswith(f"{path} is missing")
    assert advice in message


def test_a_path_that_cannot_be_looked_up(tmp_path):
    """A name too long for the file system; a folder without permission is the same to load_dataset."""
    assert user_error("x" * 300, tmp_path).startswith(str(tmp_path / ("x" * 300)))


@pytest.mark.parametrize("aligned, advice", [(True, "leave out --aligned"), (False, "add --aligned")])
@pytest.mark.parametrize("name", ["mosei", "mine"])
def test_the_other_alignment_is_there(name, aligned, advice, tmp_path):
    other = write_dataset(tmp_path, find_spec(name).stem, make_splits(lens=(7, 7, 7)), not aligned)
    message = user_error(name, tmp_path, aligned)
    assert message.startswith(str(find_spec(name).file(tmp_path, aligned)))
    assert f"{other.name} is there: {advice}" in message
