"""Layouts of data files: MMSA's are told by content and turned into MulT's; both reach every model in true shapes."""

import functools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from src.data.specs import KNOWN, find_spec
from src.dataset import load_dataset
from src.errors import UserError
from src.models import MODELS, build_model
from tests.data.test_safe_pickle import assemble, of_python_2
from tests.data_files import make_mmsa_splits, make_splits, write_dataset

KEYS = ("text", "audio", "vision")


def load(splits, folder, name="mosi", aligned=False, protocol=4):
    path = folder / "file.pkl"
    path.write_bytes(pickle.dumps(splits, protocol))
    return load_dataset(find_spec(name), path, aligned)


def steps_of(split, aligned=False):
    """The real steps of each modality in a split of make_mmsa_splits."""
    count = np.arange(len(split["id"]))
    return {key: 1 + count % (split["text"] if aligned else split[key]).shape[1] for key in KEYS}


def in_front(array, steps):
    """A tail-padded array with its padding in front, sample by sample."""
    moved = np.zeros_like(array)
    for ours, sample, n in zip(moved, array, steps, strict=True):
        ours[len(ours) - n:] = sample[:n]
    return moved.astype(np.float32)


def assert_moved(dataset, splits, aligned):
    for name, split in splits.items():
        ours = dataset.splits[name]
        for key, features, padding in zip(KEYS, ours.features, ours.padding, strict=True):
            steps = steps_of(split, aligned)[key]
            np.testing.assert_array_equal(features, in_front(split[key], steps), err_msg=f"{name} {key}")
            expected = np.arange(padding.shape[1]) < padding.shape[1] - steps[:, None]
            np.testing.assert_array_equal(padding, expected, err_msg=f"{name} {key}")


@pytest.mark.parametrize("aligned, lens", [(False, (6, 9, 11)), (False, (7, 7, 7)), (True, (7, 7, 7))])
@pytest.mark.parametrize("width", [768, 12])
def test_mmsa(aligned, lens, width, tmp_path):
    """The last step is the last real one, what BERT leaves behind a text is gone, and ids and labels are kept."""
    splits = make_mmsa_splits(aligned, lens, (width, 5, 8))
    dataset = load(splits, tmp_path, aligned=aligned)
    assert dataset.protocol == "MMSA"
    assert dataset.notes[-1] == f"{tmp_path}/file.pkl, padding behind text, audio, vision moved to the front"
    assert [note for note in dataset.notes[:-1] if "all modalities have 7 steps" not in note] == []
    assert len(dataset.notes) == (2 if lens == (7, 7, 7) and not aligned else 1)
    assert (dataset.input_dims, dataset.input_lens) == ((width, 5, 8), lens)
    assert_moved(dataset, splits, aligned)
    for name, split in splits.items():
        assert dataset.splits[name].ids == split["id"]
        np.testing.assert_array_equal(dataset.splits[name].labels[:, 0], split["regression_labels"].astype(np.float32))


def test_mult_files_say_so_and_stay_as_they_are(tmp_path):
    splits = make_splits()
    dataset = load(splits, tmp_path)
    assert (dataset.protocol, dataset.notes) == ("MulT", [])
    np.testing.assert_array_equal(dataset.splits["test"].features[0], splits["test"]["text"])


@pytest.mark.parametrize("told", [True, False])
def test_aligned_modalities_keep_their_steps_together(told, tmp_path):
    """A word without audio at the end of a sequence does not shift the audio of the others."""
    splits = make_mmsa_splits(aligned=True, lens=(7, 7, 7))
    splits["train"]["audio"][4, 3:] = splits["train"]["vision"][4, 2:] = 0  # of 5 real steps
    splits["train"]["audio"][4, 5:] = told  # behind the length that is told
    for split in () if told else splits.values():
        del split["text_bert"]
        split["text"][np.arange(7) >= steps_of(split, aligned=True)["text"][:, None]] = 0
    _, audio, vision = load(splits, tmp_path, aligned=True).splits["train"].features
    np.testing.assert_array_equal(audio[4], in_front(splits["train"]["audio"], np.full(12, 5))[4])
    np.testing.assert_array_equal(vision[4], in_front(splits["train"]["vision"], np.full(12, 5))[4])


def test_lengths_that_are_not_told_are_read_off_the_content(tmp_path):
    """Up to the last step that is not all zeros, so that a gap before it stays; an empty stream stays as it is."""
    splits = make_mmsa_splits()
    splits["train"]["vision"][5, 2] = splits["train"]["audio"][6] = 0
    for split in splits.values():
        for key in ("text_bert", "audio_lengths", "vision_lengths"):
            del split[key]
        split["text"][np.arange(6) >= steps_of(split)["text"][:, None]] = 0
    features = load(splits, tmp_path).splits["train"].features
    for key, ours in zip(KEYS, features, strict=True):
        np.testing.assert_array_equal(ours, in_front(splits["train"][key], steps_of(splits["train"])[key]))


@pytest.mark.parametrize("told, steps", [(0, 1), (-3, 1), (99, 11), (4.0, 4)])
def test_lengths_are_at_least_one_step_and_at_most_all(told, steps, tmp_path):
    splits = make_mmsa_splits()
    splits["train"]["vision"][7] = 1
    splits["train"]["vision_lengths"] = np.where(np.arange(12) == 7, told, splits["train"]["vision_lengths"])
    padding = load(splits, tmp_path).splits["train"].padding[2][7]
    assert padding.tolist() == [True] * (11 - steps) + [False] * steps


@pytest.mark.parametrize("aligned, lens", [(False, (6, 9, 11)), (True, (7, 7, 7))])
@pytest.mark.parametrize("told", [True, False])
def test_padding_that_is_in_front_already_stays(aligned, lens, told, tmp_path):
    splits = make_mmsa_splits(aligned, lens)
    for split in splits.values():
        for key, steps in steps_of(split, aligned).items():
            split[key] = in_front(split[key], steps)
        split["text_bert"] = split["text_bert"][:, :, ::-1]
        if not told:
            for key in ("text_bert", "audio_lengths", "vision_lengths"):
                split.pop(key, None)
    dataset = load(splits, tmp_path, aligned=aligned)
    assert (dataset.protocol, dataset.notes) == ("MMSA", [])
    for name, split in splits.items():
        for key, ours in zip(KEYS, dataset.splits[name].features, strict=True):
            np.testing.assert_array_equal(ours, split[key])


@pytest.mark.parametrize("change, expected", [
    ({"regression_labels": np.zeros((6, 1))}, ", valid regression_labels has shape (6, 1); expected (samples,)"),
    ({"regression_labels": ["a"] * 6}, ", valid regression_labels is a list, not an array of numbers"),
    ({"regression_labels": np.full(6, 3.5)}, ", valid labels holds 3.5: sentiment goes from -3 to 3"),
    ({"regression_labels": np.full(6, np.nan)}, ", valid labels hold 6 numbers that are not finite"),
    ({"regression_labels": np.zeros(5)}, ", valid has 6 samples of text but 5 labels"),
    ({"audio_lengths": [1] * 5}, ", valid does not tell one length of audio for each of its 6 samples"),
    ({"vision_lengths": np.full(6, np.inf)}, ", valid does not tell one length of vision for each of its 6"),
    ({"vision_lengths": ["a"] * 6}, ", valid vision_lengths is a list, not an array of numbers"),
    ({"id": ["a"] * 5}, ", valid does not have one id for each of its 6 samples"),
])
def test_defects_of_mmsa_files(change, expected, tmp_path):
    splits = make_mmsa_splits()
    splits["valid"] |= change
    with pytest.raises(UserError) as error:
        load(splits, tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/file.pkl{expected}")
    assert str(error.value).isprintable()


DOUBLING = functools.reduce(lambda inner, _: [inner, inner], range(40), ["a"])


@pytest.mark.parametrize("ids", [
    [DOUBLING] * 6, [[DOUBLING]] * 6, [["a"] * 100_000] * 6, ["a" * 100_000] * 6, [{}] * 6, [[np.zeros(3)]] * 6,
], ids=["doubling", "doubling in a field", "many fields", "long", "dict", "array in a field"])
def test_ids_that_are_none(ids, tmp_path):
    splits = make_splits()
    splits["valid"]["id"] = ids
    with pytest.raises(UserError, match="valid id is damaged"):
        load(splits, tmp_path)


@pytest.mark.parametrize("ids", [
    np.array(["a", "b", "c", "d", "e", "\u4f60"], dtype=object), np.array([b"a", b"b", b"c", b"d", b"e", b"f"], object),
])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_ids_in_an_array_of_objects(ids, protocol, tmp_path):
    splits = make_splits()
    splits["test"]["id"] = ids
    expected = [x.decode() if isinstance(x, bytes) else x for x in ids]
    assert load(splits, tmp_path, protocol=protocol).splits["test"].ids == expected


@pytest.mark.parametrize("make", [make_splits, make_mmsa_splits])
def test_pickles_of_python_2(make, tmp_path):
    splits = make()
    (tmp_path / "file.pkl").write_bytes(assemble(of_python_2(splits)))
    ours, same = load_dataset(find_spec("mosi"), tmp_path / "file.pkl"), load(splits, tmp_path)
    assert ours.protocol == same.protocol
    for name in splits:
        assert ours.splits[name].ids == same.splits[name].ids
        for one, other in zip(ours.splits[name].features, same.splits[name].features, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("aligned, name", [(True, "aligned_50.pkl"), (False, "unaligned_50.pkl")])
@pytest.mark.parametrize("dataset, folder", [
    ("mosi", "MOSI/Processed"), ("mosei", "MOSEI/Processed"), ("mosi", "."), ("mosei", "."),
])
def test_mmsa_files_are_found(dataset, folder, aligned, name, tmp_path):
    spec = find_spec(dataset)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / name).write_bytes(pickle.dumps(make_mmsa_splits(aligned, lens=(7, 7, 7))))
    assert spec.file(tmp_path, aligned) == tmp_path / folder / name
    assert load_dataset(spec, tmp_path, aligned).protocol == "MMSA"
    path = write_dataset(tmp_path, spec.stem, make_splits(lens=(7, 7, 7)), aligned)
    assert spec.file(tmp_path, aligned) == path
    assert load_dataset(spec, tmp_path, aligned).protocol == "MulT"


def test_mmsa_files_are_not_taken_for_other_data_sets(tmp_path):
    (tmp_path / "unaligned_50.pkl").write_bytes(pickle.dumps(make_mmsa_splits()))
    for name in ("mine", "iemocap"):
        with pytest.raises(UserError, match="is missing"):
            load_dataset(find_spec(name), tmp_path)


def test_another_data_sets_file_is_told_by_its_hash(tmp_path, monkeypatch):
    path = tmp_path / "unaligned_50.pkl"
    path.write_bytes(pickle.dumps(make_mmsa_splits()))
    digest = load_dataset(find_spec("mosi"), tmp_path).source["sha256"]
    mosi, *others = KNOWN
    monkeypatch.setattr("src.data.specs.KNOWN", (replace(mosi, mmsa_sha256=(digest,)), *others))
    assert load_dataset(find_spec("mosi"), tmp_path).protocol == "MMSA"
    with pytest.raises(UserError, match=r"is mosi's file by its SHA-256.* --dataset mosi, or name that of mosei by"):
        load_dataset(find_spec("mosei"), tmp_path)


@pytest.mark.parametrize("name", ["mosi", "mine"])
def test_data_path_may_be_the_file(name, tmp_path):
    path = tmp_path / "of_any_name"
    path.write_bytes(pickle.dumps(make_splits()))
    assert load_dataset(find_spec(name), str(path)).source["file"] == str(path)


MULT, MMSA = make_splits, make_mmsa_splits
TRUE_SHAPES = [  # data set, layout, aligned, steps and widths of text, audio and vision
    ("mosi", MULT, True, (50, 50, 50), (300, 5, 20)), ("mosi", MULT, False, (50, 375, 500), (300, 5, 20)),
    ("mosei", MULT, True, (50, 50, 50), (300, 74, 35)), ("mosei", MULT, False, (50, 500, 500), (300, 74, 35)),
    ("iemocap", MULT, True, (20, 20, 20), (300, 74, 35)), ("iemocap", MULT, False, (20, 400, 500), (300, 74, 35)),
    ("mosi", MMSA, True, (50, 50, 50), (768, 5, 20)), ("mosi", MMSA, False, (50, 375, 500), (768, 5, 20)),
    ("mosei", MMSA, True, (50, 50, 50), (768, 74, 35)), ("mosei", MMSA, False, (50, 500, 500), (768, 74, 35)),
]


@pytest.mark.parametrize("name, make, aligned, lens, dims", TRUE_SHAPES)
def test_true_shapes_reach_every_model(name, make, aligned, lens, dims, tmp_path):
    sizes = {"lens": lens, "dims": dims, "sizes": (3, 3, 3)}
    if make is MMSA:
        splits = make_mmsa_splits(aligned, **sizes)
    else:
        splits = make_splits("emotion" if name == "iemocap" else "sentiment", **sizes)
    dataset = load(splits, tmp_path, name, aligned)
    streams, labels = dataset.splits["test"].batch([0, 2])
    for model in MODELS:
        torch.manual_seed(0)
        built = build_model(model, input_dims=dataset.input_dims, input_lens=dataset.input_lens,
                            output_dim=dataset.task.output_dim, embed_dim=4, num_heads=2, layers=1)
        prediction, _ = built(*streams)
        assert torch.isfinite(dataset.task.loss(prediction, labels)), model
