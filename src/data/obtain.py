"""Get data files from one source, each under its name once it is whole and checked."""

import zipfile
from contextlib import contextmanager

from src.data.drive import fetch_from_folder
from src.data.fetch import Fetch, check_room
from src.data.progress import note, progress_bar
from src.data.sources import Facts, SourceError
from src.data.zip64 import extract, find_members
from src.errors import UserError

PICKLE_STARTS = (b"\x80", b"(", b"}")  # protocols 2 and up, and a dict in 0 and 1
UNKNOWN = Facts()


def obtain(source, folder, wanted, facts):
    """Get the files of these paths in a folder, whose Facts are known by name.

    SourceError tells what the source does not give, UserError and OSError what is wrong on this machine. Each may leave
    files that were had, but nothing half-written under the name of one.
    """
    if source.archive:
        unpack(source.archive, wanted, facts)
    elif source.drive_folder:
        for path in wanted:
            obtain_from_drive(source.drive_folder, path, facts.get(path.name, UNKNOWN))
    else:
        obtain_from_web(source, folder, wanted, facts)


def obtain_from_drive(folder_id, path, facts):
    """Get the file of that name in a Google Drive folder."""
    check_room(path.parent, facts.size or 0)
    fetched = path.with_name(f"{path.name}.drive")
    fetch_from_folder(folder_id, path.name, fetched)
    put_in_place(fetched, path, facts)


def obtain_from_web(source, folder, wanted, facts):
    """Get files from the zip, or the one file, at a URL. A zip is kept, since more may be wanted of it another time."""
    fetched = folder / source.saved_as
    was_there = fetched.exists()
    if was_there:
        note(f"{fetched} is there and is used; delete it to fetch it again")
    else:
        unpacked = sum(facts.get(path.name, UNKNOWN).size or 0 for path in wanted if path != fetched)
        Fetch(source.url, fetched, facts.get(fetched.name, source.facts), unpacked, check=kind_of_file).run()
    if kind_of_file(fetched) == "zip":
        unpack(fetched, wanted, facts)
        if not was_there:
            note(f"{fetched} is kept, in case more of it is wanted; delete it if not")
    elif fetched not in wanted:
        path = which_of(wanted, fetched, facts)
        put_in_place(fetched, path, facts.get(path.name, UNKNOWN))


def unpack(archive, wanted, facts):
    """Take files out of a zip."""
    members = find_members(archive, {path.name for path in wanted})
    failures = [f"{archive} has no {path.name}" for path in wanted if path.name not in members]
    for path in wanted:
        if path.name not in members:
            continue
        member, known = members[path.name], facts.get(path.name, UNKNOWN)
        try:
            check_room(path.parent, known.size or member.file_size)
            with appearing(path) as part, progress_bar(f"unpacking {path.name}", member.compress_size) as bar:
                extract(archive, member, part, on_bytes=bar.update)
                known.check(part, path.name)
        except SourceError as failure:
            failures.append(str(failure))
    if failures:
        raise SourceError("; ".join(failures))


@contextmanager
def appearing(path):
    """A temporary path that becomes `path` when the block ends well and is deleted when it does not."""
    part = path.with_name(path.name + ".unpacking")  # not .part, which a download would go on with
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be unpacked: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def put_in_place(fetched, path, facts):
    """Give a file that was fetched under another name its own, if it is what it should be; else delete it."""
    try:
        if kind_of_file(fetched) != "pickle":
            raise SourceError(f"what came is not {path.name}")
        facts.check(fetched, path.name)
    except SourceError:
        fetched.unlink()
        raise
    fetched.replace(path)


def which_of(wanted, fetched, facts):
    """Which of some files it is that was fetched: the only one, or that of its size."""
    size = fetched.stat().st_size
    fitting = [path for path in wanted if len(wanted) == 1 or facts.get(path.name, UNKNOWN).size == size]
    if len(fitting) != 1:
        raise SourceError(f"{fetched} is one data file, and might be {' or '.join(path.name for path in wanted)}: say "
                           "which by --alignment aligned or unaligned")
    return fitting[0]


def kind_of_file(path):
    """"zip" or "pickle", by the content; SourceError where it is neither, or is not whole."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(-min(1, len(start)), 2)
        end = file.read()
    if start == b"PK" and zipfile.is_zipfile(path):
        return "zip"
    if start[:1] in PICKLE_STARTS and end == b".":
        return "pickle"
    raise SourceError(f"{path.name} is neither a whole zip nor a whole pickle")
