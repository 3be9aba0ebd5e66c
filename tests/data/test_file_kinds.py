"""A file that is no pickle is named for what it is, by main.py and inspect alike; a pickle never is."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.file_kinds import read_pickle
from src.data.specs import find_spec
from src.dataset import load_dataset
from src.errors import UserError
from src.tools.inspect_file import main
from tests.data_files import make_splits


def of(write):
    """What a function writes into a file, as bytes."""
    content = io.BytesIO()
    write(content)
    return content.getvalue()


def zipped(**members):
    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    return of(write)


def tarred(name):
    def write(file):
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
    return of(write)


PICKLE = pickle.dumps(make_splits())
TENSORS = {"train": {"text": torch.ones(2, 3)}}
OLD = {"_use_new_zipfile_serialization": False}
OLD_TORCH = of(lambda file: torch.save(TENSORS, file, **OLD))
KINDS = {
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(600), "it is HDF5; `python -m src convert`"),
    "npz": (of(lambda file: np.savez(file, x=1)), "arrays of numpy (npz)"),
    "npz, compressed": (of(lambda file: np.savez_compressed(file, text=1, audio=2)), "arrays of numpy (npz)"),
    "npy": (of(lambda file: np.save(file, np.ones(3))), "one array of numpy (npy)"),
    "npy of a dict": (of(lambda file: np.save(file, {"train": 1}, allow_pickle=True)), "one array of numpy (npy)"),
    "torch": (of(lambda file: torch.save(TENSORS, file)), "a file of torch"),
    "torch, a state dict": (of(lambda file: torch.save(torch.nn.Linear(2, 2).state_dict(), file)), "a file of torch"),
    "legacy torch": (OLD_TORCH, "a file of torch"),
    "torch, protocol 4": (of(lambda file: torch.save(TENSORS, file, pickle_protocol=4, **OLD)), "of torch"),
    "gzip": (gzip.compress(PICKLE), "gunzip"), "bzip2": (bz2.compress(PICKLE), "bunzip2"),
    "xz": (lzma.compress(PICKLE), "unxz"), "tar": (tarred("mosi_data.pkl"), "tar xf"),
    "zip": (zipped(**{"mosi_data.pkl": PICKLE}), "python -m src download --archive"),
    "empty zip": (of(lambda file: zipfile.ZipFile(file, "w").close()), "a zip"),
    "cut zip": (zipped(x=PICKLE)[:-30], "a zip (or npz, or a file of torch) that is cut"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "web page": (b"<!DOCTYPE html><html>quota</html>", "a web page (HTML)"),
    "web page after blanks": (b"\n\n  <html lang='en'>", "a web page (HTML)"),
    "XML": (b"\xef\xbb\xbf<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page (HTML)"),
    "csv": (b"video_id,clip_id,text\n1,2,caf\xc3\xa9\n", "text (a csv table?)"),
    "csv like a call": (b"caption,text\n1,2\n", "text (a csv table?)"),
    "csv of Windows": (b"\xef\xbb\xbfid;label\r\n1;2\r\n", "text (a csv table?)"),
    "text cut in a letter": ("\u4f60".encode() * 600, "text (a csv table?)"),
    "JSON": (b'{"train": []}', "text (JSON)"),
}


@pytest.mark.parametrize("content, expected", KINDS.values(), ids=KINDS)
def test_a_file_is_named_for_what_it_is(content, expected, tmp_path, capsys):
    path = tmp_path / "mine_data_noalign.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_dataset(find_spec("mine"), tmp_path)
    message = str(error.value)
    assert message.startswith(f"{path} is no pickle: it is ")
    assert expected in message
    assert message.isprintable()
    assert main([str(path)]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [make_splits(sizes=(2, 2, 2)), [b"PK\3\4", "<html>"], {"a": 1}, (), "x,y", 3])
def test_pickles_are_read(value, protocol, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(pickle.dumps(value, protocol))
    with path.open("rb") as file:
        assert type(read_pickle(file, path)) is type(value)


@pytest.mark.parametrize("protocol", [0, 1])
def test_a_cut_pickle_of_text_is_damaged(protocol, tmp_path):
    path = tmp_path / "cut.pkl"
    path.write_bytes(pickle.dumps({"train": ["a" * 50] * 9, "x": np.ones(3)}, protocol)[:90])
    with path.open("rb") as file, pytest.raises(UserError, match="cannot be read: damaged or not a pickle"):
        read_pickle(file, path)


@pytest.mark.parametrize("content, expected", [
    (b"cos\nsystem\n(S'true'\ntR.", "os.system"), (pickle.dumps(Path("x"), 0), "pathlib."),
    (pickle.dumps({"x": torch.ones(2)}), "torch."),
])
def test_refused_pickles_are_told_by_what_they_name(content, expected, tmp_path):
    path = tmp_path / "refused.pkl"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(UserError) as error:
        read_pickle(file, path)
    assert f"was not read: it holds {expected}" in str(error.value)
