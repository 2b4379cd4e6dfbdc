"""Knows when no packet is in flight any more, without waiting for time.

What a thread sends over veth lies in the queue of the processor that the thread runs on, at each hop anew, and queues
are served in order. So does a datagram that the thread sends to itself: when that has come back, everything before it
has been one hop further.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from appliance.lab.site import Host

_HOPS: Final = 16  # queues that a packet and its answer pass one after the other: at most 8


class Flight:
    """A socket that talks to itself, in some host."""

    def __init__(self, host: Host) -> None:
        self._own: Final = host.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._own.bind(("::1", 0))
        self._own.connect(self._own.getsockname())

    def close(self) -> None:
        """Close the socket."""
        self._own.close()

    def settle(self) -> None:
        """Return when all that was sent since `one_processor` began has arrived or is lost."""
        for _ in range(_HOPS):
            self._own.send(b"")
            self._own.recv(1)


@contextmanager
def one_processor() -> Iterator[None]:
    """The calling thread stays on one processor, so that what it sends waits in one queue."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
