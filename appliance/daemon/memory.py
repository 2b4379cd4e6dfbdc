"""Resident memory: keep glibc's allocator from hoarding what a burst of sync needed (mallopt(3), malloc_trim(3)).

Every thread gets an arena of its own by default, and freed memory stays with it; for a daemon with a handful of threads
one arena is enough. On another C library the calls do nothing.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_ARENAS = 1
_TRIM_BYTES = 1 << 20  # free space kept at the top of the heap
_MMAP_BYTES = 256 << 10  # larger blocks are mapped alone and go back when they are freed
TRIM_EVERY_S = 1.0

_libc = ctypes.CDLL(None)


def bound_arenas() -> None:
    """To be called once, before threads are started."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, _ARENAS)
        _libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        _libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def trim() -> None:
    """Give free pages back to the kernel; some milliseconds."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
