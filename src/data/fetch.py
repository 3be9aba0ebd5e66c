"""One file from the network, by gdown, which sends the requests, retries and resumes.

gdown takes any answer for the file and resumes whatever lies there. So the server is asked first, by `ask`: a web page
is refused, the size is compared and the disk is measured before anything is read. The name of a part carries a key of
its address, size, ETag and date, so that the halves of two files are never joined.
"""

import hashlib
import re
import shutil
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread
from types import ModuleType
from typing import NamedTuple
from urllib.parse import urlsplit

from tqdm import tqdm

from src.errors import UserError, printable

TIMEOUT = 60  # seconds without a byte
PATIENCE = 600  # seconds without half a megabyte, which gdown reads at a time
MOST, LEFT_FREE = 10**11, 10**9  # bytes of a file whose size nobody says, and of the disk that it may not take
RETRIES, BACKOFF = 5, 1  # attempts after a failure that may heal, and seconds before the first, doubled each time
HEAD = 4096  # bytes that show a web page
AGENT = "PMR"
HEALING = (408, 429, 500, 502, 503, 504)  # statuses that may heal
MEANINGS = {401: "it wants a login", 403: "it refuses access (a quota, a firewall, or its owner)",
            404: "the file is no longer there", 410: "the file is no longer there"}


class SourceError(Exception):
    """A source did not give its file; the message is part of a line that says why."""


@dataclass(frozen=True)
class Facts:
    """Size in bytes and SHA-256 of a file, None where unknown. A difference from a third party's measurement is only
    a warning.
    """

    size: int | None = None
    sha256: str | None = None
    measured_by: str = "third party"
    provenance: str = ""

    def check_size(self, size: int | None, name: str) -> None:
        """Compare a size with the known one; SourceError where they differ."""
        if self.size is not None and size is not None and size != self.size:
            self._differs(f"{name} has {size:,} bytes, not the {self.size:,} expected")

    def check(self, path: Path, name: str) -> None:
        """Compare size and hash of a file, called `name` in messages; SourceError where they differ."""
        size = path.stat().st_size
        self.check_size(size, name)
        if self.sha256 is not None and self.size in (None, size):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256:
                self._differs(f"{name} has SHA-256 {found}, not the {self.sha256} expected")

    def _differs(self, difference: str) -> None:
        if self.measured_by == "us":
            raise SourceError(difference)
        note(f"WARNING: {difference}. What was expected is one third party's measurement ({self.provenance}): the file "
             "may be a newer edition, or a damaged or forged one")


class TooLargeError(SourceError):
    """More came than the file may have."""


class SlowError(Exception):
    """A server has not answered in time."""


class Answer(NamedTuple):
    """What a server says of a file before it sends it."""

    start: int  # the byte that the server would send first
    size: int | None  # of the whole file
    key: str  # 8 characters that change with the file


def fetch(url: str, path: Path, facts: Facts, room: int = 0) -> Path:
    """Download a URL, or a file of Google Drive, to a new file beside `path`; returns the new file's path.

    An interrupted download leaves a part, which the next call resumes. `room` is the disk space needed besides, in
    bytes. SourceError where the source does not give the file; UserError where the disk does not take it.
    """
    host, furthest = urlsplit(url).hostname, 0
    of_drive = host in ("drive.google.com", "docs.google.com")
    gdown = network()[0]
    while True:
        part, have = find_part(path)
        with in_one_line(host):
            answer = Answer(have, facts.size, hashlib.sha256(url.encode()).hexdigest()[:8]) if of_drive else in_time(
                partial(ask, url, have))
        target = path.with_name(f"{path.name}.{answer.key}")
        if part and (answer.start != have or not part.name.startswith(target.name)):
            note(f"{host} does not resume that part, or has another file now: starting again")
            part.unlink()
            continue
        facts.check_size(answer.size, path.name)
        check_room(path.parent, (answer.size or facts.size or 0) - have + room)
        try:
            with in_one_line(host), progress_bar(path.name, answer.size, have) as bar, not_too_slow(bar) as cancel:
                gdown.download(
                    url, str(target), quiet=True, use_cookies=False, resume=True, timeout=TIMEOUT, retries=RETRIES,
                    user_agent=None if of_drive else AGENT, progress=partial(follow, bar, path.parent), cancel=cancel,
                )
            return target
        except TooLargeError:
            for part in path.parent.glob(f"{target.name}*"):
                part.unlink()
            raise
        except SourceError as failure:
            part, have = find_part(path)
            if have <= furthest:
                if part and "byte range" in str(failure):  # the server resumes for `ask`, but not for gdown
                    part.unlink()
                raise
            furthest = have
            note(f"{failure}; trying again")
        except OSError as error:
            raise UserError(f"{error.filename or target} cannot be written: {error.strerror}; mend that, and the same "
                            "command resumes the download") from error


def in_time(function: Callable[[], Answer]) -> Answer:
    """What a function returns or raises; SlowError where it takes longer than PATIENCE, leaving its thread behind."""
    outcome: Future[Answer] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except Exception as error:
            outcome.set_exception(error)
    Thread(target=call, daemon=True).start()
    if not wait([outcome], PATIENCE).done:
        raise SlowError
    return outcome.result()


@contextmanager
def not_too_slow(bar: tqdm) -> Iterator[Event]:
    """An event that is set where a bar does not move for PATIENCE."""
    cancel, ended = Event(), Event()

    def watch() -> None:
        before = None
        while not ended.wait(PATIENCE):
            if bar.n == before:
                cancel.set()
            before = bar.n
    Thread(target=watch, daemon=True).start()
    try:
        yield cancel
    finally:
        ended.set()


def follow(bar: tqdm, folder: Path, done: int, total: int | None) -> None:
    """Move the bar of a download into a folder. TooLargeError where more bytes came than the file may have."""
    bar.update(done - bar.n)
    if done > (2 * bar.total if bar.total else MOST):
        raise TooLargeError(f"{done:,} bytes came, and more would: " + (
            f"it has {bar.total:,}" if bar.total else "nobody says how many there are"))
    if not bar.total:
        check_room(folder, LEFT_FREE)


def find_in_folder(url: str, name: str) -> str:
    """The URL of the file of that name in a public Google Drive folder; SourceError where it is not there."""
    with in_one_line(urlsplit(url).hostname):
        listed = network()[0].download_folder(url, quiet=True, use_cookies=False, timeout=TIMEOUT, skip_download=True)
    ids = [file.id for file in listed if file.path == name]
    if not ids:
        raise SourceError(f"the folder has no {name}")
    return f"https://drive.google.com/uc?id={ids[0]}"


def find_part(path: Path) -> tuple[Path | None, int]:
    """The part that gdown left of a file, and its size; smaller ones are deleted."""
    parts = sorted(path.parent.glob(f"{path.name}.{'?' * 16}.part"), key=lambda part: part.stat().st_size)
    for part in parts[:-1]:
        part.unlink()
    return (parts[-1], parts[-1].stat().st_size) if parts else (None, 0)


def ask(url: str, have: int) -> Answer:
    """Ask a server for the bytes of a file from `have` on, and read no more than shows that it is the file."""
    from urllib3.util import Retry  # noqa: PLC0415, slow to import

    requests = network()[1]
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.Session() as session:
        for adapter in session.adapters.values():
            adapter.max_retries = Retry(RETRIES, connect=0, backoff_factor=BACKOFF, status_forcelist=HEALING,
                                        raise_on_status=False)
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if have and answer.status_code == requests.codes.requested_range_not_satisfiable:
                return Answer(0, None, "")
            answer.raise_for_status()
            if answer.status_code not in (requests.codes.ok, requests.codes.partial_content):
                raise SourceError(f"{urlsplit(url).hostname} answers {answer.status_code} and sends no file")
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
            if place is None and answer.status_code == requests.codes.partial_content:
                raise SourceError(f"{urlsplit(url).hostname} sends a part of the file and does not say which")
            length = place[2] if place else answer.headers.get("Content-Length", "")
            size = int(length) if length.isdecimal() else None
            start = int(place[1]) if place else 0
            refuse_page(urlsplit(url).hostname, answer.headers.get("Content-Type", ""),
                        next(answer.iter_content(HEAD), b""), start)
            identity = (size, answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
    if not any(identity):
        return Answer(0, size, "unknown_")  # no part of it is resumed
    return Answer(start, size, hashlib.sha256(repr((url, identity)).encode()).hexdigest()[:8])


def refuse_page(host: str | None, content_type: str, head: bytes, start: int) -> None:
    """SourceError where a web page comes in place of the file, as a quota, a login or an error does."""
    is_page = start == 0 and head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html"))
    if is_page or content_type.startswith("text/html"):
        title = re.search(rb"<title[^>]*>(.*?)</title>", head, re.I | re.S)
        shown = f' ("{printable(" ".join(title[1].decode("utf-8", "replace").split()))}")' if title else ""
        raise SourceError(f"{host} sends a web page{shown} and not the file")


def network() -> tuple[ModuleType, ModuleType]:
    """gdown and requests, which are slow to import."""
    try:
        import gdown  # noqa: PLC0415
        import requests  # noqa: PLC0415
    except ImportError as error:
        raise SourceError("gdown is not installed; python -m pip install gdown") from error
    return gdown, requests


@contextmanager
def in_one_line(host: str | None) -> Iterator[None]:
    """Turn what gdown and requests raise into a SourceError of one line; an OSError of the disk passes."""
    requests = network()[1]
    try:
        yield
    except (SourceError, UserError):
        raise
    except Exception as error:  # gdown lets through whatever its parsing of Drive's pages raises
        if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
            raise
        wrapped, cause = "incomplete" not in str(error), error.__cause__
        shown = cause if wrapped and isinstance(cause, requests.RequestException) else error
        raise SourceError(reason(host, shown, requests)) from error


def reason(host: str | None, error: BaseException, requests: ModuleType) -> str:
    """An exception of gdown or requests as part of one line."""
    from urllib3.exceptions import NewConnectionError  # noqa: PLC0415, slow to import

    if isinstance(error, requests.HTTPError):
        code = error.response.status_code
        meaning = f": {MEANINGS[code]}" if code in MEANINGS else ""
        return f"{host} answers {code} {printable(error.response.reason)}{meaning}"
    if isinstance(error, SlowError) or type(error).__name__ == "DownloadCancelled":
        return f"{host} trickles: not even half a megabyte came in {PATIENCE} s"
    if not isinstance(error, (requests.RequestException, ValueError)):
        text = printable(" ".join(str(error).split()).partition(". The received bytes")[0])
        return f"{host}: {text if type(error).__module__.startswith('gdown') else f'{type(error).__name__}: {text}'}"
    causes, cause = [], error
    while isinstance(cause, BaseException):
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__ or next(reversed(cause.args), None)  # urllib3 wraps in all ways
    last = causes[-1]
    text = printable(getattr(last, "strerror", None) or last) or type(last).__name__
    for kind, line in (
        (socket.gaierror, f"{host} cannot be looked up: this machine is offline, or no such name exists"),
        (ssl.SSLCertVerificationError,
         f"{host} shows a certificate that is not trusted here ({getattr(last, 'verify_message', '')}): a proxy, a "
         "wrong clock, or certificates that Python lacks may be the cause"),
        (TimeoutError, f"{host} sent nothing for {TIMEOUT} s"),
        (NewConnectionError, f"no connection to {host}: {text}"),
        ((requests.ConnectionError, requests.exceptions.ChunkedEncodingError), f"{host} broke off: {text}"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return line
    return f"{host} leads to no address: {text}"


def check_room(folder: Path, needed: int) -> None:
    """SourceError where a folder's disk has fewer bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError(f"it needs {gigabytes(needed)} of disk in {folder}, where {gigabytes(free)} are free")


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def note(line: str) -> None:
    """Print a line to stderr, above any progress bar."""
    tqdm.write(f"# {line}", file=sys.stderr)


def progress_bar(title: str, total: int | None, done: int = 0) -> tqdm:
    """A bar with speed and time left that counts bytes; where stderr is no terminal it moves twice a minute."""
    seconds = 0.1 if sys.stderr.isatty() else 30
    return tqdm(desc=title, total=total, initial=done, unit="B", unit_scale=True, mininterval=seconds,
                maxinterval=max(seconds, 10))
