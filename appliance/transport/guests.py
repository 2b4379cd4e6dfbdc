"""Guests: peers that are no members, let in to the few routes that are named as open to them. Places, and no routes.

A guest comes with nothing but a key that it made itself, so everything that it may hold is bounded apart from what
members have: how many stay at once, how many from one host, how long one stays that has shown nothing yet, and for how
many that have. The oldest of the most crowded host makes room for the newest; who comes again with the same key takes
the place that it had. Nothing here decides who is welcome.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from appliance.core.limits import Limits
from appliance.transport.gate import Gate
from appliance.transport.peers import PeerIdentity
from appliance.transport.stream import BoundStream


class Guest:
    """One peer that is no member, or a member at a door for guests, which needs no place."""

    def __init__(self, peer: PeerIdentity, host: str) -> None:
        self.peer: Final = peer
        self.host: Final = host
        self.stands = False
        self.on_stand: Callable[[], None] | None = None

    def stand(self) -> None:
        """What the guest showed stands: from now on it may stay for as long as there is room."""
        if not self.stands:
            self.stands = True
            if self.on_stand is not None:
                self.on_stand()


class GuestHandler(Protocol):
    """Serves the streams of a route that is open to guests; otherwise as `StreamHandler`."""

    async def receive(self, guest: Guest, stream: BoundStream) -> None:
        """Live as long as the stream, and call `guest.stand` once the guest has shown that it has business here."""
        ...


class Guests:
    """The places of guests. `refusals` counts those who had to go, under the keys of `tls`."""

    def __init__(self, limits: Limits, refusals: Counter[str]) -> None:
        self._limits = limits
        self._refusals = refusals
        self._inside: dict[Gate, Guest] = {}  # in order of arrival
        self._timers: dict[Gate, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._inside)

    def __iter__(self) -> Iterator[tuple[Gate, Guest]]:
        return iter(list(self._inside.items()))

    def find(self, peer: PeerIdentity) -> Guest | None:
        """The guest of this very connection."""
        return next((guest for guest in self._inside.values() if guest.peer is peer), None)

    def admit(self, gate: Gate, guest: Guest) -> None:
        """Give a guest a place, at the cost of another if need be."""
        for older, known in self:
            if known.peer.node_id == guest.peer.node_id:
                self._expel(older, "tls.guest_again")
        newcomers = Counter(known.host for known in self._inside.values() if not known.stands)
        if newcomers[guest.host] >= self._limits.guests_per_host:
            self._make_room(guest.host, stands=False)
        elif newcomers.total() >= self._limits.guests:
            self._make_room(newcomers.most_common(1)[0][0], stands=False)
        self._inside[gate] = guest
        guest.on_stand = lambda: self._stand(gate)
        loop = asyncio.get_running_loop()
        self._timers[gate] = loop.call_later(self._limits.guest_s, self._expel, gate, "tls.guest_slow")

    def forget(self, gate: Gate) -> None:
        """Its connection has ended. Harmless for who is no guest."""
        self._inside.pop(gate, None)
        if (timer := self._timers.pop(gate, None)) is not None:
            timer.cancel()

    def keep(self, welcome: Callable[[bytes], bool]) -> None:
        """Let those go who are not welcome any more."""
        for gate, guest in self:
            if not welcome(guest.peer.node_id):
                self._expel(gate, "tls.peer_unknown")

    def _stand(self, gate: Gate) -> None:
        if (timer := self._timers.pop(gate, None)) is None:
            return  # it has gone meanwhile
        timer.cancel()
        settled = Counter(known.host for known in self._inside.values() if known.stands)
        if settled.total() > self._limits.guests_standing:
            self._make_room(settled.most_common(1)[0][0], stands=True)

    def _make_room(self, host: str, *, stands: bool) -> None:
        oldest = next(gate for gate, known in self if known.host == host and known.stands is stands)
        self._expel(oldest, "tls.guests")

    def _expel(self, gate: Gate, key: str) -> None:
        if gate in self._inside:
            self._refusals[key] += 1
            self.forget(gate)
            gate.abort()
