"""A run that is asked to stop, by Ctrl-C, kill or a batch system, ends after its step."""

import os
import signal
from contextlib import contextmanager

EXIT_CODES = {  # SLURM sends USR1 ahead of the time limit; HUP comes when a terminal is closed
    signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGHUP: 129,
}


class StopRequested(SystemExit):
    """A run was asked to stop, and has. `code` is what its process exits with, `where` how far it had come."""

    where = ""

    def __init__(self, number):
        super().__init__(EXIT_CODES[number])
        self.signal = signal.Signals(number).name


class StopSignals:
    """`with StopSignals() as stop:` keeps the first signal for `stop.check()` to find; a second exits at once."""

    def __init__(self, silent=False):
        self.received = None
        self._silent = silent
        self._handlers = {}

    def __enter__(self):
        self._handlers = handle_with(self._receive)
        return self

    def __exit__(self, *error):
        restore(self._handlers)

    def _receive(self, number, frame):
        if self.received is not None:
            os._exit(EXIT_CODES[number])
        self.received = number
        if not self._silent:
            os.write(2, b"# stopping after this step; a second signal stops at once\n")

    def check(self):
        """StopRequested, if a signal has come."""
        if self.received is not None:
            raise StopRequested(self.received)


@contextmanager
def interrupted_by_signals():
    """StopRequested is raised wherever the process is when a signal comes, as KeyboardInterrupt is for Ctrl-C."""
    def interrupt(number, frame):
        raise StopRequested(number)
    handlers = handle_with(interrupt)
    try:
        yield
    finally:
        restore(handlers)


def handle_with(handler):
    """Let a handler take the signals, but those that are ignored, as after nohup; returns what `restore` takes."""
    return {number: signal.signal(number, handler) for number in EXIT_CODES
            if signal.getsignal(number) != signal.SIG_IGN}


def restore(handlers):
    """Give the signals back to those who had them."""
    for number, handler in handlers.items():
        signal.signal(number, handler)
