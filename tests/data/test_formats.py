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
from src.models import build_model
from tests.data.test_safe_pickle import assemble, of_python_2
from tests.data_files import make_mmsa_splits, make_splits, write_dataset
from tests.modules.test_models import TRANSFORMERS

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


@pytest.mark.parametrize("told, steps, said", [
    (0, 1, ["1 of vision_lengths are 0 where vision is not all zeros, and are taken as 1"]),
    (99, 11, ["1 of vision_lengths are beyond the 11 steps of vision, and are taken as 11"]), (4.0, 4, []),
])
def test_lengths_are_at_least_one_step_and_at_most_all(told, steps, said, tmp_path):
    splits = make_mmsa_splits()
    splits["train"]["vision"][7] = 1
    splits["train"]["vision_lengths"] = np.where(np.arange(12) == 7, told, splits["train"]["vision_lengths"])
    dataset = load(splits, tmp_path)
    told_of = [note.partition(", train: ")[2] for note in dataset.notes if "of vision_lengths" in note]
    assert told_of == said
    cut = f"{tmp_path}/file.pkl, train vision: 1 samples are not all zeros behind their length; that is left out"
    assert (cut in dataset.notes) is (steps < 11)
    padding = dataset.splits["train"].padding[2][7]
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
    ({"audio_lengths": [0] * 6}, ", valid audio_lengths are all 0, but audio is not all zeros; mend 'audio_lengths'"),
    ({"vision_lengths": np.zeros(6)}, ", valid vision_lengths are all 0, but vision is not all zeros; mend"),
    ({"vision_lengths": [1, 2, -3, 4, 5, 6]}, ", valid vision_lengths holds -3, which is no number of steps; mend"),
    ({"audio_lengths": [-1] * 6}, ", valid audio_lengths holds -1, which is no number of steps; mend"),
    ({"audio_lengths": np.full(6, 2.5)}, ", valid audio_lengths holds 2.5, which is no number of steps; mend"),
    ({"vision_lengths": [500] * 6}, ", valid vision_lengths are all beyond the 11 steps of vision; mend"),
    ({"audio_lengths": np.arange(10, 16)}, ", valid audio_lengths are all beyond the 9 steps of audio; mend"),
    ({"regression_labels": np.zeros(0)}, ", valid has no samples; each of train, valid, test needs some"),
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


def test_lengths_of_zero_of_streams_that_are_empty(tmp_path):
    """A modality that was not extracted may be there as zeros of no length."""
    splits = make_mmsa_splits()
    for split in splits.values():
        split["audio"][:], split["audio_lengths"] = 0, [0] * len(split["audio"])
    dataset = load(splits, tmp_path)
    assert len(dataset.notes) == 1
    assert dataset.splits["train"].padding[1].all()


BERT = {
    "array": lambda bert: bert, "whole numbers": lambda bert: bert.astype(int), "lists": lambda bert: bert.tolist(),
    "list of arrays": list, "lists of arrays": lambda bert: [list(sample) for sample in bert],
    "steps first": lambda bert: bert.transpose(0, 2, 1),
    "lists of steps": lambda bert: bert.transpose(0, 2, 1).tolist(),
    "list of arrays of steps": lambda bert: list(bert.transpose(0, 2, 1)),
}


@pytest.mark.parametrize("form", BERT.values(), ids=BERT)
@pytest.mark.parametrize("lens", [(6, 9, 11), (3, 9, 11)])
def test_every_form_of_text_bert_tells_the_lengths_of_text(form, lens, tmp_path):
    splits = make_mmsa_splits(lens=lens)
    for split in splits.values():
        split["text_bert"] = form(split["text_bert"])
    dataset = load(splits, tmp_path)
    assert_moved(dataset, splits, aligned=False)
    assert len(dataset.notes) == 1


@pytest.mark.parametrize("bert", [
    [[1, 2]] * 12, ["a"] * 12, np.ones((12, 3, 7)), np.full((12, 3, 6), 0.5), np.zeros((12, 3, 6)), {"a": 1}, "text",
    [np.zeros((3, 6))] * 11, [[[1] * 6, [1] * 5, [1] * 6]] * 12,
], ids=range(9))
def test_a_text_bert_without_a_mask_is_said(bert, tmp_path):
    splits = make_mmsa_splits()
    splits["train"]["text_bert"] = bert
    note, _ = load(splits, tmp_path).notes
    assert note.startswith(f"{tmp_path}/file.pkl, train: text_bert is no (N, 3, T) of ids, mask and segment")


@pytest.mark.parametrize("make", [make_splits, make_mmsa_splits])
@pytest.mark.parametrize("key, letters", [("text", "av"), ("audio", "lv"), ("vision", "la")])
@pytest.mark.parametrize("gone", [True, False])
def test_two_modalities(make, key, letters, gone, tmp_path):
    """The third is a stream of zeros that every model takes, and PMR leaves out."""
    splits = make()
    for split in splits.values():
        split[key] = None
        if gone:
            del split[key]
    dataset = load(splits, tmp_path)
    assert dataset.notes[0].startswith(f"{tmp_path}/file.pkl, train: no {key} in the file: a stream of zeros stands in")
    assert f"--modalities {letters} leaves it out" in dataset.notes[0]
    i = KEYS.index(key)
    assert dataset.input_dims[i] == 1
    assert not any(split.features[i][:].any() for split in dataset.splits.values())
    streams, _ = dataset.splits["test"].batch([0, 2])
    for model in TRANSFORMERS:
        built = build_model(model, input_dims=dataset.input_dims, input_lens=dataset.input_lens, output_dim=1,
                            embed_dim=4, num_heads=2, layers=1, **({"modalities": letters} if model == "PMR" else {}))
        assert torch.isfinite(built(*streams)[0]).all()


def test_two_modalities_of_equal_lengths_are_aligned(tmp_path):
    splits = make_splits(lens=(7, 7, 7))
    for split in splits.values():
        del split["audio"]
    assert load(splits, tmp_path, aligned=True).input_lens == (7, 7, 7)


def rename(splits, **names):
    for split in splits.values():
        for old, new in names.items():
            split[new] = split.pop(old)


def test_a_modality_under_another_name_is_not_taken_for_missing(tmp_path):
    splits = make_splits()
    rename(splits, vision="visual")
    with pytest.raises(UserError, match=r"has no 'vision', but 'visual' of shape \(12, 11, 8\); name that 'vision'"):
        load(splits, tmp_path)
    rename(splits, audio="acoustic")
    with pytest.raises(UserError, match="has no 'audio'"):
        load(splits, tmp_path)


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
            assert torch.equal(one[:], other[:])


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
    for model in TRANSFORMERS:
        torch.manual_seed(0)
        built = build_model(model, input_dims=dataset.input_dims, input_lens=dataset.input_lens,
                            output_dim=dataset.task.output_dim, embed_dim=4, num_heads=2, layers=1)
        prediction, _ = built(*streams)
        assert torch.isfinite(dataset.task.loss(prediction, labels)), model
