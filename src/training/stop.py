"""A run that is asked to stop, by Ctrl-C, kill or a batch system, ends after its step."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from src.errors import run_command
from src.training.distributed import is_first, largest, process_count

EXIT_CODES = {  # SLURM sends USR1 ahead of the time limit; HUP comes when a terminal is closed; Windows has neither
    getattr(signal, name): code
    for name, code in {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 143, "SIGHUP": 129}.items() if hasattr(signal, name)
}


class StopRequested(SystemExit):
    """A signal asked a run to stop. `code` is the exit code of its process, `where` says how far it had come."""

    where = ""

    def __init__(self, number: int):
        super().__init__(EXIT_CODES[signal.Signals(number)])
        self.signal = signal.Signals(number).name

    def say(self, argv: list[str]) -> int:
        """Tell the user of main.py how to resume; returns the exit code."""
        if is_first():
            again = [*argv, "--resume"] if "--resume" not in argv else argv
            several = ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", str(process_count()))]
            command = shlex.join([*(several if process_count() > 1 else ["python"]), "main.py", *again])
            print(f"# stopped by {self.signal}{self.where}; to resume: {command}", file=sys.stderr)
        return EXIT_CODES[signal.Signals[self.signal]]


class StopSignals(ExitStack):
    """`with StopSignals() as stop:` keeps the first signal for `stop.check()` to find; a second exits at once."""

    received: int | None = None

    def __enter__(self) -> "StopSignals":
        self.enter_context(handled_by(self._receive))
        return self

    def _receive(self, number: int, frame: Any) -> None:
        if self.received is not None:
            os._exit(EXIT_CODES[signal.Signals(number)])
        self.received = number
        if is_first():
            os.write(2, b"# stopping after this step; a second signal stops at once\n")

    def check(self) -> None:
        """Raise StopRequested if a signal has come, to this process or to another of the same run."""
        if number := largest(self.received or 0):
            raise StopRequested(number)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """A signal raises StopRequested at any place in the block, as Ctrl-C raises KeyboardInterrupt."""
    def interrupt(number: int, frame: Any) -> None:
        raise StopRequested(number)
    with handled_by(interrupt):
        yield


def run_resumable(command: Callable[[list[str]], int | None], argv: Sequence[str] | None) -> int:
    """Run a command that continues where it was stopped; returns its exit code, that of the signal if one has come."""
    try:
        with interrupted_by_signals():
            return run_command(command, sys.argv[1:] if argv is None else list(argv))
    except StopRequested as stopped:
        print(f"# stopped by {stopped.signal}; the same command continues with the runs that are left", file=sys.stderr)
        return int(stopped.code or 0)


@contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Let a handler have the signals that come in the block, but not those that are ignored, as after nohup.

    Only a main thread can have signals: in another one nothing is done.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in EXIT_CODES
              if in_main_thread and signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler_of_before in before.items():
            signal.signal(number, handler_of_before)
