"""Pacing of peers: how long to leave one alone after it failed, and who is left alone now.

Waits double with each failure in a row and jitter spreads their upper half, so peers do not knock in step. Pure:
time and jitter are arguments. It never closes a connection.
"""

from __future__ import annotations

from typing import Final

import msgspec

from appliance.core.limits import Limits

LEDGER_PEERS: Final = 1024  # four times the connections in all; of more, the one free soonest is forgotten


class Grudge(msgspec.Struct, frozen=True):
    """Why a peer is left alone: the key of its last failure, how many there were in a row, and until when."""

    key: str
    count: int
    until_ms: int


def backoff_ms(failures: int, limits: Limits, jitter: float) -> int:
    """Wait after so many failures in a row; `jitter` within 0..1 spreads it over the upper half."""
    if failures < 1:
        return 0
    longest_ms = limits.peer_backoff_max_s * 1000
    full_ms = min(longest_ms, limits.peer_backoff_min_s * 1000 << min(failures - 1, 32))
    return int(full_ms * (1 + jitter) / 2)


class PeerLedger:
    """Failures of peers by node id. Times are monotonic milliseconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._grudges: dict[bytes, Grudge] = {}

    def record(self, peer: bytes, key: str, now_ms: int, jitter: float) -> Grudge:
        """A session with the peer failed; returns how long it is left alone.

        One that stayed out of trouble for the longest wait after its last one begins again at the shortest.
        """
        known = self._grudges.pop(peer, None)
        lasts = known is not None and now_ms < known.until_ms + self._limits.peer_backoff_max_s * 1000
        count = known.count + 1 if known is not None and lasts else 1
        grudge = Grudge(key, count, now_ms + backoff_ms(count, self._limits, jitter))
        if len(self._grudges) >= LEDGER_PEERS:
            del self._grudges[min(self._grudges, key=lambda other: self._grudges[other].until_ms)]
        self._grudges[peer] = grudge
        return grudge

    def may_connect(self, peer: bytes, now_ms: int) -> bool:
        """True unless the peer is left alone now."""
        known = self._grudges.get(peer)
        return known is None or now_ms >= known.until_ms

    def grudge(self, peer: bytes) -> Grudge | None:
        """The last failure of a peer."""
        return self._grudges.get(peer)
