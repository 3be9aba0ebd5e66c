"""Fetch the files of data sets from the first source of src/data/sources.json that gives them.

    python -m src download --dataset mosi
    python -m src download --dataset all --data_path /big/disk
    python -m src download --dataset mosei --archive Archive.zip                   downloaded by hand
    python -m src download --dataset mosi --url https://mirror.example/Archive.zip

A file that is there is left as it is. The same command resumes an interrupted download.
"""

import argparse
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from src.data.fetch import Facts, SourceError, check_room, fetch, find_in_folder, note, progress_bar
from src.data.specs import KNOWN, DatasetSpec, find_spec
from src.data.zip64 import extract, find_members
from src.errors import Parser, UserError, run_command
from src.files import wait_for

SOURCES = Path(__file__).parent / "sources.json"
UNKNOWN = Facts()
ALIGNMENTS = {"both": (True, False), "aligned": (True,), "unaligned": (False,)}
PICKLE_STARTS = (b"\x80", b"(", b"}")  # protocols 2 and up, and a dict in 0 and 1


@dataclass(frozen=True)
class Source:
    """A place that holds data files: the URL of one, of a zip of them or of a Google Drive folder, or a zip at hand."""

    name: str
    holds: tuple[str, ...]  # the names of data files
    facts: Facts = UNKNOWN  # of the file at the URL
    url: str = ""
    saved_as: str = ""  # the file of the URL
    archive: Path | None = None  # the zip at hand
    seen_working: str | None = None  # when and by whom; None: nobody says so


def read_sources() -> tuple[list[Source], dict[str, Facts]]:
    """The sources in the order that they are tried, and {name of a data file: its Facts}."""
    known = json.loads(SOURCES.read_text(encoding="utf-8"))
    sources = []
    for entry in known["sources"]:
        facts = {name: entry.pop(name) for name in ("size", "sha256", "measured_by", "provenance") if name in entry}
        sources.append(Source(holds=tuple(entry.pop("holds")), facts=Facts(**facts), **entry))
    return sources, {name: Facts(**facts) for name, facts in known["files"].items()}


def download(specs: Iterable[DatasetSpec], data_path: str | Path, alignments: Iterable[bool] = (True, False),
             url: str | None = None, archive: str | None = None) -> None:
    """Fetch the missing files of some data sets; UserError, in one line, where a file cannot be had.

    `url` or `archive`, the path of a zip, stands in for all known sources.
    """
    sources, facts = read_sources()
    specs, folder = list(specs), Path(data_path)
    files = [spec.file(folder, aligned) for spec in specs if not spec.make for aligned in alignments]
    if not files:
        note(f"{', '.join(spec.name for spec in specs)}: made in memory, nothing to fetch")
    if archive or url:
        sources = [own_source([path.name for path in files], url, archive)]
    with only_one_in(folder):
        lacking = [path for path in files if not is_there(path, facts)]
        failures: dict[str, list[str]] = {}
        for source in sources:
            wanted = [path for path in lacking if path.name in source.holds]
            if wanted:
                unseen = "" if source.seen_working else ", which nobody is known to have seen working"
                note(f"{', '.join(path.name for path in wanted)}: from {source.name}{unseen}")
                try:
                    obtain(source, folder, wanted, facts)
                except SourceError as failure:
                    note(f"{source.name}: {failure}")
                    failures.setdefault(str(failure), []).append(source.name)
            lacking = [path for path in lacking if not path.is_file()]
    if lacking:
        why = "; ".join(f"{', '.join(names)}: {failure}" for failure, names in failures.items())
        raise UserError(f"{', '.join(path.name for path in lacking)} could not be fetched into {folder} "
                        f"({why or 'no source is known'}); {next_step(sources, folder, lacking[0])}")


def own_source(names: Iterable[str], url: str | None, archive: str | None) -> Source:
    """The source that a user names, which may hold any of the files."""
    if archive:
        return Source(archive, tuple(names), archive=Path(archive), seen_working="the user's")
    url = str(url)
    saved_as = f"url-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return Source(str(urlsplit(url).hostname), tuple(names), url=url, saved_as=saved_as, seen_working="the user's")


def next_step(sources: Iterable[Source], folder: Path, path: Path) -> str:
    """The advice to a user who did not get a file."""
    source = next((source for source in sources if path.name in source.holds), None)
    if source is None:
        return "put it there, or say where it is by python -m src download and --url or --archive"
    if source.archive:
        return "give a whole archive that holds it, or leave out --archive to try the known sources"
    return (f"download {source.url} by hand, in a browser or elsewhere, save it as {folder / source.saved_as}, and "
            "give the same command again")


@contextmanager
def only_one_in(folder: Path) -> Iterator[None]:
    """Make a folder and keep other downloads out of it in the block; UserError where the disk fails the block."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / ".download.lock"
        with ExitStack() as stack:
            with suppress(OSError):  # some network file systems have no locks: nothing keeps downloads apart there
                stack.enter_context(wait_for(lock, f"another download into {folder}"))
                stack.callback(lock.unlink, missing_ok=True)
            yield
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be used: {error.strerror}") from error


def is_there(path: Path, facts: dict[str, Facts]) -> bool:
    """Whether a file is there. If it is, the user reads so, and reads of a size that is not the one expected."""
    if not path.is_file():
        return False
    expected, size = facts.get(path.name, UNKNOWN).size, path.stat().st_size
    if path.name not in facts:
        note(f"{path} is there already; where that is not what is wanted, move it away or name another --data_path")
    elif expected in (None, size):
        note(f"{path} is there already")
    else:
        note(f"WARNING: {path} is there, but with {size:,} bytes, not {expected:,}; to fetch it, move it away")
    return True


def obtain(source: Source, folder: Path, wanted: list[Path], facts: dict[str, Facts]) -> None:
    """Get files from a source: from a zip, which is kept since more of it may be wanted another time, or the one file.

    SourceError where the source does not give them, UserError and OSError where this machine fails. Either may leave
    files that are whole, but nothing half-written under the name of one.
    """
    if source.archive:
        unpack(source.archive, wanted, facts)
        return
    fetched = folder / source.saved_as
    was_there = fetched.exists()
    if was_there:
        note(f"{fetched} is there and is used; delete it to fetch it again")
    else:
        unpacked = sum(facts.get(path.name, UNKNOWN).size or 0 for path in wanted if path != fetched)
        known = facts.get(fetched.name, source.facts)
        url = find_in_folder(source.url, fetched.name) if "/drive/folders/" in source.url else source.url
        put_in_place(fetch(url, fetched, known, unpacked), fetched, known, ("zip", "pickle"))
    if kind_of_file(fetched) == "zip":
        unpack(fetched, wanted, facts)
        if not was_there:
            note(f"{fetched} is kept, in case more of it is wanted; delete it if not")
    elif fetched not in wanted:
        path = which_of(wanted, fetched, facts)
        put_in_place(fetched, path, facts.get(path.name, UNKNOWN), ("pickle",))


def unpack(archive: Path, wanted: list[Path], facts: dict[str, Facts]) -> None:
    members = find_members(archive, {path.name for path in wanted})
    failures = [f"{archive} has no {path.name}" for path in wanted if path.name not in members]
    for path in wanted:
        if path.name not in members:
            continue
        member, known = members[path.name], facts.get(path.name, UNKNOWN)
        part = path.with_name(path.name + ".unpacking")  # a name that no download resumes
        try:
            check_room(path.parent, known.size or member.file_size)
            with progress_bar(f"unpacking {path.name}", member.compress_size) as bar:
                extract(archive, member, part, bar.update, known.size or 0)
            known.check(part, path.name)
            part.replace(path)
        except SourceError as failure:
            failures.append(str(failure))
        except OSError as error:
            raise UserError(f"{path} cannot be unpacked: {error.strerror}") from error
        finally:
            part.unlink(missing_ok=True)
    if failures:
        raise SourceError("; ".join(failures))


def put_in_place(fetched: Path, path: Path, facts: Facts, kinds: tuple[str, ...]) -> None:
    """Give a file that was fetched under another name its own. If it is not the expected file, delete it."""
    try:
        if kind_of_file(fetched, path.name) not in kinds:
            raise SourceError(f"what came is not {path.name}")
        facts.check(fetched, path.name)
    except SourceError:
        fetched.unlink()
        raise
    fetched.replace(path)


def which_of(wanted: list[Path], fetched: Path, facts: dict[str, Facts]) -> Path:
    """The one of some files that was fetched: the only one, or that of its size."""
    size = fetched.stat().st_size
    fitting = [path for path in wanted if len(wanted) == 1 or facts.get(path.name, UNKNOWN).size == size]
    if len(fitting) != 1:
        raise SourceError(f"{fetched} is one data file, and might be {' or '.join(path.name for path in wanted)}: say "
                          "which by --alignment aligned or unaligned")
    return fitting[0]


def kind_of_file(path: Path, name: str = "") -> str:
    """"zip" or "pickle", by the content; SourceError where it is neither, or is not whole."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(-min(1, len(start)), 2)
        end = file.read()
    if start == b"PK" and zipfile.is_zipfile(path):
        return "zip"
    if start[:1] in PICKLE_STARTS and end == b".":
        return "pickle"
    raise SourceError(f"{name or path.name} is neither a whole zip nor a whole pickle")


def web_address(text: str) -> str:
    """An argparse type: a URL that HTTP can fetch."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # ValueError where it is no number
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a web address ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not a web address; it must start with https:// or http://")
    return text


def run(argv: Sequence[str] | None) -> None:
    """Fetch what the command line asks for."""
    parser = Parser(prog="python -m src download", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="mosi, mosei, iemocap or all")
    parser.add_argument("--data_path", default="data", metavar="DIR", help="folder of the data files (default: data)")
    parser.add_argument("--alignment", choices=ALIGNMENTS, default="both")
    own = parser.add_mutually_exclusive_group()
    own.add_argument("--url", type=web_address, help="fetch from there alone: a zip of data files, or one of them")
    own.add_argument("--archive", metavar="FILE", help="take the files out of this zip; nothing is fetched")
    asked = parser.parse_args(argv)
    of_mult = [spec for spec in KNOWN if spec.paper and not spec.make]
    specs = of_mult if asked.dataset == "all" else [find_spec(asked.dataset)]
    download(specs, asked.data_path, ALIGNMENTS[asked.alignment], asked.url, asked.archive)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return run_command(run, argv)
    except KeyboardInterrupt:
        note("interrupted; the same command resumes the download")
        return 130
