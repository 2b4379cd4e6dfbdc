"""`./test bench heal [--rounds N]`: how long a flow between two members stays away when what carries it is lost.

Five hosts with real Yggdrasil under its manager: robot and gateway, which nobody can dial, two relays and the founder.
A datagram every 20 ms from the robot to the gateway and back; the longest time without an answer is what counts. Nobody
acts but the daemons and their managers. Peer of the first rows: the same loss with one uplink only, that is, without
the second one that the choice of peers holds ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from appliance.core.limits import LIMITS
from appliance.lab.link import Link
from appliance.lab.site import Site
from appliance.netstack.yggdrasil.config import peer_password
from appliance.netstack.yggdrasil.key import RELAY_BITS, generate_key
from appliance.netstack.yggdrasil.manager import Yggdrasil
from appliance.netstack.yggdrasil.peers import Choice
from tests.bench.rows import Row, bounded
from tests.yggdrasil_rig import MESH, SECRET, Flow, Node, flow, lan_of, links, running, want, wanted

ROUNDS = 3
REACH_S = 5.0  # issue
AFTER_S = 8.0  # watched after a loss: the tree is made anew, and the flow may go away again
MIDDLE = ("relay-a", "relay-b", "founder")
AGES = ("founder", "relay-a", "relay-b", "robot", "gateway", "guest")  # the oldest certificate first
UPLINKS = 2


class Cell(msgspec.Struct, frozen=True):
    """The nodes by name, their LAN, a key that they know and that is on no host, and what runs in the loop."""

    nodes: dict[str, Node]
    lan: Link
    traffic: Flow
    tasks: dict[str, asyncio.Task[None]]

    async def carrier(self) -> Node:
        """The node through which the flow goes: whose link to the robot carries most."""
        before = await self._sent()
        for _ in range(25):
            await self.traffic.flows()
        after = await self._sent()
        key = max(after, key=lambda each: after[each] - before.get(each, 0))
        return next(node for node in self.nodes.values() if node.key.public == key)

    async def _sent(self) -> dict[bytes, int]:
        peers = await self.nodes["robot"].manager.admin.peers()
        return {peer.public_key: peer.bytes_sent for peer in peers if peer.up}


Loss = Callable[[Cell, Node], Awaitable[None]]


async def host_dies(cell: Cell, node: Node) -> None:
    """kill -9 of the daemon, and nobody there to start another. The kernel still closes its connections."""
    pid = node.manager.state.pid
    cell.tasks[node.host.name].cancel()
    os.kill(pid, signal.SIGKILL)


async def cable_breaks(cell: Cell, node: Node) -> None:
    """Everything to and from the host vanishes, and nobody is told."""
    await asyncio.to_thread(cell.lan.cut, node.host)


async def daemon_dies(cell: Cell, node: Node) -> None:
    """kill -9 of the daemon; its manager starts another."""
    os.kill(node.manager.state.pid, signal.SIGKILL)


async def founder_dies(cell: Cell, node: Node) -> None:
    """The root of the tree goes, which carries nothing of this flow or all of it."""
    await host_dies(cell, cell.nodes["founder"])


async def somebody_is_evicted(cell: Cell, node: Node) -> None:
    """A member that is linked to both relays is evicted, so both restart at once."""
    left = {name: each for name, each in cell.nodes.items() if name != "guest"}
    want(*left.values())


async def secret_changes(cell: Cell, node: Node) -> None:
    """The mesh has a new password: every daemon is restarted."""
    for each in cell.nodes.values():
        each.manager.want(wanted(*cell.nodes.values(), password=peer_password(SECRET, MESH, 2)))


async def measured(lan: Link, nodes: dict[str, Node], uplinks: int, loss: Loss) -> float:
    """The longest time without an answer after a loss, in seconds."""
    robot, gateway = nodes["robot"], nodes["gateway"]
    async with running(*nodes.values()) as tasks, flow(robot, gateway) as traffic:
        want(*nodes.values())
        for name in ("robot", "gateway", "guest"):
            await nodes[name].until(lambda state: len(links(state)) >= uplinks, "linked")
        await traffic.flows()
        cell = Cell(nodes, lan, traffic, dict(zip(nodes, tasks, strict=True)))
        carrier = await cell.carrier()
        begun_s = asyncio.get_running_loop().time()
        await loss(cell, carrier)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AFTER_S):
                await asyncio.Event().wait()
        await traffic.flows(timeout_s=60)
        return traffic.longest_gap_s(begun_s)


def away_s(uplinks: int, loss: Loss) -> float:
    """One round in a cell of its own."""
    with tempfile.TemporaryDirectory() as folder, Site() as site:
        lan, made = lan_of(site, Path(folder), "robot", "gateway", "guest", *MIDDLE)
        nodes = {node.host.name: node for node in made}
        for name, node in nodes.items():
            node.key = generate_key(RELAY_BITS if name.startswith("relay") else 0)
            node.manager = Yggdrasil(node.place, node.key, LIMITS, Choice(count=uplinks))
            node.member = msgspec.structs.replace(
                node.member,
                key=node.key.public,
                uris=node.member.uris if name in MIDDLE else (),
                relay=name.startswith("relay"),
                since_s=float(AGES.index(name)),
            )
        return asyncio.run(measured(lan, nodes, uplinks, loss))


def run(arguments: list[str]) -> list[Row]:
    """The rows: the worst of some rounds each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    rounds = int(arguments[arguments.index("--rounds") + 1]) if "--rounds" in arguments else ROUNDS
    rows = []
    for name, loss, at_most_s in (
        ("relay in use: its host dies (peer: one uplink)", host_dies, REACH_S),
        ("relay in use: its cable breaks silently (peer: one uplink)", cable_breaks, REACH_S),
        ("relay in use: its daemon dies and is restarted", daemon_dies, REACH_S),
        ("founder: its host dies", founder_dies, REACH_S),
        ("a member linked to both relays is evicted", somebody_is_evicted, None),
        ("the secret changes: every daemon restarts", secret_changes, None),
    ):
        worst = max(away_s(UPLINKS, loss) for _ in range(rounds))
        row = bounded(name, "s", worst, at_most=at_most_s) if at_most_s else Row(name=name, unit="s", value=worst)
        if "peer" in name:
            peer = max(away_s(1, loss) for _ in range(rounds))
            row = msgspec.structs.replace(row, peer=peer, ratio=worst / peer)
        rows.append(row)
    return rows
