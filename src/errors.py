"""What a user can mend."""


class UserError(Exception):
    """Bad input. Its message is one line that says what is wrong and how to mend it; main.py ends with code 2."""


def printable(text):
    """What a file holds, fit for a message: one line, with anything a terminal would act on escaped."""
    return str(text).encode("unicode_escape").decode()
