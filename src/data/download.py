"""Fetch the files of data sets from the first source of src/data/sources.json that gives them.

    python -m src download --dataset mosi
    python -m src download --dataset all --data_path /big/disk
    python -m src download --dataset mosei --archive Archive.zip                   downloaded by hand
    python -m src download --dataset mosi --url https://mirror.example/Archive.zip

A file that is there is left as it is. What was interrupted goes on where it stopped.
"""

import argparse
import hashlib
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from src.data.obtain import obtain
from src.data.progress import note
from src.data.sources import Facts, Source, SourceError, read_sources
from src.data.specs import KNOWN, find_spec
from src.errors import Parser, UserError, run_command
from src.files import wait_for

ALIGNMENTS = {"both": (True, False), "aligned": (True,), "unaligned": (False,)}


def download(specs, data_path, alignments=(True, False), url=None, archive=None):
    """Fetch what is missing of some data sets; UserError, in one line, where a file cannot be had.

    `url` or `archive`, the path of a zip, stands in for all known sources.
    """
    sources, facts = read_sources()
    folder = Path(data_path)
    files = [spec.file(folder, aligned) for spec in specs if not spec.make for aligned in alignments]
    if not files:
        note(f"{', '.join(spec.name for spec in specs)}: made in memory, nothing to fetch")
    if archive or url:
        sources = [own_source([path.name for path in files], url, archive)]
    with only_one_in(folder):
        lacking, failures = [path for path in files if not is_there(path, facts)], {}
        for source in sources:
            wanted = [path for path in lacking if path.name in source.holds]
            if wanted:
                note(f"{', '.join(path.name for path in wanted)}: from {source.name}")
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


def own_source(names, url, archive):
    """The source that a user names, which may hold any of the files."""
    if archive:
        return Source(str(archive), tuple(names), Facts(), archive=Path(archive))
    saved_as = f"url-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    return Source(urlsplit(url).hostname, tuple(names), Facts(), url=url, saved_as=saved_as)


def next_step(sources, folder, path):
    """What a user can do who did not get a file."""
    source = next((source for source in sources if path.name in source.holds), None)
    if source is None:
        return "put it there, or say where it is by python -m src download and --url or --archive"
    if source.archive:
        return "give a whole archive that holds it, or leave out --archive to try the known sources"
    return (f"download {source.url} by hand, in a browser or elsewhere, save it as {folder / source.saved_as}, and "
            "give the same command again")


@contextmanager
def only_one_in(folder):
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


def is_there(path, facts):
    """Whether a file is there; tells the user of it, and of a size that is not the one expected."""
    if not path.is_file():
        return False
    expected, size = facts.get(path.name, Facts()).size, path.stat().st_size
    if path.name not in facts:
        note(f"{path} is there already; where that is not what is wanted, move it away or name another --data_path")
    elif expected in (None, size):
        note(f"{path} is there already")
    else:
        note(f"WARNING: {path} is there, but with {size:,} bytes, not {expected:,}; to fetch it, move it away")
    return True


def web_address(text):
    """An argparse type: a URL that HTTP can fetch."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # ValueError where it is no number
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a web address ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"{text!r} is not a web address; it must start with https:// or http://")
    return text


def parse_arguments(argv):
    """The command line."""
    parser = Parser(prog="python -m src download", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="mosi, mosei, iemocap or all")
    parser.add_argument("--data_path", default="data", metavar="DIR", help="folder of the data files (default: data)")
    parser.add_argument("--alignment", choices=ALIGNMENTS, default="both")
    own = parser.add_mutually_exclusive_group()
    own.add_argument("--url", type=web_address, help="fetch from there alone: a zip of data files, or one of them")
    own.add_argument("--archive", metavar="FILE", help="take the files out of this zip; nothing is fetched")
    arguments = parser.parse_args(argv)
    of_mult = [spec for spec in KNOWN if spec.paper and not spec.make]
    arguments.specs = of_mult if arguments.dataset == "all" else [find_spec(arguments.dataset)]
    return arguments


def main(argv=None):
    """Run the command line; returns the exit code."""
    def fetch_all():
        chosen = parse_arguments(argv)
        download(chosen.specs, chosen.data_path, ALIGNMENTS[chosen.alignment], chosen.url, chosen.archive)
    try:
        return run_command(fetch_all)
    except KeyboardInterrupt:
        note("interrupted; the same command goes on where it stopped")
        return 130
