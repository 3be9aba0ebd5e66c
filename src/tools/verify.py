"""Whether stored files are what was written: `python -m src inspect --verify PATH`.

PATH is a data file, whose cache is compared sample by sample, or a folder: all runs, searches and presets below it are
read as the commands read them. log.txt is for people and has no checksum.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from src.data.cache import describe, load, places, sha256_of
from src.data.rows import CHUNK
from src.errors import UserError, printable
from src.files import MOST_LOG, open_file, read_text
from src.presets import read_preset
from src.report.read_runs import check_follows, check_run_folder, read_predictions
from src.runs.decisions import read_decisions
from src.runs.run_folder import load_checkpoint, load_last, read_json, read_metrics, read_result
from src.sealed import unseal


def verify(path: Path) -> Iterator[str]:
    """A line for each stored thing, whole or damaged; UserError at the end where one is damaged or there is none."""
    checks = checks_of(path)
    if not checks:
        raise UserError(f"{printable(path)} has nothing to verify; give a data file that has a cache, or a folder of "
                        "runs or searches")
    damaged = 0
    for found, check in checks.items():
        try:
            check()
            yield f"{printable(found)} is whole"
        except UserError as error:
            damaged += 1
            yield str(error)
    if damaged:
        raise UserError(f"{damaged} of {len(checks)} damaged in {printable(path)}; the lines above say which")


def checks_of(path: Path) -> dict[Path, Callable[[], object]]:
    """What is stored in a path, and the check of each, which raises UserError."""
    if path.is_file():
        return {folder: partial(check_cache, folder, path) for folder in places(path, None)
                if (folder / "arrays").is_dir()}
    runs = {found.parent for name in ("config.json", "result.json") for found in path.rglob(name)}
    kinds = {"journal.log": check_journal, "preset.json": read_preset}
    return {run: partial(check_run, run) for run in sorted(runs)} | {
        found: partial(check, found) for name, check in kinds.items() for found in sorted(path.rglob(name))}


def check_cache(folder: Path, path: Path) -> None:
    """UserError unless the cache in a folder is what was made of a data file, to its last sample."""
    try:
        with open_file(path) as file:
            converted = load(folder, describe(path, file))
            if converted is None or converted.sha256 != sha256_of(file):
                raise UserError(f"{printable(folder)} is damaged, or not of what {printable(path)} is now; delete "
                                "it, and the next run converts the file again")
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read: {error}") from error
    for split in converted.splits.values():
        for rows in split.features.values():
            for first in range(0, len(rows), CHUNK):
                rows[first:first + CHUNK]


def check_run(folder: Path) -> None:
    """UserError unless all files of a run can be read, and its result follows from its predictions."""
    if (folder / "config.json").is_file():
        read_json(folder / "config.json")
    if load_last(folder) or (folder / "metrics.jsonl").is_file():
        check_run_folder(folder)
        read_metrics(folder)
        load_checkpoint(folder)
    if result := read_result(folder):
        check_run_folder(folder)
        read_predictions(folder / "predictions.npz")
        check_follows(result, folder)
        read_decisions(folder)


def check_journal(path: Path) -> None:
    """UserError unless each line of a search's journal is what was written."""
    try:
        for line in read_text(path, MOST_LOG).splitlines():
            unseal(json.loads(line))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)} is damaged: {printable(error)}") from error
