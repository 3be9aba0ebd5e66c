"""How a model declares its own options, and the values that a flag or a search may give them.

A class of the registry (src/models.py) may have four attributes: `options`, a tuple of Option; `ablations`,
{name: (title, flags)}; `defaults`, settings in place of those of `paper` and `stock`; `presets`, {name: settings}. This
file imports nothing of the project, so that the file of any model can use it.
"""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MOST_LAYERS = 1000
TABLE_5 = "spans MulT's Table 5"
OUR_CHOICE = "our choice"


def count(minimum: int, maximum: int = 2**32 - 1) -> Callable[[str], int]:
    """An argparse type: a whole number from minimum to maximum."""
    def whole_number(text: str) -> int:
        if not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text} is out of range; it must be from {minimum} to {maximum}")
        return int(text)
    return whole_number


def probability(text: str) -> float:
    """An argparse type: a dropout rate."""
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a dropout rate; it must be 0 or more and below 1")
    return float(text)


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)


@dataclass(frozen=True)
class Choices:
    """The search range of a setting that takes one of a few values."""

    values: tuple
    source: str

    def including(self, value: Any) -> "Choices":
        return self if value in self.values else replace(self, values=(*self.values, value))

    def where(self, fits: Callable[[Any], bool]) -> "Choices":
        return replace(self, values=tuple(filter(fits, self.values)))

    def draw(self, trial: Any, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """The search range of a number: whole numbers, steps of `step`, or a logarithmic scale, from `low` to `high`."""

    low: float
    high: float
    source: str
    step: float | None = None
    log: bool = False

    def including(self, value: float) -> "Range":
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    def draw(self, trial: Any, name: str) -> float:
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else round(value, 6)  # 0.3, not 0.30000000000000004

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step else "") + " (log)" * self.log


@dataclass(frozen=True)
class Option:
    """An argument of a model's class that is also a flag of main.py. Its default is that of the class.

    With `switches`, {"--flag --alias": (value, help)}, the flags take no value and set that of the option.
    """

    name: str
    help: str = ""
    type: Callable[[str], Any] = str  # as argparse takes it
    switches: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    search: Choices | Range | None = None  # None: a search leaves the option as it is

    @property
    def all_switches(self) -> dict[str, tuple[Any, str]]:
        """`switches`, and the opposite of one that sets True or False."""
        values = [value for value, _ in self.switches.values()]
        opposites = {True: (f"--no_{self.name}", False), False: (f"--{self.name}", True)}
        if len(values) != 1 or values[0] not in opposites:
            return dict(self.switches)
        flag, value = opposites[values[0]]
        return {**self.switches, flag: (value, f"the opposite of {next(iter(self.switches))}")}

    def check(self, value: Any, default: Any) -> None:
        """ValueError unless the option can have a value."""
        if self.switches:
            constants = [constant for constant, _ in self.switches.values()]
            check_value(self.name, value, bool if isinstance(default, bool) else object, choices=[default, *constants])
        else:
            check_value(self.name, value, type(default), self.type)


CAUSAL_MASK = Option("attn_mask", switches={
    "--causal_mask": (True, "hide later steps from attention where lengths agree (the default, but of PMR)"),
    "--no_causal_mask --no_attn_mask --attn_mask": (
        False, "do not; --attn_mask switches the mask OFF, as in the original"),
})


def check_value(name: str, value: Any, kind: Any, convert: Callable[[str], Any] = str,
                choices: Collection | None = None) -> None:
    """ValueError unless a value is of the kind and, if not None, one of the choices and fit for the argparse type."""
    if not is_kind(value, kind) or (choices and value not in (None, *choices)):
        raise ValueError(f"{name} is {value!r}")
    try:
        if value is not None:
            convert(str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name}: {error}") from error


def is_kind(value: Any, kind: Any) -> bool:
    """Whether a value is of a type or of a union of types; a bool is no number, and a whole number is a float."""
    if isinstance(value, bool):
        return kind in (bool, bool | None)
    return isinstance(value, kind if kind is not float else int | float)


if __name__ == "__main__":
    import src  # noqa: F401, which names the command to type
