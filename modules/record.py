"""How a forward pass hands out what the model decides, to those who ask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

Decisions = dict[str, dict[str, Tensor]]  # {kind: {name of the module: values}}
KINDS = ("gates", "alphas", "attention")


class Record(NamedTuple):
    """The decisions that a forward pass fills, seen from the module of a name. Kinds that are no keys are left out."""

    decisions: Decisions
    name: str = ""

    @classmethod
    def into(cls, decisions: Decisions | None) -> Record:
        """Of an empty dictionary all KINDS are filled, else those that are its keys; without one, none."""
        if decisions is None:
            return OFF
        if not decisions:
            decisions.update({kind: {} for kind in KINDS})
        return cls(decisions)

    def wants(self, kind: str) -> bool:
        """Whether values of a kind are asked for."""
        return kind in self.decisions

    def of(self, name: str) -> Record:
        """The same record, seen from a module inside this one."""
        return Record(self.decisions, f"{self.name}.{name}".lstrip(".")) if self.decisions else self

    def write(self, kind: str, values: Tensor) -> None:
        """Keep what this module has decided."""
        if self.wants(kind):
            values = values.detach()
            self.decisions[kind][self.name] = values.float() if values.dtype == torch.bfloat16 else values


OFF = Record({})
