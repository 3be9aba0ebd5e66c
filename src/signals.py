"""A run that is asked to stop, by Ctrl-C, kill or a batch system, ends after its step."""

import os
import signal

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}  # SLURM sends USR1 ahead of the time limit


class Stopped(SystemExit):
    """A run was asked to stop, and has. `code` is what its process exits with."""

    def __init__(self, number):
        super().__init__(EXIT_CODES[number])
        self.signal = signal.Signals(number).name


class StopSignals:
    """`with StopSignals() as stop:` keeps the first signal for `stop.check()` to find; a second exits at once."""

    def __init__(self):
        self._received = None
        self._handlers = {}

    def __enter__(self):
        self._handlers = {number: signal.signal(number, self._receive) for number in EXIT_CODES}
        return self

    def __exit__(self, *error):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self._received is not None:
            os._exit(EXIT_CODES[number])
        self._received = number
        os.write(2, b"# stopping after this step; a second signal stops at once\n")

    def check(self):
        """Stopped, if a signal has come."""
        if self._received is not None:
            raise Stopped(self._received)
