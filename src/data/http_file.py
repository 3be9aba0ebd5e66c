"""Ask an HTTP server for a file from some byte on, and tell in plain words what is wrong with its answer."""

import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from urllib.parse import quote, urlsplit

from src.data.sources import SourceError
from src.errors import printable

TIMEOUT = 60  # seconds without a byte
HEAD = 4096  # bytes that tell a web page
CHUNK = 2**20
RESERVED = "%/:=&?~#+!$,;'@()*[]"  # characters of a URL that stay as they are
RANGE_REFUSED = 416
PASSING = (408, 429, 500, 502, 503, 504)  # statuses that may heal
MEANINGS = {401: "it wants a login", 403: "it refuses access (a quota, a firewall, or its owner)",
            404: "the file is no longer there", 410: "the file is no longer there"}


class PassingError(SourceError):
    """A failure that may heal."""


class UnreachableError(PassingError):
    """No connection; it may heal where there has been one."""


class RangeError(PassingError):
    """The server has no bytes from there on."""


class RemoteFile:
    """A file that a server is sending, from byte `offset` on.

    `identity` tells it from another file: its size, ETag and time of change, None where the server does not say.
    Whatever fails is a SourceError, and a PassingError if it may heal.
    """

    def __init__(self, url, start=0):
        self.host = urlsplit(url).hostname
        self._response = self._open(url, start)
        try:
            self.offset, size = self._extent()
            headers = self._response.headers
            self.identity = {"size": size, "etag": headers["ETag"], "changed": headers["Last-Modified"]}
            self._head = self._receive(self._response.read, HEAD)
            self._refuse_page()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Hang up."""
        self._response.close()

    def pieces(self):
        """The bytes as they come, until the server ends."""
        piece = self._head
        while piece:
            yield piece
            piece = self._receive(self._response.read1, CHUNK)

    def _open(self, url, start):
        headers = {"User-Agent": "PMR", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(quote(url, safe=RESERVED), headers=headers)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))  # for redirects
        try:
            return self._receive(opener.open, request, None, TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            meaning = f": {MEANINGS[error.code]}" if error.code in MEANINGS else ""
            kind = PassingError if error.code in PASSING else SourceError
            kind = RangeError if error.code == RANGE_REFUSED else kind
            raise kind(f"{self.host} answers {error.code} {printable(error.reason)}{meaning}") from error

    def _receive(self, call, *arguments):
        """Call what reads from the network; its failures become ours."""
        try:
            return call(*arguments)
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise self._failure(error) from error
        except ValueError as error:  # a name or an address that cannot be, from the user or in a redirect
            raise SourceError(f"{self.host} leads to no address: {printable(error)}") from error

    def _failure(self, error):
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, socket.gaierror):
            return UnreachableError(f"{self.host} cannot be looked up: this machine is offline, or no such name exists")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SourceError(f"{self.host} shows a certificate that is not trusted here ({cause.verify_message}): a "
                               "proxy, a wrong clock, or certificates that Python lacks may be the cause")
        connecting = cause is not error and not isinstance(cause, ConnectionResetError)
        if isinstance(cause, TimeoutError):
            reason = f"{self.host} sent nothing for {TIMEOUT} s"
        else:
            reason = printable(getattr(cause, "strerror", None) or cause) or type(cause).__name__
            reason = f"no connection to {self.host}: {reason}" if connecting else f"{self.host} broke off: {reason}"
        return (UnreachableError if connecting else PassingError)(reason)

    def _extent(self):
        """The byte that the answer starts with, and the size of the whole file, None where it is not said."""
        headers = self._response.headers
        if self._response.status == http.client.PARTIAL_CONTENT:
            place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers["Content-Range"] or "")
            if place is None:
                raise SourceError(f"{self.host} sends a part of the file and does not say which")
            return int(place[1]), None if place[2] == "*" else int(place[2])
        if self._response.status != http.client.OK:
            raise SourceError(f"{self.host} answers {self._response.status} and sends no file")
        length = headers["Content-Length"] or ""
        return 0, int(length) if length.isdecimal() else None

    def _refuse_page(self):
        """A quota, a login or an error may be told by a web page in place of the file."""
        start = self._head.lstrip()[:9].lower()
        is_page = self.offset == 0 and start.startswith((b"<!doctype", b"<html"))
        if is_page or self._response.headers.get_content_type() == "text/html":
            title = re.search(rb"<title[^>]*>(.*?)</title>", self._head, re.I | re.S)
            title = f' ("{printable(" ".join(title[1].decode("utf-8", "replace").split()))}")' if title else ""
            raise SourceError(f"{self.host} sends a web page{title} and not the file")
