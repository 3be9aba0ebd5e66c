"""Google Drive through the installed gdown, whose requests are led to a server of this machine."""

import random
import sys

import gdown
import pytest
import requests

from src.data import drive
from src.data.drive import fetch_from_folder
from src.data.sources import SourceError
from tests.web_server import page, serving, status, stops_at, whole_or_range

CONTENT = random.Random(0).randbytes(2_000_000)
ATTACHED = {"Content_Disposition": 'attachment; filename="mosi_data.pkl"'}
LINK = '<a href="https://drive.google.com/file/d/{}/view?usp=drive_web">{}</a>'
FOLDER = page("<html><title>MOSI</title>" + LINK.format("i" * 33, "mosi_raw.pkl")
              + LINK.format("j" * 33, "mosi_data.pkl") + "</html>")
QUOTA = page('<html><p class="uc-error-caption">Sorry</p>\n<p class="uc-error-subcaption">Too many users have viewed '
             "or downloaded this file recently.</p></html>")
TOO_LARGE_TO_SCAN = page('<html><form id="download-form" action="https://drive.usercontent.google.com/download" '
                         'method="get"><input type="hidden" name="id" value="j"></form></html>')


def attached(handler):
    whole_or_range(handler, **ATTACHED)


@pytest.fixture
def server(monkeypatch):
    """A server that gdown takes for Google."""
    monkeypatch.setenv("no_proxy", "*")
    get = requests.Session.get
    with serving(CONTENT) as server:
        server.asked = []

        def led_astray(session, url, **options):
            server.asked.append(url)
            return get(session, server.url, **options)
        monkeypatch.setattr(requests.Session, "get", led_astray)
        monkeypatch.setattr(drive, "RETRIES", 0)
        yield server


def fetch(path):
    fetch_from_folder("f" * 33, "mosi_data.pkl", path)


def failure(path):
    with pytest.raises(SourceError) as error:
        fetch(path)
    assert not path.exists()
    assert str(error.value).isprintable(), "more than a line"
    return str(error.value)


@pytest.mark.parametrize("confirmation", [[], [TOO_LARGE_TO_SCAN]])
def test_a_file_of_a_folder(server, tmp_path, confirmation):
    server.answers = [FOLDER, *confirmation, attached]
    fetch(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert "folderview?id=" + "f" * 33 in server.asked[0]
    assert server.asked[1] == "https://drive.google.com/uc?id=" + "j" * 33


@pytest.mark.parametrize("answers, words", [
    ([status(404)], "status code 404"),
    ([status(403)], "status code 403"),
    ([page("<html></html>")], "The page structure may have changed"),
    ([page("<html><title>MOSI</title>" + LINK.format("i" * 33, "mosi_raw.pkl") + "</html>")],
     "the folder has no mosi_data.pkl"),
    ([FOLDER, QUOTA], "Too many users have viewed or downloaded this file recently."),
    ([FOLDER, page("<html>a page of another form</html>")], "Cannot retrieve the public link of the file."),
    ([FOLDER, status(404)], "Cannot retrieve the public link of the file."),
    ([FOLDER, stops_at(0)], "gdown: ChunkedEncodingError: "),
    ([FOLDER, lambda handler: handler.start(200)], "gdown: KeyError: "),  # gdown counts on a Content-Type
    ([lambda handler: handler.break_off()], "Google Drive cannot be reached (ConnectionError)"),
    ([FOLDER, lambda handler: handler.break_off()], "Google Drive cannot be reached (ConnectionError)"),
])
def test_failures(server, tmp_path, answers, words):
    server.answers = answers
    assert words in failure(tmp_path / "out")


def test_a_broken_download_goes_on(server, tmp_path):
    server.answers = [FOLDER, lambda handler: whole_or_range(handler, 1_500_000, **ATTACHED)]
    assert "received" in failure(tmp_path / "out")
    server.answers, server.ranges = [FOLDER, attached], []
    fetch(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert server.ranges[-1].startswith("bytes=1")


def test_no_gdown(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gdown", None)
    assert failure(tmp_path / "out") == "gdown is not installed; python -m pip install gdown"


def test_an_old_gdown(monkeypatch, tmp_path):
    monkeypatch.setattr(gdown, "download_folder", lambda id, quiet, use_cookies, skip_download: [])
    assert "unexpected keyword argument 'timeout'" in failure(tmp_path / "out")
