"""Converted data files: a run reads the cache if it is whole and of this source, makes it again if not, and falls back
where it cannot be kept; a failure leaves nothing behind.
"""

import errno
import fcntl
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data import cache, formats
from src.data.cache import read_file
from src.data.rows import Rows
from src.errors import UserError
from tests.data_files import make_mmsa_splits, make_splits

KEYS = ("text", "audio", "vision")


@pytest.fixture
def source(tmp_path):
    """A data file in a folder of its own."""
    (tmp_path / "data").mkdir()
    return write(tmp_path / "data" / "mosi_data_noalign.pkl", make_splits())


def write(path, splits):
    path.write_bytes(pickle.dumps(splits))
    return path


def read(path, cache_dir=None):
    return read_file(path, cache_dir, lambda splits: None)


def assert_holds(converted, splits):
    for name, arrays in splits.items():
        ours = converted.splits[name]
        for key in KEYS:
            np.testing.assert_array_equal(ours.features[key], arrays[key])
            np.testing.assert_array_equal(ours.padding[key], (arrays[key] == 0).all(axis=2))
        np.testing.assert_array_equal(ours.labels, arrays["labels"])
        assert len(ours.ids) == len(ours.labels)


@pytest.fixture
def converting(monkeypatch):
    """The paths that were converted while the test ran, in order."""
    paths = []

    convert = cache.convert

    def counted(splits, where, store):
        paths.append(where)
        return convert(splits, where, store)
    monkeypatch.setattr(cache, "convert", counted)
    return paths


def test_a_file_is_converted_once(source, converting):
    first, second = read(source), read(source)
    assert converting == [source]
    assert first.place == second.place == f"{source}.cache"
    assert sorted(path.name for path in Path(first.place).iterdir()) == ["arrays", "lock"]
    assert_holds(first, make_splits())
    assert_holds(second, make_splits())
    assert first.splits["valid"].ids == second.splits["valid"].ids
    assert (first.protocol, first.sha256) == (second.protocol, second.sha256)


def test_features_stay_in_the_file(source):
    """In the first run as in later ones; and what is read is the reader's own."""
    for converted in (read(source), read(source)):
        for split in converted.splits.values():
            for features in split.features.values():
                assert isinstance(features, Rows)
                features[:].fill_(7)
    assert_holds(read(source), make_splits())


def test_rows_are_tensors_of_the_samples_that_are_asked_for(source):
    rows, truth = (splits["train"] for splits in (read(source).splits, make_splits()))
    rows, truth = rows.features["audio"], torch.from_numpy(truth["audio"])
    assert (len(rows), rows.size(1), rows.shape, rows.nbytes) == (12, 9, truth.shape, truth.nbytes)
    for wanted in (3, slice(2, 5), torch.tensor([7]), torch.tensor([4, 0, 4]), np.arange(0)):
        assert torch.equal(rows[wanted], truth[wanted])
        assert torch.equal(rows[wanted, 2:], truth[wanted, 2:] if not isinstance(wanted, int) else truth[wanted][2:])
    assert torch.equal(rows.to("cpu")[:], truth)


DAMAGE = {
    "a flipped byte": lambda content: content[:-7] + bytes([content[-7] ^ 4]) + content[-6:],
    "the end is gone": lambda content: content[:-7],
    "all is gone": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_file_that_is_damaged_under_a_run_is_one_line_and_made_again(damage, source, converting):
    rows = read(source).splits["test"].features["vision"]
    assert rows[0].shape == (11, 8)
    rows.path.write_bytes(damage(rows.path.read_bytes()))
    with pytest.raises(UserError, match=r"test_vision.npy is damaged \(.*\); give the same command again") as error:
        rows[:]
    assert "\n" not in str(error.value)
    again = read(source)
    assert_holds(again, make_splits())
    assert "kept is damaged or of another file: it is made again" in again.notes[0]
    assert len(converting) == 2
    assert read(source).notes == again.notes[1:]


def test_a_file_that_vanishes_under_a_run_is_still_read(source):
    rows = read(source).splits["test"].features["vision"]
    rows.path.unlink()
    assert torch.equal(rows[:], torch.from_numpy(make_splits()["test"]["vision"]))


def test_every_flipped_byte_of_a_cache_is_noticed_or_harmless(source):
    """Some of the places at random; tests/flip_harness.py tries many of a whole run's files."""
    arrays, random, noticed = Path(read(source).place) / "arrays", np.random.default_rng(5), 0
    for path in sorted(arrays.iterdir()):
        whole = path.read_bytes()
        for place in random.integers(len(whole), size=12):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1:])
            try:
                assert_holds(read(source), make_splits())
            except UserError:
                noticed += 1
                assert_holds(read(source), make_splits())
            for made in arrays.iterdir():
                made.write_bytes(made.read_bytes())
    assert noticed >= 20


def test_the_manifest_tells_the_source(source):
    converted = read(source)
    manifest = json.loads((Path(converted.place) / "arrays/manifest.json").read_text())
    digest = subprocess.run(["sha256sum", source], capture_output=True, text=True, check=True).stdout.split()[0]
    assert manifest["source"] == {
        "name": source.name, "size": source.stat().st_size, "mtime_ns": source.stat().st_mtime_ns, "sha256": digest,
    }
    assert converted.sha256 == digest
    assert (manifest["format"], manifest["protocol"]) == (cache.FORMAT, "MulT")


@pytest.mark.parametrize("make", [make_splits, make_mmsa_splits])
def test_the_cache_tells_what_the_file_told(make, tmp_path):
    path = write(tmp_path / "file.pkl", make())
    splits = make()
    splits["test"]["audio"][3, 2] = -np.inf
    write(path, splits)
    first, second = read(path), read(path)
    assert (first.notes, first.protocol) == (second.notes, second.protocol)
    assert "test audio: 5 elements of -inf set to 0" in second.notes


def test_another_content_is_another_cache(source, converting):
    read(source)
    splits = make_splits(seed=1)
    stat = source.stat()
    write(source, splits)
    assert source.stat().st_size == stat.st_size
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert_holds(read(source), splits)
    assert_holds(read(source), splits)
    assert len(converting) == 2


def rewrite(change):
    """Change the content of manifest.json."""
    def spoil(arrays):
        manifest = json.loads((arrays / "manifest.json").read_text())
        change(manifest)
        (arrays / "manifest.json").write_text(json.dumps(manifest))
    return spoil


def replace_array(name, array):
    return lambda arrays: np.save(arrays / name, array, allow_pickle=True)


def cut(name, size=None):
    """Leave the first bytes of a file, half of them if no size is given."""
    return lambda arrays: os.truncate(arrays / name, (arrays / name).stat().st_size // 2 if size is None else size)


def change_rest(name, array):
    """Replace an array of labels_and_padding.npz."""
    def spoil(arrays):
        with np.load(arrays / "labels_and_padding.npz") as rest:
            content = dict(rest)
        np.savez(arrays / "labels_and_padding.npz", **content | {name: array})
    return spoil


NAMES = ("manifest.json", "labels_and_padding.npz", "train_text.npy", "test_vision.npy")
SPOILED = {
    "other format": rewrite(lambda manifest: manifest.update(format=0)),
    "no format": rewrite(lambda manifest: manifest.pop("format")),
    "other source": rewrite(lambda manifest: manifest["source"].update(name="mosei_senti_data.pkl")),
    "other size": rewrite(lambda manifest: manifest["source"].update(size=1)),
    "no source": rewrite(lambda manifest: manifest.update(source=None)),
    "no shapes": rewrite(lambda manifest: manifest.update(shapes={})),
    "no ids": rewrite(lambda manifest: manifest.pop("ids")),
    "too few ids": rewrite(lambda manifest: manifest["ids"].update(test=[])),
    "manifest is a list": lambda arrays: (arrays / "manifest.json").write_text("[]"),
    "manifest is empty": cut("manifest.json", 0),
    **{f"no {name}": lambda arrays, name=name: (arrays / name).unlink() for name in NAMES},
    **{f"{name} is cut": cut(name) for name in NAMES},
    "header is cut": cut("test_vision.npy", 40),
    "array is empty": cut("train_text.npy", 0),
    "array of another split": lambda arrays: (arrays / "train_text.npy").write_bytes(
        (arrays / "test_text.npy").read_bytes()),
    "float64": replace_array("test_text.npy", np.zeros((6, 6, 12))),
    "objects": replace_array("test_text.npy", np.full((6, 6, 12), "x", dtype=object)),
    "padding of numbers": change_rest("test_text", np.zeros((6, 6))),
    "padding of other steps": change_rest("test_text", np.zeros((6, 5), dtype=bool)),
    "too few labels": change_rest("test_labels", np.zeros((5, 1, 1))),
    "nothing": lambda arrays: [path.unlink() for path in arrays.iterdir()],
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_foreign_or_half_written_cache_is_made_again(spoil, source, converting):
    spoil(Path(read(source).place) / "arrays")
    assert_holds(read(source), make_splits())
    assert_holds(read(source), make_splits())
    assert len(converting) == 2


def test_what_a_killed_process_left_is_taken_away(source):
    folder = Path(f"{source}.cache")
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "train_text.npy").write_bytes(b"half")
    assert_holds(read(source), make_splits())
    assert sorted(path.name for path in folder.iterdir()) == ["arrays", "lock"]


def spoil_folder(path):
    """A file stands where the cache folder would be, which holds for root too, unlike a mode."""
    Path(f"{path}.cache").write_bytes(b"")
    return f"converted data not kept in {path}.cache: "


def test_a_folder_that_cannot_be_written_sends_the_cache_home(source, converting, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    note = spoil_folder(source)
    first, second = read(source), read(source)
    assert first.notes[0].startswith(note)
    assert Path(first.place).parent == tmp_path / "home" / cache.HOME_FOLDER
    assert first.place == second.place
    assert_holds(second, make_splits())
    assert len(converting) == 1


def test_a_user_without_a_home_has_no_cache_there(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache.places(tmp_path / "data.pkl", None) == [tmp_path / "data.pkl.cache"]


def test_without_any_place_memory_is_used(source, converting, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    note = spoil_folder(source)
    converted = read(source)
    assert converted.place == "memory"
    assert converted.notes[0].startswith(note)
    assert converted.notes[1].startswith("converted data not kept in /dev/null/")
    assert_holds(converted, make_splits())
    assert isinstance(converted.splits["train"].features["text"], np.ndarray)


def test_files_of_one_name_share_a_cache_folder(source, tmp_path, converting):
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / source.name, make_splits(seed=1))
    for _ in range(2):
        for path, seed in ((source, 0), (other, 1)):
            converted = read(path, tmp_path / "caches")
            assert Path(converted.place).parent == tmp_path / "caches"
            assert_holds(converted, make_splits(seed=seed))
    assert converting == [source, other]
    assert list(source.parent.iterdir()) == [source]


def test_a_full_disk(source, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", full)
    converted = read(source)
    assert converted.place == "memory"
    assert converted.notes[0] == f"converted data not kept in {source}.cache: No space left on device"
    assert_holds(converted, make_splits())
    assert list(source.parent.iterdir()) == [source]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_conversion_leaves_nothing(failure, source, monkeypatch):
    def interrupted(*arguments):
        raise failure
    with monkeypatch.context() as patch:
        patch.setattr(cache, "save", interrupted)
        with pytest.raises(failure):
            read(source)
    assert list(source.parent.iterdir()) == [source]
    assert_holds(read(source), make_splits())


def test_a_failed_renewal_leaves_no_stale_arrays(source):
    read(source)
    splits = make_splits()
    splits["test"]["vision"][5, 3, 1] = np.nan
    write(source, splits)
    for _ in range(2):
        with pytest.raises(UserError, match="test vision holds 1 numbers that are not finite"):
            read(source)
        assert list(source.parent.iterdir()) == [source]


def test_a_source_that_changes_meanwhile_is_an_error(source, monkeypatch):
    def changing(file):
        os.utime(source, ns=(0, 0))
        return "0" * 64
    monkeypatch.setattr(cache, "sha256_of", changing)
    with pytest.raises(UserError, match="changed while it was read"):
        read(source)
    assert list(source.parent.iterdir()) == [source]


PROCESS = """
import sys
from pathlib import Path
from src.data import cache

convert = cache.convert

def counted(*arguments):
    print("converted")
    return convert(*arguments)

cache.convert = counted
splits = cache.read_file(Path(sys.argv[1]), None, lambda splits: None).splits
print(sum(float(split.features[key][:].double().sum()) for split in splits.values() for key in split.features))
"""


@pytest.mark.parametrize("holder_fails", [False, True])
def test_processes_that_start_at_once_convert_once(holder_fails, source):
    """They wait, and say so, while the cache is held; then one converts and the other reads what it made."""
    folder = Path(f"{source}.cache")
    folder.mkdir()
    command = [sys.executable, "-c", PROCESS, source]
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2], text=True, stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE) for _ in range(2)]
        waiting = [process.stderr.readline() for process in processes]
        if holder_fails:  # and takes its folder away
            shutil.rmtree(folder)
    assert waiting == [f"# waiting for another process that converts {source}\n"] * 2
    printed = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(words[0] == "converted" for words in printed) == 1
    expected = sum(arrays[key].sum(dtype=float) for arrays in make_splits().values() for key in KEYS)
    assert [float(words[-1]) for words in printed] == pytest.approx([expected] * 2)
    assert sorted(path.name for path in folder.iterdir()) == ["arrays", "lock"]


@pytest.mark.parametrize("make", [make_splits, make_mmsa_splits])
def test_chunks_do_not_show(make, tmp_path, monkeypatch):
    splits = make()
    splits["train"]["audio"][[0, 7, 11], 2] = -np.inf
    path = write(tmp_path / "file.pkl", splits)
    whole = read(path, tmp_path / "whole")
    monkeypatch.setattr(formats, "CHUNK_BYTES", 1)
    by_sample = read(path, tmp_path / "by_sample")
    assert by_sample.notes == whole.notes
    for name in splits:
        for key in KEYS:
            for kind in ("features", "padding"):
                np.testing.assert_array_equal(*(getattr(x.splits[name], kind)[key] for x in (whole, by_sample)))
    splits["train"]["vision"][[4, 9], 3, 1] = np.nan
    write(path, splits)
    with pytest.raises(UserError, match=r"train vision holds 2 numbers .* sample 4, step 3, feature 1"):
        read(path)


def test_converting_takes_a_chunk_of_memory_and_not_the_file(tmp_path, monkeypatch):
    splits = make_splits(lens=(50, 400, 400), dims=(30, 7, 4), sizes=(400, 10, 10))
    path = write(tmp_path / "file.pkl", {name: {key: array.astype(float) if key in KEYS else array
                                                for key, array in arrays.items()} for name, arrays in splits.items()})
    monkeypatch.setattr(formats, "CHUNK_BYTES", 1 << 18)
    assert path.stat().st_size > 64 * formats.CHUNK_BYTES
    tracemalloc.start()
    converted = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * formats.CHUNK_BYTES
    assert_holds(converted, splits)
