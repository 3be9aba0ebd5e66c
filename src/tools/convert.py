"""Pack computational sequences (.csd) of CMU-MultimodalSDK into a data file of MulT's format:

    python -m src convert --text WORDS.csd --audio AUDIO.csd --vision VISION.csd --labels LABELS.csd \\
        --folds FOLDS.json --out data/NAME_data_noalign.pkl

A sample is a labelled segment. Unaligned, it takes of each stream the entry of the segment's own id, if there is one,
or else those steps of its video whose midpoint lies in the segment. With --aligned, a sample has the words of the
segment, and each stream is averaged over each word (src/tools/word_alignment.py). FOLDS names the videos of each split.
What is left out, cut or replaced is counted and printed.
"""

import pickle
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.data.formats import MODALITY_KEYS, SPLITS, read_layout
from src.data.specs import DatasetSpec, told_by_path
from src.dataset import check_splits
from src.errors import Parser, UserError, command, printable
from src.files import replacing
from src.options import count
from src.tasks import SentimentRegression
from src.tasks.choice import ANYTHING, Asked
from src.tasks.flags import add_label_flags, asked_by
from src.tools.computational_sequence import open_sequence, read_folds
from src.tools.segment_labels import Columns, Segment, labelled_segments, wanted_columns
from src.tools.timeline import Stream
from src.tools.word_alignment import WordAligned

STEPS = (50, 375, 500)  # of text, audio and vision in MulT's unaligned MOSI
ALIGNED_STEPS = 50  # of all three in MulT's aligned files
ROUNDING = 1e-4  # by which a label may leave its scale
MOST_OFF_SCALE = 0.25  # of the labels; more of them show another scale
Finder = Callable[[Segment], dict[str, np.ndarray | None]]  # the streams of a segment, by modality key


@dataclass(frozen=True)
class Job:
    """The files to pack and how: `paths` and `steps` are by modality key."""

    paths: dict[str, str]
    labels: str
    folds: str
    steps: dict[str, int]
    aligned: bool
    columns: list[str] | None  # of the labels, by name or number
    spec: DatasetSpec  # of the file that is made
    asked: Asked = ANYTHING


def pack(segments: list[Segment], find: Finder, columns: Columns, shapes: dict[str, tuple[int, int]], told: Counter,
         bar: tqdm) -> dict[str, np.ndarray]:
    """The arrays of a split that has these Segments, with zeros in front. `shapes` are (steps, width) by modality key;
    what is left out, cut or replaced is counted in `told`.
    """
    kept: list[Segment] = []
    arrays = {key: np.zeros((len(segments), *shape), dtype=np.float32) for key, shape in shapes.items()}
    for segment in segments:
        bar.update()
        found = find(segment)
        if found["text"] is None or not len(found["text"]):
            told["left out: segments without text"] += 1
            continue
        for key, features in found.items():
            steps = prepared(features, key, shapes[key][0], told)
            if steps is not None:
                arrays[key][len(kept), -len(steps):] = steps
        kept.append(segment)
    return {
        **{key: array[:len(kept)] for key, array in arrays.items()},
        "labels": columns.array(kept),
        "id": np.array([segment.fields for segment in kept]),
    }


def prepared(features: np.ndarray | None, key: str, steps: int, told: Counter) -> np.ndarray | None:
    """A stream of a segment in float32, finite, and no longer than `steps`: its end, as the SDK keeps it."""
    if features is None or not len(features):
        told[f"{key}: segments that have none"] += 1
        return None
    if len(features) > steps:
        told[f"{key}: segments cut to their last {steps} steps"] += 1
    with np.errstate(over="ignore"):
        features = features[-steps:].astype(np.float32)
    if broken := np.sum(~np.isfinite(features)):
        told[f"{key}: numbers that are not finite, set to 0"] += int(broken)
    return np.nan_to_num(features, nan=0, posinf=0, neginf=0)


def convert(job: Job) -> tuple[dict[str, dict[str, np.ndarray]], Counter, Columns]:
    """The dict of a data file out of .csd files, what was counted on the way, and the columns of the labels.
    UserError where the files do not fit each other.
    """
    told: Counter = Counter()
    folds = read_folds(job.folds)
    with ExitStack() as stack:
        labels, *opened = (stack.enter_context(open_sequence(path)) for path in (job.labels, *job.paths.values()))
        columns = wanted_columns(labels, job.columns, job.asked)
        segments = labelled_segments(labels, columns)
        for video in segments.keys() - set().union(*folds.values()):
            told["left out: segments of videos in no fold"] += len(segments[video])
        of_split = {split: [s for video in folds[split] for s in segments.get(video, ())] for split in SPLITS}
        told["videos of the folds without labels"] = sum(v not in segments for of in folds.values() for v in of)
        for split, here in of_split.items():
            if not here:
                raise UserError(f"{job.labels} labels no video of {split} in {job.folds}: are both of one data set? "
                                f"Its first video is {printable(next(iter(segments), 'missing'))}")
        of_split = with_label(of_split, columns, job, told)
        streams = {key: Stream(sequence, segments) for key, sequence in zip(job.paths, opened, strict=True)}
        check_in_use(streams, segments)
        for key, stream in streams.items():
            told[f"{key}: videos whose ids count words, joined in time"] = (
                len(stream.sequence.numbered) if stream.counts_words else 0)
        shapes = {key: (job.steps[key], stream.width) for key, stream in streams.items()}
        find: Finder = WordAligned(streams, told) if job.aligned else (
            lambda segment: {key: stream.inside(segment) for key, stream in streams.items()})
        with tqdm(total=sum(map(len, of_split.values())), unit="segment", disable=not sys.stderr.isatty()) as bar:
            splits = {split: pack(here, find, columns, shapes, told, bar) for split, here in of_split.items()}
    if empty := [split for split, arrays in splits.items() if not len(arrays["labels"])]:
        raise UserError(f"no segment of {empty[0]} has text in {job.paths['text']} and a label in {job.labels}")
    return splits, told, columns


def with_label(of_split: dict[str, list[Segment]], columns: Columns, job: Job,
               told: Counter) -> dict[str, list[Segment]]:
    """The segments whose label is finite and on the scale of the task; UserError where many are off the scale."""
    finite = {split: [s for s in segments if np.isfinite(s.values).all()] for split, segments in of_split.items()}
    told["left out: segments without a finite label"] = count_of(of_split) - count_of(finite)
    values = np.array([value for segments in finite.values() for s in segments for value in s.values])
    scale = scale_of(job, columns, values)
    if scale is None:
        return finite
    low, high = scale
    kept = {split: [s.clipped(low, high) for s in segments
                    if low - ROUNDING <= min(s.values) and max(s.values) <= high + ROUNDING]
            for split, segments in finite.items()}
    off = count_of(finite) - count_of(kept)
    if off > MOST_OFF_SCALE * count_of(finite):
        worst = values[(values < low) | (values > high)][0]
        raise UserError(f"{job.labels} holds {worst:g}, and {off} of {count_of(finite)} segments are off the "
                        f"scale: {'the score' if job.asked.scale else 'sentiment'} goes from {low:g} to {high:g}; "
                        "give --scale LOW HIGH, or choose by --label_columns")
    told[f"left out: segments with a label off the scale {low:g} to {high:g}"] = off
    return kept


def scale_of(job: Job, columns: Columns, values: np.ndarray) -> tuple[float, float] | None:
    """The scale of scores: by flags, by the data set, or that of sentiment where labels under an unknown name may be
    below 0; None for other labels.
    """
    asked, task = job.asked, job.spec.task
    if columns.yes_no or asked.scale or asked.task not in (None, "sentiment"):
        return None if columns.yes_no else asked.scale
    if task and asked.task is None:
        return task.scale if len(columns.places) == 1 else None
    is_sentiment = asked.task or columns.names == ("sentiment",) or (len(columns.places) == 1 and (values < 0).any())
    return SentimentRegression().scale if is_sentiment else None


def count_of(of_split: dict[str, list[Segment]]) -> int:
    return sum(map(len, of_split.values()))


def check_in_use(streams: dict[str, Stream], segments: dict[str, list[Segment]]) -> None:
    """UserError unless each stream has an entry of a labelled video; afterwards its width is known."""
    for stream in streams.values():
        video = next((video for video in segments if stream.has(video)), None)
        if video is None:
            raise UserError(f"{stream.sequence.path} has none of the videos that are labelled: is it of another data "
                            "set?")
        stream.of_video(video)


def spec_of_new(out: Path, aligned: bool) -> DatasetSpec:
    """The data set that a new file is of by its name; UserError where main.py would not find it, or it is there."""
    ending = "_data.pkl" if aligned else "_data_noalign.pkl"
    spec, _ = told_by_path(out)
    if spec is None or not out.name.endswith(ending) or spec.make:
        raise UserError(f"--out {out}: main.py finds {'aligned' if aligned else 'unaligned'} data as NAME{ending}, "
                        "NAME not demo; name it so" + (", or add --aligned" if out.name.endswith("_data.pkl") else ""))
    if out.exists():
        raise UserError(f"--out {out} is there already; move it away or give another name")
    return spec


def write(splits: dict, path: Path) -> None:
    """Write a data file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            pickle.dump(splits, file, protocol=5)  # 4 would copy each array
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; see --out") from error


@command
def main(argv: Sequence[str] | None) -> None:
    parser = Parser(prog="python -m src convert", description=__doc__.split("\n\n")[0].rstrip(":") + ".")
    for key in (*MODALITY_KEYS, "labels"):
        parser.add_argument(f"--{key}", required=True, metavar="FILE.csd", help=f"the computational sequence of {key}")
    parser.add_argument("--folds", required=True, metavar="FILE", help="the ids of the videos of train, valid and test")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="NAME_data_noalign.pkl in some folder")
    parser.add_argument("--steps", nargs="+", type=count(1), metavar="STEPS",
                        help=f"longest sequences of text, audio and vision (default: {STEPS}), or one length for all; "
                             f"--aligned takes one (default: {ALIGNED_STEPS}); of longer ones the end is kept")
    parser.add_argument("--aligned", action="store_true",
                        help="average audio and vision over the words of text, and name the file NAME_data.pkl")
    parser.add_argument("--label_columns", nargs="+", metavar="COLUMN",
                        help="the labels wanted, by name or number from 1, of a file with several columns; emotions of "
                             "CMU-MOSEI become yes, above 0, or no")
    add_label_flags(parser)
    arguments = parser.parse_args(argv)
    out, aligned = arguments.out, arguments.aligned
    spec = spec_of_new(out, aligned)
    paths = {key: getattr(arguments, key) for key in MODALITY_KEYS}
    job = Job(paths, arguments.labels, arguments.folds, lengths(arguments.steps, aligned), aligned,
              arguments.label_columns, spec, asked_by(arguments)[0])
    splits, told, columns = convert(job)
    flags = dict(columns.flags)
    if columns.names == ("sentiment",) and spec.task is None and not arguments.scale:
        flags["task"] = "sentiment"
    if not spec.tasks or flags.get("task") in {task.name for task in spec.tasks}:
        for name, value in flags.items():
            setattr(arguments, name, getattr(arguments, name) or value)
    asked, typed = asked_by(arguments)
    check_splits(read_layout(splits, out)[1], spec, aligned, out, asked)
    write(splits, out)
    for split, arrays in splits.items():
        print(f"{split}: {len(arrays['labels'])} samples")
    if ", " in columns.listing:
        chosen = columns.names or [f"column {place + 1}" for place in columns.places]
        print(f"labels: {', '.join(map(printable, chosen))}; of the columns {columns.listing}"
              + ("; yes above 0" if columns.yes_no else ""))
    for what, number in sorted((+told).items()):  # those above 0
        print(f"{what}: {number}")
    print(f"{out} is written: python main.py --dataset {spec.name} --data_path {out.parent}"
          + (" --aligned" if aligned else "") + typed)


def lengths(steps: list[int] | None, aligned: bool) -> dict[str, int]:
    """{modality key: its longest sequence} of --steps; UserError where the number of lengths does not fit."""
    steps = steps or ([ALIGNED_STEPS] if aligned else list(STEPS))
    steps = steps * len(MODALITY_KEYS) if len(steps) == 1 else steps
    if len(steps) != len(MODALITY_KEYS) or (aligned and len(set(steps)) > 1):
        wanted = "one length with --aligned" if aligned else "one or three lengths"
        raise UserError(f"--steps takes {wanted}; there are {' '.join(map(str, steps))}")
    return dict(zip(MODALITY_KEYS, steps, strict=True))
