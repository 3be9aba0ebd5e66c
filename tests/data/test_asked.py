"""What a file's name, folder, hash and content tell against what was asked for: contradictions are refused in a line
that names both sides and the flag, guesses are said in the log; the same by load_dataset, main.py, inspect.
"""

import pickle
from hashlib import sha256

import numpy as np
import pytest

from main import main as train
from src.data import specs
from src.data.specs import find_spec, told_by_path
from src.dataset import load_dataset
from src.errors import UserError
from src.tools.inspect_file import main as inspect
from tests.data_files import make_mmsa_splits, make_splits

EQUAL = (7, 7, 7)


def write(folder, name, splits):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(splits))
    return path


def refusal(path, name, aligned=False):
    """The message with which a file is refused, which is the same in every command."""
    with pytest.raises(UserError) as error:
        load_dataset(find_spec(name), path, aligned)
    message = str(error.value)
    assert message.isprintable()
    assert message.startswith(str(path))
    return message


def notes(path, name, aligned=False):
    """The guesses of the log about a file."""
    return [note for note in load_dataset(find_spec(name), path, aligned).notes if "moved to the front" not in note]


@pytest.mark.parametrize("path, name, aligned", [
    ("mosi_data.pkl", "mosi", True), ("MOSI_data_noalign.pkl", "mosi", False), ("mosei_senti_data.pkl", "mosei", True),
    ("mine_data_noalign.pkl", "mine", False), ("aligned_50.pkl", None, True), ("unaligned_50.pkl", None, False),
    ("unaligned_39.pkl", "sims", False), ("unaligned_50-003.pkl", None, False), ("of_any_name", None, None),
    ("MOSI/Processed/unaligned_50.pkl", "mosi", False), ("CMU-MOSEI/Processed/aligned_50-1.pkl", "mosei", True),
    ("MOSI/unaligned_50.pkl", "mosi", False), ("mosi/processed/features/feature.pkl", "mosi", None),
    ("ch_sims/Processed/x.pkl", "sims", None), ("Ours/Processed/unaligned_39.pkl", "Ours", False),
    ("MOSI/mosei_senti_data.pkl", "mosei", True), ("home/mosi/x.pkl", None, None), ("x_not_aligned.pkl", None, False),
    ("sims2_unaligned_001.pkl", None, False), ("mosi_aligned.pkl", None, True),
])
def test_what_a_path_tells(path, name, aligned, tmp_path):
    spec, told = told_by_path(tmp_path / path)
    assert (spec and spec.name, told) == (name, aligned)


@pytest.mark.parametrize("path, owner, name", [
    ("mosi_data_noalign.pkl", "mosi", "mosei"), ("MOSI_data_noalign.pkl", "mosi", "mosei"),
    ("mosei_senti_data_noalign.pkl", "mosei", "mosi"), ("iemocap_data_noalign.pkl", "iemocap", "mosi"),
    ("mosi_data_noalign.pkl", "mosi", "mine"), ("unaligned_39.pkl", "sims", "mosi"), ("mosi.pkl", "mosi", "mosei"),
    ("CMU-MOSI_bert_unaligned.pkl", "mosi", "mosei"), ("features of MOSEI.pkl", "mosei", "mosi"),
    ("MOSI/Processed/unaligned_50.pkl", "mosi", "mosei"), ("MOSEI/Processed/unaligned_50.pkl", "mosei", "mosi"),
    ("cmu_mosei/processed/unaligned_50-003.pkl", "mosei", "mosi"), ("MOSI/unaligned_50.pkl", "mosi", "mosei"),
    ("SIMS/Processed/features/unaligned_39.pkl", "sims", "mosei"), ("MOSI/feature.pkl", "mosi", "mosei"),
    ("MOSI/Processed/unaligned_50.pkl", "mosi", "mine"),
])
def test_a_file_of_another_set_by_its_path(path, owner, name, tmp_path):
    path = write(tmp_path, path, make_mmsa_splits())
    message = refusal(path, name)
    assert f"is {owner}'s file by its " in message
    assert f"asked for as {name}; give --dataset {owner}, or name that of {name} by --data_path" in message


def test_every_command_refuses_alike(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "MOSI/Processed/unaligned_50.pkl", make_mmsa_splits())
    message = refusal(path, "mosei")
    assert train(["--data_path", str(path)]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert inspect([str(path), "--dataset", "mosei"]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert train(["--data_path", str(path.parent)]) == 2  # found there under MMSA's name
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not (tmp_path / "results").exists()


def test_a_published_file_is_told_by_its_hash(tmp_path, monkeypatch):
    path = write(tmp_path, "x.pkl", make_splits())
    digest = sha256(path.read_bytes()).hexdigest()
    (tmp_path / "sources.json").write_text(f'{{"files": {{"mosi_data_noalign.pkl": {{"sha256": "{digest}"}}}}}}')
    monkeypatch.setattr(specs, "SOURCES", tmp_path / "sources.json")
    assert "is mosi's file by its SHA-256, and was asked for as mosei; give --dataset mosi" in refusal(path, "mosei")
    assert notes(path, "mosi") == []


@pytest.mark.parametrize("path, name", [
    ("mosi_bert_data_noalign.pkl", "mosi_bert"), ("mosi_bert.pkl", "mine"), ("mosi/x.pkl", "mosei"),
    ("mosi_and_mosei.pkl", "mosi"), ("mosiah.pkl", "mosei"), ("unaligned_50.pkl", "mosei"), ("x.pkl", "iemocap"),
])
def test_names_that_contradict_nothing(path, name, tmp_path):
    path = write(tmp_path, path, make_splits("emotion" if name == "iemocap" else "sentiment"))
    assert notes(path, name) == []


@pytest.mark.parametrize("path, told", [("mine_data_noalign.pkl", "mine"), ("Ours/Processed/unaligned_50.pkl", "Ours")])
def test_another_name_that_is_not_known_is_said(path, told, tmp_path):
    path = write(tmp_path, path, make_mmsa_splits())
    assert notes(path, "mosei") == [f"{path} is read as mosei, though its name says {told}"]


@pytest.mark.parametrize("path, aligned, steps, words", [
    ("x.pkl", True, (6, 9, 11), "[6, 9, 11] steps; leave out --aligned"),
    ("x.pkl", True, (7, 7, 8), "[7, 7, 8] steps; leave out --aligned"),
    ("mine_data.pkl", True, (6, 9, 11), "is not aligned"),
    ("mine_data_noalign.pkl", True, EQUAL, "unaligned by its name, but --aligned was given; leave that out"),
    ("unaligned_50.pkl", True, EQUAL, "unaligned by its name, but --aligned was given"),
    ("sims-no_alignment.pkl", True, EQUAL, "unaligned by its name, but --aligned was given"),
    ("mine_data.pkl", False, EQUAL, "is aligned by its name and its 7 steps; give --aligned"),
    ("aligned_50.pkl", False, EQUAL, "is aligned by its name and its 7 steps; give --aligned"),
    ("features.aligned.pkl", False, EQUAL, "is aligned by its name and its 7 steps; give --aligned"),
])
def test_the_other_alignment_is_refused(path, aligned, steps, words, tmp_path):
    assert words in refusal(write(tmp_path, path, make_splits(lens=steps)), "mine", aligned)


@pytest.mark.parametrize("path, aligned, steps, words", [
    ("x.pkl", False, EQUAL, ["all modalities have 7 steps; if they are aligned, give --aligned"]),
    ("mine_data_noalign.pkl", False, EQUAL, ["all modalities have 7 steps; if they are aligned, give --aligned"]),
    ("mine_data.pkl", False, (6, 9, 11), ["its name says aligned, but text, audio and vision have [6, 9, 11] steps"]),
    ("x.pkl", True, EQUAL, []), ("x.pkl", False, (7, 7, 8), []), ("mine_data.pkl", True, EQUAL, []),
])
def test_guesses_of_the_alignment_are_said(path, aligned, steps, words, tmp_path):
    path = write(tmp_path, path, make_splits(lens=steps))
    for _ in range(2):  # converted, and out of the cache
        said = notes(path, "mine", aligned)
        assert len(said) == len(words)
        assert all(word in note for word, note in zip(words, said, strict=True))


def token_ids(shape, axis=None, seed=0):
    """What BERT's tokenizer gives for texts of full length; along an axis of 3 also the mask and the segments."""
    ids = np.random.RandomState(seed).randint(100, 30000, shape)
    return ids if axis is None else np.stack([ids, np.ones_like(ids), 0 * ids], axis)


@pytest.mark.parametrize("make", [
    lambda n: token_ids((n, 50), 1), lambda n: token_ids((n, 50), 2), lambda n: token_ids((n, 50), 1).astype(float),
    lambda n: token_ids((n, 20, 50)), lambda n: token_ids((n, 50))[:, :, None], lambda n: token_ids((n, 9, 1)) % 60,
])
def test_token_ids_are_no_features(make, tmp_path):
    splits = make_splits()
    for split in splits.values():
        split["text"] = make(len(split["text"]))
    message = refusal(write(tmp_path, "x.pkl", splits), "mine")
    assert ", train text has shape (12, " in message
    assert "holds whole numbers, as token ids are: no features; put the embeddings" in message


@pytest.mark.parametrize("make", [
    np.sign, np.round, lambda text: 0 * text, lambda text: text * 1000,
    lambda text: (text > 0).astype(np.int64),
])
def test_features_that_are_no_token_ids(make, tmp_path):
    splits = make_splits()
    for split in splits.values():
        split["text"] = make(split["text"])
    assert notes(write(tmp_path, "x.pkl", splits), "mine") == []
