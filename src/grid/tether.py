"""Runs a command that is asked to stop, by SIGTERM, when the process that started it dies, however that dies.

    python src/grid/tether.py PID COMMAND...       PID is that of the process that starts this

A run that outlived its grid would hold its folder, and train what another has taken over. The kernel sees to it: the
request outlasts exec. It follows the thread that started this, which should be the main one. Linux alone has it;
elsewhere the command just runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def main(parent, *command):
    """Become the command."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it has died before the kernel was asked
        sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
