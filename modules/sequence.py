"""What the blocks of this package pass to each other: a batch of sequences that know their steps and their padding.

Only the front of a sequence is ever cut, and its last step always stays. Lengths are Python numbers, so that no GPU is
waited for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """A part of a sequence, of which the last `kept` of `length` steps are left."""

    length: int
    kept: int
    timed: bool = True  # False: its steps have no order in time, and no causal mask is between them and others


class Sequence(NamedTuple):
    """A batch of sequences, each the whole or the end of one, or several joined in time."""

    x: Tensor  # (B, T, d)
    steps: Tensor  # (T,) long: the number of each step in the uncut sequence, from 0
    padding: Tensor | None = None  # (B, T) bool, True where a step has no position of its own; None: all have one
    hidden: Tensor | None = None  # (B, T) bool, True where a step is not attended to; None: all are attended to
    segments: tuple[Segment, ...] = ()  # the parts that are joined here: one, unless `join` made it

    @classmethod
    def of(cls, x: Tensor, padding: Tensor | None = None, cut: int = 0) -> Sequence:
        """One segment: x (B, T, d) are the steps from `cut` on, and `padding` (B, T) marks some of them."""
        length = cut + x.size(1)
        return cls(x, torch.arange(cut, length, device=x.device), padding, None, (Segment(length, x.size(1)),))

    @property
    def length(self) -> int:
        """The steps of the uncut sequence."""
        return sum(segment.length for segment in self.segments)

    @property
    def is_cut(self) -> bool:
        """Whether steps are missing."""
        return any(segment.kept < segment.length for segment in self.segments)

    @property
    def ends(self) -> list[int]:
        """The place in T of each segment's last step."""
        return [end - 1 for end in accumulate(segment.kept for segment in self.segments)]

    def on(self, x: Tensor) -> Sequence:
        """The same steps with other features, (B, T, d)."""
        return self._replace(x=x)

    def last_steps(self, of: Iterable[int]) -> Sequence:
        """The last steps of some segments, given by their number, as the targets of an attention."""
        ends = [(p, self.ends[p]) for p in of]
        x = torch.cat([self.x.narrow(1, end, 1) for _, end in ends], dim=1)
        steps = torch.cat([self.steps.narrow(0, end, 1) for _, end in ends])
        return Sequence(x, steps, segments=tuple(self.segments[p]._replace(kept=1) for p, _ in ends))

    def kept(self, values: Tensor, dim: int) -> Tensor:
        """Of values for every uncut step, those for the steps that are here."""
        if not self.is_cut:
            return values
        ends = accumulate(segment.length for segment in self.segments)
        parts = [values.narrow(dim, end - s.kept, s.kept) for s, end in zip(self.segments, ends, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def padding_mask(features: Tensor) -> Tensor:
    """The steps of (B, T, d_m) whose features are all 0, as (B, T) bool, True where a step is padding.

    Such steps are the front padding, interior gaps (a face out of view) and wholly empty streams alike.
    """
    return (features == 0).all(dim=-1)


def first_real_steps(padding: Tensor) -> Tensor:
    """The first step that padding (B, T) does not mark, as (B,): the last step where it marks all."""
    return torch.where(padding.all(dim=1), padding.size(1) - 1, padding.to(torch.uint8).argmin(dim=1))


def join(sequences: Iterable[Sequence]) -> Sequence:
    """One sequence after the other in time."""
    parts = list(sequences)
    starts = accumulate((part.length for part in parts), initial=0)
    return Sequence(
        torch.cat([part.x for part in parts], dim=1),
        torch.cat([part.steps + start for part, start in zip(parts, starts, strict=False)]),
        _join_masks(parts, [part.padding for part in parts]), _join_masks(parts, [part.hidden for part in parts]),
        tuple(segment for part in parts for segment in part.segments),
    )


def _join_masks(parts: list[Sequence], masks: list[Tensor | None]) -> Tensor | None:
    if all(mask is None for mask in masks):
        return None
    return torch.cat([part.x.new_zeros(part.x.shape[:2], dtype=torch.bool) if mask is None else mask
                      for part, mask in zip(parts, masks, strict=True)], dim=1)


@functools.lru_cache(maxsize=256)
def causal_counts(target: tuple[Segment, ...], source: tuple[Segment, ...],
                  device: torch.device | None = None) -> Tensor:
    """How many steps of each source segment a target step sees, of those that are here: (T_t, S) int32.

    Step t of target segment p sees step s of source segment q where s <= t + |T_p - T_q|, in uncut steps of a segment,
    and all of it where one of them has no time.
    """
    return torch.cat([torch.stack([
        torch.arange(p.length - p.kept, p.length, dtype=torch.int32, device=device)
        .add((abs(p.length - q.length) if p.timed and q.timed else q.length) + 1 - (q.length - q.kept)).clamp(0, q.kept)
        for q in source
    ], dim=1) for p in target])


@functools.lru_cache(maxsize=64)
def causal_steps(target: tuple[Segment, ...], source: tuple[Segment, ...],
                 device: torch.device | None = None) -> Tensor:
    """Which source steps a target step sees by `causal_counts`: (T_t, T_s) bool."""
    counts = causal_counts(target, source, device).split(1, dim=1)
    return torch.cat([torch.arange(q.kept, device=device) < count for q, count in zip(source, counts, strict=True)], 1)


@functools.lru_cache(maxsize=64)
def window_range(length: int, window: int, causal: bool, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Of the steps that each step t of a sequence sees of its own, the first, and the one after the last: (T, 1) int32.

    These are t - W < s <= t where `causal`, else |t - s| < W.
    """
    t = torch.arange(length, dtype=torch.int32, device=device).unsqueeze(1)
    return (t - window + 1).clamp(min=0), (t + (1 if causal else window)).clamp(max=length)


class Mask:
    """Which source steps a target step sees: of each segment the first `counts`, without those that are `hidden`.

    hidden: (B, T_s) bool or None. counts: (T_t, S) int32 for the S segments of the source, or None: all.
    With a `window`, target and source are the same segment, of which a step sees those from `firsts` (T, 1) on.
    """

    def __init__(self, target: Sequence, source: Sequence, causal: bool, window: int = 0) -> None:
        self.hidden, self.causal, self.target, self.source = source.hidden, causal, target.segments, source.segments
        self.window = window
        self.device = source.steps.device
        self.may_hide_all = source.hidden is not None or source.is_cut
        self._dense: tuple[Tensor, Tensor | None] | None = None

    @property
    def firsts(self) -> Tensor | None:
        return self._range()[0] if self.window else None

    @property
    def counts(self) -> Tensor | None:
        if self.window:
            return self._range()[1]
        return causal_counts(self.target, self.source, self.device) if self.causal else None

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Two bool tensors, made once: seen (B or 1, 1, T_t or 1, T_s), and blind (B or 1, 1, T_t or 1, 1).

        `blind` marks the target steps that see nothing, None if there are none. `seen` marks all steps for them, so
        that a softmax stays finite.
        """
        if self._dense is None:
            parts = [] if self.hidden is None else [~self.hidden[:, None, None]]  # (B, 1, 1, T_s)
            if self.window:
                (first, end), s = self._range(), torch.arange(self.source[0].kept, device=self.device)
                parts.append(((first <= s) & (s < end))[None, None])  # (1, 1, T, T)
            elif self.causal:
                parts.append(causal_steps(self.target, self.source, self.device)[None, None])  # (1, 1, T_t, T_s)
            seen = functools.reduce(torch.logical_and, parts)
            blind = ~seen.any(dim=-1, keepdim=True) if self.may_hide_all else None
            self._dense = seen if blind is None else seen | blind, blind
        return self._dense

    def _range(self) -> tuple[Tensor, Tensor]:
        return window_range(self.source[0].kept, self.window, self.causal, self.device)


def mask(target: Sequence, source: Sequence, causal: bool = False, window: int = 0) -> Mask | None:
    """The mask of attention from target to source; None where everything is seen.

    `causal` is MulT's mask for each pair of a target segment and a source segment: it hides the source steps more than
    |T_p - T_q| after the target step. It is causal only where the lengths agree. A `window`, of a sequence that attends
    to itself, leaves the W steps up to each where `causal`, else those less than W steps away; 0 leaves all.
    """
    causal = causal and any(p.timed for p in target.segments) and any(q.timed for q in source.segments)
    window = window if window < source.x.size(1) else 0
    return Mask(target, source, causal, window) if causal or window or source.hidden is not None else None
