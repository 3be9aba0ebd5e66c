"""RAVDESS from small made-up recordings and faces: folds by actor, what a clip's streams hold, what a user is told."""

import pickle
import sys
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from src.data.specs import find_spec
from src.dataset import load_dataset
from src.report.significance import clusters_of
from src.tools import ravdess_features
from src.tools.ravdess import FOLDS, Clip, labels_of, main, make_splits, split_of
from src.tools.ravdess_features import ACTION_UNITS, MELS, RATE, face_frames, faces_of_clips, sound

pytestmark = pytest.mark.xdist_group("librosa")  # two processes at once would fill numba's cache of compiled code
ACTORS = {"train": 9, "valid": 5, "test": 2}  # of fold 1


def write_sound(path, hertz=220.0, seconds=0.4, rate=RATE):
    """A tone with a silence before it."""
    times = np.arange(int(seconds * rate)) / rate
    tone = np.where(times < seconds / 2, 0, 8000 * np.sin(2 * np.pi * hertz * times)).astype("<i2")
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(tone.tobytes())


def units(name, row):
    """Action units that tell the clip and the row."""
    return np.arange(len(ACTION_UNITS)) / 10 + int(name[6:8]) + row


@pytest.fixture
def names():
    """Each emotion by the actor of train, and some by the others."""
    return [f"01-01-{emotion:02}-01-{1 + emotion % 2:02}-01-{actor:02}" for actor in ACTORS.values()
            for emotion in range(1, 9 if actor == ACTORS["train"] else 3)]


@pytest.fixture
def clones(tmp_path, names):
    """The folders of recordings and of faces; one face has no recording."""
    for i, name in enumerate(names):
        write_sound(tmp_path / "audio" / f"emotion{i % 3}" / f"03{name[2:]}.wav", seconds=0.3 + 0.1 * (i % 2))
    (tmp_path / "face").mkdir()
    faces = {name: np.concatenate([units(name, 0), np.ones(200)]) for name in [*names, "01-01-03-01-01-02-02"]}
    (tmp_path / "face" / "au_mfcc.pkl").write_bytes(pickle.dumps(faces))
    return tmp_path / "audio", tmp_path / "face"


def write_faces(folder, names, lost=1):
    """Files as OpenFace writes them: 4 frames, of which it lost one."""
    folder.mkdir()
    for name in names:
        lines = [", ".join(["frame", "face_id", "timestamp", "confidence", "success", *ACTION_UNITS])]
        for row in range(4):
            lines.append(", ".join(map(str, [row + 1, 0, row / 30, 0.98, int(row != lost), *units(name, row)])))
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_each_actor_is_tested_once_and_each_split_has_both_sexes():
    actors = [Clip(Path(), "", 1, 1, actor) for actor in range(1, 25)]
    tested = Counter()
    for fold in range(1, FOLDS + 1):
        of_split = {split: [c.actor for c in actors if split_of(c, fold) == split] for split in ACTORS}
        assert {split: len(found) for split, found in of_split.items()} == {"train": 16, "valid": 4, "test": 4}
        assert all({actor % 2 for actor in found} == {0, 1} for found in of_split.values())
        tested.update(of_split["test"])
    assert tested == dict.fromkeys(range(1, 25), 1)


def test_clones_become_a_data_set(clones, names, tmp_path, capsys):
    arguments = [*map(str, clones), "--jobs", "1", "--out", str(tmp_path / "data" / "ravdess_data_noalign.pkl")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "CC BY-NC-SA 4.0" in printed
    assert "left out: faces without a recording: 1\n" in printed
    assert "fold 1: train 8, valid 2, test 2 clips" in printed
    spec = find_spec("ravdess")
    dataset = load_dataset(spec, tmp_path / "data")
    assert (dataset.input_lens, dataset.input_dims) == ((6, 9, 1), (8, MELS + 2, len(ACTION_UNITS)))
    assert str(dataset.task) == ("classes of neutral, calm, happy, sad, angry, fearful, disgust, surprised")
    train = dataset.splits["train"]
    assert train.labels.flatten().tolist() == list(range(8))
    assert train.ids == [f"03{name[2:]}" for name in names[:8]]
    assert np.allclose(train.features[2][:].mean(dim=(0, 1)), 0, atol=1e-3)  # by the statistics of train
    assert sorted(set(train.padding[1].sum(dim=1).tolist())) == [0, 2]  # in front, of the shorter recordings
    assert not train.padding[1][:, -1].any()
    every = [name for split in dataset.splits.values() for name in split.ids]
    assert clusters_of(every, spec.cluster).total == len(ACTORS)
    first = (tmp_path / "data" / "ravdess_data_noalign.pkl").read_bytes()
    again = tmp_path / "again" / "ravdess_data_noalign.pkl"
    assert main([*arguments[:-1], str(again)]) == 0
    assert again.read_bytes() == first
    capsys.readouterr()
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


def test_four_emotions_are_those_of_iemocap():
    clips = [Clip(Path(), "", emotion, 1, 1) for emotion in range(1, 9)]
    yes = labels_of(clips, four=True).argmax(axis=2)
    assert yes.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] + [[0] * 4] * 3
    assert find_spec("ravdess").tasks[1].reads_exactly(labels_of(clips, four=True))


def test_sound_has_loudness_and_pitch(tmp_path):
    write_sound(tmp_path / "tone.wav", hertz=260.0, seconds=0.5, rate=48000)
    frames = sound(tmp_path / "tone.wav", hop=512)
    assert frames.shape == (1 + RATE // 2 // 512, MELS + 2)
    assert frames[0, :MELS].max() < frames[-4, :MELS].max() - 20
    assert frames[-4, MELS] == pytest.approx(2, abs=0.05)  # octaves above 65 Hz
    assert frames[0, MELS] == 0


def test_tracked_faces_are_a_stream_of_frames(clones, names, tmp_path, capsys):
    folder = write_faces(tmp_path / "tracking", names)
    frames = face_frames(folder / f"{names[0]}.csv")
    assert np.allclose(frames[0], units(names[0], 0))
    assert np.isnan(frames[1]).all()
    out = tmp_path / "data" / "ravdess_data_noalign.pkl"
    assert main([str(clones[0]), "--faces", str(folder), "--jobs", "1", "--out", str(out)]) == 0
    assert "frames without a face, left empty: 12\n" in capsys.readouterr().out
    dataset = load_dataset(find_spec("ravdess"), tmp_path / "data")
    assert dataset.input_lens[2] == 4
    assert dataset.splits["test"].padding[2].tolist() == [[False, True, False, False]] * 2
    assert np.allclose(dataset.splits["train"].features[2][:][:, [0, 2, 3]].mean(dim=(0, 1)), 0, atol=1e-3)


def test_all_folds_need_all_actors(names):
    clips = [Clip(Path(f"{name}.wav"), name, int(name[6:8]), 1, int(name[-2:])) for name in names]
    streams = {key: {clip.key: np.ones((2, 3)) for clip in clips} for key in ("text", "audio", "vision")}
    assert len(make_splits(clips, streams, 1, False)["train"]["id"]) == 8
    with pytest.raises(Exception, match="fold 4 has no clip in valid: the actors of that split are missing"):
        make_splits(clips, streams, 4, False)


@pytest.mark.parametrize("change, said", [
    (lambda audio, face: [audio], "the faces are missing or given twice"),
    (lambda audio, face: [audio, face, "--faces", face], "the faces are missing or given twice"),
    (lambda audio, face: [face, face], "has no .wav file of RAVDESS's speech"),
    (lambda audio, face: [audio, audio], "au_mfcc.pkl cannot be read: No such file"),
    (lambda audio, face: [audio, "--faces", face], "has no .csv file of RAVDESS's speech"),
    (lambda audio, face: [audio, face, "--fold", "7"], "--fold"),
])
def test_what_does_not_fit_is_one_line(clones, tmp_path, capsys, change, said):
    arguments = change(*map(str, clones))
    assert main([*arguments, "--out", str(tmp_path / "ravdess_data_noalign.pkl")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "x.csv").write_text("frame, success\n1, 1\n")
    (tmp_path / "short.csv").write_text("success, " + ", ".join(ACTION_UNITS) + "\n1, 2\n")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"01-01-01-01-01-01-01": np.ones(3)}))
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(Counter))
    for read, name, said in (
        (lambda path: sound(path, 512), "x.wav", "cannot be read as sound"), (face_frames, "x.csv", "has no column AU"),
        (face_frames, "short.csv", "is damaged"), (faces_of_clips, "x.pkl", "is no dict of 35 action units"),
        (faces_of_clips, "code.pkl", "only numpy arrays and plain containers are safe"),
    ):
        with pytest.raises(Exception, match=said) as found:
            read(tmp_path / name)
        assert name in str(found.value)


def test_a_sound_that_does_not_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(ravdess_features, "LONGEST", 1)
    write_sound(tmp_path / "long.wav", seconds=1.5)
    with pytest.raises(Exception, match=r"long\.wav is longer than 1 s"):
        sound(tmp_path / "long.wav", 512)


def test_without_librosa_the_install_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(Exception, match="pip install librosa"):
        sound(tmp_path / "x.wav", 512)
