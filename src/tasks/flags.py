"""The flags about labels, of main.py and of the commands that read data files."""

import argparse
import shlex
from typing import Any

from src.errors import UserError
from src.options import positive
from src.tasks.choice import KINDS, Asked


def label_name(text: str) -> str:
    """An argparse type: names with commas between, that a log and a table can show."""
    if not all(name and name == name.strip() and name.isprintable() and not set(name) & set("():;|")
               for name in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} are not names; leave out empty ones, and any of ( ) : ; |")
    return text


def limit(text: str) -> str:
    """An argparse type: finite numbers with commas between."""
    for number in text.split(","):
        if not abs(float(number)) < float("inf"):
            raise argparse.ArgumentTypeError(f"{number} is not a finite number")
    return text


def weight(text: str) -> str:
    """An argparse type: "balanced", or positive numbers with commas between."""
    for number in () if text == "balanced" else text.split(","):
        positive(number)
    return text


class Joined(argparse.Action):
    """Several values of a flag, stored as one text with commas between."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None,
                 ) -> None:
        setattr(namespace, self.dest, ",".join(values))


LABEL_FLAGS: dict[str, dict[str, Any]] = {  # as argparse takes them
    "task": {"help": "the meaning of the labels, where they do not show it", "choices": KINDS},
    "label_names": {"help": "names of the scores, emotions or classes, in the order of the file", "type": label_name,
                    "nargs": "+", "action": Joined, "metavar": "NAME"},
    "scale": {"help": "the lowest and the highest label of a score", "type": limit, "nargs": 2, "action": Joined,
              "metavar": ("LOW", "HIGH")},
    "class_weights": {"help": "weights in the loss, for skewed sets: balanced, or a number for each class (for each "
                              "yes of emotions)", "type": weight, "nargs": "+", "action": Joined, "metavar": "WEIGHT"},
}


def add_label_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags to the parser of a command, for `asked_by`."""
    for flag, options in LABEL_FLAGS.items():
        parser.add_argument(f"--{flag}", **options)


def asked_by(arguments: argparse.Namespace) -> tuple[Asked, str]:
    """The flags that were parsed, and as they are typed, each with a space before; UserError where they do not fit
    together.
    """
    given = {name: getattr(arguments, name) for name in LABEL_FLAGS}
    try:
        asked = Asked.of(**given)
    except ValueError as error:
        raise UserError(str(error)) from error
    return asked, "".join(f" --{name} {shlex.join(text.split(','))}" for name, text in given.items() if text)
