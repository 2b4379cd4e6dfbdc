"""Meshes of real Yggdrasil daemons in namespaces, each node under a manager of its own, for tests and benchmarks.

Everything waits for a state and never for time. A node's manager lives in the test's process, its daemon in the host's
namespace; what a host sends and receives goes through sockets made inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address
from appliance.lab.host import Host
from appliance.lab.link import Link
from appliance.lab.site import Site
from appliance.netstack.yggdrasil.config import peer_password
from appliance.netstack.yggdrasil.key import generate_key
from appliance.netstack.yggdrasil.manager import Yggdrasil
from appliance.netstack.yggdrasil.records import Candidate, Place, State, Wanted

MESH = bytes(range(32))
SECRET = b"the secret of the mesh, 32 bytes"
PORT = 7331
WAIT_S = 30.0


class Node:
    """A member: its key, its place, its manager."""

    def __init__(self, host: Host, folder: Path, underlay: str = "", *, relay: bool = False, **place: object) -> None:
        """`underlay` is its address there; empty: it does not listen. `place` replaces fields of the Place."""
        self.host = host
        self.key = generate_key()
        usual = Place(
            mesh=MESH,
            interface="x0t0",
            run_dir=folder / host.name,
            listen=(f"tls://0.0.0.0:{PORT}",) if underlay else (),
            mtu=32_000,
            netns=host.netns,
        )
        self.place = msgspec.structs.replace(usual, **place)
        ports = [uri.rpartition(":")[2] for uri in self.place.listen]
        self.member = Candidate(
            key=self.key.public, uris=tuple(f"tls://{underlay}:{port}" for port in ports), relay=relay
        )
        self.manager = Yggdrasil(self.place, self.key)

    @property
    def address(self) -> str:
        """On the mesh."""
        return address_text(node_address(self.key.public))

    def renew(self) -> Yggdrasil:
        """A new manager for the same place, as after a restart of the program."""
        self.manager = Yggdrasil(self.place, self.key)
        return self.manager

    async def until(self, holds: Callable[[State], bool], what: str = "", timeout_s: float = WAIT_S) -> State:
        """Wait for a state of the manager."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(self.manager.state):
                    await self.manager.changed()
        except TimeoutError:
            raise AssertionError(f"{self.host.name}: not {what or 'as expected'}: {self.manager.state}") from None
        return self.manager.state

    async def linked(self, *others: Node) -> State:
        """Wait until there are links with these."""
        keys = {other.key.public for other in others}
        return await self.until(lambda state: keys <= links(state), f"linked with {len(keys)}")


def lan_of(site: Site, folder: Path, *names: str) -> tuple[Link, list[Node]]:
    """A LAN of hosts, interface `lan` in each, and a member on each, all of which listen."""
    hosts = site.hosts(*names)
    lan = site.bridge("lan", hosts, prefixes=["10.9.0.0/24"])
    return lan, [Node(host, folder, lan.end(host).v4) for host in hosts]


async def on_a_lan(site: Site, folder: Path, *names: str) -> list[Node]:
    """The members of `lan_of`."""
    return (await asyncio.to_thread(lan_of, site, folder, *names))[1]


def links(state: State) -> set[bytes]:
    """The keys at the other end of links that are up; while one shakes hands it is nobody's yet."""
    return {peer.key for peer in state.peers if peer.up and peer.key}


def wanted(*nodes: Node, password: str | None = None, former: frozenset[bytes] = frozenset()) -> Wanted:
    """These nodes are the members."""
    return Wanted(
        members=tuple(node.member for node in nodes),
        password=peer_password(SECRET, MESH, 1) if password is None else password,
        former=former,
    )


def want(*nodes: Node, among: tuple[Node, ...] | None = None) -> None:
    """Tell the managers of these nodes who the members are (default: themselves)."""
    for node in nodes:
        node.manager.want(wanted(*(among or nodes)))


@contextlib.asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The managers run, each in its task; at the end all is taken away."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(node.manager.run()) for node in nodes]
            try:
                yield tasks
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        for node in nodes:
            await node.manager.remove()


class Flow:
    """A datagram every `PERIOD_S` from one node to another and back: when answers arrived, on the clock of the loop."""

    PERIOD_S = 0.02

    def __init__(self, source: Host, target: Host, address: str) -> None:
        self.arrivals: list[float] = []
        self._hosts = source, target
        self._address = address
        self._news = asyncio.Event()

    async def __aenter__(self) -> Flow:
        loop = asyncio.get_running_loop()
        self._ends = [host.socket(socket.AF_INET6, socket.SOCK_DGRAM) for host in self._hosts]
        self._ends[1].bind(("::", 0))
        self._target = (self._address, self._ends[1].getsockname()[1])
        for end, read in zip(self._ends, (self._arrived, self._echo), strict=True):
            end.setblocking(False)
            loop.add_reader(end, read)
        self._send()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        for end in self._ends:
            asyncio.get_running_loop().remove_reader(end)
            end.close()

    async def flows(self, since_s: float | None = None, timeout_s: float = WAIT_S) -> float:
        """Wait for an answer to what was sent from now on (or since then); returns when it arrived."""
        begun_s = asyncio.get_running_loop().time() if since_s is None else since_s
        async with asyncio.timeout(timeout_s):
            while not self.arrivals or self.arrivals[-1] <= begun_s:
                self._news.clear()
                await self._news.wait()
        return self.arrivals[-1]

    async def is_silent(self, for_s: float) -> bool:
        """True if nothing arrives for so long."""
        with contextlib.suppress(TimeoutError):
            await self.flows(timeout_s=for_s)
            return False
        return True

    def longest_gap_s(self, since_s: float) -> float:
        """The longest time without an answer since then."""
        seen = [max(since_s, each) for each in self.arrivals if each > since_s - 1]
        return max((later - sooner for sooner, later in itertools.pairwise(seen)), default=math.inf)

    def _send(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # no route: it is lost
            self._ends[0].sendto(str(loop.time()).encode(), self._target)
        self._timer = loop.call_later(self.PERIOD_S, self._send)

    def _echo(self) -> None:
        with contextlib.suppress(OSError):
            data, sender = self._ends[1].recvfrom(64)
            self._ends[1].sendto(data, sender)

    def _arrived(self) -> None:
        with contextlib.suppress(OSError):
            self.arrivals.append(float(self._ends[0].recv(64)))
            self._news.set()


def flow(source: Node, target: Node) -> Flow:
    """A flow between two members."""
    return Flow(source.host, target.host, target.address)
