"""What a search tries: for each setting its range, and whence that range is.

A range is declared for every data set alike; where the settings that a search starts from lie outside, it is widened by
their value, so that they can be the first trial. The width and its heads are drawn as a pair, since heads must divide
the width.
"""

from dataclasses import dataclass, replace

from src.errors import UserError

TABLE_5 = "spans MulT's Table 5"
OUR_CHOICE = "our choice"
SEPARATOR = " x "


@dataclass(frozen=True)
class Choices:
    """One of a few values."""

    values: tuple
    source: str

    def including(self, value):
        """These choices and one more."""
        return self if value in self.values else replace(self, values=(*self.values, value))

    def where(self, fits):
        """Those of the choices for which `fits(value)`."""
        return replace(self, values=tuple(filter(fits, self.values)))

    def draw(self, trial, name):
        """A value of an Optuna trial."""
        return trial.suggest_categorical(name, self.values)

    def __str__(self):
        return ", ".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """A number from `low` to `high`: a whole one, one of `step`, or one of a logarithmic scale."""

    low: float
    high: float
    source: str
    step: float | None = None
    log: bool = False

    def including(self, value):
        """This range up or down to a value."""
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    def draw(self, trial, name):
        """A value of an Optuna trial."""
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high)
        value = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else round(value, 6)  # 0.3, not 0.30000000000000004

    def __str__(self):
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step else "") + " (log)" * self.log


WIDTH = ("embed_dim", "num_heads")  # drawn together, as "40 x 8"
PAIR = SEPARATOR.join(WIDTH)
DROPOUT = Range(0.0, 0.5, f"{TABLE_5} (.1 to .3) and MMSA's settings (0 to .5)", step=0.05)
KERNEL = Choices((1, 3, 5), f"{TABLE_5} and MMSA's settings")
SHARED = {
    PAIR: Choices(
        ("20 x 5", "30 x 5", "30 x 6", "40 x 8", "40 x 10", "50 x 10", "60 x 10"),
        "40 x 8 and 40 x 10 are MulT's Table 5, 30 x 5 its default, 30 x 6 and 50 x 10 MMSA's; the others our choice",
    ),
    "nlevels": Range(2, 6, f"{OUR_CHOICE}, around MulT's Table 5 (4) and default (5)"),
    "attn_dropout": DROPOUT,
    "attn_dropout_a": DROPOUT,
    "attn_dropout_v": DROPOUT,
    "relu_dropout": DROPOUT,
    "embed_dropout": DROPOUT,
    "res_dropout": DROPOUT,
    "out_dropout": DROPOUT,
    "kernel_l": KERNEL,
    "kernel_a": KERNEL,
    "kernel_v": KERNEL,
    "batch_size": Choices((16, 24, 32, 64, 128), f"{TABLE_5} (16, 32, 128), with MulT's default (24)"),
    "lr": Range(2e-4, 5e-3, f"{OUR_CHOICE}, around MulT's Table 5 (1e-3, 2e-3) and MMSA's settings (5e-4, 2e-3)",
                log=True),
    "clip": Choices((0.8, 1.0), TABLE_5),
}
OF_MODEL = {
    "PMR": {  # none of its hyper-parameters are public
        "message_dim": Choices((4, 8, 16, 32), OUR_CHOICE),
        "message_rank": Choices((1, 2, 4), OUR_CHOICE),
        "readout_layers": Range(1, 3, OUR_CHOICE),
        "pool": Choices(("last", "mean"), OUR_CHOICE),
        "residual": Choices((True, False), OUR_CHOICE),
    },
}


def search_space(settings, fixed, samples):
    """{name: Choices or Range} of a search that starts from Settings, without the `fixed` names and without batches of
    more than `samples`. UserError where nothing is left.
    """
    space = {}
    declared = SHARED | OF_MODEL.get(settings.model, {})
    declared["batch_size"] = declared["batch_size"].where(lambda size: size <= samples)
    declared[PAIR] = declared[PAIR].where(lambda pair: all(
        getattr(settings, name) == value for name, value in split_pair(pair).items() if name in fixed
    ))
    for name, values in declared.items():
        if not set(name.split(SEPARATOR)) <= set(fixed):
            space[name] = values.including(start(settings, name))
    if not space:
        raise UserError("there is nothing to search: every setting of the search space is given by a flag")
    return space


def split_pair(choice):
    """'40 x 8' -> {"embed_dim": 40, "num_heads": 8}"""
    return dict(zip(WIDTH, map(int, choice.split(SEPARATOR)), strict=True))


def start(settings, name):
    """The value of Settings for a name of the space."""
    values = [getattr(settings, part) for part in name.split(SEPARATOR)]
    return values[0] if len(values) == 1 else SEPARATOR.join(map(str, values))


def draw(space, trial):
    """{setting: value} of an Optuna trial, which gives a value that it was asked for before again."""
    drawn = {}
    for name, values in space.items():
        value = values.draw(trial, name)
        drawn |= split_pair(value) if SEPARATOR in name else {name: value}
    return drawn
