"""The C library's allocator, told to keep what training frees."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt, from malloc.h
MOST, USUAL = 2**31 - 1, 2**25  # bytes; the second is what glibc's own threshold grows to at most


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Within, a freed tensor's memory is used again and not given back to the system.

    By default glibc gives back every block of more than 32 MB at once, and the system clears it page by page when it
    is asked for again: on a CPU that was a quarter of a training step of SmolLM2. Elsewhere than on glibc nothing
    changes.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(M_MMAP_THRESHOLD, MOST)
    library.mallopt(M_TRIM_THRESHOLD, MOST)
    try:
        yield
    finally:
        library.mallopt(M_MMAP_THRESHOLD, USUAL)
        library.mallopt(M_TRIM_THRESHOLD, 2 * USUAL)
        library.malloc_trim(0)
