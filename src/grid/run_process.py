"""A call of main.py as a process of its own, which does not outlive the process that starts it."""

import os
import subprocess
import sys
from pathlib import Path

MAIN = Path(__file__).parents[2] / "main.py"
LAST_LINES = 5  # of the console of a failed run


def start_process(flags, console, environment):
    """Start a run that goes on with what is there, its console going to an open file; returns the Popen."""
    return start_tethered([str(MAIN), *flags, "--resume"], stdout=console, stderr=subprocess.STDOUT, env=environment)


def start_tethered(arguments, **options):
    """Start Python with these arguments; it gets SIGTERM when this process dies. Options are those of Popen."""
    tether = [sys.executable, "-P", str(Path(__file__).with_name("tether.py")), str(os.getpid())]
    return subprocess.Popen([*tether, sys.executable, *arguments],
                            process_group=0, **options)  # Ctrl-C is for the grid, which stops its runs once


def last_lines(log):
    """The last lines of a console that went to a file."""
    return log.read_text(errors="replace").splitlines()[-LAST_LINES:]
