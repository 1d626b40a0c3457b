"""Keeping freed memory, instead of giving it back to the system after every operation.

The activations of a step are a few megabytes each. glibc maps such arrays anew every time, and the system then zeroes
every page of them: a fifth of a training step on a CPU.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**31 - 1
MAPPED_FROM_BYTES = 2**30


def keep_freed_memory() -> None:
    """From now on this process reuses freed arrays of less than 1 GiB. Does nothing where there is no glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
