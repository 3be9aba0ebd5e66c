"""How this process keeps its memory."""

import ctypes

MALLOPT = {"M_MMAP_THRESHOLD": (-3, 2**25), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**26)}


def keep_freed_memory():
    """Let glibc keep what a training step frees for the next one, where it would give it back to the system and fault
    it in again, page by page: a few per cent of a step. Elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOPT.values():
            mallopt(option, value)
