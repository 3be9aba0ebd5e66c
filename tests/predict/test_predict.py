"""Predictions of finished runs for files and arrays: equal to those of the run in any layout; bad ones named."""

import io
import json
import pickle
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from main import main
from modules.position_embedding import sinusoidal_table
from modules.sequence import causal_counts
from src.__main__ import run as command
from src.errors import UserError, run_command
from src.predict.predict import rows_of
from src.predict.predictor import Predictions, load_model
from tests.data_files import make_splits, write_dataset

LENS, DIMS = (6, 9, 11), (12, 5, 8)
KEYS = ("text", "audio", "vision")
SMALL = ("--num_epochs", "1", "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--batch_size", "4",
         "--preset", "stock", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of MulT on scores, and PMR on emotions, in a folder from which the data is gone."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "data").mkdir()
    write_dataset(folder / "data", "mine", make_splits(), aligned=False)
    write_dataset(folder / "data", "felt", make_splits("emotion"), aligned=False)
    results = ("--results_dir", str(folder / "results"), "--data_path", str(folder / "data"))
    for seed in ("1", "2"):
        assert main(["--model", "MulT", "--dataset", "mine", "--seed", seed, *SMALL, *results]) == 0
    assert main(["--model", "PMR", "--dataset", "felt", "--seed", "1", *SMALL, *results]) == 0
    shutil.rmtree(folder / "data")
    return folder / "results"


def mult(trained, seed=None):
    folder = trained / "mine/unaligned/MulT"
    return folder / f"seed{seed}" if seed else folder


def recorded(folder):
    with np.load(folder / "predictions.npz") as arrays:
        return dict(arrays)


def save(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def zipped(members):
    """The bytes of a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def header(shape):
    """How the .npy file of an array begins."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_file_of_splits_gives_the_predictions_of_the_run(trained, tmp_path, capsys):
    file = save(tmp_path / "all.pkl", make_splits())
    assert command(["predict", str(mult(trained, 1)), str(file), "--out", str(tmp_path / "out.npz")]) == 0
    assert capsys.readouterr().out == ""
    with np.load(tmp_path / "out.npz") as found:
        of_test, expected = found["splits"] == "test", recorded(mult(trained, 1))
        assert found["ids"][of_test].tolist() == expected["test_ids"].tolist()
        assert np.array_equal(found["predictions"][of_test], expected["test_predictions"])  # batches are the same
        assert found["labels"].tolist() == ["sentiment"]


def test_a_model_folder_gives_mean_and_spread(trained, tmp_path, capsys):
    file = save(tmp_path / "flat.pkl", {key: make_splits()["test"][key] for key in KEYS})
    assert command(["predict", str(mult(trained)), str(file)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "id,sentiment,sentiment_sd"
    both = np.stack([recorded(mult(trained, seed))["test_predictions"] for seed in (1, 2)])[..., 0]
    found = np.array([row.split(",") for row in rows], dtype=float)
    assert found[:, 0].tolist() == list(range(6))
    assert np.allclose(found[:, 1], both.mean(axis=0), atol=1e-6)
    assert np.allclose(found[:, 2], both.std(axis=0, ddof=1), atol=1e-6)


def test_emotions_come_as_probabilities(trained, tmp_path):
    streams = {key: make_splits("emotion")["test"][key] for key in KEYS}
    np.savez(tmp_path / "clips.npz", **streams, id=np.array([f"=clip{i}" for i in range(6)]))
    run = trained / "felt/unaligned/PMR/seed1"
    assert command(["predict", str(run), str(tmp_path / "clips.npz"), "--out", str(tmp_path / "out.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    logits = recorded(run)["test_predictions"].reshape(6, 4, 2)
    expected = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
    assert (next(iter(rows[0])), rows[3]["id"]) == ("id", "=clip3")
    assert np.allclose([list(row.values())[1:] for row in rows], expected, atol=1e-6)
    assert command(["predict", str(run), str(tmp_path / "clips.npz"), "--out", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines()[1].startswith("'=clip0,")  # no formula


def test_arrays_lists_and_single_clips(trained, tmp_path):
    """Shorter streams are padded in front, of longer ones the end is read; what is cut is counted."""
    test, expected = make_splits()["test"], recorded(mult(trained, 1))["test_predictions"]
    model = load_model(mult(trained, 1), device="cpu")
    clips = {key: list(test[key]) for key in KEYS}
    for i in range(6):  # without their front padding
        clips = clips | {key: [*clips[key][:i], clips[key][i][i % 3:], *clips[key][i + 1:]] for key in KEYS}
    found = model.predict(**clips)
    assert np.allclose(found.values, expected, atol=1e-6)
    assert (found.spread, len(found)) == (None, 6)
    assert found.notes == [f"the clips: 4 of 6 clips are shorter than {steps} steps of {key}; zeros are put in front"
                           for key, steps in zip(KEYS, LENS, strict=True)]
    assert np.allclose(model.predict(*(test[key][2] for key in KEYS)).values, expected[2], atol=1e-6)
    longer = {key: [*clips[key][:5], np.concatenate([np.ones((10**4, DIMS[m])), clips[key][5]])]
              for m, key in enumerate(KEYS)}
    found = model.predict(**longer)
    assert "the clips text: 1 of 6 clips are longer than 6 steps; their end is read" in found.notes
    assert np.allclose(found.values[:5], expected[:5], atol=1e-6)
    np.savez(tmp_path / "lists.npz", **{key: np.array([*x, None], dtype=object)[:-1] for key, x in clips.items()})
    assert np.allclose(model.predict_file(tmp_path / "lists.npz").values, expected, atol=1e-6)
    objects = [test[key].astype(object) for key in KEYS]  # as numpy makes of a list of arrays of one length
    assert np.array_equal(model.predict(*objects).values, expected)
    tensors = [torch.tensor(test[key]) for key in KEYS]
    assert np.array_equal(model.predict(*tensors).values, expected)
    longer = model.predict(np.pad(test["text"], ((0, 0), (3, 0), (0, 0)), constant_values=9), test["audio"],
                           test["vision"])
    assert np.array_equal(longer.values, expected)
    assert longer.notes == ["the clips text: 6 of 6 clips are longer than 6 steps; their end is read"]
    padded = model.predict(np.pad(test["text"], ((0, 0), (3, 0), (0, 0))), test["audio"], test["vision"])
    assert (padded.notes, np.array_equal(padded.values, expected)) == ([], True)
    shorter = model.predict(test["text"], test["audio"][:, -2:], test["vision"])
    assert shorter.notes == ["the clips: 6 of 6 clips are shorter than 9 steps of audio; zeros are put in front"]
    front = np.where(np.arange(9)[:, None] < 7, 0, test["audio"])
    assert np.allclose(shorter.values, model.predict(test["text"], front, test["vision"]).values, atol=1e-6)


def test_padding_behind_is_moved_as_in_training(trained):
    """Where a file tells lengths, as MMSA's do."""
    test, expected = make_splits()["test"], recorded(mult(trained, 1))["test_predictions"]
    moved = {key: np.stack([np.roll(x, -(i % 3), axis=0) for i, x in enumerate(test[key])]) for key in KEYS}
    lengths = {f"{key}_lengths": np.array([x.shape[0] - i % 3 for i, x in enumerate(test[key])])
               for key in ("audio", "vision")}
    model = load_model(mult(trained, 1), device="cpu")
    assert np.allclose(model.answer({"": {**moved, **lengths}}, "mmsa").values, expected, atol=1e-6)
    wrong = {"audio_lengths": np.arange(6), "labels": test["labels"]}  # of a file of MulT's, which has no lengths
    assert np.allclose(model.answer({"": {**test, **wrong}}, "mult").values, expected, atol=1e-6)
    moved["vision"][2, -1] = 9
    found = model.answer({"": {**moved, **lengths}}, "mmsa")
    assert np.allclose(found.values, expected, atol=1e-6)
    assert found.notes == ["mmsa vision: 1 samples are not all zeros behind their length; that is left out"]
    (note,) = model.predict(**moved).notes
    assert "of text, audio, vision, more clips end in zeros than begin with them" in note


def test_a_stream_that_takes_no_part_need_not_be_there(tmp_path):
    write_dataset(tmp_path, "mine", make_splits(), aligned=False)
    assert main(["--model", "PMR", "--modalities", "l", "--dataset", "mine", "--seed", "1", *SMALL, "--results_dir",
                 str(tmp_path / "results"), "--data_path", str(tmp_path)]) == 0
    run = tmp_path / "results/mine/unaligned/PMR/seed1"
    model, test = load_model(run), make_splits()["test"]
    found = model.predict(test["text"])
    assert np.allclose(found.values, recorded(run)["test_predictions"], atol=1e-6)
    assert found.notes == []  # zeros that stand in are not counted as shorter
    with pytest.raises(UserError, match="has no text, of which the model takes 12 features a step"):
        model.predict(audio=test["audio"])


def test_torch_is_left_as_it_was_found(trained):
    state = torch.get_rng_state()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_dtype(torch.float64)
    try:
        test = make_splits()["test"]
        found = load_model(mult(trained, 1), device="cpu").predict(*(test[key] for key in KEYS))
        assert np.array_equal(found.values, recorded(mult(trained, 1))["test_predictions"])
        assert torch.is_deterministic_algorithms_warn_only_enabled() and torch.get_default_dtype() == torch.float64
        assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("content, words", [
    ({**make_splits()["test"], "audio": np.zeros((6, 9, 4), "f4")},
     "audio has 4 features a step; the model takes 5, those that it was trained on"),
    ({**make_splits()["test"], "audio": np.zeros((5, 9, 5), "f4")}, "6 clips of text, 5 clips of audio"),
    ({key: make_splits()["test"][key] for key in ("text", "vision")},
     "has no audio, of which the model takes 5 features a step"),
    ({"words": 1}, "has no text, audio, vision, nor splits that have them; it has words"),
    ({**make_splits()["test"], "text": np.full((6, 6, 12), np.nan, "f4")}, "numbers that are not finite"),
    ({**make_splits()["test"], "text": np.zeros(3, "f4")}, "text has shape (3,); expected (clips, steps, features)"),
    (b"<html>", "is no pickle: it is a web page"),
    (zipped({"clips/data.pkl": b""}), "is no pickle: it is a file of torch"),
    (zipped({f"{key}.npy": header((10**9, 10**6, 10)) for key in KEYS}), "mmap length is greater than file size"),
    ({**make_splits()["test"], "text": [[[1], [2, 3]]] * 6}, "text, clip 0 is a list, not an array of numbers"),
    ({"audio_lengths": [3] * 6, **{key: list(make_splits()["test"][key]) for key in KEYS}},
     "has lengths beside lists of clips"),
])
def test_what_does_not_fit_is_one_line(trained, tmp_path, capsys, content, words):
    file = tmp_path / "clips.pkl"
    file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    out = tmp_path / "out.csv"
    assert run_command(command, ["predict", str(mult(trained, 1)), str(file), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file}") and words in line
    assert not out.exists()


def test_runs_that_cannot_predict_are_one_line(trained, tmp_path, capsys):
    file = save(tmp_path / "flat.pkl", make_splits()["test"])
    unfinished = tmp_path / "MulT/seed3"
    shutil.copytree(mult(trained, 1), unfinished)
    (unfinished / "result.json").unlink()
    for run in (unfinished, tmp_path, tmp_path / "MulT", mult(trained, 1) / "checkpoint.pt"):
        assert run_command(command, ["predict", str(run), str(file)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"error: {run} is not the folder of a finished run, nor of a model with some"
    shutil.copytree(mult(trained, 2), tmp_path / "MulT/seed2")
    shutil.copytree(mult(trained, 1), tmp_path / "MulT/seed2.1")  # moved aside: no further seed
    assert [run.folder.name for run in load_model(tmp_path / "MulT", tmp_path / "MulT/seed2").runs] == ["seed2"]
    assert command(["predict", str(tmp_path / "MulT"), str(file)]) == 0
    assert f"# {unfinished} has not finished, and is left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="other sizes or labels"):
        load_model(mult(trained, 1), trained / "felt/unaligned/PMR/seed1")
    npz = shutil.copy(mult(trained, 1) / "predictions.npz", tmp_path / "clips.npz")
    for out, words in (("out.txt", "one of .csv, .jsonl, .npz"), (npz, "is FILE"), ("no/x.csv", "is no folder no")):
        assert run_command(command, ["predict", str(mult(trained, 1)), str(npz), "--out", str(out)]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["pkl", "npz"])
def test_memory_is_bounded_by_the_batch(trained, tmp_path, ending):
    """A file that is mapped is read a batch at a time: no array of all its clips is made."""
    test, file = make_splits()["test"], tmp_path / f"many.{ending}"
    streams = {key: np.tile(test[key], (2000, 1, 1)) for key in KEYS}
    np.savez(file, **streams) if ending == "npz" else save(file, streams)
    model = load_model(mult(trained, 1), device="cpu")
    object.__setattr__(model.runs[0].settings, "batch_size", 200)
    tracemalloc.start()
    assert len(model.predict_file(file)) == 12000
    assert tracemalloc.get_traced_memory()[1] < file.stat().st_size / 3
    tracemalloc.stop()


def test_a_run_on_the_demo_of_format_2_predicts(trained, tmp_path):
    """The demo's data changed since, not the model, and the data is not needed. A change of the model is refused."""
    run, test = tmp_path / "seed1", make_splits()["test"]
    shutil.copytree(mult(trained, 1), run)
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    for dataset, mask_padding, file_format in (("demo", False, 2), ("mine", True, 1)):
        saved["config"]["settings"].update(dataset=dataset, mask_padding=mask_padding)
        torch.save(saved | {"format": file_format}, run / "checkpoint.pt")
        if dataset == "demo":
            found = load_model(run, device="cpu").predict(*(test[key] for key in KEYS))
            assert np.array_equal(found.values, recorded(run)["test_predictions"])
    with pytest.raises(UserError, match="mask_padding had another rule"):
        load_model(run)


def test_a_model_can_be_trained_after_a_prediction(trained):
    """The blocks keep tensors for later calls, and those that a prediction leaves must serve a training step."""
    sinusoidal_table.cache_clear()
    causal_counts.cache_clear()
    streams = [torch.tensor(make_splits()["test"][key]) for key in KEYS]
    model = load_model(mult(trained, 1), device="cpu")
    model.predict(*streams)
    model.runs[0].model(*streams)[0].sum().backward()


@pytest.mark.parametrize("labels, columns", [
    (("happy", "sad"), ["id", "split", "happy", "happy_sd", "sad", "sad_sd"]),
    (("id", "sad"), ["id", "split", "0:id", "0:id_sd", "1:sad", "1:sad_sd"]),
    (("sad", "sad_sd"), ["id", "split", "0:sad", "0:sad_sd", "1:sad_sd", "1:sad_sd_sd"]),
])
def test_no_label_takes_the_column_of_another(labels, columns):
    values = np.array([[0.25, 0.75]])
    (row,) = rows_of(Predictions(["clip"], ["test"], labels, "probability", values, values / 2, []))
    assert list(row) == columns
    assert list(row.values()) == ["clip", "test", 0.25, 0.125, 0.75, 0.375]
