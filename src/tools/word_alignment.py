"""Averages of streams over words, equal to those of CMU-MultimodalSDK's `align` with an averaging collapse function.

The SDK compares each word with each row of its video, which takes hours for MOSEI. Here a video takes a few numpy
calls. The rules are the SDK's (mmsdk/mmdatasdk/dataset/dataset.py): a row of a stream counts for a word if they overlap
by more than EPSILON; the mean is not weighted; a word shorter than EPSILON is dropped; a word without rows gets zeros.
"""

from collections import Counter
from functools import lru_cache

import numpy as np

from src.tools.segment_labels import Segment
from src.tools.timeline import Stream, Timeline, entries

EPSILON = 1e-5  # seconds, the SDK's
ROUNDING = 1e-3  # seconds by which a row may leave its own word, where intervals were stored as float32


def overlapping(words: np.ndarray, intervals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (word, row) that overlap by more than EPSILON, as two arrays (P,) in the order of words.

    `words` (n, 2) and `intervals` (t, 2) are in seconds and in any order.
    """
    words, intervals = words.astype(np.float64), intervals.astype(np.float64)
    order = np.argsort(intervals[:, 0], kind="stable")
    order = order[(intervals[:, 1] - intervals[:, 0] > EPSILON)[order]]
    starts, ends = intervals[order].T
    first = np.searchsorted(np.maximum.accumulate(ends), words[:, 0] + EPSILON, side="right")
    last = np.searchsorted(starts, words[:, 1] - EPSILON, side="left")
    counts = np.where(words[:, 1] - words[:, 0] > EPSILON, np.maximum(last - first, 0), 0)
    of_word = np.repeat(np.arange(len(words)), counts)
    rows = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    real = ends[rows] - words[of_word, 0] > EPSILON
    return of_word[real], order[rows[real]]


def means(features: np.ndarray, of_word: np.ndarray, rows: np.ndarray, words: int) -> np.ndarray:
    """The mean of each word's rows of `features` (t, d), zeros where it has none: (words, d) float64.

    `of_word` and `rows` (P,) are pairs in the order of words.
    """
    averages = np.zeros((words, features.shape[1]))
    found, first, counts = np.unique(of_word, return_index=True, return_counts=True)
    if len(found):
        averages[found] = np.add.reduceat(features[rows].astype(np.float64), first, axis=0) / counts[:, None]
    return averages


def averaged(words: np.ndarray, stream: Timeline, claimed: np.ndarray | None) -> tuple[np.ndarray, int]:
    """A stream over words (n, 2), as (n, d), and the number of words that have none of its rows.

    `claimed` (t,) is the word that each row has by its id or its place, -1 for none. It is believed if the rows lie
    within these words, or if no row lies in any word, so that the intervals tell nothing. Otherwise time decides.
    """
    of_word, rows = overlapping(words, stream.intervals)
    if claimed is not None and len(claimed):
        by_claim = np.flatnonzero(claimed >= 0)
        by_claim = by_claim[np.argsort(claimed[by_claim], kind="stable")]
        inside = stream.intervals[by_claim] - words[claimed[by_claim]]
        if not len(rows) or (len(by_claim) and inside[:, 0].min() >= -ROUNDING and inside[:, 1].max() <= ROUNDING):
            of_word, rows = claimed[by_claim], by_claim
    return means(stream.features, of_word, rows, len(words)), len(words) - len(np.unique(of_word))


class WordAligned:
    """Finds the streams of a segment, one row a word of text in each. `told` counts what is dropped or replaced."""

    def __init__(self, streams: dict[str, Stream], told: Counter):
        self.streams, self.told = streams, told
        self.words = lru_cache(maxsize=1)(self._words)  # one video has many segments, one after the other

    def __call__(self, segment: Segment) -> dict[str, np.ndarray | None]:
        """{modality key: (words of the segment, d), None where the text has neither video nor segment}.

        A word is in every segment that it overlaps by more than EPSILON.
        """
        own = self.streams["text"].own(segment)
        if own is not None:
            return self._own(segment, own)
        streams, intervals = self.words(segment.video)
        inside, _ = overlapping(intervals, np.array([[segment.start, segment.end]]))
        return {key: rows[inside] for key, rows in streams.items()}

    def _own(self, segment: Segment, text: Timeline) -> dict[str, np.ndarray | None]:
        """The streams of a segment whose own entry in the text has a row a word."""
        found: dict[str, np.ndarray | None] = {"text": self._finite("text", text).features}
        for key, stream in self._others():
            own = stream.own(segment)
            here = own if own is not None else stream.rows(segment.video)
            by_place = np.arange(len(text)) if own is not None and len(own) == len(text) else None
            found[key] = self._averaged(key, text.intervals, here, by_place)
        return found

    def _words(self, video: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """All streams averaged over the n words of a video, {modality key: (n, d)}, and the words' seconds (n, 2)."""
        text = self.streams["text"].whole(video)
        if text is None:
            return {key: np.zeros((0, stream.width)) for key, stream in self.streams.items()}, np.zeros((0, 2))
        text = self._finite("text", text)
        if self.streams["text"].counts_words:
            text = one_row_a_word(text)
        long_enough = text.intervals[:, 1] - text.intervals[:, 0] >= EPSILON
        self.told[f"left out: words shorter than {EPSILON:g} s"] += int((~long_enough).sum())
        text = text.take(np.flatnonzero(long_enough))
        text = text.take(np.argsort(text.intervals[:, 0], kind="stable"))
        found = {"text": text.features}
        for key, stream in self._others():
            rows = stream.rows(video)
            both = stream.counts_words and self.streams["text"].counts_words
            by_id = places(rows.numbers, text.numbers) if both else None
            found[key] = self._averaged(key, text.intervals, rows, by_id)
        return found, text.intervals

    def _others(self) -> list[tuple[str, Stream]]:
        return [(key, stream) for key, stream in self.streams.items() if key != "text"]

    def _averaged(self, key: str, words: np.ndarray, rows: Timeline, claimed: np.ndarray | None) -> np.ndarray:
        features, missing = averaged(words, self._finite(key, rows), claimed)
        self.told[f"{key}: words without a step, set to 0"] += missing
        return features

    def _finite(self, key: str, rows: Timeline) -> Timeline:
        broken = ~np.isfinite(rows.features)
        if not broken.any():
            return rows
        self.told[f"{key}: numbers that are not finite, set to 0"] += int(broken.sum())
        return Timeline(np.where(broken, 0, rows.features), rows.intervals, rows.numbers)


def one_row_a_word(rows: Timeline) -> Timeline:
    """Entries of words, each with the mean of its rows and the interval that they cover."""
    if not len(rows):
        return rows
    order = np.argsort(rows.numbers, kind="stable")
    numbers, intervals = entries(rows.numbers, rows.intervals)
    of_word = np.searchsorted(numbers, rows.numbers[order])
    return Timeline(means(rows.features, of_word, order, len(numbers)), intervals, numbers)


def places(numbers: np.ndarray, of: np.ndarray) -> np.ndarray:
    """The place of each of `numbers` (t,) in `of` (n,), -1 where it is not there."""
    place = {number: i for i, number in enumerate(of.tolist())}
    return np.array([place.get(number, -1) for number in numbers.tolist()], dtype=np.int64)
