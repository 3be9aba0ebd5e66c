"""What a user can mend, and how a command says so."""

import argparse
import sys


class UserError(Exception):
    """Bad input. Its message is one line that says what is wrong and how to mend it; main.py ends with code 2."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises its complaint instead of printing usage and leaving."""

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help lists the flags)")


def run_command(command, *arguments):
    """Call a command; returns its exit code, 0 where it has none, and 2, with one line, where the input is bad."""
    try:
        return command(*arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def printable(text):
    """What a file holds, fit for a message: one line, with anything a terminal would act on escaped."""
    return str(text).encode("unicode_escape").decode()
