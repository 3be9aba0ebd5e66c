"""Packing computational sequences by words. The expected averages are those of CMU-MultimodalSDK: mmsdk 1.1.0 (commit
4f2eadcd) had these sequences in `align("text", collapse_functions=[average])`, `impute("text")` and `align("labels")`,
with `average = lambda intervals, features: numpy.average(features, axis=0)`, and printed each entry.
"""

import json

import numpy as np
import pytest

from src.data.specs import find_spec
from src.dataset import load_dataset
from src.tools.convert import main
from src.tools.timeline import Timeline
from src.tools.word_alignment import EPSILON, averaged, overlapping
from tests.csd_files import write_csd

VIDEOS = ["v1", "v2", "v3", "v4"]
SEQUENCES = {  # of each video: features and intervals
    "text": ([[1, 10], [2, 20], [3, 30], [4, 40], [5, 50], [6, 60]],
             [[0, .5], [.5, .5], [.5, 1], [1, 1.2], [3, 4], [4, 4.6]]),
    "audio": ([[1], [2], [4], [8], [16], [32], [64], [128]],
              [[.1, .2], [0, .1], [.4, .6], [.95, 1.05], [1.05, 1.05], [1.1, 1.3], [4.5, 4.7], [.3, 3.2]]),
    "vision": ([[1, 2, -1], [4, 8, -4], [16, 32, -16], [64, 128, -64]], [[3.5, 4.5], [2, 3], [.2, .7], [1.15, 1.25]]),
    "labels": ([[1.5], [-2]], [[0, 1.1], [1.1, 4.5]]),
}
WORDS = {"text": [1, 3, 4, 5, 6], "audio": [33.75, 140 / 3, 56, 128, 64], "vision": [16, 16, 64, 1, 1]}  # by the SDK
SEGMENTS = ([0, 1, 2], [2, 3, 4])  # the places of their words; the third lies in both


@pytest.fixture
def folder(tmp_path):
    for key, steps in SEQUENCES.items():
        write_csd(tmp_path / f"{key}.csd", dict.fromkeys(VIDEOS, steps))
    (tmp_path / "folds.json").write_text(json.dumps({"train": VIDEOS[:2], "valid": VIDEOS[2:3], "test": VIDEOS[3:]}))
    return tmp_path


def command(folder, *more, out="data/mosi_data.pkl"):
    files = [part for key in SEQUENCES for part in (f"--{key}", str(folder / f"{key}.csd"))]
    return [*files, "--folds", str(folder / "folds.json"), "--out", str(folder / out), "--aligned", *more]


def streams(folder, split="valid"):
    """{modality key: the first feature of the real steps of each sample}, from the first word on."""
    dataset = load_dataset(find_spec("mosi"), folder / "data", aligned=True)
    here = dataset.splits[split]
    starts = (~here.padding[0]).int().argmax(dim=1).tolist()
    return {key: [row[start:].tolist() for row, start in zip(features[:][:, :, 0], starts, strict=True)]
            for key, features in zip(("text", "audio", "vision"), here.features, strict=True)}


def expected(changes=()):
    found = {key: [[values[i] for i in places] for places in SEGMENTS] for key, values in WORDS.items()}
    return {key: [pytest.approx(row, rel=1e-6) for row in rows] for key, rows in {**found, **dict(changes)}.items()}


def test_raw_sequences_are_averaged_over_words_as_by_the_sdk(folder, capsys):
    assert main(command(folder)) == 0
    printed = capsys.readouterr().out
    assert "left out: words shorter than 1e-05 s: 4\n" in printed  # [.5, .5] of each video
    assert "mosi_data.pkl is written: python main.py --dataset mosi --data_path " in printed
    assert printed.endswith(" --aligned\n")
    assert streams(folder) == expected()
    dataset = load_dataset(find_spec("mosi"), folder / "data", aligned=True)
    assert dataset.input_lens == (50, 50, 50)
    assert dataset.splits["valid"].labels.ravel().tolist() == [1.5, -2]


def test_the_end_of_long_segments_is_kept(folder, capsys):
    assert main(command(folder, "--steps", "2")) == 0
    assert "audio: segments cut to their last 2 steps: 8\n" in capsys.readouterr().out
    assert streams(folder) == expected({key: [[values[i] for i in places[1:]] for places in SEGMENTS]
                                        for key, values in WORDS.items()})


def test_gaps_and_numbers_that_are_not_finite_become_0_first(folder, capsys):
    features = np.array(SEQUENCES["audio"][0], dtype=float)
    features[[0, 2]] = [[np.nan], [-np.inf]]
    rows = [0, 1, 2, 6]  # leaves the third and the fourth word without a row
    write_csd(folder / "audio.csd", dict.fromkeys(VIDEOS, (features[rows], np.array(SEQUENCES["audio"][1])[rows])))
    assert main(command(folder)) == 0
    printed = capsys.readouterr().out
    assert "audio: numbers that are not finite, set to 0: 8\n" in printed
    assert "audio: words without a step, set to 0: 8\n" in printed
    assert streams(folder) == expected({"audio": [[2 / 3, 0, 0], [0, 0, 64]]})


def by_word(key, several):
    """The entries that `align("text")` writes, each with all rows that a word overlaps, or with their mean."""
    features, intervals = (np.array(part, dtype=float) for part in SEQUENCES[key])
    text = np.array(SEQUENCES["text"][1])
    if key == "text":
        return {f"{video}[{k}]": (features[[k]], text[[k]]) for video in VIDEOS for k in (0, 2, 3, 4, 5)}
    found = {}
    for k, (start, end) in enumerate(text):
        cut = np.clip(intervals, start, end)
        rows = np.flatnonzero(cut[:, 1] - cut[:, 0] > EPSILON)
        if len(rows):
            found[k] = (features[rows], cut[rows]) if several else (
                features[rows].mean(axis=0, keepdims=True), [[cut[rows, 0].min(), cut[rows, 1].max()]])
    return {f"{video}[{k}]": entry for video in VIDEOS for k, entry in found.items()}


@pytest.mark.parametrize("several", [False, True])
def test_entries_of_words_are_averaged_by_word(folder, capsys, several):
    """With several rows an entry, as the SDK's example process_mosei.py leaves them."""
    for key in WORDS:
        write_csd(folder / f"{key}.csd", by_word(key, several))
    assert main(command(folder)) == 0
    assert "vision: videos whose ids count words, joined in time: 4\n" in capsys.readouterr().out
    assert streams(folder) == expected()


def test_words_with_raw_audio(folder):
    write_csd(folder / "text.csd", by_word("text", False))
    assert main(command(folder)) == 0
    assert streams(folder) == expected()


FINAL = {  # of the SDK's align("labels") after averaging: in audio [1], the word at 4 to 4.5 has lost its row
    "text[0]": ([[1, 10], [3, 30], [4, 40]], [[0, .5], [.5, 1], [1, 1.1]]),
    "text[1]": ([[4, 40], [5, 50], [6, 60]], [[1.1, 1.2], [3, 4], [4, 4.5]]),
    "audio[0]": ([[33.75], [140 / 3], [56]], [[0, .5], [.5, 1], [1, 1.1]]),
    "audio[1]": ([[56], [128]], [[1.1, 1.2], [3, 3.2]]),
    "vision[0]": ([[16, 32, -16], [16, 32, -16]], [[.2, .5], [.5, .7]]),
    "vision[1]": ([[64, 128, -64], [1, 2, -1], [1, 2, -1]], [[1.15, 1.2], [3.5, 4], [4, 4.5]]),
}


def write_final(folder, entries):
    for key in WORDS:
        write_csd(folder / f"{key}.csd", {entry.replace(key, video): steps for video in VIDEOS
                                          for entry, steps in entries.items() if key in entry})
    scores, intervals = SEQUENCES["labels"]
    write_csd(folder / "labels.csd", {
        f"{video}[{k}]": (scores[k:k + 1], intervals[k:k + 1]) for video in VIDEOS for k in (0, 1)
    })


def test_entries_of_segments_are_taken_as_they_are(folder):
    """A stream that has lost a word keeps its place: the SDK's own tensors are out of step there."""
    write_final(folder, FINAL)
    assert main(command(folder)) == 0
    lost = {"audio": [WORDS["audio"][:3], [56, 128, 0]], "vision": [[16, 16, 0], [64, 1, 1]]}
    assert streams(folder) == expected(lost)


def test_entries_of_segments_with_several_rows_a_word(folder):
    """Of the second segment, as align("labels") without averaging leaves it: 3 rows, the first two of one word."""
    write_final(folder, {**FINAL, "audio[1]": ([[128], [32], [128]], [[1.1, 1.2], [1.1, 1.2], [3, 3.2]])})
    assert main(command(folder)) == 0
    assert streams(folder)["audio"][1] == [80, 128, 0]


def test_segments_without_an_entry_in_the_text(folder, capsys):
    """A word of the other segment that reaches into one is not its text."""
    write_final(folder, {entry: steps for entry, steps in FINAL.items() if entry != "text[1]"} | {
        "text[0]": (FINAL["text[0]"][0], [[0, .5], [.5, 1], [1, 1.2]])})
    assert main(command(folder)) == 0
    assert "left out: segments without text: 4\n" in capsys.readouterr().out


def test_a_video_that_a_stream_lacks_gets_zeros(folder, capsys):
    write_csd(folder / "audio.csd", dict.fromkeys(VIDEOS[:2], SEQUENCES["audio"]))
    assert main(command(folder)) == 0
    assert "audio: words without a step, set to 0: 10\n" in capsys.readouterr().out
    assert streams(folder)["audio"] == [[0, 0, 0], [0, 0, 0]]


def test_intervals_that_tell_nothing_leave_rows_in_place(folder):
    write_final(folder, FINAL | {f"audio[{k}]": ([[7], [8], [9]], [[90, 91]] * 3) for k in (0, 1)})
    assert main(command(folder)) == 0
    assert streams(folder)["audio"] == [[7, 8, 9], [7, 8, 9]]


@pytest.mark.parametrize("more, out, words", [
    ((), "data/mosi_data_noalign.pkl", "aligned data as NAME_data.pkl"),
    (("--steps", "50", "60", "50"), "data/mosi_data.pkl", "one length with --aligned; there are 50 60 50"),
    (("--steps", "50", "60"), "data/mosi_data.pkl", "--steps takes one length"),
])
def test_flags_that_do_not_fit(folder, capsys, more, out, words):
    assert main(command(folder, *more, out=out)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_those_of_a_comparison_of_each_word_with_each_row(seed):
    """Words and rows in any order, overlapping, without length, and inverted."""
    rng = np.random.default_rng(seed)
    words, intervals = (np.sort(rng.uniform(0, 9, (n, 2)) * [1, 1], axis=1).round(1) for n in (30, 80))
    intervals[:8] = intervals[:8, ::-1]
    shared = (np.minimum(words[:, None, 1], intervals[:, 1]) - np.maximum(words[:, None, 0], intervals[:, 0])) > EPSILON
    of_word, rows = overlapping(words, intervals)
    assert (np.diff(of_word) >= 0).all()
    assert sorted(zip(of_word.tolist(), rows.tolist(), strict=True)) == [tuple(p) for p in np.argwhere(shared).tolist()]


def test_a_stream_without_rows_gives_zeros():
    words = np.array([[0, 1.0], [1, 2]])
    features, missing = averaged(words, Timeline(np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0, int)), None)
    assert (features.tolist(), missing) == ([[0, 0, 0], [0, 0, 0]], 2)
