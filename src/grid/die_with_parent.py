"""Runs a command that gets SIGTERM when the process that started it dies, in whatever way that dies.

    python -P src/grid/die_with_parent.py PID COMMAND...       PID is that of the process that starts this

A run that outlived its grid would hold its folder, and train a run that another grid has taken over. The kernel sends
the signal: the request outlasts exec, which a function between fork and exec (preexec_fn) would risk deadlocks for. The
kernel follows the thread that started this, which should be the main one. Only Linux has it; elsewhere the command
just runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main(parent: str, *command: str) -> None:
    """Become the command."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # the parent died before the request
        sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
