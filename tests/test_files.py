"""Whole files and locks, where several processes write at once and disks refuse."""

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.files import FolderLock, check_zip, is_held, read_text, replacing, write_whole


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_text(tmp_path, encoding):
    (tmp_path / "log").write_bytes("Epoch é\r\n".encode(encoding))
    assert read_text(tmp_path / "log") == "Epoch é\n"


def test_a_member_that_is_not_what_was_written(tmp_path):
    """numpy itself reads these labels as halves, and no checksum, since it does not come to the end."""
    path = tmp_path / "labels.npz"
    np.savez(path, labels=np.ones(60_000, dtype=np.float32))
    check_zip(path)
    path.write_bytes(path.read_bytes().replace(b"<f4", b"<f2"))
    assert len(np.load(path)["labels"]) == 60_000
    with pytest.raises(zipfile.BadZipFile, match=r"labels\.npy is not what was written"):
        check_zip(path)


@pytest.mark.parametrize("change", [1, 55, 128, 255])
def test_no_flip_hides_a_member(tmp_path, change):
    """The lengths of a member's entry in the directory can reach over those that follow."""
    path = tmp_path / "decisions.npz"
    np.savez(path, first=np.arange(2), second=np.arange(3), third=np.arange(4))
    content = path.read_bytes()
    hidden = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1:])
        with contextlib.suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(path) as archive:
            if len(archive.namelist()) < 3:
                hidden += 1
                with pytest.raises((zipfile.BadZipFile, OSError)):
                    check_zip(path)
    assert hidden


def test_two_may_write_one_file(tmp_path):
    path = tmp_path / "table.md"
    with replacing(path) as first:
        first.write_text("the first, which began before and ends after")
        write_whole(path, b"the second")
        assert path.read_bytes() == b"the second"
    assert path.read_text().startswith("the first")
    assert os.listdir(tmp_path) == ["table.md"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("an encoder's")])
def test_a_disk_that_refuses_is_named_by_the_file(tmp_path, error):
    with pytest.raises(OSError, match=r"table\.md") as raised, replacing(tmp_path / "table.md") as temporary:
        temporary.write_text("half")
        raise error
    assert raised.value.strerror in str(error)
    assert not os.listdir(tmp_path)


def test_a_lock_that_cannot_be_removed_is_let_go(tmp_path, monkeypatch):
    lock = FolderLock(tmp_path / "run")
    assert is_held(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
        lock.release()
    assert not is_held(tmp_path / "run")
