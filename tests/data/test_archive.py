"""Taking members out of zips: those whose size field is too small, and those that are damaged or hostile."""

import random
import zipfile
import zlib

import pytest

from src.data import zip64 as archive
from src.data.fetch import SourceError
from src.data.zip64 import extract, find_members
from tests.zips import make_zip, wrap_sizes

MODULUS = 2**16  # stands for 2^32, so that the zips with the fault are small
LONG = bytes(3 * MODULUS) + random.Random(0).randbytes(MODULUS) + b"the end"


@pytest.fixture
def write(tmp_path):
    """Writes a zip; returns its path."""
    def write(content):
        path = tmp_path / "some.zip"
        path.write_bytes(content)
        return path
    return write


def take(path, name, folder):
    """The content of a member, by way of a file."""
    extract(path, find_members(path, {name})[name], folder / "out")
    return (folder / "out").read_bytes()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize("content", [b"", b"short", LONG])
def test_a_sound_zip(write, tmp_path, content, compression):
    path = write(make_zip({"a.pkl": b"other", "b.pkl": content, "__MACOSX/._b.pkl": b"mac"}, compression))
    assert take(path, "b.pkl", tmp_path) == content


def test_the_fault_of_the_archive(write, tmp_path, monkeypatch):
    """A size that wrapped round: zipfile gives up in the middle, and here every byte comes out."""
    path = write(wrap_sizes(make_zip({"a.pkl": b"first", "b.pkl": LONG, "c.pkl": b"last"}), MODULUS))
    with zipfile.ZipFile(path) as file, pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        file.read("b.pkl")
    monkeypatch.setattr(archive, "SIZE_MODULUS", MODULUS)
    assert take(path, "b.pkl", tmp_path) == LONG
    assert take(path, "c.pkl", tmp_path) == b"last"


def test_a_size_that_is_wrong_and_did_not_wrap(write, tmp_path):
    path = write(wrap_sizes(make_zip({"b.pkl": LONG}), MODULUS))
    with pytest.raises(SourceError, match=r"b\.pkl in .*some\.zip is damaged \(its 262,151 bytes"):
        take(path, "b.pkl", tmp_path)


def test_only_what_is_asked_for_is_found_in_whatever_folder(write, tmp_path):
    path = write(make_zip({"Archive/a.pkl": b"a", "b.pkl": b"b", "../c.pkl": b"c"}))
    assert set(find_members(path, {"a.pkl", "d.pkl"})) == {"a.pkl"}
    assert take(path, "a.pkl", tmp_path) == b"a"


@pytest.mark.parametrize("name", ["/a.pkl", "../a.pkl", "x/../../a.pkl", "..\\a.pkl", "\\a.pkl", "C:\\a.pkl"])
def test_names_that_point_out_of_the_zip_are_refused(write, name):
    with pytest.raises(SourceError, match="points out of the zip"):
        find_members(write(make_zip({name: b"a"})), {"a.pkl"})


def test_a_name_that_is_there_twice(write):
    with pytest.raises(SourceError, match=r"holds a\.pkl twice"):
        find_members(write(make_zip({"a.pkl": b"1", "x/a.pkl": b"2"})), {"a.pkl"})


@pytest.mark.parametrize("damage, words", [
    (lambda whole: whole[:-1], "is not a whole zip"),
    (lambda whole: whole[: len(whole) // 2], "is not a whole zip"),
    (lambda whole: b"<html>" + bytes(100), "is not a whole zip"),
    (lambda whole: b"", "is not a whole zip"),
])
def test_what_is_not_a_whole_zip(write, damage, words):
    with pytest.raises(SourceError, match=words):
        find_members(write(damage(make_zip({"a.pkl": LONG}))), {"a.pkl"})


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_no_flipped_byte_passes(write, tmp_path, compression):
    """A byte of the content or of its local signature is wrong: always an error, never other content."""
    whole = make_zip({"a.pkl": b"some content that is not very long, some content"}, compression)
    with zipfile.ZipFile(write(whole)) as file:
        size = file.infolist()[0].compress_size
    for place in (0, *range(30 + len("a.pkl"), 30 + len("a.pkl") + size)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        with pytest.raises(SourceError, match="is damaged"):
            take(write(flipped), "a.pkl", tmp_path)


def test_what_cannot_be_read_is_named(write, tmp_path):
    whole = make_zip({"a.pkl": LONG})
    encrypted = bytearray(whole)
    encrypted[zipfile.ZipFile(write(whole)).start_dir + 8] |= 1
    with pytest.raises(SourceError, match="is encrypted"):
        take(write(encrypted), "a.pkl", tmp_path)
    with pytest.raises(SourceError, match="neither stored nor deflated"):
        take(write(make_zip({"a.pkl": LONG}, zipfile.ZIP_BZIP2)), "a.pkl", tmp_path)


def test_content_that_ends_before_its_place_does(write, tmp_path):
    """More bytes in the zip than the stream of the member has are no part of it."""
    stream = zlib.compress(b"x" * 50, wbits=-15)
    whole = bytearray(make_zip({"a.pkl": stream + b"more"}, zipfile.ZIP_STORED))
    central = zipfile.ZipFile(write(whole)).start_dir
    whole[central + 10] = zipfile.ZIP_DEFLATED
    with pytest.raises(SourceError, match="does not end where it should"):
        take(write(whole), "a.pkl", tmp_path)


def test_reading_is_told(write, tmp_path):
    path, counts = write(make_zip({"a.pkl": LONG})), []
    member = find_members(path, {"a.pkl"})["a.pkl"]
    extract(path, member, tmp_path / "out", counts.append)
    assert sum(counts) == member.compress_size
