"""The mesh that this node follows: its replica, the port that peers dial, the links, and the jobs that keep them.

Whom to dial is worked out from the settings, from what was said at joining, and (bounded) from what members announce.
A change of the replica is what wakes this up: revoked peers are cut off, new endpoints are dialled, watchers are told.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from appliance.core.errors import X0tError, error
from appliance.core.ids import MeshId, NodeId
from appliance.daemon import events, memory
from appliance.daemon.aim import Aim
from appliance.daemon.changes import Changes
from appliance.daemon.codes import Codes
from appliance.daemon.config import Config
from appliance.daemon.confirmation import Confirmation
from appliance.daemon.desk import Desk
from appliance.daemon.links import Links
from appliance.daemon.network import Network
from appliance.daemon.software import software
from appliance.daemon.supervisor import Job
from appliance.daemon.target import Target, parse_target
from appliance.daemon.witness import WITNESS_PATH, ask, gateway_of
from appliance.netstack.finding import Receiver
from appliance.policy.evaluate import Flow
from appliance.policy.service import PolicyService
from appliance.replica.admission_operations import AdmissionOperations
from appliance.replica.admission_queries import AdmissionQueries
from appliance.replica.batch import Sign, Verify
from appliance.replica.operations import Operations
from appliance.replica.queries import Queries
from appliance.replica.rows import NodeRow
from appliance.replica.service import Replica
from appliance.storage.archive_file import ArchiveFile
from appliance.transport.address import Address
from appliance.transport.listener import Listener
from appliance.transport.stream import Stream
from appliance.trust.descriptor import Descriptor

AIM_S = 1.0  # between two looks at what others announced
ANNOUNCE_S = 1.0  # between two looks at what we announced
SETTLED_S = 30.0  # the same, once the mesh has heard it
PROBE_S = 5.0
RECHECK_S = 1.0  # between two looks for peers whose grant ran out: nothing else tells of that
SETTLE_S = 0.05  # commits that come in a burst wake the rest once


Dial = Callable[[Address, bytes | None, str], Awaitable[Stream]]


def name_of(config: Config) -> str:
    """What this node calls itself."""
    return config.node.name or socket.gethostname()[:64]


class Keys(NamedTuple):
    """How this node signs, and how it checks what others signed."""

    sign: Sign
    check: Verify


class FollowedMesh:
    """One mesh on this node while the daemon runs."""

    def __init__(self, config: Config, descriptor: Descriptor, replica: Replica, key: Keys) -> None:
        self.config = config
        self.descriptor = descriptor
        self.replica = replica
        self._aim = Aim(NodeId(replica.node), config.sync.announced_peers)
        self.operations = Operations(replica, key.sign)
        self.admission = AdmissionOperations(replica, key.sign)
        self.check = key.check
        self.queries = Queries(replica)
        self.admission_queries = AdmissionQueries(replica)
        self.changes = Changes()
        self.port = 0  # the one that is bound
        self.listening = asyncio.Event()  # peers can dial, or are not meant to
        self.batches = 0  # in the log
        self._ending = False
        self.known_peers: list[Target] = []
        self.policy = PolicyService(self.queries, self.operations, replica.now_ms, asyncio.to_thread)
        file = Path(config.data_dir) / str(MeshId(descriptor.mesh)) / "unconfirmed.json"
        self.confirmation = Confirmation(file, replica, self.policy)
        self.network: Network | None = None  # where the settings ask for one
        self.desk: Desk | None = None  # where strangers may ask to be admitted
        self.codes: Codes | None = None
        self.links: Links
        self.listener: Listener
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mesh")

    def connect(self, links: Links, listener: Listener, met: asyncio.Event, dial: Dial) -> None:
        """Take the parts that need this object to be made first. `met`: this replica was equal with some peer."""
        self._met = met
        self.dial = dial
        self.links = links
        self.listener = listener

    def jobs(self) -> list[Job]:
        """What the supervisor keeps running for this mesh."""
        jobs = [
            Job(name="links", run=self.links.run),
            Job(name="changes", run=self._follow_changes, critical=True),
            Job(name="aim", run=self._keep_aiming),
            Job(name="announce", run=self._keep_announced),
            Job(name="memory", run=self._trim),
            Job(name="members", run=self._recheck, period_s=RECHECK_S),
            Job(name="confirmation", run=self.confirmation.run),
            Job(name="replica", run=self._probe, period_s=PROBE_S, critical=True),
        ]
        if self.desk is not None:
            jobs.append(Job(name="admission", run=self._keep_desk))
        if not self.config.listen.address:
            self.listening.set()
        else:
            jobs.append(Job(name="listener", run=self._listen, critical=True, restarts=2))
        return jobs + (self.network.jobs() if self.network is not None else [])

    def end_watching(self) -> None:
        """Let those go who only watch: the daemon stops."""
        self._ending = True
        self.changes.tell()

    async def close(self) -> None:
        """Finish what the replica has begun, and close it."""
        if self.network is not None:
            await self.network.close()
        await self.replica.__aexit__(None, None, None)

    # -- who may talk to us

    def permitted(self, node: bytes) -> bool:
        """For those who knock: a member, unless the operator cut us off or it misbehaved a moment ago."""
        return self.replica.permitted(node) and self.links.is_open_to(NodeId(node))

    def answers(self, node: bytes) -> bool:
        """For those whom we dial: also anybody while the replica is empty, for then nobody is known yet.

        What such a peer sends counts only by the authority's signature, which no stranger can make.
        """
        return self.links.is_open_to(NodeId(node)) and (self.replica.permitted(node) or not self.replica.vector)

    # -- whom we dial

    def aim(self) -> None:
        """Dial whom the settings and the joining name; members that announce an endpoint follow."""
        self.links.want(self._named())

    def _named(self) -> list[Target]:
        configured = [parse_target(f"{p.node}@{p.address}" if p.node else p.address) for p in self.config.peers]
        return [*configured, *self.known_peers]

    async def _aim_at_announced(self) -> None:
        named = self._named()
        reached = self.links.nodes_of(named) | {self.links.node}
        addresses = {target.address for target in named}
        self._aim.note(self.links.dialling())
        members = [row for row in await self.queries.nodes() if NodeId(row.node) not in reached]
        chosen = self._aim.choose(members, self.replica.permitted)
        announced = [target for target in chosen if target.address not in addresses]
        self.links.want([*named, *announced])

    async def ask_witness(self, flow: Flow, age_ms: int) -> Receiver | None:
        """What the node that an address belongs to says of a probe; None if it cannot be asked."""
        node = gateway_of(flow.target, self.network.roster.directory) if self.network else None
        row = await self.replica.run(lambda engine: engine.view.get(NodeRow, node)) if node else None
        if not isinstance(row, NodeRow) or node is None:
            return None
        for endpoint in row.endpoints:
            found = await ask(flow, age_ms, partial(self.dial, parse_target(endpoint).address, node, WITNESS_PATH))
            if found is not None:
                return found
        return None

    def file(self, path: str) -> ArchiveFile:
        """A file to export to or to import from."""
        return ArchiveFile(Path(path))

    # -- jobs

    async def _listen(self) -> None:
        listen = self.config.listen

        def bound(port: int) -> None:
            self.port = port
            self.listening.set()
            self._log.info(events.LISTENING, address=listen.address, port=port)

        try:
            await self.listener.run(listen.address, self.port or listen.port, bound)
        except* OSError as failed:
            reason = str(failed.exceptions[0])
            raise error("daemon.listen", address=f"{listen.address}:{listen.port}", reason=reason) from failed

    async def _follow_changes(self) -> None:
        """After each burst of commits: count it, cut off who was revoked, wake those who wait for changes."""
        async with self.replica.subscribe() as commits:
            self.batches = await self.replica.run(lambda engine: engine.view.size())
            while True:
                await self._recheck()
                self.changes.tell()
                burst = [await commits.get()]
                await asyncio.sleep(SETTLE_S)
                while not commits.empty():
                    burst.append(commits.get_nowait())
                if any(commit.resync for commit in burst):
                    self.batches = await self.replica.run(lambda engine: engine.view.size())
                else:
                    self.batches += sum(len(commit.hashes) for commit in burst)

    async def _keep_desk(self) -> None:
        assert self.desk is not None
        await self.desk.run(self.changes)

    async def _recheck(self) -> None:
        """End the links to those who are no members any more."""
        await self.links.recheck(lambda node: self.replica.permitted(node.raw))
        self.listener.recheck()

    async def _keep_aiming(self) -> None:
        """Dial those who announced themselves meanwhile."""
        while True:
            count = self.changes.count
            await self._aim_at_announced()
            await self.changes.after(count)
            await asyncio.sleep(AIM_S)

    async def _keep_announced(self) -> None:
        """What we announced may lose its effect, and a node may be granted a role long after it joined: look again."""
        while True:
            count = self.changes.count
            try:
                settled = await self._announce()
            except X0tError as err:
                settled = False
                self._log.warning(events.ANNOUNCE_REFUSED, error=str(err))  # frozen, say
            await self.changes.after(count)
            await asyncio.sleep(SETTLED_S if settled else ANNOUNCE_S)

    def may_speak(self) -> bool:
        """True once this node may write: with a lost log, a batch before the first sync would fork its own."""
        node = self.replica.node
        return self.replica.permitted(node) and (self._met.is_set() or bool(self.replica.vector.top(node)))

    async def _announce(self) -> bool:
        """Say our name and endpoints to the mesh; True if it has heard them already."""
        node = self.replica.node
        if not self.may_speak():
            return False
        wanted = (self.name(), self.config.node.endpoints, f"x0td {software()}")
        known = await self.replica.run(lambda engine: engine.view.get(NodeRow, node))
        if isinstance(known, NodeRow) and (known.name, known.endpoints, known.software) == wanted:
            return True
        await self.operations.announce(*wanted)
        self._log.info(events.ANNOUNCED, name=wanted[0], endpoints=wanted[1])
        return False

    def name(self) -> str:
        """What this node is called."""
        return name_of(self.config)

    async def _trim(self) -> None:
        """Give back to the kernel what a burst of batches needed for a moment."""
        while True:
            count = self.changes.count
            await asyncio.sleep(memory.TRIM_EVERY_S)
            await asyncio.to_thread(memory.trim)
            await self.changes.after(count)

    async def _probe(self) -> None:
        """The writer answers: what the watchdog is fed for."""
        await self.replica.run(lambda _engine: None)

    # -- watching

    async def watch(self, pulse_s: float) -> AsyncIterator[None]:
        """Once now, then after each change of the replica or the links, and at least each pulse, until the end."""
        while not self._ending:
            count = self.changes.count
            yield
            try:
                async with asyncio.timeout(pulse_s):
                    await self.changes.after(count)
            except TimeoutError:
                pass
