"""A stream of a video in time, and the meaning of the ids "video[k]".

An entry "video" holds all steps of a video. Entries "video[k]" are of two kinds: k counts the labelled segments of the
video, as after the SDK's `align` to the labels, or its words, as after `align` to the words. Their intervals and
numbers tell them apart: most words lie in a segment of another number, and a segment's steps in their own.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from src.errors import UserError, printable
from src.tools.computational_sequence import ComputationalSequence
from src.tools.segment_labels import Segment

VIDEOS_LOOKED_AT = 50  # to learn the kind of a sequence; every other video is compared with it when it is read
LONGEST_WORD = 2  # seconds
TOUCH = 1e-3  # seconds that neighbours may share by rounding
WORDS, SEGMENTS = "words", "segments"


@dataclass
class Timeline:
    """Some steps of a video: features (t, d), intervals (t, 2) in seconds, and the number k of each one's entry (t,),
    -1 where the entry is the video's.
    """

    features: np.ndarray
    intervals: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def take(self, rows: np.ndarray) -> "Timeline":
        """The steps of these indices, in their order."""
        return Timeline(self.features[rows], self.intervals[rows], self.numbers[rows])


class Stream:
    """A sequence of a modality, read by video. `segments` are the labelled ones, {video: Segments}."""

    def __init__(self, sequence: ComputationalSequence, segments: dict[str, list[Segment]]):
        self.sequence, self.segments = sequence, segments
        self._example: dict[str, str] = {}  # {kind: the first video that shows it}
        videos = [video for video in sequence.numbered if video in segments]
        for video in videos[::max(1, len(videos) // VIDEOS_LOOKED_AT)]:
            self._note(video, self._read(video))
        self.counts_words = WORDS in self._example
        self.of_video = lru_cache(maxsize=1)(self._of_video)  # one video has many segments, one after the other

    @property
    def width(self) -> int:
        """d"""
        return self.sequence.width or 0

    def has(self, video: str) -> bool:
        return video in self.sequence.ids or video in self.sequence.numbered

    def _note(self, video: str, steps: Timeline | None) -> None:
        """Learn the kind of a video's entries; UserError where the sequence has both kinds."""
        if steps is None:
            return
        numbered = steps.numbers >= 0
        for kind in kinds(steps.numbers[numbered], steps.intervals[numbered], self.segments.get(video, [])):
            self._example.setdefault(kind, video)
        if len(self._example) > 1:
            words, segments = (printable(self._example[kind]) for kind in (WORDS, SEGMENTS))
            raise UserError(
                f"{self.sequence.path} mixes two kinds of ids: {words}[k] counts words, {segments}[k] counts labelled "
                "segments; give sequences of one kind, or check the intervals of the labels"
            )

    def _of_video(self, video: str) -> Timeline | None:
        """All steps of a video, in the order of its entries; None where it has none."""
        steps = self._read(video)
        self._note(video, steps)
        if WORDS in self._example and not self.counts_words:
            raise UserError(f"{self.sequence.path} has ids that count words in {printable(video)}, and none in the "
                            "videos that were looked at first; give sequences of one kind")
        return steps

    def _read(self, video: str) -> Timeline | None:
        entries = {-1: video} if video in self.sequence.ids else {}
        entries |= self.sequence.numbered.get(video, {})
        if not entries:
            return None
        read = [self.sequence.entry(entry) for entry in entries.values()]
        numbers = np.repeat(np.array(list(entries)), [len(features) for features, _ in read])
        features, intervals = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
        return Timeline(features, intervals, numbers)

    def own(self, segment: Segment) -> Timeline | None:
        """The steps of the entry that has the segment's id, as they are stored; None where there is none."""
        if self.counts_words or segment.number not in self.sequence.numbered.get(segment.video, {}):
            return None
        steps = self.of_video(segment.video)
        return steps.take(np.flatnonzero(steps.numbers == segment.number)) if steps else None

    def rows(self, video: str) -> Timeline:
        """The steps of a video's own entry, else those of its words or segments, else none."""
        steps = self.of_video(video)
        if steps is None:
            return Timeline(np.zeros((0, self.width)), np.zeros((0, 2)), np.zeros(0, dtype=np.int64))
        whole = np.flatnonzero(steps.numbers < 0)
        return steps.take(whole) if len(whole) else steps

    def whole(self, video: str) -> Timeline | None:
        """The steps of a video's own entry, else those of its words; None where it has neither."""
        return self.rows(video) if video in self.sequence.ids or (self.counts_words and self.has(video)) else None

    def inside(self, segment: Segment) -> np.ndarray | None:
        """The features (t, d) of a segment: those of its own entry, or else those steps of its video, in order of time,
        whose midpoint lies in it, its end excluded. None where the sequence has neither.
        """
        if (own := self.own(segment)) is not None:
            return own.features
        steps = self.whole(segment.video)
        if steps is None:
            return None
        middle = steps.intervals.mean(axis=1)
        here = np.flatnonzero((segment.start <= middle) & (middle < segment.end))
        return steps.features[here[np.argsort(middle[here], kind="stable")]]


def entries(numbers: np.ndarray, intervals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (n,) of the entries of some rows, in order, and the interval (n, 2) that the rows of each cover."""
    order = np.argsort(numbers, kind="stable")
    found, first = np.unique(numbers[order], return_index=True)
    starts, ends = intervals[order].T
    return found, np.stack([np.minimum.reduceat(starts, first), np.maximum.reduceat(ends, first)], axis=1)


def kinds(numbers: np.ndarray, intervals: np.ndarray, segments: list[Segment]) -> set[str]:
    """The kinds that a video's entries show: WORDS, SEGMENTS, both, or neither where both readings would be the same.

    `numbers` (t,) and `intervals` (t, 2) are of the entries' rows.
    """
    if not len(numbers) or not segments:
        return set()
    found, covered = entries(numbers, intervals.astype(float))
    starts, ends = covered.T
    bounds = np.array([[segment.start, segment.end] for segment in segments])
    shared = np.minimum(ends[:, None], bounds[:, 1]) - np.maximum(starts[:, None], bounds[:, 0])  # (entries, segments)
    same = found[:, None] == np.array([segment.number for segment in segments])
    own = ((shared > TOUCH) & same).any(axis=1)
    elsewhere = ~own & (shared > TOUCH).any(axis=1)
    if elsewhere.any():
        middles = np.sort((starts + ends) / 2)
        holds = np.searchsorted(middles, ends) - np.searchsorted(middles, starts)  # middles, its own among them
        return {WORDS, SEGMENTS} if (own & (holds > 2)).any() else {WORDS}
    lengths = (same * (bounds[:, 1] - bounds[:, 0])).sum(axis=1)
    covers = own.all() and np.median((ends - starts) / np.maximum(lengths, 1e-9)) > 0.5
    several = len(found) > 1 or (len(numbers) > 1 and ends[0] - starts[0] > LONGEST_WORD)
    return {SEGMENTS} if covers and several else set()
