"""What a user can mend, and how a command says so."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps

LONGEST = 5000  # characters of a line that a file's words may fill
PIPE_CLOSED = 141  # as the shell calls a process that SIGPIPE ended


class UserError(Exception):
    """Bad input. Its message is one line that says what is wrong and how to mend it; main.py ends with code 2."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises its complaint instead of printing usage and leaving."""

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help lists the flags)")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse, but ~ is the home folder also where no shell says so, as in --out=~/tables."""
        given = sys.argv[1:] if args is None else args
        expanded = [re.sub("^(--[^=]*=|)(~(?:/.*)?)$", lambda found: found[1] + os.path.expanduser(found[2]), text)
                    for text in given]
        return super().parse_known_args(expanded, namespace)


def run_command(command, *arguments):
    """Call a command; returns its exit code, 0 where it has none, and 2, with one line, where the input is bad."""
    prepare_console()
    try:
        try:
            code = command(*arguments) or 0
        except SystemExit:  # of --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return code
    except UserError as error:
        return say(error)
    except OSError as error:
        if not is_of_console(error):
            place = f" {error.filename}" if error.filename else ""
            return say(f"{error.strerror or error}:{place or ' a file cannot be read or written'}")
        with suppress(OSError):  # Python itself writes there once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `| head` has read enough
            return PIPE_CLOSED
        return say(f"the console cannot be written: {error.strerror or error}; files are not to blame")


def command(function: Callable[[Sequence[str] | None], int | None]) -> Callable[..., int]:
    """The `main(argv)` of a command, which `run_command` calls: as a decorator of the function that does its work."""
    @wraps(function)
    def main(argv: Sequence[str] | None = None) -> int:
        return run_command(function, argv)
    return main


def prepare_console():
    """Make a console that is closed one that takes everything, and one of any encoding escape what it cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, until the process ends
        with suppress(AttributeError, OSError):  # something stands in for it
            getattr(sys, name).reconfigure(errors="backslashreplace")


def is_of_console(error):
    """Whether an OSError is of the console: a pipe that nobody reads, or one that refuses what it still has to show."""
    try:
        print(end="", flush=True)
    except OSError:
        return True
    return isinstance(error, BrokenPipeError)


def say(error):
    """Tell the user of a UserError; returns the exit code."""
    line = "".join(c if c.isprintable() else printable(c) for c in f"error: {error}"[:LONGEST])
    with suppress(OSError):  # nobody can be told
        print(line, file=sys.stderr)
    return 2


def printable(text):
    """What a file holds, fit for a message: one line, with anything a terminal would act on escaped."""
    return str(text).encode("unicode_escape").decode()


if __name__ == "__main__":
    import src  # noqa: F401, which names the command to type
