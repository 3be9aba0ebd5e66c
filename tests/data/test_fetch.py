"""Downloads from a real server that misbehaves, and from one that gdown takes for Google Drive: some failures heal, the
others end in one line, and no byte of anything else ends up in the file.
"""

import pickle
import random
import socket
import ssl
import sys

import gdown
import pytest
import requests

from src.data import fetch
from src.data.download import put_in_place
from src.data.fetch import RETRIES, Facts, SourceError, find_in_folder
from src.errors import UserError
from tests.web_server import (
    ignores_ranges,
    never_ends,
    no_waiting,
    page,
    serving,
    status,
    stops_at,
    trickles,
    whole_or_range,
)

CONTENT = pickle.dumps(random.Random(0).randbytes(3_000_000))
HALF = 1_500_000
OTHER = pickle.dumps(random.Random(1).randbytes(3_000_000))
QUOTA = "<!DOCTYPE html><html><head><title>Google Drive -\n Quota exceeded</title></head><body>Too many</body></html>"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between gdown's attempts, in seconds, which are not waited for."""
    return no_waiting(monkeypatch)


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pkl"


def download(server, path, facts=None, room=0):
    facts = facts or Facts()
    put_in_place(fetch.fetch(getattr(server, "url", server), path, facts, room), path, facts, ("pickle",))


def failure(server, path, **options):
    """The line that a download ends in, which leaves nothing under its name."""
    with pytest.raises(SourceError) as error:
        download(server, path, **options)
    assert not path.exists()
    assert str(error.value).isprintable(), "more than a line"
    return str(error.value)


def left_behind(path):
    return sorted(found.name for found in path.parent.iterdir())


def only_part(path):
    (part,) = path.parent.iterdir()
    assert part.name.startswith("file.pkl.")
    assert part.suffix == ".part"
    return part


def leave_a_part(server, path):
    """Break off in the middle."""
    server.answers = [whole_or_range, stops_at(HALF), status(403)]
    failure(server, path)
    assert only_part(path).read_bytes() == CONTENT[:HALF]
    server.answers, server.ranges = [whole_or_range], []


def test_a_good_download(server, path, waits):
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert (left_behind(path), server.ranges, waits) == (["file.pkl"], [None, None], [])


def test_a_broken_download_resumes_where_it_broke(server, path, waits):
    server.answers = [whole_or_range, stops_at(1_000_000), stops_at(1_500_000), whole_or_range]
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=1000000-", "bytes=1500000-"]
    assert len(waits) == 2


def test_attempts_are_counted_from_the_last_that_got_further(server, path, waits, capsys):
    server.answers = [whole_or_range]
    server.answers += [stops_at(10_000 * (i + 1)) for i in range(RETRIES + 1)]
    server.answers += [whole_or_range]
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert "Download is incomplete: received 60000 bytes but the server announced" in capsys.readouterr().err


def test_a_later_call_resumes_where_the_first_gave_up(server, path):
    server.answers = [whole_or_range, stops_at(1_000_000), status(503)]
    assert "answers 503 Service Unavailable" in failure(server, path)
    assert only_part(path).stat().st_size == 1_000_000

    server.answers, server.ranges = [whole_or_range], []
    download(server, path)
    assert server.ranges == ["bytes=1000000-", None, "bytes=1000000-"]
    assert path.read_bytes() == CONTENT
    assert left_behind(path) == ["file.pkl"]


@pytest.mark.parametrize("answers", [
    [status(503), whole_or_range], [status(500), status(429), whole_or_range],
    [lambda handler: handler.break_off(), whole_or_range],
    [lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), whole_or_range],
])
def test_what_heals_is_tried_again(server, path, answers):
    server.answers = answers
    download(server, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("answer, words", [
    (status(403), "127.0.0.1 answers 403 Forbidden: it refuses access (a quota, a firewall, or its owner)"),
    (status(404), "127.0.0.1 answers 404 Not Found: the file is no longer there"),
    (status(410), "answers 410 Gone: the file is no longer there"),
    (status(401), "answers 401 Unauthorized: it wants a login"),
    (status(400), "answers 400 Bad Request"),
    (lambda handler: handler.start(204), "answers 204 and sends no file"),
    (lambda handler: handler.start(302, Location=handler.path), "leads to no address: Exceeded 30 redirects."),
    (lambda handler: handler.start(302, Location="http://[bad/"), "127.0.0.1 leads to no address"),
    (lambda handler: handler.start(302, Location=f"http://{'x' * 70}.example/"), "127.0.0.1 leads to no address"),
    (lambda handler: handler.start(302, Location="file:///etc/passwd"), "127.0.0.1 leads to no address"),
    (lambda handler: handler.start(206, Content_Range="rubbish"), "sends a part of the file and does not say which"),
    (page(QUOTA), 'sends a web page ("Google Drive - Quota exceeded") and not the file'),
    (page(QUOTA, "application/octet-stream"), 'sends a web page ("Google Drive - Quota exceeded") and not the file'),
    (page("  <HTML>"), "sends a web page and not the file"),
    (page("<title>\x1b[31m\u202eevil</title>"), r'a web page ("\x1b[31m\u202eevil")'),
])
def test_what_does_not_heal_ends_at_once(server, path, waits, answer, words):
    server.answers = [answer]
    assert words in failure(server, path)
    assert (waits, left_behind(path)) == ([], [])


def test_a_page_in_place_of_the_rest_leaves_what_has_come(server, path):
    server.answers = [whole_or_range, stops_at(1_000_000), page(QUOTA)]
    assert "Quota exceeded" in failure(server, path)
    server.answers = [whole_or_range]
    download(server, path)
    assert server.ranges[-1] == "bytes=1000000-"
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(server, path, capsys):
    server.answers = [whole_or_range, stops_at(HALF), ignores_ranges]
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert "127.0.0.1 does not resume that part, or has another file now: starting again" in capsys.readouterr().err


def test_a_server_that_ignores_ranges_and_always_breaks_off_is_given_up(server, path):
    server.answers = [lambda handler: ignores_ranges(handler, HALF)]
    assert "Server did not honor the requested byte range" in failure(server, path)
    assert len(server.ranges) <= 2 + RETRIES
    assert left_behind(path) == []


def test_a_server_that_resumes_without_the_condition_of_gdown_alone(server, path):
    """gdown would fail on the part for ever; without it the next call starts again."""
    def refuses_conditions(handler):
        (ignores_ranges if handler.headers["If-Range"] else whole_or_range)(handler)
    leave_a_part(server, path)
    server.answers = [refuses_conditions]
    assert "Server did not honor the requested byte range" in failure(server, path)
    assert left_behind(path) == []
    download(server, path)
    assert path.read_bytes() == CONTENT


def test_a_body_that_is_shorter_than_its_length_says(server, path):
    server.answers = [lambda handler: whole_or_range(handler, Content_Length=len(CONTENT) + 7)]
    message = failure(server, path)
    assert "broke off" in message or "incomplete" in message or "byte range" in message
    assert len(server.ranges) < 20


@pytest.mark.parametrize("change", [
    lambda server: setattr(server, "etag", '"second"'),
    lambda server: setattr(server, "content", OTHER[:-1] + b"longer."),
    lambda server: setattr(server, "content", OTHER[:100] + b"."),
])
def test_halves_of_two_files_are_never_joined(server, path, change):
    leave_a_part(server, path)
    server.content = OTHER
    change(server)
    download(server, path)
    assert path.read_bytes() == server.content
    assert left_behind(path) == ["file.pkl"]


def test_a_part_of_another_address_is_not_resumed(server, path):
    leave_a_part(server, path)
    server.content = OTHER
    download(server.url + "&other", path)
    assert path.read_bytes() == OTHER
    assert server.ranges[-1] is None


def test_a_part_of_a_file_without_size_tag_and_date_is_not_resumed(server, path):
    def nameless(handler):
        handler.start(200)
        handler.wfile.write(server.content)
    server.answers = [nameless, lambda handler: (handler.start(200, Content_Length=len(CONTENT)),
                                                 handler.wfile.write(CONTENT[:HALF])), status(403)]
    failure(server, path)
    assert only_part(path).stat().st_size == HALF
    server.content, server.answers = OTHER, [nameless]
    download(server, path)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_too_long_is_dropped(server, path, content):
    leave_a_part(server, path)
    only_part(path).write_bytes(content)
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert left_behind(path) == ["file.pkl"]


def test_of_several_parts_the_largest_is_resumed(server, path):
    leave_a_part(server, path)
    part = only_part(path)
    part.with_name(part.name[:-13] + "abcdefgh.part").write_bytes(CONTENT[:HALF + 5])
    download(server, path)
    assert server.ranges[-1] == f"bytes={HALF + 5}-"
    assert path.read_bytes() == CONTENT
    assert left_behind(path) == ["file.pkl"]


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


def test_a_range_from_another_place(server, path):
    """The rest from an earlier byte on is not appended; the next attempt starts again."""
    def earlier(handler):
        rest = CONTENT[HALF - 1:]
        handler.start(206, Content_Range=f"bytes {HALF - 1}-{len(CONTENT) - 1}/{len(CONTENT)}", ETag=server.etag,
                      Content_Length=len(rest))
        handler.wfile.write(rest)
    server.answers = [whole_or_range, stops_at(HALF), earlier, earlier, whole_or_range]
    download(server, path)
    assert server.ranges == [None, None, f"bytes={HALF}-", f"bytes={HALF}-", None, None]
    assert path.read_bytes() == CONTENT


def test_silence_is_not_waited_out_for_ever(server, path, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)

    def silent(handler):
        whole_or_range(handler, 10_000)
        handler.rfile.read(1)  # until the client hangs up
    server.answers = [whole_or_range, silent, whole_or_range]
    download(server, path)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=10000-"]


def test_silence_from_the_beginning(server, path, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.1)
    server.answers = [lambda handler: handler.rfile.read(1)]
    assert failure(server, path) == "127.0.0.1 sent nothing for 0.1 s"


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


def test_a_lost_connection_is_tried_again_once_something_has_come(server, path, waits):
    """The network goes away in the middle: then even a refused connection may heal."""
    def last(handler):
        whole_or_range(handler, 20_000)
        handler.server.socket.close()
    server.answers = [whole_or_range, last]
    assert "no connection to 127.0.0.1" in failure(server, path)
    assert len(waits) == RETRIES
    assert only_part(path).stat().st_size == 20_000


def test_an_untrusted_certificate(path, waits, monkeypatch):
    def untrusted(*_, **__):
        error = ssl.SSLCertVerificationError(1, "failed")
        error.verify_message = "self-signed certificate"
        raise requests.exceptions.SSLError(error)
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", untrusted)
    message = failure("http://host.example/file", path)
    assert "host.example shows a certificate that is not trusted here (self-signed certificate)" in message
    assert waits == []


def test_room_is_asked_for_before_the_body(server, path, monkeypatch):
    usage = fetch.shutil.disk_usage(path.parent)._replace(free=4_000_000)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage)
    message = failure(server, path, room=2_000_000)
    assert message == f"it needs 5.0 MB of disk in {path.parent}, where 4.0 MB are free"
    assert (left_behind(path), server.ranges) == ([], [None])
    download(server, path, room=900_000)


def interrupt(monkeypatch, error):
    """Raise an error when some bytes have come."""
    bar = fetch.progress_bar

    def interrupted(*arguments):
        def update(count):
            if count:
                raise error
        shown = bar(*arguments)
        monkeypatch.setattr(shown, "update", update)
        return shown
    monkeypatch.setattr(fetch, "progress_bar", interrupted)


def test_a_disk_that_fills_up(server, path, monkeypatch):
    """What has come is kept, and nothing else is tried."""
    interrupt(monkeypatch, OSError(28, "No space left on device"))
    with pytest.raises(UserError, match=r"file\.pkl\.\w+ cannot be written: No space left on device; mend that"):
        download(server, path)
    assert only_part(path).stat().st_size > 0


def test_ctrl_c_leaves_what_the_next_call_resumes(server, path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, KeyboardInterrupt)
        download(server, path)
    had = only_part(path).stat().st_size
    assert 0 < had < len(CONTENT)
    download(server, path)
    assert server.ranges == [None, None, f"bytes={had}-", None, f"bytes={had}-"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size": 7}])
def test_a_difference_from_a_third_partys_measurement_is_a_loud_warning(server, path, capsys, facts):
    download(server, path, Facts(provenance="somebody", **facts))
    assert path.read_bytes() == CONTENT
    warning = capsys.readouterr().err
    assert "# WARNING: file.pkl has " in warning
    assert "one third party's measurement (somebody)" in warning


@pytest.mark.parametrize("facts, words", [
    ({"sha256": "0" * 64}, "file.pkl has SHA-256 "),
    ({"size": 7}, f"file.pkl has {len(CONTENT):,} bytes, not the 7 expected"),
])
def test_a_difference_from_our_own_measurement_is_an_error(server, path, facts, words):
    assert words in failure(server, path, facts=Facts(measured_by="us", **facts))
    assert left_behind(path) == []


def test_a_file_of_another_kind_is_dropped(server, path):
    server.content = b"something else"
    assert failure(server, path) == "file.pkl is neither a whole zip nor a whole pickle"
    assert left_behind(path) == []


def test_redirects_keep_the_range(server, path):
    """In the forms that Dropbox sends: with an empty fragment, and relative."""
    server.answers = [whole_or_range, lambda handler: handler.start(302, Location=server.url + "#"), stops_at(HALF),
                      lambda handler: handler.start(302, Location="/moved?dl=1"), whole_or_range]
    download(server, path)
    assert server.ranges == [None, None, None, f"bytes={HALF}-", f"bytes={HALF}-"]
    assert path.read_bytes() == CONTENT


def test_cookies_of_a_redirect_are_kept(server, path):
    def wants_cookie(handler):
        (whole_or_range if handler.headers["Cookie"] == "session=abc" else status(403))(handler)
    moved = [lambda handler: handler.start(302, Location=server.url + "&moved", Set_Cookie="session=abc"), wants_cookie]
    server.answers = [*moved, *moved]
    download(server, path)
    assert path.read_bytes() == CONTENT


def test_spaces_and_other_letters_in_an_address(server, path):
    download(server.url.replace("file", "ein Gefühl"), path)
    assert path.read_bytes() == CONTENT

# Google Drive, through the installed gdown, whose requests are led to a server of this machine.

ATTACHED = {"Content_Disposition": 'attachment; filename="mosi_data.pkl"'}
LINK = '<a href="https://drive.google.com/file/d/{}/view?usp=drive_web">{}</a>'
FOLDER = page("<html><title>MOSI</title>" + LINK.format("i" * 33, "mosi_raw.pkl")
              + LINK.format("j" * 33, "mosi_data.pkl") + "</html>")
DRIVE_QUOTA = page('<html><p class="uc-error-caption">Sorry</p>\n<p class="uc-error-subcaption">Too many users have '
                   "viewed or downloaded this file recently.</p></html>")
TOO_LARGE_TO_SCAN = page('<html><form id="download-form" action="https://drive.usercontent.google.com/download" '
                         'method="get"><input type="hidden" name="id" value="j"></form></html>')


DRIVE_FOLDER = "https://drive.google.com/drive/folders/" + "f" * 33


def attached(handler):
    whole_or_range(handler, **ATTACHED)


@pytest.fixture
def drive(server, monkeypatch):
    """A server that gdown takes for Google."""
    get = requests.Session.get
    server.asked = []

    def led_astray(session, url, **options):
        server.asked.append(url)
        return get(session, server.url, **options)
    monkeypatch.setattr(requests.Session, "get", led_astray)
    monkeypatch.setattr(fetch, "RETRIES", 0)
    return server


def of_drive(path):
    download(find_in_folder(DRIVE_FOLDER, "mosi_data.pkl"), path)


def drive_failure(path):
    with pytest.raises(SourceError) as error:
        of_drive(path)
    assert not path.exists()
    assert str(error.value).isprintable(), "more than a line"
    return str(error.value)


@pytest.mark.parametrize("confirmation", [[], [TOO_LARGE_TO_SCAN]])
def test_a_file_of_a_drive_folder(drive, path, confirmation):
    drive.answers = [FOLDER, *confirmation, attached]
    of_drive(path)
    assert path.read_bytes() == CONTENT
    assert left_behind(path) == ["file.pkl"]
    assert "folderview?id=" + "f" * 33 in drive.asked[0]
    assert drive.asked[1] == "https://drive.google.com/uc?id=" + "j" * 33


def test_the_link_of_a_drive_file(drive, path):
    drive.answers = [attached]
    download("https://drive.google.com/file/d/" + "j" * 33 + "/view?usp=drive_web", path)
    assert path.read_bytes() == CONTENT
    assert drive.asked == ["https://drive.google.com/uc?id=" + "j" * 33]


@pytest.mark.parametrize("answers, words", [
    ([status(404)], "status code 404"),
    ([status(403)], "status code 403"),
    ([page("<html></html>")], "The page structure may have changed"),
    ([page("<html><title>MOSI</title>" + LINK.format("i" * 33, "mosi_raw.pkl") + "</html>")],
     "the folder has no mosi_data.pkl"),
    ([FOLDER, DRIVE_QUOTA], "Too many users have viewed or downloaded this file recently."),
    ([FOLDER, page("<html>a page of another form</html>")], "Cannot retrieve the public link of the file."),
    ([FOLDER, status(404)], "Cannot retrieve the public link of the file."),
    ([FOLDER, stops_at(0)], "drive.google.com broke off: IncompleteRead"),
    ([FOLDER, lambda handler: handler.start(200)], "drive.google.com: KeyError: "),  # gdown counts on a Content-Type
    ([lambda handler: handler.break_off()], "drive.google.com broke off: "),
    ([FOLDER, lambda handler: handler.break_off()], "drive.google.com broke off: "),
])
def test_failures_of_drive(drive, path, answers, words):
    drive.answers = answers
    assert words in drive_failure(path)


def test_a_broken_download_from_drive_resumes(drive, path):
    drive.answers = [FOLDER, lambda handler: whole_or_range(handler, HALF, **ATTACHED), status(403)]
    assert "Cannot retrieve the public link of the file." in drive_failure(path)
    drive.answers, drive.ranges = [FOLDER, attached], []
    of_drive(path)
    assert path.read_bytes() == CONTENT
    assert drive.ranges[-1] == f"bytes={HALF}-"


def test_no_gdown(monkeypatch, path):
    monkeypatch.setitem(sys.modules, "gdown", None)
    assert drive_failure(path) == "gdown is not installed; python -m pip install gdown"


def test_an_old_gdown(monkeypatch, path):
    monkeypatch.setattr(gdown, "download_folder", lambda url, quiet, use_cookies, skip_download: [])
    assert "unexpected keyword argument 'timeout'" in drive_failure(path)


@pytest.mark.parametrize("answers", [[trickles], [whole_or_range, trickles]], ids=["asked", "sent"])
def test_a_file_that_trickles_is_given_up(server, path, answers, monkeypatch):
    monkeypatch.setattr(fetch, "PATIENCE", 0.2)
    server.answers = answers
    assert failure(server, path) == "127.0.0.1 trickles: not even half a megabyte came in 0.2 s"


def test_a_file_without_an_end_is_given_up_and_leaves_nothing(server, path, monkeypatch):
    monkeypatch.setattr(fetch, "MOST", 10_000_000)
    server.answers = [never_ends]
    assert failure(server, path).endswith("bytes came, and more would: nobody says how many there are")
    assert left_behind(path) == []


def test_a_file_of_unknown_size_leaves_some_of_the_disk(server, path, monkeypatch):
    monkeypatch.setattr(fetch, "LEFT_FREE", 10**18)
    server.answers = [never_ends]
    assert failure(server, path).startswith("it needs 1000000000.0 GB of disk")
