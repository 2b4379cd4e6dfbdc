"""What is seen of the peers over time: round trips, losses, failures; and which address of a peer is dialled. Pure.

It keeps a memory of members that were peers, as `peers.Measured`. It never asks the daemon itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from appliance.netstack.yggdrasil.admin import Peer
from appliance.netstack.yggdrasil.peers import Measured
from appliance.netstack.yggdrasil.records import Candidate

_NS_PER_MS: Final = 1e6
_GRACE_S: Final = 2.0  # a new link may take this long before it counts as failed
_FAILURE_S: Final = 5.0  # of silence are one failure more: the next address is tried
_SMOOTH: Final = 0.2  # weight of a new round trip
_LOSS_SMOOTH_S: Final = 600.0  # over which losses are averaged: a restart of a second weighs 2 ms
_STEADY_S: Final = 60.0  # before which the daemon makes a link dear only for being young
_KICK_MIN_S: Final = 0.5
_KICK_MAX_S: Final = 30.0


class _Memory(msgspec.Struct):
    seen: Measured = Measured()
    wanted_at_s: float | None = None  # since when it is dialled
    looked_at_s: float = 0.0
    failed_at_s: float = 0.0  # of the last failure that was counted
    kicked_at_s: float = 0.0
    kicks: int = 0


class Sight:
    """The memory. Times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._members: dict[bytes, _Memory] = {}

    @property
    def measured(self) -> Mapping[bytes, Measured]:
        """What is known, by key."""
        return {key: memory.seen for key, memory in self._members.items()}

    def keep(self, members: Collection[bytes]) -> None:
        """Forget everybody else."""
        self._members = {key: memory for key, memory in self._members.items() if key in members}

    def look(self, peers: Iterable[Peer], wanted: Collection[bytes], now_s: float) -> None:
        """Take in what the daemon says of its links."""
        up: dict[bytes, Peer] = {}
        for peer in peers:
            if peer.up and peer.key and (peer.public_key not in up or peer.latency < up[peer.public_key].latency):
                up[peer.public_key] = peer
        for key in {*up, *wanted, *self._members}:
            memory = self._members.setdefault(key, _Memory(looked_at_s=now_s))
            if key not in wanted:
                memory.wanted_at_s = None
            elif memory.wanted_at_s is None:
                memory.wanted_at_s = now_s
            if key in up:
                _take_up(memory, up[key])
            elif memory.wanted_at_s is not None and now_s - memory.wanted_at_s >= _GRACE_S:
                _take_down(memory, now_s)
            _take_loss(memory, now_s, lost=key in wanted and key not in up)
            memory.looked_at_s = now_s

    def uri(self, member: Candidate) -> str:
        """The address to dial: the next one after each failure."""
        failures = self._members[member.key].seen.failures if member.key in self._members else 0
        return member.uris[failures % len(member.uris)]

    def waited_s(self, key: bytes, now_s: float) -> float:
        """For how long a peer is wanted by now."""
        memory = self._members.get(key)
        return 0.0 if memory is None or memory.wanted_at_s is None else now_s - memory.wanted_at_s

    def kicks(self, key: bytes, now_s: float) -> bool:
        """True if a peer that is down should be tried again now: soon after it was lost, then less and less often."""
        memory = self._members.setdefault(key, _Memory(looked_at_s=now_s))
        if now_s - memory.kicked_at_s < min(_KICK_MAX_S, _KICK_MIN_S * 2.0**memory.kicks):
            return False
        memory.kicked_at_s = now_s
        memory.kicks = min(memory.kicks + 1, 16)
        return True


def _take_up(memory: _Memory, peer: Peer) -> None:
    before, now_ms = memory.seen.round_trip_ms, peer.latency / _NS_PER_MS
    round_trip_ms = now_ms if before is None else before + _SMOOTH * (now_ms - before)
    added = max(0.0, peer.cost - now_ms) if peer.uptime >= _STEADY_S else 0.0
    memory.kicks = 0
    memory.seen = Measured(round_trip_ms=round_trip_ms, loss=memory.seen.loss, cost=added)


def _take_down(memory: _Memory, now_s: float) -> None:
    """Its round trip is forgotten: what comes back is as good as unknown."""
    failures = memory.seen.failures
    if failures == 0 or now_s - memory.failed_at_s >= _FAILURE_S:
        failures, memory.failed_at_s = failures + 1, now_s
    memory.seen = Measured(loss=memory.seen.loss, failed_at_s=now_s, failures=failures)


def _take_loss(memory: _Memory, now_s: float, *, lost: bool) -> None:
    weight = min(1.0, (now_s - memory.looked_at_s) / _LOSS_SMOOTH_S)
    loss = memory.seen.loss + weight * (lost - memory.seen.loss)
    memory.seen = msgspec.structs.replace(memory.seen, loss=loss)
