"""A node's network on a real replica, a firewall in memory and a Yggdrasil in memory; time is the mesh's number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, cast

from appliance.core.errors import error
from appliance.core.yggdrasil import node_address
from appliance.daemon.network import Announcement, Kernel, Mesh, Network
from appliance.daemon.supervisor import Supervisor
from appliance.netstack.fake.firewall import FakeFirewall
from appliance.netstack.fake.yggdrasil import FakeYggdrasil, Underlay
from appliance.netstack.nft.skeleton import MeshTable
from appliance.netstack.yggdrasil.key import YggdrasilKey
from appliance.netstack.yggdrasil.manager import Yggdrasil
from appliance.netstack.yggdrasil.records import Place, Wanted
from appliance.policy.enforcement import Applied
from appliance.policy.filter import Filter
from appliance.policy.model import Policy, Rule
from appliance.policy.service import PolicyService
from appliance.replica.entries import AttachEntry
from appliance.replica.operations import Operations
from appliance.replica.queries import Queries
from appliance.replica.reports import Receipt
from appliance.replica.service import Replica, Writer
from tests.attach_rig import attach, network_key, public
from tests.mesh_rig import Member
from tests.unit.replica.operations_rig import Site

PATIENCE_S = 4.0  # less than the time after which the network looks again by itself


class Journal:
    """What was asked of the kernel, in order."""

    def __init__(self) -> None:
        self.deeds: list[str] = []
        self.applied: asyncio.Queue[Filter] = asyncio.Queue()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.wanted: asyncio.Queue[Wanted] = asyncio.Queue()
        self.started = asyncio.Event()  # Yggdrasil

    async def filter(self, holds: Callable[[Filter], bool]) -> Filter:
        """The next applied filter of which this holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(found := await self.applied.get()):
                pass
        return found


class Firewall(FakeFirewall):
    """One that writes down what is done, and may be unable to prepare."""

    def __init__(self, table: MeshTable, journal: Journal) -> None:
        super().__init__(table)
        self.unable = 0  # so many times
        self._journal = journal

    def lose(self) -> None:
        """Let somebody empty the table, and the notice of it be lost."""
        self.kernel.held = None

    async def prepare(self) -> None:
        if self.unable:
            self.unable -= 1
            self._journal.refused.put_nowait("prepare")
            raise error("firewall.unavailable", reason="the test says so")
        await super().prepare()
        self._journal.deeds.append("prepare")

    async def apply(self, wanted: Filter) -> Applied:
        refused = True
        try:
            applied = await super().apply(wanted)
            refused = False
        finally:
            if refused:
                self._journal.refused.put_nowait("apply")
        self._journal.applied.put_nowait(wanted)
        return applied


class Peering(FakeYggdrasil):
    """One that writes down when it runs and what it is told."""

    def __init__(self, place: Place, key: YggdrasilKey, journal: Journal) -> None:
        super().__init__(place, key, Underlay())
        self._journal = journal

    def want(self, wanted: Wanted) -> None:
        self._journal.wanted.put_nowait(wanted)
        super().want(wanted)

    async def run(self) -> None:
        self._journal.deeds.append("yggdrasil")
        self._journal.started.set()
        await super().run()


class Speaker(Operations):
    """Operations that count attachments."""

    attached = 0

    async def attach(self, entry: AttachEntry) -> Receipt:
        receipt = await super().attach(entry)
        self.attached += 1
        return receipt


class Desk(NamedTuple):
    """One node's network and what is under it."""

    network: Network
    mesh: Mesh
    firewall: Firewall
    journal: Journal
    operations: Speaker


def plant(directory: Path) -> Site:
    """Anna is the gate and cleo a robot; both have a place in the network, and the mesh has its nodes' tags."""
    site = Site(directory)
    site.anna.write(attach(site.mesh.id, site.anna.id, "anna"))
    site.cleo.write(attach(site.mesh.id, site.cleo.id, "cleo"))
    site.anna.pull(site.cleo)
    site.anna.tag(site.anna, "gate")
    site.anna.tag(site.cleo, "robot")
    for node in (site.bert, site.cleo, site.dora):
        node.pull(site.anna)
    return site


@asynccontextmanager
async def desk(site: Site, who: str = "anna", key_name: str = "") -> AsyncIterator[Desk]:
    """The network of a node, not started. `key_name`: its key of the network, if it is not the one of its name."""
    node = cast("Member", getattr(site, who))
    writer = Writer(node.id, node.key.sign, lambda: site.mesh.now_ms)
    async with Replica(node.engine, writer, site.mesh.by.mldsa_verify) as replica:
        yield make_desk(replica, Speaker(replica, node.key.sign), key_name or who)


def make_desk(replica: Replica, operations: Speaker, key_name: str) -> Desk:
    """The parts over a replica."""
    journal, key = Journal(), YggdrasilKey(network_key(key_name))
    address = node_address(public(key_name))
    firewall = Firewall(MeshTable(name="x0t-abcdefgh", interface="x0t0", own=address, log_group=41), journal)
    yggdrasil = Peering(Place(mesh=replica.mesh, interface="x0t0", run_dir=Path("unused")), key, journal)
    queries = Queries(replica)
    mesh = Mesh(replica, queries, operations, PolicyService(queries, operations, replica.now_ms, asyncio.to_thread))
    said = Announcement((), relay=False, may_speak=lambda: replica.permitted(replica.node))
    network = Network(mesh, Kernel(firewall, cast("Yggdrasil", yggdrasil), key), said)
    return Desk(network, mesh, firewall, journal, operations)


@asynccontextmanager
async def running(network: Network) -> AsyncIterator[None]:
    """All its jobs run until the block ends."""
    supervisor = Supervisor()
    for job in network.jobs():
        supervisor.add(job)
    async with asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        try:
            yield
        finally:
            supervisor.stop()


def policy(*rules: Rule) -> Policy:
    """A policy of these rules."""
    return Policy(rules={rule.id: rule for rule in rules})
