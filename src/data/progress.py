"""What a long transfer tells its user, on stderr."""

import sys

from tqdm import tqdm


def note(line):
    """Tell the user, above any progress bar."""
    tqdm.write(f"# {line}", file=sys.stderr)


def gigabytes(size):
    """A size in bytes, for a message."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def progress_bar(title, total, done=0):
    """A bar with speed and time left that counts bytes; where stderr is no terminal it moves twice a minute."""
    seconds = 0.1 if sys.stderr.isatty() else 30
    return tqdm(desc=title, total=total, initial=done, unit="B", unit_scale=True, mininterval=seconds,
                maxinterval=max(seconds, 10))
