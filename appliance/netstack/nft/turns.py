"""Who goes first: a change before an ending of conversations, an ending before a look.

Python runs one thread at a time, so one that takes fifty thousand elements apart holds up another at each of its system
calls. Who has the lower rank therefore stands still between two pieces of its work for as long as a higher one waits or
works; but not for ever. Nothing here makes a result right: it saves time alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final, Protocol, TypeVar

_T = TypeVar("_T")


class Rank(IntEnum):
    """The lower number goes first."""

    CHANGE = 0
    ENDING = 1
    LOOK = 2


_IDLE: Final = len(Rank)


class Pace(Protocol):
    """Hands on pieces of work as they are; between two of them it may let others go first."""

    def __call__(self, pieces: Iterable[_T], /) -> Iterable[_T]:
        """The same pieces in the same order."""
        ...


def at_once(pieces: Iterable[_T], /) -> Iterable[_T]:
    """The pace of who waits for nobody."""
    return pieces


class Turns:
    """Who waits or works now. Any thread may use it."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._taken = [0] * len(Rank)
        self._first: int = _IDLE  # the rank of who goes first

    @contextmanager
    def taken(self, rank: Rank) -> Iterator[None]:
        """Go before all lower ranks until the block ends."""
        self._count(rank, 1)
        try:
            yield
        finally:
            self._count(rank, -1)

    def pace(self, rank: Rank, until_s: float) -> Pace:
        """The pace of somebody of this rank, who stands still no longer than until then (monotonic clock)."""

        def pace(pieces: Iterable[_T], /) -> Iterator[_T]:
            for piece in pieces:
                if self._first < rank:
                    self._stand_still(rank, until_s)
                yield piece

        return pace

    def _stand_still(self, rank: Rank, until_s: float) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._first >= rank, max(0.0, until_s - time.monotonic()))

    def _count(self, rank: Rank, more: int) -> None:
        with self._moved:
            self._taken[rank] += more
            self._first = next((each for each in Rank if self._taken[each]), _IDLE)
            self._moved.notify_all()
