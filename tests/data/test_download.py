"""`python -m src download` as a user meets it, from servers of this machine: which source gives which file, what is
kept, and that every failure is one line that says what to do, with nothing half-written under a file's name.
"""

import json
import pickle
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from threading import Thread

import pytest

import main as training
from src.data import download as downloading
from src.data import fetch
from src.data import zip64 as archive
from src.data.download import main, only_one_in
from src.data.fetch import SourceError, gigabytes
from src.data.specs import KNOWN
from tests.data_files import make_splits
from tests.web_server import ignores_ranges, no_waiting, page, serving, status, stops_at, whole_or_range
from tests.zips import make_zip, wrap_sizes

ROOT = Path(__file__).parents[2]
MODULUS = 2**16  # stands for 2^32 where a size wraps round
ALIGNED = pickle.dumps(make_splits(lens=(7, 7, 7)), protocol=4)
UNALIGNED = pickle.dumps(make_splits(sizes=(60, 30, 30)), protocol=4)
FILES = {"mosi_data.pkl": ALIGNED, "mosi_data_noalign.pkl": UNALIGNED, "mosei_senti_data.pkl": ALIGNED,
         "mosei_senti_data_noalign.pkl": UNALIGNED}
ZIP = wrap_sizes(make_zip({**FILES, "__MACOSX/._mosi_data.pkl": random.Random(0).randbytes(200_000)}), MODULUS)
ONE_DOWNLOAD = 2  # requests: the server is asked first
BOTH = ["mosi_data.pkl", "mosi_data_noalign.pkl"]


@pytest.fixture(autouse=True)
def no_waiting_and_no_proxy(monkeypatch):
    no_waiting(monkeypatch)
    monkeypatch.setattr(archive, "SIZE_MODULUS", MODULUS)


@pytest.fixture
def authors():
    """The server of the archive."""
    with serving(ZIP) as server:
        yield server


@pytest.fixture
def mirror():
    """The server of a copy of one file."""
    with serving(UNALIGNED) as server:
        yield server


@pytest.fixture
def folder(tmp_path, monkeypatch, authors, mirror):
    """A working folder whose sources are the two servers and a Drive folder that is refused."""
    known = {
        "files": {name: {"size": len(content)} for name, content in FILES.items()},
        "sources": [
            {"name": "the authors", "url": authors.url, "saved_as": "Archive.zip", "holds": list(FILES),
             "size": len(ZIP), "provenance": "a test", "seen_working": "in a test"},
            {"name": "the mirror", "url": mirror.url, "saved_as": "mosi_data_noalign.pkl",
             "holds": ["mosi_data_noalign.pkl"], "provenance": "a test"},
            {"name": "the Drive", "url": "https://drive.google.com/drive/folders/abc", "saved_as": "mosi_data.pkl",
             "holds": ["mosi_data.pkl"], "provenance": "a test"},
        ],
    }
    (tmp_path / "sources.json").write_text(json.dumps(known))
    monkeypatch.setattr(downloading, "SOURCES", tmp_path / "sources.json")
    monkeypatch.chdir(tmp_path)
    drive_gives(monkeypatch, SourceError("Too many users"))
    return tmp_path


def drive_gives(monkeypatch, found):
    """Let the listing of a Google Drive folder give the URL of a file, or fail."""
    def find(url, name):
        assert (url, name) == ("https://drive.google.com/drive/folders/abc", "mosi_data.pkl")
        if isinstance(found, Exception):
            raise found
        return found
    monkeypatch.setattr(downloading, "find_in_folder", find)


def run(line):
    return main(line.split() if isinstance(line, str) else line)


def error_line(capsys):
    """The one line of an error, which is the last that is told."""
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines].index(True) == len(lines) - 1
    return lines[-1]


def data(folder):
    return sorted(path.name for path in (folder / "data").iterdir())


def has(folder, *names):
    """Whether these files, and no other data files, are there and whole."""
    there = {path.name: path.read_bytes() for path in (folder / "data").glob("*.pkl")}
    return there == {name: FILES[name] for name in names}


def test_a_data_set_from_the_archive(folder, authors, capsys):
    """A connection that breaks, a size that wrapped round, and only what was asked for."""
    authors.answers = [whole_or_range, stops_at(100_000), whole_or_range]
    assert run("--dataset MOSI") == 0
    assert has(folder, *BOTH)
    assert authors.ranges == [None, None, "bytes=100000-"]
    assert data(folder) == ["Archive.zip", *BOTH]
    assert "# data/Archive.zip is kept" in capsys.readouterr().err


def test_what_is_there_is_not_fetched_again(folder, authors, capsys):
    assert run("--dataset mosi --alignment aligned") == 0
    assert has(folder, "mosi_data.pkl")
    (folder / "data/mosi_data.pkl").write_bytes(b"mine")
    capsys.readouterr()

    assert run("--dataset mosei") == 0
    assert run("--dataset mosi") == 0
    assert len(authors.ranges) == ONE_DOWNLOAD
    told = capsys.readouterr().err
    assert "# data/Archive.zip is there and is used; delete it to fetch it again" in told
    assert f"# WARNING: data/mosi_data.pkl is there, but with 4 bytes, not {len(ALIGNED):,}" in told
    assert (folder / "data/mosi_data.pkl").read_bytes() == b"mine"
    assert run("--dataset mosei") == 0
    assert capsys.readouterr().err == "".join(
        f"# data/mosei_senti_data{suffix}.pkl is there already\n" for suffix in ("", "_noalign"))


def test_a_file_of_mmsa_is_named_where_it_stands_in(folder, authors, capsys):
    (folder / "data").mkdir()
    (folder / "data/aligned_50.pkl").write_bytes(b"mine")
    assert run("--dataset mosi --alignment aligned") == 0
    told = capsys.readouterr().err
    assert told.startswith("# data/aligned_50.pkl is there already; where that is not what is wanted")
    assert not authors.ranges


def test_each_source_in_turn(folder, authors, monkeypatch, capsys):
    authors.answers = [status(404)]
    with serving(ALIGNED) as drive:
        drive_gives(monkeypatch, drive.url)
        assert run("--dataset mosi") == 0
    assert has(folder, *BOTH)
    assert data(folder) == BOTH
    told = capsys.readouterr().err
    assert "# mosi_data.pkl, mosi_data_noalign.pkl: from the authors\n# the authors: 127.0.0.1 answers 404 Not" in told
    assert "# mosi_data.pkl: from the Drive, which nobody is known to have seen working\n" in told


def test_what_no_source_gives_is_one_line_and_the_rest_is_kept(folder, authors, capsys):
    authors.answers = [status(403)]
    assert run("--dataset mosi --data_path data") == 2
    assert error_line(capsys) == (
        "error: mosi_data.pkl could not be fetched into data (the authors: 127.0.0.1 answers 403 Forbidden: it refuses "
        "access (a quota, a firewall, or its owner); the Drive: Too many users); download "
        f"{authors.url} by hand, in a browser or elsewhere, save it as data/Archive.zip, and give the same command "
        "again"
    )
    assert has(folder, "mosi_data_noalign.pkl")


def test_an_archive_by_hand_where_the_error_says(folder, authors, mirror):
    authors.answers = mirror.answers = [page("<html>blocked</html>")]
    assert run("--dataset mosi") == 2
    assert data(folder) == []
    (folder / "data/Archive.zip").write_bytes(ZIP)
    assert run("--dataset mosi") == 0
    assert has(folder, *BOTH)


@pytest.mark.parametrize("answer, words", [
    (status(403), "answers 403"), (status(404), "answers 404"), (status(503), "answers 503"),
    (page("<html><title>Quota exceeded</title></html>"), 'sends a web page ("Quota exceeded")'),
    (page("no such thing", "application/zip"), "is neither a whole zip nor a whole pickle"),
    (lambda handler: (handler.start(200), handler.wfile.write(UNALIGNED[:-5])), "is neither a whole zip nor a whole"),
    (page("", "application/zip"), "is neither a whole zip nor a whole pickle"),
    (stops_at(70_000), "broke off: IncompleteRead"),
    (lambda handler: ignores_ranges(handler, 70_000), "Server did not honor the requested byte range"),
    (lambda handler: handler.break_off(), "broke off"),
])
def test_no_failure_leaves_a_file(folder, authors, capsys, answer, words):
    authors.answers = [answer]
    assert run(["--dataset", "mosi", "--url", authors.url]) == 2
    line = error_line(capsys)
    assert words in line
    assert "by hand" in line
    assert has(folder)
    assert all(name.endswith(".part") for name in data(folder))


def test_offline(folder, capsys):
    assert run("--dataset mosi --url http://no-such-host.invalid/Archive.zip") == 2
    line = error_line(capsys)
    assert "no-such-host.invalid cannot be looked up: this machine is offline" in line
    assert "download http://no-such-host.invalid/Archive.zip by hand" in line


def test_a_damaged_member_comes_from_elsewhere(folder, authors, capsys):
    place = ZIP.index(b"mosi_data_noalign.pkl") + 5000
    authors.content = ZIP[:place] + b"damage" + ZIP[place + 6:]
    assert run("--dataset mosi") == 0
    assert has(folder, *BOTH)
    assert "# the authors: mosi_data_noalign.pkl in data/Archive.zip is damaged" in capsys.readouterr().err


def test_a_zip_that_lacks_a_file(folder, capsys):
    (folder / "own.zip").write_bytes(make_zip({"mosi_data.pkl": ALIGNED}))
    assert run("--dataset mosi --archive own.zip") == 2
    assert "fetched into data (own.zip: own.zip has no mosi_data_noalign.pkl)" in error_line(capsys)
    assert has(folder, "mosi_data.pkl")


@pytest.mark.parametrize("content, words", [
    (make_zip({"../mosi_data.pkl": ALIGNED}), "its member ../mosi_data.pkl points out of the zip"),
    (ZIP[:-40], "own.zip is not a whole zip"), (ALIGNED, "own.zip is not a whole zip"),
    (None, "own.zip cannot be used: No such file or directory"),
])
def test_an_archive_that_is_none(folder, authors, capsys, content, words):
    if content is not None:
        (folder / "own.zip").write_bytes(content)
    assert run("--dataset mosi --alignment aligned --archive own.zip") == 2
    assert words in error_line(capsys)
    assert (data(folder), authors.ranges) == ([], [])


def test_an_archive_of_the_user_is_left_alone(folder, authors):
    (folder / "own.zip").write_bytes(ZIP)
    assert run("--dataset all --archive own.zip --data_path data") == 2  # it has no IEMOCAP
    assert has(folder, *FILES)
    assert (folder / "own.zip").read_bytes() == ZIP
    assert authors.ranges == []


@pytest.mark.parametrize("alignment, name", [("unaligned", "mosi_data_noalign.pkl"), ("both", "mosi_data_noalign.pkl")])
def test_a_url_of_one_file(folder, mirror, alignment, name, capsys):
    """Its content tells that it is no zip, and, where both might be meant, its size tells which it is."""
    code = run(["--dataset", "mosi", "--url", mirror.url, "--alignment", alignment])
    assert has(folder, name)
    assert data(folder) == [name]
    assert code == (0 if alignment == "unaligned" else 2)  # the other file is lacking


def test_a_url_of_one_file_that_might_be_either(folder, mirror, capsys):
    mirror.content = pickle.dumps("of another size")
    assert run(["--dataset", "mosi", "--url", mirror.url]) == 2
    assert "might be mosi_data.pkl or mosi_data_noalign.pkl: say which by --alignment" in error_line(capsys)
    assert run(["--dataset", "mosi", "--url", mirror.url, "--alignment", "aligned"]) == 0
    assert len(mirror.ranges) == ONE_DOWNLOAD
    assert (folder / "data/mosi_data.pkl").read_bytes() == mirror.content


def test_any_data_set_can_come_from_a_url(folder, authors):
    authors.content = make_zip({"mine_data_noalign.pkl": UNALIGNED})
    assert run(["--dataset", "mine", "--alignment", "unaligned", "--url", authors.url]) == 0
    assert (folder / "data/mine_data_noalign.pkl").read_bytes() == UNALIGNED


def test_what_drive_gives_is_checked(folder, authors, monkeypatch, capsys):
    authors.answers = [status(404)]
    with serving(b"no pickle") as drive:
        drive_gives(monkeypatch, drive.url)
        assert run("--dataset mosi --alignment aligned") == 2
    assert "the Drive: mosi_data.pkl is neither a whole zip nor a whole pickle" in error_line(capsys)
    assert data(folder) == []


def test_a_small_disk(folder, authors, mirror, monkeypatch, capsys):
    """Too little for the archive and what comes out of it: the mirrors are tried, and the need is told."""
    needed = len(ZIP) + len(ALIGNED) + len(UNALIGNED)
    usage = fetch.shutil.disk_usage(folder)._replace(free=needed - 1)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage)
    assert run("--dataset mosi") == 2
    assert f"the authors: it needs {gigabytes(needed)} of disk in data, where " in error_line(capsys)
    assert has(folder, "mosi_data_noalign.pkl")


def test_a_disk_too_small_to_unpack_to(folder, monkeypatch, capsys):
    (folder / "own.zip").write_bytes(ZIP)
    usage = fetch.shutil.disk_usage(folder)._replace(free=len(ALIGNED))
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage)
    assert run("--dataset mosi --archive own.zip") == 2
    assert f"own.zip: it needs {gigabytes(len(UNALIGNED))} of disk in data" in error_line(capsys)
    assert has(folder, "mosi_data.pkl")


@pytest.mark.parametrize("measured_by, code", [("third party", 0), ("us", 2)])
def test_hashes_of_what_comes_out_of_a_zip(folder, capsys, measured_by, code):
    (folder / "own.zip").write_bytes(ZIP)
    known = json.loads((folder / "sources.json").read_text())
    known["files"]["mosi_data.pkl"] |= {"sha256": "0" * 64, "measured_by": measured_by}
    (folder / "sources.json").write_text(json.dumps(known))
    assert run("--dataset mosi --archive own.zip") == code
    assert "mosi_data.pkl has SHA-256 " in capsys.readouterr().err
    assert has(folder, *(BOTH if code == 0 else ["mosi_data_noalign.pkl"]))


def test_unpacking_leaves_the_part_of_another_source(folder, authors, mirror):
    authors.answers = [status(404)]
    mirror.answers = [whole_or_range, stops_at(50_000), status(404)]
    assert run("--dataset mosi --alignment unaligned") == 2
    (part,) = folder.glob("data/mosi_data_noalign.pkl.*.part")
    (folder / "own.zip").write_bytes(ZIP)
    assert run("--dataset mosi --archive own.zip") == 0
    assert part.stat().st_size == 50_000


def test_a_disk_that_fills_up_while_unpacking(folder, monkeypatch, capsys):
    def fill(path, member, part, on_bytes, expected):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(downloading, "extract", fill)
    assert run("--dataset mosi") == 2
    assert error_line(capsys) == "error: data/mosi_data.pkl cannot be unpacked: No space left on device"
    assert data(folder) == ["Archive.zip"]


def test_a_folder_that_cannot_be_made(folder, capsys):
    (folder / "data").write_text("a file")
    assert run("--dataset mosi") == 2
    assert error_line(capsys) == "error: data cannot be used: File exists"


def test_a_folder_in_place_of_the_archive(folder, capsys):
    (folder / "data/Archive.zip").mkdir(parents=True)
    assert run("--dataset mosi") == 2
    assert error_line(capsys) == "error: data/Archive.zip cannot be used: Is a directory"


@pytest.mark.parametrize("line, words", [
    ("", "the following arguments are required: --dataset"),
    ("--dataset a/b", "'a/b' is not a name"),
    ("--dataset mine", "mine_data.pkl, mine_data_noalign.pkl could not be fetched into data (no source is known); put"),
    ("--dataset mosi --url file:///etc/passwd", "is not a web address; it must start with https:// or http://"),
    ("--dataset mosi --url ftp://host/file", "is not a web address"),
    ("--dataset mosi --url https://", "is not a web address"),
    ("--dataset mosi --url http://host:port/", "is not a web address"),
    ("--dataset mosi --url http://[::1/", "is not a web address"),
    ("--dataset mosi --url http://host/ --archive own.zip", "not allowed with argument"),
    ("--dataset mosi --alignment diagonal", "invalid choice: 'diagonal'"),
])
def test_wrong_arguments(folder, capsys, line, words):
    assert run(line) == 2
    assert words in error_line(capsys)


def test_the_demo_needs_nothing(folder, capsys):
    assert run("--dataset demo") == 0
    assert capsys.readouterr().err == "# demo: made in memory, nothing to fetch\n"


def test_a_second_download_waits_for_the_first(folder, authors, capsys):
    codes = []
    with only_one_in(folder / "data"):
        second = Thread(target=lambda: codes.append(run("--dataset mosi")))
        second.start()
        time.sleep(0.2)
        assert (authors.ranges, codes) == ([], [])
    second.join()
    assert codes == [0]
    assert "# waiting for another download into data" in capsys.readouterr().err


def test_ctrl_c_and_again(folder, authors):
    """Through the real interpreter: an interrupted command ends with 130, no traceback, and resumes when repeated."""
    def stalls(handler):
        stops_at(1_000_000)(handler)
        handler.rfile.read(1)  # until the client hangs up
    authors.content = make_zip({**FILES, "junk": random.Random(0).randbytes(2_000_000)})
    authors.answers = [whole_or_range, stalls, whole_or_range]
    command = [sys.executable, "-m", "src", "download", "--dataset", "mosi", "--url", authors.url]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "no_proxy": "*"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    for _ in range(2400):
        if any(part.stat().st_size for part in folder.glob("data/*.part")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert told.endswith("# interrupted; the same command resumes the download\n")
    assert "Traceback" not in told
    (had,) = (part.stat().st_size for part in folder.glob("data/*.part"))

    done = subprocess.run(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, authors.ranges) == (0, [None, None, f"bytes={had}-", None, f"bytes={had}-"])
    assert has(folder, *BOTH)


def test_ctrl_c_while_unpacking(folder, monkeypatch):
    def press(path, member, part, on_bytes, expected):
        part.write_bytes(b"half")
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(downloading, "extract", press)
        assert run("--dataset mosi") == 130
    assert data(folder) == ["Archive.zip"]
    assert run("--dataset mosi") == 0
    assert has(folder, *BOTH)


SMALL = ["--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--num_epochs", "1", "--batch_size", "5",
         "--device", "cpu"]


def test_training_fetches_what_it_lacks(folder, authors):
    assert training.main(["--dataset", "mosi", "--download", *SMALL]) == 0
    assert has(folder, "mosi_data_noalign.pkl")
    assert (folder / "results/mosi/unaligned/MulT/seed1111/result.json").exists()
    for path in ("data", "data/mosi_data_noalign.pkl"):
        flags = ["--dataset", "mosi", "--download", "--data_path", path, "--seed", "2", *SMALL]
        assert training.main(flags) == 0
    assert len(authors.ranges) == ONE_DOWNLOAD


def test_training_that_cannot_fetch_does_not_begin(folder, authors, mirror, capsys):
    authors.answers = mirror.answers = [status(404)]
    assert training.main(["--dataset", "mosi", "--download", *SMALL]) == 2
    assert "mosi_data_noalign.pkl could not be fetched into data" in error_line(capsys)
    assert not (folder / "results").exists()


def test_the_known_sources():
    """Every file of a known data set has one, and nobody claims a measurement that was not made."""
    known, facts = downloading.read_sources()
    names = {spec.file("", aligned).name for spec in KNOWN if spec.paper and not spec.make
             for aligned in (False, True)}
    assert names == set(facts) == set(known[0].holds)
    assert all(names.issuperset(source.holds) for source in known)
    assert all(source.facts.provenance for source in known)
    assert all(source.url.startswith("https://") and source.saved_as for source in known)
    assert [source.name for source in known if source.seen_working] == ["the MulT authors' archive"]
    assert {each.measured_by for each in (*facts.values(), *(source.facts for source in known))} == {"third party"}
    assert facts["mosei_senti_data_noalign.pkl"].size % 2**32 == 4_122_207_933  # what the archive's listing says


def test_zipfile_fails_on_the_zip_of_these_tests(tmp_path):
    """That is: they hold the fault of the authors' archive."""
    (tmp_path / "a.zip").write_bytes(ZIP)
    with zipfile.ZipFile(tmp_path / "a.zip") as file, pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        file.read("mosi_data_noalign.pkl")
