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
    """A part of a sequence in time, of which the last `kept` of `length` steps are left."""

    length: int
    kept: int


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

    def at(self, places: list[int]) -> Sequence:
        """The steps at some places in T, as the targets of an attention."""
        if places == [self.x.size(1) - 1]:
            return Sequence(self.x[:, -1:], self.steps[-1:], segments=self.segments)
        x, steps = (torch.cat([t.narrow(dim, p, 1) for p in places], dim) for t, dim in ((self.x, 1), (self.steps, 0)))
        return Sequence(x, steps, segments=self.segments)

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
        _join_masks([part.padding for part in parts]), _join_masks([part.hidden for part in parts]),
        tuple(segment for part in parts for segment in part.segments),
    )


def _join_masks(masks: list[Tensor | None]) -> Tensor | None:
    there = [mask for mask in masks if mask is not None]
    return torch.cat(there, dim=1) if len(there) == len(masks) else None


class Mask:
    """Which source steps a target step sees: the first `until`, without those that are `hidden`.

    hidden: (B, T_s) bool or None. until: (T_t,) int32 or None.
    """

    def __init__(self, target: Sequence, source: Sequence, causal: bool) -> None:
        self.hidden, self.until, self.source_len = source.hidden, None, source.x.size(1)
        if causal:
            last = target.steps + abs(target.length - source.length)  # (T_t,)
            self.until = torch.searchsorted(source.steps, last, right=True, out_int32=True)
        self.may_hide_all = source.hidden is not None or source.is_cut
        self._dense: tuple[Tensor, Tensor | None] | None = None

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Two bool tensors, made once: seen (B or 1, 1, T_t or 1, T_s), and blind (B or 1, 1, T_t or 1, 1).

        `blind` marks the target steps that see nothing, None if there are none. `seen` marks all steps for them, so
        that a softmax stays finite.
        """
        if self._dense is None:
            parts = [] if self.hidden is None else [~self.hidden[:, None, None]]  # (B, 1, 1, T_s)
            if self.until is not None:
                steps = torch.arange(self.source_len, device=self.until.device)
                parts.append((steps < self.until[:, None])[None, None])  # (1, 1, T_t, T_s)
            seen = functools.reduce(torch.logical_and, parts)
            blind = ~seen.any(dim=-1, keepdim=True) if self.may_hide_all else None
            self._dense = seen if blind is None else seen | blind, blind
        return self._dense


def mask(target: Sequence, source: Sequence, causal: bool = False) -> Mask | None:
    """The mask of attention from target to source; None where everything is seen.

    `causal` hides the source steps more than |T_t - T_s| after the target step, of uncut lengths: MulT's mask, causal
    only where the lengths agree.
    """
    return Mask(target, source, causal) if causal or source.hidden is not None else None
