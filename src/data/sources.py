"""What is known of where the data files can be had (src/data/sources.json), and checking what came against it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from src.data.progress import note

SOURCES = Path(__file__).parent / "sources.json"


class SourceError(Exception):
    """A source did not give its file; the message is part of a line that says why."""


@dataclass(frozen=True)
class Facts:
    """Size in bytes and SHA-256 of a file, None where unknown. What others measured is a warning where it differs."""

    size: int | None = None
    sha256: str | None = None
    measured_by: str = "third party"
    provenance: str = ""

    def check_size(self, size, name):
        """Compare a size with the one that is known."""
        if self.size is not None and size is not None and size != self.size:
            self._differs(f"{name} has {size:,} bytes, not the {self.size:,} expected")

    def check(self, path, name):
        """Compare a file with what is known; `name` stands for it in messages."""
        size = path.stat().st_size
        self.check_size(size, name)
        if self.sha256 is not None and self.size in (None, size):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256:
                self._differs(f"{name} has SHA-256 {found}, not the {self.sha256} expected")

    def _differs(self, difference):
        if self.measured_by == "us":
            raise SourceError(difference)
        note(f"WARNING: {difference}. What was expected is one third party's measurement ({self.provenance}): the file "
             "may be a newer edition, or a damaged or forged one")


@dataclass(frozen=True)
class Source:
    """A place that holds data files: the URL of one or of a zip of them, a Google Drive folder, or a zip at hand."""

    name: str
    holds: tuple  # the names of data files
    facts: Facts
    url: str | None = None
    saved_as: str | None = None  # the file of the URL
    drive_folder: str | None = None  # its id
    archive: Path | None = None  # the zip at hand


def read_sources():
    """The sources in the order that they are tried, and {name of a data file: its Facts}."""
    known = json.loads(SOURCES.read_text(encoding="utf-8"))
    sources = []
    for entry in known["sources"]:
        facts = {name: entry.pop(name) for name in ("size", "sha256", "measured_by") if name in entry}
        sources.append(Source(holds=tuple(entry.pop("holds")), facts=Facts(provenance=entry.pop("provenance"), **facts),
                              **entry))
    return sources, {name: Facts(**facts) for name, facts in known["files"].items()}
