"""Pack computational sequences (.csd) of CMU-MultimodalSDK into a data file of MulT's format, unaligned:

    python -m src convert --text WORDS.csd --audio AUDIO.csd --vision VISION.csd --labels LABELS.csd \\
        --folds FOLDS.json --out data/NAME_data_noalign.pkl

Nothing is aligned. A sample is a labelled segment: of each stream it takes the entry of the segment's own id, if there
is one, or else those steps of its video whose midpoint lies in the segment. FOLDS names the videos of each split. What
is left out, cut or replaced is counted and printed.
"""

import os
import pickle
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from src.data.formats import MODALITY_KEYS, SPLITS, read_layout
from src.data.specs import told_by_path
from src.dataset import check_splits
from src.errors import Parser, UserError, printable, run_command
from src.options import count
from src.tools.computational_sequence import SEGMENT_ID, ComputationalSequence, open_sequence, read_folds

STEPS = (50, 375, 500)  # of text, audio and vision in MulT's unaligned MOSI
DECIMALS = 4  # of the seconds in an id


@dataclass(frozen=True)
class Segment:
    """A labelled stretch of a video, in seconds."""

    video: str
    number: int
    start: float
    end: float
    score: float

    @property
    def id(self) -> str:
        """Its id in sequences of segments."""
        return f"{self.video}[{self.number}]"

    @property
    def fields(self) -> tuple[str, str, str]:
        """Its id in MulT's files: video, start, end."""
        return self.video, str(round(self.start, DECIMALS)), str(round(self.end, DECIMALS))


def labelled_segments(labels: ComputationalSequence) -> dict[str, list[Segment]]:
    """{video: its Segments} of a sequence of labels, whose first feature is the sentiment."""
    segments: dict[str, list[Segment]] = {}
    for entry in labels.ids:
        features, intervals = labels.entry(entry)
        video, number = match.groups() if (match := SEGMENT_ID.fullmatch(entry)) else (entry, None)
        if number is not None and len(features) != 1:
            raise UserError(f"{labels.path}, {printable(entry)} has {len(features)} labels; a segment has one")
        for i, (score, (start, end)) in enumerate(zip(features[:, 0], intervals, strict=True)):
            own = i if number is None else int(number)
            segments.setdefault(video, []).append(Segment(video, own, float(start), float(end), float(score)))
    return segments


def pack(segments: list[Segment], sequences: dict[str, ComputationalSequence], steps: dict[str, int], told: Counter,
         bar: tqdm) -> dict[str, np.ndarray]:
    """The arrays of a split that has these Segments. `sequences` and `steps` are by modality key; what is left out,
    cut or replaced is counted in `told`.
    """
    kept: list[Segment] = []
    streams: dict[str, list[np.ndarray | None]] = {key: [] for key in MODALITY_KEYS}
    for segment in segments:
        bar.update()
        found = {key: sequence.steps(segment) for key, sequence in sequences.items()}
        if not np.isfinite(segment.score):
            told["left out: segments without a finite label"] += 1
        elif found["text"] is None or not len(found["text"]):
            told["left out: segments without text"] += 1
        else:
            kept.append(segment)
            for key, features in found.items():
                streams[key].append(prepared(features, key, steps[key], told))
    return {
        **{key: in_front_of(streams[key], steps[key], sequences[key].width or 0) for key in MODALITY_KEYS},
        "labels": np.array([segment.score for segment in kept], dtype=np.float32).reshape(-1, 1, 1),
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


def in_front_of(streams: list[np.ndarray | None], steps: int, width: int) -> np.ndarray:
    """Streams (t, width) or None as one array (N, steps, width), with zeros in front."""
    array = np.zeros((len(streams), steps, width), dtype=np.float32)
    for sample, features in zip(array, streams, strict=True):
        if features is not None:
            sample[steps - len(features):] = features
    return array


def convert(paths: dict[str, str], labels_path: str, folds_path: str,
            steps: dict[str, int]) -> tuple[dict[str, dict[str, np.ndarray]], Counter]:
    """The dict of a data file out of .csd files, and what was counted on the way. `paths` and `steps` are by modality
    key. UserError where the files do not fit each other.
    """
    told: Counter = Counter()
    folds = read_folds(folds_path)
    with ExitStack() as stack:
        labels, *opened = (stack.enter_context(open_sequence(path)) for path in (labels_path, *paths.values()))
        sequences = dict(zip(paths, opened, strict=True))
        segments = labelled_segments(labels)
        for video in segments.keys() - set().union(*folds.values()):
            told["left out: segments of videos in no fold"] += len(segments[video])
        of_split = {split: [s for video in folds[split] for s in segments.get(video, ())] for split in SPLITS}
        told["videos of the folds without labels"] = sum(v not in segments for of in folds.values() for v in of)
        for split, here in of_split.items():
            if not here:
                raise UserError(f"{labels_path} labels no video of {split} in {folds_path}: are both of one data set? "
                                f"Its first video is {printable(next(iter(segments), 'missing'))}")
        check_in_use(sequences, segments)
        with tqdm(total=sum(map(len, of_split.values())), unit="segment", disable=not sys.stderr.isatty()) as bar:
            splits = {split: pack(here, sequences, steps, told, bar) for split, here in of_split.items()}
    if empty := [split for split, arrays in splits.items() if not len(arrays["labels"])]:
        raise UserError(f"no segment of {empty[0]} has text in {paths['text']} and a label in {labels_path}")
    return splits, told


def check_in_use(sequences: dict[str, ComputationalSequence], segments: dict[str, list[Segment]]) -> None:
    """UserError unless each sequence has an entry of a labelled segment; afterwards its width is known."""
    for sequence in sequences.values():
        for entry in sequence.ids:
            match = SEGMENT_ID.fullmatch(entry)
            if (match[1] if match else entry) in segments:
                sequence.entry(entry)
                break
        else:
            raise UserError(f"{sequence.path} has none of the videos that are labelled: is it of another data set?")


def write(splits: dict, path: Path) -> None:
    """Write a data file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            pickle.dump(splits, file, protocol=4)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; see --out") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def run(argv: Sequence[str] | None) -> None:
    """The command line of `python -m src convert`."""
    parser = Parser(prog="python -m src convert", description=__doc__.split("\n\n")[0].rstrip(":") + ".")
    for key in (*MODALITY_KEYS, "labels"):
        parser.add_argument(f"--{key}", required=True, metavar="FILE.csd", help=f"the computational sequence of {key}")
    parser.add_argument("--folds", required=True, metavar="FILE", help="the ids of the videos of train, valid and test")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="NAME_data_noalign.pkl in some folder")
    parser.add_argument("--steps", nargs=3, type=count(1), default=STEPS, metavar=("TEXT", "AUDIO", "VISION"),
                        help=f"longest sequences; of longer ones the end is kept (default: {STEPS})")
    arguments = parser.parse_args(argv)
    out = arguments.out
    spec, _ = told_by_path(out)
    if spec is None or not out.name.endswith("_data_noalign.pkl") or spec.make:
        raise UserError(f"--out {out}: main.py finds unaligned data as NAME_data_noalign.pkl, NAME not demo; "
                        "name it so")
    if out.exists():
        raise UserError(f"--out {out} is there already; move it away or give another name")
    paths = {key: getattr(arguments, key) for key in MODALITY_KEYS}
    splits, told = convert(paths, arguments.labels, arguments.folds, dict(zip(paths, arguments.steps, strict=True)))
    check_splits(read_layout(splits, out)[1], spec, False, out)
    write(splits, out)
    for split, arrays in splits.items():
        print(f"{split}: {len(arrays['labels'])} samples")
    for what, number in sorted(told.items()):
        if number:
            print(f"{what}: {number}")
    print(f"{out} is written: python main.py --dataset {spec.name} --data_path {out.parent}")


def main(argv: Sequence[str] | None = None) -> int:
    """Convert what the command line names; returns the exit code."""
    return run_command(run, argv)
