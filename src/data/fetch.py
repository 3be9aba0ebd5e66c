"""Fetch a file over HTTP into a temporary name, going on where an earlier attempt or an earlier call stopped.

NAME.part holds what has come so far, and NAME.part.json what it is a part of: the URL, and the size, ETag and time of
change that the server told. They are compared with what it tells now (and not left to If-Range, since some servers send
ETags in a form that this header does not admit), so that the halves of two files are never joined.
"""

import json
import shutil
from time import sleep

from src.data.http_file import PassingError, RangeError, RemoteFile, UnreachableError
from src.data.progress import gigabytes, note, progress_bar
from src.data.sources import SourceError
from src.errors import UserError

RETRIES = 5  # attempts in a row that get no further


class Fetch:
    """The download of one URL to one path, which appears when it is whole.

    `facts` are compared with what the server tells before anything is read, and with the file before it appears; `room`
    is what else must fit on the disk, in bytes; `check`, given the temporary path, may raise SourceError.
    """

    def __init__(self, url, path, facts, room=0, check=lambda part: None):
        self.url, self.path, self.facts, self.room, self.check = url, path, facts, room, check
        self.part = path.with_name(path.name + ".part")
        self.record = path.with_name(path.name + ".part.json")

    def run(self):
        """Download. SourceError says why the server did not give the file, UserError what is wrong here."""
        try:
            self._attempt_until_whole()
            try:
                self.check(self.part)
                self.facts.check(self.part, self.path.name)
            except SourceError:
                self._forget()
                raise
            self.part.replace(self.path)
            self.record.unlink()
        except OSError as error:
            raise UserError(
                f"{error.filename or self.part} cannot be written: {error.strerror}; mend that, and the same command "
                "goes on with what has come"
            ) from error

    def _attempt_until_whole(self):
        """Attempt, and wait longer each time, until RETRIES in a row have got no further than any before."""
        start = furthest = self._have()
        failures = 0
        while True:
            try:
                return self._attempt()
            except PassingError as error:
                have = self._have()
                failures = 0 if have > furthest else failures + 1
                furthest = max(furthest, have)
                if failures > RETRIES or (isinstance(error, UnreachableError) and furthest == start):
                    raise
                wait = 2 ** max(1, failures)
                note(f"{error}; trying again in {wait} s")
                sleep(wait)

    def _attempt(self):
        """Ask for what is lacking, and write what comes."""
        before, have = self._read_record(), self._have()
        if have and have == before["size"]:
            return
        try:
            remote = RemoteFile(self.url, have)
        except RangeError:
            self._forget()
            raise
        with remote:
            size = remote.identity["size"]
            check_room(self.path.parent, (size or self.facts.size or 0) - remote.offset + self.room)
            if remote.offset == 0:
                self._start_anew(remote, have)
            elif remote.offset != have or differs(remote.identity, before):
                self._forget()
                raise PassingError(f"{remote.host} has another file there than before")
            with self.part.open("ab") as file, progress_bar(self.path.name, size, have := self._have()) as bar:
                for piece in remote.pieces():
                    file.write(piece)
                    bar.update(len(piece))
                    have += len(piece)
        if size is not None and have < size:
            raise PassingError(f"{remote.host} broke off after {have:,} of {size:,} bytes")

    def _start_anew(self, remote, have):
        if have:
            note(f"{remote.host} does not go on from the middle of a file: starting again")
        self.facts.check_size(remote.identity["size"], self.path.name)
        self._forget()
        self.record.write_text(json.dumps({"url": self.url, **remote.identity}), encoding="utf-8")

    def _have(self):
        """How many bytes there are to go on from: none if it is not known of what."""
        return self.part.stat().st_size if self._read_record() and self.part.is_file() else 0

    def _read_record(self):
        """What the part is a part of; nothing where that is not this URL, or where the server told nothing."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        whole = isinstance(record, dict) and record.keys() == {"url", "size", "etag", "changed"}
        return record if whole and record.pop("url") == self.url and any(record.values()) else {}

    def _forget(self):
        self.part.unlink(missing_ok=True)
        self.record.unlink(missing_ok=True)


def differs(found, before):
    """Whether two identities contradict each other in what both tell."""
    return any(found[key] != before[key] for key in found if found[key] and before[key])


def check_room(folder, needed):
    """SourceError where a folder's disk has fewer bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError(f"it needs {gigabytes(needed)} of disk in {folder}, where {gigabytes(free)} are free")
