"""Downloads from a real server that misbehaves: what heals is tried again, what does not is told in one line, and no
byte of anything else ends up in the file.
"""

import json
import random
import socket

import pytest

from src.data import fetch, http_file
from src.data.fetch import RETRIES, Fetch
from src.data.sources import Facts, SourceError
from src.errors import UserError
from tests.web_server import ignores_ranges, page, serving, status, stops_at, whole_or_range

CONTENT = random.Random(0).randbytes(3_000_000)
HALF = len(CONTENT) // 2
OTHER = random.Random(1).randbytes(len(CONTENT))
QUOTA = "<!DOCTYPE html><html><head><title>Google Drive -\n Quota exceeded</title></head><body>Too many</body></html>"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, in seconds, which are not waited for."""
    waits = []
    monkeypatch.setattr(fetch, "sleep", waits.append)
    return waits


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pkl"


def download(server, path, facts=None, **options):
    Fetch(getattr(server, "url", server), path, facts or Facts(), **options).run()


def failure(server, path, **options):
    """The line that a download ends in, which leaves nothing under its name."""
    with pytest.raises(SourceError) as error:
        download(server, path, **options)
    assert not path.exists()
    assert str(error.value).isprintable(), "more than a line"
    return str(error.value)


def left_behind(path):
    return sorted(found.name for found in path.parent.iterdir())


def test_a_good_download(server, path, waits):
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert (left_behind(path), server.ranges, waits) == (["file.pkl"], [None], [])


def test_a_broken_download_goes_on_where_it_broke(server, path, waits, capsys):
    server.answers = [stops_at(1_000_000), stops_at(1_500_000), whole_or_range]
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]
    assert waits == [2, 2]
    assert "# 127.0.0.1 broke off after 1,000,000 of 3,000,000 bytes; trying again in 2 s" in capsys.readouterr().err


def test_a_later_call_goes_on_where_the_first_gave_up(server, path, waits):
    server.answers = [stops_at(1_000_000), status(503)]
    assert "answers 503 Service Unavailable" in failure(server, path)
    assert left_behind(path) == ["file.pkl.part", "file.pkl.part.json"]
    assert waits == [2, 2, 4, 8, 16, 32]

    server.answers, server.ranges = [whole_or_range], []
    download(server, path)
    assert server.ranges == ["bytes=1000000-"]
    assert path.read_bytes() == CONTENT
    assert left_behind(path) == ["file.pkl"]


@pytest.mark.parametrize("answers", [
    [status(503), whole_or_range], [status(500), status(429), whole_or_range],
    [lambda handler: handler.break_off(), whole_or_range],
    [lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), whole_or_range],
])
def test_what_heals_is_tried_again(server, path, waits, answers):
    server.answers = answers
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert waits[:1] == [2]


@pytest.mark.parametrize("answer, words", [
    (status(403), "127.0.0.1 answers 403 Forbidden: it refuses access (a quota, a firewall, or its owner)"),
    (status(404), "127.0.0.1 answers 404 Not Found: the file is no longer there"),
    (status(410), "answers 410 Gone: the file is no longer there"),
    (status(401), "answers 401 Unauthorized: it wants a login"),
    (status(400), "answers 400 Bad Request"),
    (lambda handler: handler.start(204), "answers 204 and sends no file"),
    (lambda handler: handler.start(302, Location=handler.path), "answers 302"),
    (lambda handler: handler.start(302, Location="http://[bad/"), "127.0.0.1 leads to no address"),
    (lambda handler: handler.start(302, Location=f"http://{'x' * 70}.example/"), "127.0.0.1 leads to no address"),
    (lambda handler: handler.start(302, Location="file:///etc/passwd"), "answers 302"),
    (page(QUOTA), 'sends a web page ("Google Drive - Quota exceeded") and not the file'),
    (page(QUOTA, "application/octet-stream"), 'sends a web page ("Google Drive - Quota exceeded") and not the file'),
    (page("  <HTML>"), "sends a web page and not the file"),
    (page("<title>\x1b[31m\u202eevil</title>"), r'a web page ("\x1b[31m\u202eevil")'),
])
def test_what_does_not_heal_is_told_at_once(server, path, waits, answer, words):
    server.answers = [answer]
    assert words in failure(server, path)
    assert (waits, left_behind(path)) == ([], [])


def test_a_page_in_place_of_the_rest_leaves_what_has_come(server, path, waits):
    server.answers = [stops_at(1_000_000), page(QUOTA)]
    assert "Quota exceeded" in failure(server, path)
    server.answers = [whole_or_range]
    download(server, path)
    assert server.ranges == [None, "bytes=1000000-", "bytes=1000000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(server, path, waits, capsys):
    server.answers = [stops_at(HALF), ignores_ranges]
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert "127.0.0.1 does not go on from the middle of a file: starting again" in capsys.readouterr().err


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(server, path, waits):
    server.answers = [lambda handler: ignores_ranges(handler, HALF)]
    assert "broke off after 1,500,000 of 3,000,000 bytes" in failure(server, path)
    assert len(server.ranges) == 2 + RETRIES


def test_a_body_that_is_shorter_than_its_length_says(server, path, waits):
    server.answers = [lambda handler: whole_or_range(handler, Content_Length=len(CONTENT) + 7)]
    message = failure(server, path)
    assert "broke off" in message or "416" in message
    assert len(server.ranges) < 20


@pytest.mark.parametrize("change", [
    lambda server: setattr(server, "etag", '"second"'),
    lambda server: setattr(server, "content", OTHER + b"longer"),
    lambda server: setattr(server, "content", OTHER[:100]),
])
def test_halves_of_two_files_are_never_joined(server, path, waits, change):
    server.answers = [stops_at(HALF), status(403)]
    failure(server, path)
    server.content, server.answers = OTHER, [whole_or_range]
    change(server)
    download(server, path)
    assert path.read_bytes() == server.content


@pytest.mark.parametrize("spoil", [
    lambda record: record.unlink(), lambda record: record.write_text("{"), lambda record: record.write_text("{}"),
    lambda record: record.write_text(json.dumps({**json.loads(record.read_text()), "url": "http://other/"})),
    lambda record: record.write_text(json.dumps({**json.loads(record.read_text()), "size": 0, "etag": None,
                                                 "changed": None})),
])
def test_a_part_of_what_is_not_known_is_not_gone_on_with(server, path, waits, spoil):
    server.answers = [stops_at(HALF), status(403)]
    failure(server, path)
    spoil(path.with_name("file.pkl.part.json"))
    server.content, server.answers = OTHER, [whole_or_range]
    download(server, path)
    assert server.ranges[-1] is None
    assert path.read_bytes() == OTHER


def test_a_part_that_is_too_long_is_dropped(server, path, waits):
    server.answers = [stops_at(HALF), status(403)]
    failure(server, path)
    part = path.with_name("file.pkl.part")
    part.write_bytes(CONTENT + b"more")
    server.answers = [whole_or_range]
    download(server, path)
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_whole_is_not_asked_for(server, path, waits):
    server.answers = [stops_at(HALF), status(403)]
    failure(server, path)
    path.with_name("file.pkl.part").write_bytes(CONTENT)
    asked = len(server.ranges)
    download(server, path)
    assert (len(server.ranges), path.read_bytes()) == (asked, CONTENT)


def test_no_length_is_no_obstacle(server, path):
    def chunked(handler):
        handler.protocol_version = "HTTP/1.1"
        handler.start(200, Transfer_Encoding="chunked", Connection="close")
        for at in range(0, len(CONTENT), 700_000):
            piece = CONTENT[at: at + 700_000]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")
    server.answers = [chunked]
    download(server, path)
    assert path.read_bytes() == CONTENT


def test_a_range_without_a_place(server, path, waits):
    server.answers = [stops_at(HALF), lambda handler: handler.start(206, Content_Range="rubbish", Content_Length=0)]
    assert "sends a part of the file and does not say which" in failure(server, path)


def test_a_range_from_another_place(server, path, waits):
    """The rest from an earlier byte on is not appended; the next attempt starts again."""
    def earlier(handler):
        rest = CONTENT[HALF - 1:]
        handler.start(206, Content_Range=f"bytes {HALF - 1}-{len(CONTENT) - 1}/{len(CONTENT)}", ETag=server.etag,
                      Content_Length=len(rest))
        handler.wfile.write(rest)
    server.answers = [stops_at(HALF), earlier, whole_or_range]
    download(server, path)
    assert server.ranges == [None, f"bytes={HALF}-", None]
    assert path.read_bytes() == CONTENT


def test_silence_is_not_waited_out_for_ever(server, path, waits, monkeypatch):
    monkeypatch.setattr(http_file, "TIMEOUT", 0.2)

    def silent(handler):
        whole_or_range(handler, 10_000)
        handler.rfile.read(1)  # until the client hangs up
    server.answers = [silent, whole_or_range]
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=10000-"]


def test_refused_connections_are_not_tried_again(path, waits):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        message = failure(f"http://127.0.0.1:{closed.getsockname()[1]}/file", path)
    assert message == "no connection to 127.0.0.1: Connection refused"
    assert waits == []


def test_unknown_names_are_not_tried_again(path, waits):
    message = failure("http://no-such-host.invalid/file", path)
    assert message == "no-such-host.invalid cannot be looked up: this machine is offline, or no such name exists"
    assert waits == []


def test_a_lost_connection_is_tried_again_once_something_has_come(server, path, waits, monkeypatch):
    """The network goes away in the middle: then even a refused connection may heal."""
    def last(handler):
        whole_or_range(handler, 1000)
        handler.server.socket.close()
    server.answers = [last]
    assert "no connection to 127.0.0.1" in failure(server, path)
    assert waits == [2, 2, 4, 8, 16, 32]


def test_an_untrusted_certificate(path, waits, monkeypatch):
    def untrusted(*_):
        error = http_file.ssl.SSLCertVerificationError(1, "failed")
        error.verify_message = "self-signed certificate"
        raise http_file.urllib.error.URLError(error)
    monkeypatch.setattr(http_file.urllib.request.HTTPHandler, "http_open", untrusted)
    message = failure("http://host.example/file", path)
    assert "host.example shows a certificate that is not trusted here (self-signed certificate)" in message
    assert waits == []


def test_room_is_asked_for_before_the_body(server, path, monkeypatch):
    usage = fetch.shutil.disk_usage(path.parent)._replace(free=4_000_000)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage)
    message = failure(server, path, room=2_000_000)
    assert message == f"it needs 5.0 MB of disk in {path.parent}, where 4.0 MB are free"
    assert left_behind(path) == []
    download(server, path, room=900_000)


def test_a_disk_that_fills_up(server, path, monkeypatch):
    """What has come is kept, and nothing else is tried."""
    class Full:
        def __init__(self, *_):
            self.n = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            raise OSError(28, "No space left on device")
    monkeypatch.setattr(fetch, "progress_bar", Full)
    with pytest.raises(UserError, match=r"file\.pkl\.part cannot be written: No space left on device; mend that"):
        download(server, path)
    assert left_behind(path) == ["file.pkl.part", "file.pkl.part.json"]


def test_ctrl_c_leaves_what_the_next_call_goes_on_with(server, path, monkeypatch):
    bar = fetch.progress_bar

    def pressed(*arguments):
        shown = bar(*arguments)
        monkeypatch.setattr(shown, "update", press)
        return shown

    def press(count):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fetch, "progress_bar", pressed)
        download(server, path)
    assert left_behind(path) == ["file.pkl.part", "file.pkl.part.json"]
    had = path.with_name("file.pkl.part").stat().st_size
    assert 0 < had < len(CONTENT)
    download(server, path)
    assert server.ranges == [None, f"bytes={had}-"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size": 7}])
def test_a_difference_from_a_third_partys_measurement_is_a_loud_warning(server, path, capsys, facts):
    download(server, path, Facts(provenance="somebody", **facts))
    assert path.read_bytes() == CONTENT
    warning = capsys.readouterr().err
    assert "# WARNING: file.pkl has " in warning
    assert "one third party's measurement (somebody)" in warning


@pytest.mark.parametrize("facts, words", [
    ({"sha256": "0" * 64}, "file.pkl has SHA-256 "), ({"size": 7}, "file.pkl has 3,000,000 bytes, not the 7 expected"),
])
def test_a_difference_from_our_own_measurement_is_an_error(server, path, facts, words):
    assert words in failure(server, path, facts=Facts(measured_by="us", **facts))
    assert left_behind(path) == []


def test_a_file_that_does_not_pass_its_check_is_dropped(server, path):
    def refuse(part):
        raise SourceError(f"{part.stat().st_size} bytes of something else")
    assert failure(server, path, check=refuse) == "3000000 bytes of something else"
    assert left_behind(path) == []


def test_redirects_keep_the_range(server, path, waits):
    """In the forms that Dropbox sends: with an empty fragment, and relative."""
    server.answers = [lambda handler: handler.start(302, Location=server.url + "#"), stops_at(HALF),
                      lambda handler: handler.start(302, Location="/moved?dl=1"), whole_or_range]
    download(server, path)
    assert server.ranges == [None, None, f"bytes={HALF}-", f"bytes={HALF}-"]
    assert path.read_bytes() == CONTENT


def test_cookies_of_a_redirect_are_kept(server, path):
    def wants_cookie(handler):
        (whole_or_range if handler.headers["Cookie"] == "session=abc" else status(403))(handler)
    server.answers = [lambda handler: handler.start(302, Location=server.url + "&moved", Set_Cookie="session=abc"),
                      wants_cookie]
    download(server, path)
    assert path.read_bytes() == CONTENT


def test_spaces_and_other_letters_in_an_address(server, path):
    download(server.url.replace("file", "ein Gefühl"), path)
    assert path.read_bytes() == CONTENT
