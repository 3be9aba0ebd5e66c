"""The space of a search: for each setting its range, and the source of that range.

The ranges of shared settings stand here, and those of a model's own options with the model (src/models.py). A range is
the same for every data set; where the settings that a search starts from lie outside, it is widened by their value, so
that they can be the first trial. The width and its heads are drawn as a pair, since heads must divide the width.
"""

from collections.abc import Collection
from typing import Any

from src.errors import UserError
from src.models import options_of
from src.options import OUR_CHOICE, TABLE_5, Choices, Range
from src.settings import Settings, presettable

SEPARATOR = " x "
WIDTH = ("embed_dim", "num_heads")  # drawn together, as "40 x 8"
PAIR = SEPARATOR.join(WIDTH)
DROPOUT = Range(0.0, 0.5, f"{TABLE_5} (.1 to .3) and MMSA's settings (0 to .5)", step=0.05)
KERNEL = Choices((1, 3, 5), f"{TABLE_5} and MMSA's settings")
SHARED: dict[str, Any] = {  # Choices or Range
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

Space = dict[str, Choices | Range]


def search_space(settings: Settings, fixed: Collection[str], samples: int) -> Space:
    """The space of a search that starts from Settings, without the `fixed` names and without batches of more than
    `samples`. UserError where nothing is left.
    """
    own: dict[str, Any] = {name: option.search for name, option in options_of(settings.model).items() if option.search}
    known = set(presettable(settings.model))
    fits = {
        "batch_size": lambda size: size <= samples,
        PAIR: lambda pair: all(getattr(settings, name) == value for name, value in split_pair(pair).items()
                               if name in fixed),
    }
    space = {}
    for name, values in (SHARED | own).items():
        parts = set(name.split(SEPARATOR))
        if parts <= known and not parts <= set(fixed):
            allowed = values.where(fits[name]) if name in fits else values
            space[name] = allowed.including(start(settings, name))
    if not space:
        raise UserError("there is nothing to search: every setting of the search space is given by a flag")
    return space


def split_pair(choice: str) -> dict[str, int]:
    """'40 x 8' -> {"embed_dim": 40, "num_heads": 8}"""
    return dict(zip(WIDTH, map(int, choice.split(SEPARATOR)), strict=True))


def start(settings: Settings, name: str) -> Any:
    """The value of Settings for a name of the space."""
    recorded = settings.recorded()
    values = [recorded[part] for part in name.split(SEPARATOR)]
    return values[0] if len(values) == 1 else SEPARATOR.join(map(str, values))


def draw(space: Space, trial: Any) -> dict[str, Any]:
    """{setting: value} of an Optuna trial, which gives the same value again for a name that it has drawn before."""
    drawn: dict[str, Any] = {}
    for name, values in space.items():
        value: Any = values.draw(trial, name)
        drawn |= split_pair(value) if SEPARATOR in name else {name: value}
    return drawn
