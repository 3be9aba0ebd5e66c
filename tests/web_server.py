"""A web server on this machine that serves one file, and misbehaves on request."""

import re
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from time import sleep

from src.data import fetch


class Server(ThreadingHTTPServer):
    """Serves `content`. `answers` are what the next requests get, the last of them from then on; `ranges` is what was
    asked for.
    """

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = content, '"first"'
        self.answers, self.ranges = [whole_or_range], []

    def handle_error(self, request, client_address):
        """Keep quiet: a client that has read enough, or was told to break off, closes the connection."""

    @property
    def url(self):
        """The address of the file."""
        return f"http://127.0.0.1:{self.server_port}/file?dl=1"


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the answer whose turn it is."""

    def do_GET(self):
        server = self.server
        server.ranges.append(self.headers["Range"])
        answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
        answer(self)

    def start(self, status, **headers):
        """Send the head of an answer; Content_Length stands for Content-Length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def break_off(self):
        """Close the connection without a word."""
        self.close_connection = True
        self.connection.close()

    def log_message(self, *arguments):
        """Keep quiet."""


@contextmanager
def serving(content):
    """A Server that runs during the block."""
    with Server(content) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def no_waiting(monkeypatch):
    """Talk to this machine without a proxy, read in small chunks, and do not wait before another attempt.

    Returns the list of gdown's waits, in seconds.
    """
    import gdown  # noqa: F401, PLC0415, slow to import

    waits = []
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "BACKOFF", 0)
    monkeypatch.setattr(sys.modules["gdown.download"], "_wait_or_cancel", lambda seconds, cancel: waits.append(seconds))
    monkeypatch.setattr(sys.modules["gdown.download"], "CHUNK_SIZE", 10_000)
    return waits


def whole_or_range(handler, end=None, **headers):
    """What a good server does; with `end`, it sends no bytes from there on."""
    content, etag = handler.server.content, handler.server.etag
    headers = {"ETag": etag, "Content_Type": "application/octet-stream", **headers}
    if asked := handler.headers["Range"]:
        first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if first >= len(content):
            return handler.start(416, Content_Range=f"bytes */{len(content)}")
        place = f"bytes {first}-{len(content) - 1}/{len(content)}"
        handler.start(206, **{"Content_Range": place, "Content_Length": len(content) - first, **headers})
    else:
        first = 0
        handler.start(200, **{"Content_Length": len(content), **headers})
    handler.wfile.write(content[first:end])


def stops_at(end):
    """Breaks off before that byte of the file."""
    return lambda handler: whole_or_range(handler, end)


def ignores_ranges(handler, end=None):
    """Sends the file from its beginning, whatever was asked for."""
    handler.start(200, Content_Length=len(handler.server.content))
    handler.wfile.write(handler.server.content[:end])


def page(text, content_type="text/html; charset=utf-8", code=200):
    """Sends a web page in place of the file."""
    def answer(handler):
        handler.start(code, Content_Type=content_type, Content_Length=len(text.encode()))
        handler.wfile.write(text.encode())
    return answer


def status(code):
    """Sends an error."""
    return page("<html>no</html>", code=code)


def trickles(handler):
    """Sends a whole file's head and then single bytes, without an end."""
    handler.start(200, Content_Length=len(handler.server.content))
    while True:
        handler.wfile.write(handler.server.content[:1])
        sleep(0.02)


def never_ends(handler):
    """Sends a file without a length and without an end."""
    handler.start(200, Content_Type="application/octet-stream")
    while True:
        handler.wfile.write(handler.server.content)
