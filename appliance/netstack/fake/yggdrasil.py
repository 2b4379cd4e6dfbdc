"""A Yggdrasil without a network: managers of one `Underlay` link with one another as the real ones would.

It keeps the contract that tests/contract/test_yggdrasil.py asks of both: links only between who names the other as a
member and has the same password, members that are dropped lose their links at once, and a daemon outlives its manager.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

import msgspec

from appliance.core.yggdrasil import node_address
from appliance.netstack.yggdrasil.key import YggdrasilKey
from appliance.netstack.yggdrasil.peers import Choice, Observations, choose
from appliance.netstack.yggdrasil.records import Candidate, PeerState, Phase, Place, State, Wanted


class Underlay:
    """What joins fake daemons: every address reaches everybody."""

    def __init__(self) -> None:
        self._daemons: dict[bytes, _Daemon] = {}
        self._pids = itertools.count(1)

    def start(self, key: bytes) -> _Daemon:
        """The daemon that runs with this key; started if there is none."""
        if key not in self._daemons:
            self._daemons[key] = _Daemon(next(self._pids))
        return self._daemons[key]

    def end(self, key: bytes) -> None:
        """A daemon ends; its manager, if it has one, starts another."""
        self._daemons.pop(key, None)
        self.settle()

    def settle(self) -> None:
        """Bring all links to what both ends want, and tell the managers."""
        for key, daemon in self._daemons.items():
            daemon.links = {other: other in daemon.chosen for other in self._daemons if self._linked(key, other)}
        for manager in [daemon.manager for daemon in self._daemons.values() if daemon.manager is not None]:
            manager.show()

    def _linked(self, one: bytes, other: bytes) -> bool:
        first, second = self._daemons[one], self._daemons[other]
        agreed = first.password == second.password and one in second.allowed and other in first.allowed
        return one != other and agreed and (other in first.chosen or one in second.chosen)


class _Daemon:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.password = ""
        self.allowed: frozenset[bytes] = frozenset()
        self.chosen: frozenset[bytes] = frozenset()
        self.links: dict[bytes, bool] = {}  # to whether we opened it
        self.manager: FakeYggdrasil | None = None


class FakeYggdrasil:
    """See `appliance.netstack.yggdrasil.manager.Yggdrasil`."""

    def __init__(self, place: Place, key: YggdrasilKey, underlay: Underlay) -> None:
        self.place: Final = place
        self._key = key.public
        self._underlay = underlay
        self._wanted: Wanted | None = None
        self._wake = asyncio.Event()
        self._news = asyncio.Event()
        self._state = State(address=node_address(key.public))

    @property
    def state(self) -> State:
        """How things stand; a snapshot."""
        return self._state

    async def changed(self) -> State:
        """Wait for another state than the one there is now."""
        await self._news.wait()
        return self._state

    def want(self, wanted: Wanted) -> None:
        """Replace what is wanted."""
        self._wanted = wanted
        self._wake.set()

    async def run(self) -> None:
        """Keep the daemon as it is wanted, until cancelled."""
        try:
            while True:
                if self._wanted is not None:
                    self._reconcile(self._wanted)
                await self._wake.wait()
                self._wake.clear()
        finally:
            if self._wanted is not None:
                self._underlay.start(self._key).manager = None

    async def remove(self) -> None:
        """End the daemon."""
        self._underlay.end(self._key)
        self._say(msgspec.structs.replace(self._state, phase=Phase.STOPPED, pid=0, peers=()))

    def show(self) -> None:
        """Publish what the daemon holds now."""
        daemon = self._underlay.start(self._key)
        peers = tuple(
            PeerState(key=key, uri=f"fake://{key.hex()}", inbound=not ours, up=True)
            for key, ours in sorted(daemon.links.items())
        )
        wanted = tuple(sorted(daemon.chosen))
        self._say(msgspec.structs.replace(self._state, phase=Phase.RUNNING, pid=daemon.pid, peers=peers, wanted=wanted))

    def _reconcile(self, wanted: Wanted) -> None:
        daemon = self._underlay.start(self._key)
        own = next((each for each in wanted.members if each.key == self._key), Candidate(key=self._key))
        daemon.manager = self
        daemon.password = wanted.password
        daemon.allowed = frozenset(each.key for each in wanted.members) - {self._key}
        daemon.chosen = choose(Observations(own, wanted.members, {}), daemon.chosen, 0.0, Choice())
        self._underlay.settle()

    def _say(self, state: State) -> None:
        if state != self._state:
            self._state = state
            self._news.set()
            self._news = asyncio.Event()
