"""The reconciler of one mesh's Yggdrasil: from who is a member to a daemon that only members can reach.

Each round compares what is wanted with what the daemon and the kernel say, and does the smallest change: peers and
routes while the daemon runs, a restart only where Yggdrasil itself needs one (`turns`). Cancelled, it leaves the daemon
running: the mesh outlives its manager. It knows nothing of policy; the firewall must be there before it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

import msgspec
import structlog

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS, Limits
from appliance.core.prefix import Prefix
from appliance.core.yggdrasil import RANGE, node_address, node_subnet
from appliance.netstack.links import Barrier, Links, barrier_metric
from appliance.netstack.yggdrasil import process, turns
from appliance.netstack.yggdrasil.admin import Admin, Peer
from appliance.netstack.yggdrasil.config import Config
from appliance.netstack.yggdrasil.dialler import Dialler
from appliance.netstack.yggdrasil.keeper import Keeper
from appliance.netstack.yggdrasil.key import YggdrasilKey
from appliance.netstack.yggdrasil.peers import Choice, invited
from appliance.netstack.yggdrasil.process import Running
from appliance.netstack.yggdrasil.pulse import Pulse
from appliance.netstack.yggdrasil.records import Candidate, PeerState, Phase, Place, State, Wanted

_CALM_S: Final = 0.5  # between rounds, when all is as wanted
_BUSY_S: Final = 0.25  # while something is not
_SWEEP_S: Final = 30.0  # between comparisons of all routes, also without an event
_QUIET_BYTES_PER_S: Final = 2_000  # of all links: what the daemon itself says to its peers
_NS_PER_MS: Final = 1e6


class Yggdrasil:
    """One mesh on this node. Making it has no effect; `want` says what is wanted, `run` brings it about."""

    def __init__(self, place: Place, key: YggdrasilKey, limits: Limits = LIMITS, how: Choice | None = None) -> None:
        self.place: Final = place
        self.admin: Final = Admin(process.socket_path(place), limits)
        self._key = key
        self._limits = limits
        self._wanted: Wanted | None = None
        self._dialler = Dialler(how or Choice(count=min(Choice().count, limits.yggdrasil_peers)))
        self._pulse = Pulse()
        self._gaps = turns.Gaps()
        self._barrier = Barrier(barrier_metric(place.mesh), (RANGE,))
        self._routes_due = True
        self._swept_at_s = 0.0
        self._wake = asyncio.Event()
        self._keeper = Keeper(place, key.public, self._wake.set, limits)
        self._news = asyncio.Event()
        self._state = State(address=node_address(key.public), since_s=time.time())
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("yggdrasil")

    @property
    def state(self) -> State:
        """How things stand; a snapshot."""
        return self._state

    async def changed(self) -> State:
        """Wait for another state than the one there is now."""
        await self._news.wait()
        return self._state

    def want(self, wanted: Wanted) -> None:
        """Replace what is wanted. Who is not among the members any more loses its links at once."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._routes_due = True
            self._wake.set()

    async def run(self) -> None:
        """Keep the daemon as it is wanted, until cancelled."""
        async with Links(self.place.netns) as links, asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(links), name="yggdrasil-links")
            try:
                while True:
                    pause_s = await self._round(links)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):
                            await self._wake.wait()
                    self._wake.clear()
            finally:
                watch.cancel()
                self._keeper.release()

    async def remove(self) -> None:
        """End the daemon, and take away its interface and all that it left. Not while `run` runs."""
        async with Links(self.place.netns) as links:
            if self._keeper.daemon is None:
                await self._keeper.adopt(links)
            await self._keeper.stop()
            await process.end_strays(self.place, self._limits)
            if not await links.is_open(self.place.interface):  # else it is somebody else's
                await links.remove(self.place.interface)
            await links.sync_routes(self.place.interface, 0, (), Barrier(self._barrier.metric, ()))
        await process.forget(self.place)
        self._say(Phase.STOPPED)

    async def _watch(self, links: Links) -> None:
        async for _ in links.watch(self.place.interface, self._barrier.metric):
            self._routes_due = True
            self._wake.set()

    async def _round(self, links: Links) -> float:
        """One comparison; returns the seconds until the next one."""
        wanted = self._wanted
        try:
            if self._keeper.daemon is None:
                await self._bar(links)
            if wanted is None:
                self._say(Phase.WAITING)
                return _SWEEP_S
            if self._keeper.daemon is not None and self._keeper.daemon.has_ended:
                await self._keeper.ended()
            if self._keeper.daemon is None and not await self._bring_up(links, wanted):
                return max(_BUSY_S, self._keeper.wait_s)
            return await self._reconcile(links, wanted)
        except X0tError as err:
            if self._keeper.daemon is not None:
                self._say(self._state.phase, reason=self._state.reason, note=str(err))
            else:
                self._say(Phase.CRASHING if self._keeper.is_crashing else Phase.BLOCKED, reason=str(err))
            return max(_BUSY_S, self._keeper.wait_s)

    async def _bring_up(self, links: Links, wanted: Wanted) -> bool:
        """Adopt or start the daemon; False if it is too early for another try."""
        if self._keeper.starts == 0 and await self._keeper.adopt(links):
            self._routes_due = True
            return True
        if self._keeper.wait_s > 0:
            if self._state.phase is Phase.RUNNING:
                phase = Phase.CRASHING if self._keeper.is_crashing else Phase.STARTING
                self._say(phase, reason=f"it ended by itself: {self._keeper.last_words}")
            return False
        self._say(Phase.STARTING)
        await self._start(links, wanted, self._blamed(await process.recorded(self.place), wanted, ()))
        return True

    async def _start(self, links: Links, wanted: Wanted, closed_for: frozenset[bytes]) -> None:
        config = self._config(wanted, closed=bool(closed_for))
        await self._keeper.start(links, config, closed_for)
        await links.sync_routes(self.place.interface, self._keeper.index, self._routes(wanted), self._barrier)

    async def _reconcile(self, links: Links, wanted: Wanted) -> float:
        daemon = self._keeper.daemon
        assert daemon is not None
        now_s = asyncio.get_running_loop().time()
        peers = await daemon.admin.peers()
        blamed = self._blamed(daemon.running, wanted, peers)
        restart = turns.due(self._standing(daemon.running, wanted, peers, closed=bool(blamed)))
        if self._routes_due and not await self._keeper.has_interface(links):
            restart = turns.Due(0.0, "its interface is gone")
        if restart is not None and restart.at_s <= now_s:
            self._log.info("yggdrasil.restarts", reason=restart.reason, interface=self.place.interface)
            await self._bar(links)
            await self._keeper.stop()
            self._say(Phase.STARTING, reason=restart.reason)
            await self._start(links, wanted, blamed)
            return 0.0
        dialled = self._dialler.choose(self._own(wanted), wanted, peers, self._gaps.new, now_s)
        await self._dialler.dial(daemon.admin, dialled, wanted, peers, now_s)
        await self._pulse.beat(daemon.admin, peers, {each.key for each in wanted.members if each.relay}, now_s)
        await self._route(links, wanted, now_s)
        self._show(peers, restart, now_s)
        pause_s = _BUSY_S if self._dialler.missing(peers) or self._gaps.out else _CALM_S
        return pause_s if restart is None else min(pause_s, restart.at_s - now_s)

    def _blamed(self, running: Running | None, wanted: Wanted, peers: tuple[Peer, ...]) -> frozenset[bytes]:
        """Who could come in by local discovery and is no member: it is off as long as there are any.

        The daemon asks links by discovery for the password only, and who was evicted still knows it.
        """
        if not self.place.discovery:
            return frozenset()
        blamed = set(wanted.former)
        if running is not None and running.password_digest == process.password_digest(wanted.password):
            blamed |= running.allowed_keys | {bytes.fromhex(key) for key in running.closed_for}
            blamed |= {peer.public_key for peer in peers if peer.up and peer.key}
        return frozenset(blamed - self._members(wanted) - {self._key.public})

    def _standing(self, running: Running, wanted: Wanted, peers: tuple[Peer, ...], *, closed: bool) -> turns.Standing:
        now_s, keys = asyncio.get_running_loop().time(), self._members(wanted)
        self._gaps.look(running.allowed_keys, keys, now_s)
        own, members = self._own(wanted), wanted.members
        newcomers = [each for each in members if each.key in self._gaps.new and not each.uris]
        listening = sorted(each.key for each in members if each.uris)
        return turns.Standing(
            changed=running.base_digest != self._config(wanted, closed=closed).base_digest,
            listens=bool(self.place.listen),
            allowed=running.allowed_keys,
            wanted=keys,
            linked=frozenset(peer.public_key for peer in peers if peer.up and peer.inbound and peer.key),
            silent=frozenset(invited(own, members, newcomers)),
            evicted_at_s=self._gaps.evicted_at_s,
            admitted_at_s=self._gaps.admitted_at_s,
            first_at_s=self._gaps.first_at_s,
            taken_at_s=self._gaps.taken_at_s,
            alone=not any(peer.up and peer.key for peer in peers),
            quiet=sum(peer.rate_recvd + peer.rate_sent for peer in peers) < _QUIET_BYTES_PER_S,
            place=listening.index(own.key) if own.key in listening else 0,
        )

    async def _route(self, links: Links, wanted: Wanted, now_s: float) -> None:
        if self._routes_due or now_s - self._swept_at_s >= _SWEEP_S:
            self._routes_due, self._swept_at_s = False, now_s
            await links.hold(self._keeper.index, node_address(self._key.public))
            await links.sync_routes(self.place.interface, self._keeper.index, self._routes(wanted), self._barrier)
            await process.trim_log(self.place, self._limits)

    async def _bar(self, links: Links) -> None:
        """Make sure of the barrier alone: it stands before there is an interface, and while there is none."""
        await links.sync_routes(self.place.interface, 0, (), self._barrier)

    def _routes(self, wanted: Wanted) -> list[Prefix]:
        """The members' addresses and blocks; a stranger's address has no way out of here."""
        others = [each.key for each in wanted.members if each.key != self._key.public]
        return [Prefix(node_address(key), 128) for key in others] + [node_subnet(key) for key in others]

    def _config(self, wanted: Wanted, *, closed: bool) -> Config:
        return Config(
            key=self._key.secret_text(),
            password=wanted.password,
            interface=self.place.interface,
            mtu=self.place.mtu,
            admin_socket=process.OWN_SOCKET,
            listen=self.place.listen,
            discovery=() if closed else self.place.discovery,
            allowed=self._members(wanted),
            peers=self._dialler.uris(self._own(wanted), wanted),
        )

    def _members(self, wanted: Wanted) -> frozenset[bytes]:
        """The keys of all members but ours."""
        return frozenset(each.key for each in wanted.members) - {self._key.public}

    def _own(self, wanted: Wanted) -> Candidate:
        found = [each for each in wanted.members if each.key == self._key.public]
        return found[0] if found else Candidate(key=self._key.public, since_s=time.time())

    def _show(self, peers: tuple[Peer, ...], restart: turns.Due | None, now_s: float) -> None:
        due = "" if restart is None else f"{restart.reason}; in {restart.at_s - now_s:.0f} s"
        running = self._keeper.daemon.running if self._keeper.daemon is not None else None
        closed = running is not None and bool(running.closed_for)
        note = "local discovery is off until the mesh has a new secret, because a node was evicted" if closed else ""
        self._say(
            Phase.RUNNING,
            note=note,
            wanted=tuple(sorted(self._dialler.chosen)),
            peers=tuple(_shown(peer) for peer in peers),
            restart_due=due,
            discovery=bool(self.place.discovery) and not closed,
        )

    def _say(self, phase: Phase, reason: str = "", note: str = "", **more: object) -> None:
        """Publish a state; what is not said stays as it was."""
        daemon = self._keeper.daemon
        since_s = self._state.since_s if phase is self._state.phase else time.time()
        said = {"phase": phase, "since_s": since_s, "reason": reason, "note": note, **more}
        said |= {"pid": daemon.running.pid if daemon else 0, "restarts": max(0, self._keeper.starts - 1)}
        if daemon is None:
            said |= {"peers": ()}
        state = msgspec.structs.replace(self._state, **said)
        if state != self._state:
            self._state = state
            self._news.set()
            self._news = asyncio.Event()


def _shown(peer: Peer) -> PeerState:
    return PeerState(
        key=peer.public_key,
        uri=peer.remote,
        inbound=peer.inbound,
        up=peer.up,
        latency_ms=peer.latency / _NS_PER_MS,
        cost=peer.cost,
        rx_bytes=peer.bytes_recvd,
        tx_bytes=peer.bytes_sent,
        uptime_s=peer.uptime,
        note=peer.last_error,
    )
