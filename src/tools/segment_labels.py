"""Labelled segments of videos, and the columns of a label file that are wanted."""

from dataclasses import dataclass, replace

import numpy as np

from src.data.specs import MOSEI_EMOTIONS
from src.errors import UserError, printable
from src.tasks.choice import Asked
from src.tools.computational_sequence import SEGMENT_ID, ComputationalSequence

DECIMALS = 4  # of the seconds in an id
PUBLISHED = {  # {name of a sequence of CMU-MOSEI: its columns}, of standard_datasets/CMU_MOSEI/README.md of the SDK
    "All Labels": ("sentiment", *MOSEI_EMOTIONS),
    "Emotion Labels": MOSEI_EMOTIONS,
}


@dataclass(frozen=True)
class Segment:
    """A labelled stretch of a video, in seconds."""

    video: str
    number: int
    start: float
    end: float
    values: tuple[float, ...]  # of the wanted columns

    @property
    def id(self) -> str:
        """Its id in sequences of segments."""
        return f"{self.video}[{self.number}]"

    @property
    def fields(self) -> tuple[str, str, str]:
        """Its id in MulT's files: video, start, end."""
        return self.video, str(round(self.start, DECIMALS)), str(round(self.end, DECIMALS))

    def clipped(self, low: float, high: float) -> "Segment":
        """The same with values from low to high."""
        return replace(self, values=tuple(min(max(value, low), high) for value in self.values))


@dataclass(frozen=True)
class Columns:
    """The wanted columns of a label file: their places from 0, their names, none where the file and the SDK name none,
    all columns in words, and whether a value above 0 means yes, the others no.
    """

    places: tuple[int, ...]
    names: tuple[str, ...]
    listing: str
    yes_no: bool

    @property
    def flags(self) -> dict[str, str]:
        """The flags about labels that main.py needs for them, by name."""
        task = "emotions" if self.yes_no else "scores" if len(self.places) > 1 else None
        usable = task and self.names and not set("():;|,") & set("".join(self.names))
        found = {"task": task, "label_names": ",".join(self.names) if usable else None}
        return {name: value for name, value in found.items() if value}

    def array(self, segments: list[Segment]) -> np.ndarray:
        """The labels of a data file: (N, K, 2) one-hot of no and yes, or (N, 1, K) scores."""
        values = np.array([segment.values for segment in segments], dtype=np.float64).reshape(-1, len(self.places))
        if self.yes_no:
            return np.stack([values <= 0, values > 0], axis=2).astype(np.float32)
        return values.astype(np.float32)[:, None, :]


def wanted_columns(labels: ComputationalSequence, wanted: list[str] | None, asked: Asked) -> Columns:
    """The columns that `wanted` names, by name or by number from 1; all there is to choose where there is one column,
    and the sentiment of the SDK's "All Labels". UserError, with the columns, where the choice is open. MOSEI's emotions
    are yes or no unless the flags in `asked` want scores.
    """
    if not labels.ids:
        raise UserError(f"{labels.path} has no entries; get it again")
    labels.entry(next(iter(labels.ids)))
    width = labels.width or 0
    known = next((names for names in (labels.columns, PUBLISHED.get(labels.name, ())) if len(names) == width), ())
    names = known or tuple(f"column {i + 1}" for i in range(width))
    listing = ", ".join(f"{i + 1} {printable(name)}" if known else str(i + 1) for i, name in enumerate(names))
    if wanted is None and width == 1:
        wanted = ["1"]
    if wanted is None and known[:1] == ("sentiment",):
        wanted = ["sentiment"]
    if wanted is None:
        raise UserError(f"{labels.path} ({printable(labels.name)}) has {width} columns of labels: {listing}; choose by "
                        "--label_columns, by name or number")
    by_name = {name.lower(): i for i, name in enumerate(names)} | {str(i + 1): i for i in range(width)}
    if unknown := [name for name in wanted if name.lower() not in by_name]:
        raise UserError(f"--label_columns {printable(unknown[0])}: {labels.path} ({printable(labels.name)}) has the "
                        f"columns {listing}")
    places = tuple(dict.fromkeys(by_name[name.lower()] for name in wanted))
    chosen = tuple(names[i] for i in places)
    open_task = asked.task is None and asked.scale is None
    if open_task and set(chosen) & set(MOSEI_EMOTIONS) and not set(chosen) <= set(MOSEI_EMOTIONS):
        raise UserError(f"--label_columns {' '.join(wanted)} mixes emotions, which are yes or no, with scores; leave "
                        "some out, or give --task scores to take all as numbers")
    yes_no = asked.task == "emotions" or (open_task and set(chosen) <= set(MOSEI_EMOTIONS))
    return Columns(places, chosen if known else (), listing, yes_no)


def labelled_segments(labels: ComputationalSequence, columns: Columns) -> dict[str, list[Segment]]:
    """{video: its Segments} of a sequence of labels. A segment has the number of its id, or its place in its video."""
    segments: dict[str, list[Segment]] = {}
    for entry in labels.ids:
        features, intervals = labels.entry(entry)
        video, number = match.groups() if (match := SEGMENT_ID.fullmatch(entry)) else (entry, None)
        if number is not None and len(features) != 1:
            raise UserError(f"{labels.path}, {printable(entry)} has {len(features)} labels; a segment has one")
        for i, (row, (start, end)) in enumerate(zip(features, intervals, strict=True)):
            own = i if number is None else int(number)
            values = tuple(float(row[place]) for place in columns.places)
            segments.setdefault(video, []).append(Segment(video, own, float(start), float(end), values))
    return segments
