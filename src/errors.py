"""What a user can mend."""


class UserError(Exception):
    """Bad input. Its message is one line that says what is wrong and how to mend it; main.py ends with code 2."""
