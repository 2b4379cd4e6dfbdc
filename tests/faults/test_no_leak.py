"""Where the mesh interface is not there, nothing that is for the mesh leaves by another way.

There is no firewall here: routes alone hold back what the node sends and what it forwards. A host on the street, where
the default route leads, shows what came out.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from appliance.core.limits import Limits
from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address, node_subnet
from appliance.lab.host import Host
from appliance.lab.site import Site
from appliance.netstack.yggdrasil.key import generate_key
from appliance.netstack.yggdrasil.manager import Yggdrasil
from appliance.netstack.yggdrasil.records import Candidate, Phase, State, Wanted
from tests.probes.flight import Flight, one_processor
from tests.probes.ground import waiting
from tests.yggdrasil_rig import Node

BEHIND, STREET = "fd01::/64", "fd02::/64"
STRANGER = "200::77"
MARK = b"for the mesh alone"
OTHER_MESH = bytes(reversed(range(32)))
BACK_S = 10.0
_ETH_P_IPV6 = 0x86DD

SLOW_PROGRAM = """#!/bin/sh
while [ -e {held} ]; do sleep 0.05; done
exec yggdrasil "$@"
"""

Moment = Callable[["Scene"], Awaitable[None]]


class Scene:
    """A node with a host behind it, and its default route to the street. Another member exists in name alone."""

    def __init__(self, site: Site, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.host, self.behind, self.street = site.hosts("node", "behind", "street")
        site.cable(self.host, self.behind, names=("lan", "lan"), prefixes=[BEHIND])
        site.cable(self.host, self.street, names=("street", "street"), prefixes=[STREET])
        self.host.forward()
        self.host.ip("route add default via fd02::2")
        self.behind.ip("route add default via fd01::1")
        self.node = Node(self.host, folder)
        key = generate_key().public
        subnet = node_subnet(key).address
        self.wanted = Wanted(members=(self.node.member, Candidate(key=key)), password="one")
        targets = {"a member": node_address(key), "a host behind a gateway": subnet[:15] + b"\x05"}
        self.ways = {
            f"{how} to {whom}": (sender, address_text(target))
            for whom, target in targets.items()
            for how, sender in (("sent", self.host), ("forwarded", self.behind))
        }
        self._sender = {
            host: stack.enter_context(host.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            for host in (self.host, self.behind)
        }
        tap = self.street.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IPV6))
        self._tap = stack.enter_context(tap)
        self._tap.setblocking(False)
        self._flight = stack.enter_context(closing(Flight(self.street)))

    def leaked(self) -> set[str]:
        """Which of the packets for the mesh arrive on the street."""
        return {way for way, (sender, target) in self.ways.items() if self.arrives(sender, target)}

    def arrives(self, sender: Host, target: str) -> bool:
        """True if a packet arrives on the street."""
        mark = MARK + target.encode() + sender.name.encode()
        with one_processor():
            with contextlib.suppress(OSError):  # no way out: what is hoped for
                self._sender[sender].sendto(mark, (target, 9))
            self._flight.settle()
        return any(mark in frame for frame in waiting(self._tap))

    def barriers(self) -> list[str]:
        """The metrics of the barriers, by another reader than ours."""
        return re.findall(r"unreachable 200::/7 .*?proto 120 metric (\d+)", self._routes())

    def ours(self) -> list[str]:
        """All routes with our protocol number."""
        return [line for line in self._routes().splitlines() if "proto 120" in line]

    def _routes(self) -> str:
        return self.host.run(["ip", "-6", "route", "show", "table", "all"]).stdout

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that the kernel shows."""
        async with asyncio.timeout(BACK_S):
            while not await asyncio.to_thread(holds):  # noqa: ASYNC110  # the events are the manager's to wait for
                await asyncio.sleep(0.02)

    async def is_running(self, since: int = 0) -> State:
        """Wait until Yggdrasil runs, with another process id than this one."""
        return await self.node.until(lambda state: state.phase is Phase.RUNNING and state.pid != since)


@pytest.fixture
def scene(root: None, tmp_path: Path) -> Iterator[Scene]:
    with Site() as site, ExitStack() as stack:
        yield Scene(site, tmp_path, stack)


@contextlib.asynccontextmanager
async def managed(*nodes: Node) -> AsyncIterator[None]:
    """The managers of nodes run; they are stopped at the end and leave what lasts."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(node.manager.run()) for node in nodes]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def before_anything_is_wanted(scene: Scene) -> None:
    async with managed(scene.node):
        await scene.until(lambda: bool(scene.barriers()))


async def before_the_first_start(scene: Scene) -> None:
    """The interface was made, and then the program does not run."""
    scene.node = Node(scene.host, scene.folder, program="false")
    scene.node.manager.want(scene.wanted)
    async with managed(scene.node):
        await scene.node.until(lambda state: state.phase is Phase.BLOCKED)


async def deleted(scene: Scene) -> None:
    await it_ran(scene)
    await asyncio.to_thread(scene.host.ip, "link del x0t0")


async def down(scene: Scene) -> None:
    await it_ran(scene)
    await asyncio.to_thread(scene.host.ip, "link set x0t0 down")


async def without_its_routes(scene: Scene) -> None:
    await it_ran(scene)
    await asyncio.to_thread(scene.host.run, ["ip", "-6", "route", "flush", "dev", "x0t0"])


async def it_ran(scene: Scene) -> None:
    """Yggdrasil runs, and its manager has ended: nobody repairs."""
    scene.node.manager.want(scene.wanted)
    async with managed(scene.node):
        await scene.is_running()
    assert await asyncio.to_thread(scene.leaked) == set()


@pytest.mark.parametrize(
    "moment", [before_anything_is_wanted, before_the_first_start, deleted, down, without_its_routes]
)
async def test_nothing_for_the_mesh_leaves_by_the_default_route(scene: Scene, moment: Moment) -> None:
    try:
        await moment(scene)
        assert await asyncio.to_thread(scene.leaked) == set()
        await asyncio.to_thread(scene.host.run, ["ip", "-6", "route", "flush", "type", "unreachable", "proto", "120"])
        assert await asyncio.to_thread(scene.leaked) == set(scene.ways), "it proves nothing: there is no other way"
    finally:
        await scene.node.manager.remove()


async def test_nothing_leaves_while_the_interface_is_deleted_again_and_again_and_repaired(scene: Scene) -> None:
    leaked: set[str] = set()

    def delete_and_send() -> None:
        scene.host.ip("link del x0t0")
        for _ in range(20):
            leaked.update(scene.leaked())

    scene.node.manager.want(scene.wanted)
    try:
        async with managed(scene.node):
            pid = (await scene.is_running()).pid
            for _ in range(4):
                await asyncio.to_thread(delete_and_send)
                pid = (await scene.is_running(since=pid)).pid
        assert leaked == set()
    finally:
        await scene.node.manager.remove()


@pytest.mark.parametrize("is_wanted", [False, True], ids=["waiting", "running"])
@pytest.mark.parametrize("deed", [("route del unreachable 200::/7 proto 120",), ("link set lo down", "link set lo up")])
async def test_a_barrier_that_somebody_takes_away_is_put_back(
    scene: Scene, deed: tuple[str, ...], is_wanted: bool
) -> None:
    if is_wanted:
        scene.node.manager.want(scene.wanted)
    try:
        async with managed(scene.node):
            await scene.until(lambda: bool(scene.barriers()))
            if is_wanted:
                await scene.is_running()
            for line in deed:
                await asyncio.to_thread(scene.host.ip, line)
            await scene.until(lambda: bool(scene.barriers()))
    finally:
        await scene.node.manager.remove()


async def test_the_barrier_is_back_before_the_interface_if_both_are_taken_away(scene: Scene) -> None:
    held, script = scene.folder / "held", scene.folder / "yggdrasil"
    await asyncio.to_thread(script.write_text, SLOW_PROGRAM.format(held=held))
    await asyncio.to_thread(script.chmod, 0o755)
    node = Node(scene.host, scene.folder, program=str(script), user="root")
    node.manager = Yggdrasil(node.place, node.key, Limits(yggdrasil_start_s=300))
    scene.node = node
    node.manager.want(scene.wanted)
    try:
        async with managed(node):
            await scene.is_running()
            await asyncio.to_thread(held.touch)
            await asyncio.to_thread(scene.host.ip, "route del unreachable 200::/7 proto 120", "link del x0t0")
            await node.until(lambda state: state.phase is Phase.STARTING)
            await scene.until(lambda: bool(scene.barriers()))
            await asyncio.to_thread(held.unlink)
            await scene.is_running()
    finally:
        await node.manager.remove()


async def test_each_mesh_of_a_node_has_its_own_barrier_and_takes_it_away_with_the_rest(scene: Scene) -> None:
    one, two = scene.node, Node(scene.host, scene.folder, mesh=OTHER_MESH, interface="x0t1", run_dir=scene.folder / "2")
    async with managed(one, two):
        await scene.until(lambda: len(scene.barriers()) == 2)
    await one.manager.remove()
    assert await asyncio.to_thread(scene.barriers) == [str(0xFF000000 | 0x1F1E1D)]
    assert await asyncio.to_thread(scene.leaked) == set()
    await two.manager.remove()
    assert await asyncio.to_thread(scene.ours) == []


async def test_a_yggdrasil_of_the_users_own_keeps_its_packets(scene: Scene) -> None:
    """Its route for all of 200::/7 is preferred to the barrier; it leads to the street here."""
    await asyncio.to_thread(scene.host.ip, "route add 200::/7 via fd02::2")
    scene.node.manager.want(scene.wanted)
    try:
        async with managed(scene.node):
            await scene.is_running()
            for sender in (scene.host, scene.behind):
                assert await asyncio.to_thread(scene.arrives, sender, STRANGER)
            assert await asyncio.to_thread(scene.leaked) == set()
    finally:
        await scene.node.manager.remove()
