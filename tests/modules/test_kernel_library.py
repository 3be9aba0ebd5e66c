"""The library of the kernels: only what this user built, whole, is loaded, and no compiler keeps a run waiting."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from modules.kernels import build, cpu_library

SOURCE = 'extern "C" int answer() { return 42; }'


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "small.cpp"
    path.write_text(SOURCE)
    return path


def kept(source):
    return list((source.parent / "cache/pmr-mult/kernels").iterdir())


def compiler(tmp_path, *lines):
    """A compiler that is a script."""
    path = tmp_path / "compiler"
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o700)
    return str(path)


def test_a_library_is_built_once(source, tmp_path, monkeypatch, capfd):
    assert build.load(source, "c++").answer() == 42
    (library,) = kept(source)
    assert library.stem.endswith(hashlib.sha256(library.read_bytes()).hexdigest()[:32])
    assert not (library.stat().st_mode | library.parent.stat().st_mode) & 0o077
    calls = []
    monkeypatch.setattr(build, "call", lambda *command, end, call=build.call: calls.append(command[1])
                        or call(*command, end=end))
    assert build.load(source, "c++").answer() == 42
    assert calls == ["--version"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", [lambda whole: whole[:len(whole) // 2], lambda whole: b"",
                                    lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])], ids=["cut", "empty", "flipped"])
def test_a_damaged_library_is_built_again(source, damage, capfd):
    build.load(source, "c++")
    (library,) = kept(source)
    whole = library.read_bytes()
    library.unlink()  # the loaded one stays as it is
    library.write_bytes(damage(whole))
    assert build.load(source, "c++").answer() == 42
    assert [path.read_bytes() for path in kept(source)] == [whole]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("open_to_others", ["folder", "file"])
def test_what_others_could_have_planted_is_not_loaded(source, open_to_others, monkeypatch, capfd):
    build.load(source, "c++")
    (library,) = kept(source)
    (library.parent if open_to_others == "folder" else library).chmod(0o777)
    loaded = []
    monkeypatch.setattr(build.ctypes, "CDLL", loaded.append)
    build.load(source, "c++")
    if open_to_others == "folder":
        assert not loaded[0].startswith(str(library.parent))
        assert capfd.readouterr().err == (f"# CPU kernels: {library.parent} is not this user's, or others can write "
                                          "there: built for this process alone, which takes some seconds\n")
    else:
        assert not library.stat().st_mode & 0o077  # it was made anew


def test_a_library_of_another_user_is_not_loaded(source, monkeypatch, capfd):
    build.load(source, "c++")
    (library,) = kept(source)
    monkeypatch.setattr(os, "geteuid", lambda: library.stat().st_uid + 1)
    loaded = []
    monkeypatch.setattr(build.ctypes, "CDLL", loaded.append)
    build.load(source, "c++")
    assert not loaded[0].startswith(str(library.parent))
    assert "is not this user's" in capfd.readouterr().err


def test_without_a_home_it_is_built_for_the_process(source, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file
    assert build.load(source, "c++").answer() == 42
    assert "Not a directory" in capfd.readouterr().err


def test_a_compiler_that_hangs_is_ended_with_all_that_it_started(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "PATIENCE", 0.5)
    hanging = compiler(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child", "wait")
    started = time.monotonic()
    with pytest.raises(OSError, match=r"did not finish in 0\.5 s"):
        build.load(source, hanging)
    assert time.monotonic() - started < 10
    status = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    until = time.monotonic() + 5
    while status.exists() and status.read_text().split()[2] not in "ZX":
        assert time.monotonic() < until
    monkeypatch.setattr(build, "PATIENCE", 60)
    assert build.load(source, "c++").answer() == 42  # the next time


def test_a_compiler_that_fails_leaves_torch_and_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    failing = compiler(tmp_path, '[ "$1" = --version ] && exit', "echo no space >&2", "exit 1")
    monkeypatch.setenv("CXX", failing)
    assert cpu_library.library.__wrapped__() is None
    assert capfd.readouterr().err == (f"# CPU kernels: {failing} ends with 1: 'no space'; torch computes in their "
                                      "place, about half as fast, until a later start can build them\n")
