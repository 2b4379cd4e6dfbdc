"""One direction of a link as the pump keeps it: which frames are lost, and when the others are due.

Sans-IO: time is an argument, randomness is seeded, so the same frames have the same fate in every run. Frames keep
their order, as in a router's queue: jitter and a delay that shrinks never let one overtake another.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Final

import msgspec

QUEUE_FRAMES: Final = 10_000  # on their way at once: 1 Gbit/s of full frames for 120 ms, 15 MB
_NS_PER_MS: Final = 1_000_000


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to that which a host sends.

    `rate` as tc(8) writes it (10mbit, 500kbit, 1gbit), kept by the kernel; the rest is the pump's: one way delay, an
    even jitter of 0 to `jitter_ms` on top, the share of frames that is lost (0 to 1), and the seed of both.
    """

    rate: str | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    seed: int = 0
    pumped: bool = False  # go through the pump even while it has nothing to do, so that it can get something later

    def __post_init__(self) -> None:
        if not (self.delay_ms >= 0 and self.jitter_ms >= 0 and 0 <= self.loss <= 1):
            raise ValueError(f"a delay is at least 0 ms and a loss between 0 and 1: {self}")

    @property
    def needs_pump(self) -> bool:
        """Whether the kernel alone cannot do it."""
        return self.pumped or self.delay_ms > 0 or self.jitter_ms > 0 or self.loss > 0


class Line:
    """The queue of one direction."""

    def __init__(self, shape: Shape, queue_frames: int = QUEUE_FRAMES) -> None:
        self.passed = self.lost = self.overflowed = 0
        self._queue: Final[deque[tuple[int, bytes]]] = deque()
        self._queue_frames: Final = queue_frames
        self._last_due_ns = 0
        self.shape(shape)

    def shape(self, shape: Shape) -> None:
        """From the next frame on; what is on its way already stays due when it was. The seed begins anew."""
        self._delay_ns = round(shape.delay_ms * _NS_PER_MS)
        self._jitter_ns = shape.jitter_ms * _NS_PER_MS
        self._loss = shape.loss
        self._random = random.Random(shape.seed)  # noqa: S311 -- must be reproducible

    def take(self, frame: bytes, now_ns: int) -> None:
        """A frame enters: it is lost, or due later. Each uses two random numbers, whatever the shape."""
        lost, late = self._random.random() < self._loss, self._random.random()
        if lost:
            self.lost += 1
        elif len(self._queue) >= self._queue_frames:
            self.overflowed += 1
        else:
            due_ns = now_ns + self._delay_ns + int(late * self._jitter_ns)
            self._last_due_ns = max(due_ns, self._last_due_ns)
            self._queue.append((self._last_due_ns, frame))

    def due(self, now_ns: int) -> Iterator[bytes]:
        """The frames that leave now, in their order."""
        queue = self._queue
        while queue and queue[0][0] <= now_ns:
            self.passed += 1
            yield queue.popleft()[1]

    @property
    def waiting(self) -> int:
        """How many frames are on their way."""
        return len(self._queue)

    def next_ns(self) -> int | None:
        """When the next frame is due; None if there is none."""
        return self._queue[0][0] if self._queue else None
