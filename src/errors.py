"""What a user can mend, and how a command says so."""

import argparse
import os
import sys

PIPE_CLOSED = 141  # as the shell calls a process that SIGPIPE ended


class UserError(Exception):
    """Bad input. Its message is one line that says what is wrong and how to mend it; main.py ends with code 2."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises its complaint instead of printing usage and leaving."""

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help lists the flags)")


def run_command(command, *arguments):
    """Call a command; returns its exit code, 0 where it has none, and 2, with one line, where the input is bad."""
    try:
        code = command(*arguments) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        return say(error)
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def say(error):
    """Tell the user of a UserError; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def printable(text):
    """What a file holds, fit for a message: one line, with anything a terminal would act on escaped."""
    return str(text).encode("unicode_escape").decode()


if __name__ == "__main__":
    import src  # noqa: F401, which names the command to type
