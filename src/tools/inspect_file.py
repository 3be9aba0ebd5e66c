"""What a data file holds, and whether main.py takes it: `python -m src inspect FILE`.

With --picture OUT.png it also draws the three streams of one sample, as training would see them. The file is mapped and
passed through in chunks, so it may be of any size; nothing of it is run or kept. --verify is in src/tools/verify.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from src.data.asked import compare
from src.data.cache import convert, read_file, sha256_of
from src.data.conversion import to_front
from src.data.file_kinds import read_pickle
from src.data.formats import MODALITY_KEYS, SPLITS, RawSplit, chunks_of, is_numeric, read_layout
from src.data.safe_pickle import release_pages
from src.data.specs import DatasetSpec, find_spec, hinted_by_name, owner_of, told_by_path
from src.dataset import check_splits
from src.errors import Parser, UserError, command, printable
from src.files import open_file, replacing
from src.options import count
from src.report.drawing import STYLE, draw_streams
from src.report.escapes import drawn_text
from src.tasks import Task
from src.tasks.choice import ANYTHING, Asked, Choice, choose
from src.tasks.flags import add_label_flags, asked_by
from src.tools.verify import verify

SHOWN_IDS, SHOWN_LABELS = 3, 20
NOT_FINITE: dict[str, Callable] = {"nan": np.isnan, "+inf": np.isposinf, "-inf": np.isneginf}


@dataclass(frozen=True)
class Found:
    """A data file that could be read, and what is known of it apart from its content."""

    path: Path
    raw: Any  # the content of its pickle
    sha256: str
    spec: DatasetSpec
    aligned: bool
    protocol: str | None = None  # None where it has no layout that is known
    splits: dict[str, RawSplit] = field(default_factory=dict)  # empty where it has no layout that is known
    fault: str | None = None  # then says why
    asked: Asked = ANYTHING
    choice: Choice | None = None  # the task, None where it cannot be told


def find(path: Path, dataset: str | None, aligned: bool, asked: Asked = ANYTHING) -> Found:
    """Read a file as the data set of this name, or as the one that its path or hash names; UserError if that fails."""
    if not path.is_file():
        files = ", ".join(sorted(file.name for file in path.glob("*.pkl")))
        kind = "a folder" if path.is_dir() else "a pipe or device" if path.exists() else "missing"
        raise UserError(f"{path} is {kind}; name a data file"
                        + (f", as {files}" if files else ""))
    try:
        with open_file(path) as file:
            raw, sha256 = read_pickle(file, path), sha256_of(file)
    except (UserError, OSError) as error:
        read_file(path, None, check=lambda splits: None)  # says it as main.py does
        raise UserError(f"{path} is damaged; main.py would take what an earlier run kept of it") from error
    told, told_aligned = told_by_path(path)
    spec = find_spec(dataset) if dataset else (
        told or owner_of(sha256) or hinted_by_name(path) or DatasetSpec(path.stem, path.stem)
    )
    found = Found(path, raw, sha256, spec, aligned or bool(told_aligned), asked=asked)
    try:
        protocol, splits = read_layout(raw, path)
    except UserError as error:
        return replace(found, fault=str(error))
    found = replace(found, protocol=protocol, splits=splits)
    try:
        return replace(found, choice=choose(splits["train"].labels, asked, spec.tasks, spec.known_by, "train labels"))
    except UserError:
        return found  # `refusal` says it


def report(found: Found) -> Iterator[str]:
    layout = f"{found.protocol}'s layout" if found.protocol else "no layout that is known"
    yield f"{found.path}: {found.path.stat().st_size:,} bytes, SHA-256 {found.sha256}, {layout}"
    if not isinstance(found.raw, dict):
        yield f"it is a {type(found.raw).__name__}, not a dict of splits"
        return
    for name, arrays in found.raw.items():
        if isinstance(arrays, dict) and name in SPLITS:
            yield f"{name}"
            yield from split_lines(arrays, found.splits.get(name), found.choice and found.choice.task)
        else:
            yield f"{printable(name)}: {kind_of(arrays)}, not used"
    if found.splits:
        yield from shared_ids(found)
    if found.choice:
        yield str(found.choice)


def split_lines(arrays: dict, split: RawSplit | None, task: Task | None) -> Iterator[str]:
    """The lines about a split, whose RawSplit is None where the file has no layout that is known."""
    width = max(map(len, map(printable, arrays)), default=0)
    for key, value in arrays.items():
        line = f"  {printable(key):<{width}}  {kind_of(value)}"
        if key in MODALITY_KEYS and is_numeric(value) and value.ndim == 3 and value.size:
            line += f"; {stream_text(value, split.lengths.get(key) if split else None)}"
        elif key in ("labels", "regression_labels"):
            line += f"; {label_text(split.labels, task)}" if split else ""
        elif key == "id" and value is not None:
            line += f"; {id_text(split.ids)}" if split else ""
        elif key not in ("text_bert", "audio_lengths", "vision_lengths"):
            line += ", not used"
        yield line
    if arrays.get("id") is None:
        yield "  no id: samples are numbered"


def kind_of(value: Any) -> str:
    """A value's type and size, as '686 x 50 x 300 float32' or 'a list of 3'."""
    if isinstance(value, np.ndarray):
        return f"{' x '.join(map(str, value.shape)) or 'a single'} {value.dtype}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def stream_text(array: np.ndarray, lengths: np.ndarray | None) -> str:
    """Padding, lengths and numbers that are not finite of sequences (N, T, d). With `lengths` (N,), which count the
    steps before it, the padding is behind.
    """
    chunk_steps: list[np.ndarray] = []
    padding, not_finite = 0, dict.fromkeys(NOT_FINITE, 0)
    for rows in chunks_of(array):
        chunk = array[rows]
        real = (chunk != 0).any(axis=2)
        if lengths is not None:
            real &= np.arange(chunk.shape[1]) < lengths[rows, None]
        chunk_steps.append(
            np.where(real.any(axis=1), chunk.shape[1] - real[:, ::-1].argmax(axis=1) - real.argmax(axis=1), 0))
        padding += np.sum(~real)
        for name, is_so in NOT_FINITE.items():
            not_finite[name] += np.sum(is_so(chunk))
        release_pages(array)
    steps = np.concatenate(chunk_steps)
    return (
        f"padding {100 * padding / np.prod(array.shape[:2]):.1f} %{'' if lengths is None else ' behind'}; "
        f"steps: median {np.median(steps):g}, most {steps.max()}; {np.sum(steps == 0)} empty; "
        + ", ".join(f"{number} {name}" for name, number in not_finite.items())
    )


def label_text(labels: np.ndarray, task: Task | None) -> str:
    """How often each label occurs; each number, where the task cannot be told or does not fit."""
    try:
        counted = task.label_counts(labels) if task else {}
    except (UserError, ValueError):
        counted = {}
    if not counted:
        counted = {f"{x:g}": n for x, n in zip(*np.unique(labels, return_counts=True), strict=True)}
    counts = [f"{name}: {number}" for name, number in counted.items()]
    return ", ".join([*counts[:SHOWN_LABELS], *(["..."] if len(counts) > SHOWN_LABELS else [])])


def id_text(ids: list[str]) -> str:
    """Whether ids are unique, and the first of them."""
    again = len(ids) - len(set(ids))
    return f"{f'{again} REPEATED' if again else 'unique'}; {', '.join(map(printable, ids[:SHOWN_IDS]))}, ..."


def shared_ids(found: Found) -> Iterator[str]:
    """A line for each pair of splits that share ids."""
    named = [name for name in SPLITS if found.raw[name].get("id") is not None]
    for i, one in enumerate(named):
        for other in named[i + 1:]:
            if shared := sorted(set(found.splits[one].ids) & set(found.splits[other].ids)):
                yield f"LEAKAGE: {len(shared)} ids are in {one} and in {other}, as {printable(shared[0])}"


def refusal(found: Found) -> tuple[str | None, list[str]]:
    """The error with which main.py would refuse the file, or None; and lines about its guesses and changes."""
    if found.spec.make:
        return f"{found.path} is not read: main.py makes {found.spec.name} itself; give the file another name", []
    if found.fault:
        return found.fault, []
    try:
        guesses = compare(found.splits, found.spec, found.aligned, found.path, found.sha256)
        check_splits(found.splits, found.spec, found.aligned, found.path, found.asked)
        _, notes = convert(found.splits, found.path, pass_through)
    except UserError as error:
        return str(error), []
    return None, [*(f"main.py says: {guess}" for guess in guesses), *(f"main.py changes: {note}" for note in notes)]


def pass_through(name: str, shape: tuple[int, ...], chunks: Iterable[np.ndarray]) -> None:
    """Keep nothing of an array."""
    for _ in chunks:
        pass


def draw(found: Found, split: str, sample: int, out: Path) -> None:
    raw = found.splits[split]
    if sample >= len(raw.ids):
        raise UserError(f"--sample {sample}: {split} has the samples 0 to {len(raw.ids) - 1}")
    streams = {}
    for key in MODALITY_KEYS:
        with np.errstate(over="ignore"):
            stream = raw.features[key][sample:sample + 1].astype(np.float32)
        streams[key] = (to_front(stream, raw.lengths[key][[sample]]) if key in raw.lengths else stream)[0]
    label = " ".join(f"{number:g}" for number in raw.labels[sample].flat)
    with drawn_text(**STYLE):
        figure = draw_streams(f"{found.path.name}, {split} sample {sample}\n{raw.ids[sample]}, label {label}", streams)
    try:
        with replacing(out) as temporary:
            figure.savefig(temporary, format=out.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise UserError(f"--picture {out} cannot be written: {error}") from error


@command
def main(argv: Sequence[str] | None) -> None:
    parser = Parser(prog="python -m src inspect", description="What a data file holds, and whether main.py takes it.")
    parser.add_argument("file", metavar="FILE", type=Path, help="a data file of MulT's or MMSA's layout")
    parser.add_argument("--verify", action="store_true", help="compare what is stored with its checksums: the cache of "
                        "FILE, or if that is a folder all runs and searches below")
    parser.add_argument("--dataset", metavar="NAME", help="the data set that it should be, if its name does not tell")
    parser.add_argument("--aligned", action="store_true", help="it should be aligned, if its name does not tell")
    parser.add_argument("--picture", metavar="OUT.png", type=Path, help="draw the streams of a sample")
    parser.add_argument("--split", choices=SPLITS, help="of the sample (default: test)")
    parser.add_argument("--sample", type=count(0), metavar="I", help="its number, from 0 (default: 0)")
    add_label_flags(parser)
    arguments = parser.parse_args(argv)
    if arguments.picture is None and (arguments.split, arguments.sample) != (None, None):
        raise UserError("--split and --sample are for --picture OUT.png; add it or leave them out")
    if arguments.verify:
        for line in verify(arguments.file):
            print(line)
        return
    asked, typed = asked_by(arguments)
    found = find(arguments.file, arguments.dataset, arguments.aligned, asked)
    for line in report(found):
        print(line)
    if arguments.picture and found.splits:
        draw(found, arguments.split or "test", arguments.sample or 0, arguments.picture)
        print(f"picture in {arguments.picture}")
    reason, notes = refusal(found)
    if reason:
        raise UserError(reason)
    for note in notes:
        print(note)
    print(f"main.py takes it: --dataset {found.spec.name} --data_path {found.path}"
          + (" --aligned" if found.aligned else "") + typed)
