"""A firewall to test, with somebody at the far end: the real one between two namespaces, or the fake one.

The mesh interface is a veth that behaves as a TUN: no neighbour discovery, both ends have one MAC address, so every
address of the far end is reached without being asked for.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from appliance.core.prefix import address_text, parse_address
from appliance.lab.host import Host
from appliance.lab.site import Site
from appliance.netstack.fake.firewall import FakeFirewall
from appliance.netstack.nft.channel import connect
from appliance.netstack.nft.firewall import NftFirewall
from appliance.netstack.nft.skeleton import MeshTable
from appliance.netstack.nft.verdict import ECHO_PORT, ICMPV6, Packet, Way
from appliance.policy.filter import Address, Filter, Grant, Key, ServiceRange

UDP = 17
OWN, FAR, OTHER, HOST, STRANGER = (
    parse_address(text) for text in ("200::1", "200::2", "200::3", "300:9::5", "200::bad")
)
MESH = "x0t0"
TABLE = MeshTable(name="x0t-abcdefgh", interface=MESH, own=OWN, log_group=41)
PEERS, GRANTS = 10_000, 40_000  # of a large filter
SHORT_S = 0.25  # to see that nothing comes; what comes takes less than a millisecond

NODE, MEMBERS, HOSTS, NOBODY = 3, 5, 9, 0  # classes
LOW, HIGH, ECHO = 1, 2, 4
SERVICES = {
    ServiceRange(UDP, UDP, 1000, 1999): LOW,
    ServiceRange(UDP, UDP, 2000, 2999): HIGH,
    ServiceRange(ICMPV6, ICMPV6, 0, 65_535): ECHO,
}
ECHO_REQUEST = bytes([128, 0, 0, 0, 0, 0, 0, 1])  # the kernel fills in checksum and identifier
ANY_TIME = Grant(())


def a_filter(
    inbound: Iterable[tuple[int, int]] | dict[tuple[int, int], Grant] = (),
    outbound: Iterable[tuple[int, int]] = (),
    peers: dict[Address, int] | None = None,
) -> Filter:
    """A filter that lets peers of a class use services of a class; near end is the node itself."""
    granted = inbound if isinstance(inbound, dict) else dict.fromkeys(inbound, ANY_TIME)
    return Filter(
        own=OWN,
        peers={FAR: MEMBERS, OTHER: NOBODY} if peers is None else peers,
        peer_nets={(parse_address("300:9::"), parse_address("300:9::ffff")): HOSTS},
        locals={(OWN, OWN): NODE},
        services=SERVICES,
        inbound={Key(peer, NODE, service): grant for (peer, service), grant in granted.items()},
        outbound={Key(peer, NODE, service): ANY_TIME for peer, service in outbound},
    )


def large() -> Filter:
    """As much as a node of a mesh of ten thousand has to know: fifty thousand elements."""
    far = {0x0200 << 112 | 1000 + number: number % 400 + 1 for number in range(PEERS)}
    keys = [Key(number % 400 + 1, NODE, number // 400 + 1) for number in range(GRANTS // 2)]
    grants = dict.fromkeys(keys, ANY_TIME)
    return Filter(
        own=OWN,
        peers={address.to_bytes(16, "big"): number for address, number in far.items()},
        locals={(OWN, OWN): NODE},
        services={ServiceRange(UDP, UDP, 1000, 1999): 1, ServiceRange(UDP, UDP, 2000, 2999): 2},
        inbound=grants,
        outbound=grants,
    )


AnyFirewall: TypeAlias = NftFirewall | FakeFirewall


class Talk(Protocol):
    """A conversation over UDP."""

    async def ask(self) -> bool:
        """The opener sends; True if it arrives."""
        ...

    async def answer(self) -> bool:
        """The other end sends; True if it arrives."""
        ...


class FirewallRig(Protocol):
    """What the contract suite needs."""

    @property
    def firewall(self) -> AnyFirewall:
        """What is tested."""
        ...

    def restart(self) -> AnyFirewall:
        """Another firewall on the same table, as after the death of the daemon; `firewall` is the new one."""
        ...

    async def flush(self) -> None:
        """Somebody else empties the whole ruleset."""
        ...

    def lingering(self) -> AbstractContextManager[None]:
        """Until the block ends, no conversation can be ended."""
        ...

    def talk(self, opener: Address, opened: Address, port: int) -> Talk:
        """A conversation that nobody has opened yet; one end is the node."""
        ...

    async def echo(self, opener: Address, opened: Address) -> bool:
        """True if an echo request is answered."""
        ...

    async def close(self) -> None:
        """End everything."""
        ...


# ---- the fake


class FakeRig:
    """The firewall in memory; packets are described to it."""

    def __init__(self) -> None:
        self._fake = FakeFirewall(TABLE)

    @property
    def firewall(self) -> AnyFirewall:
        return self._fake

    def restart(self) -> AnyFirewall:
        self._fake = FakeFirewall(TABLE, kernel=self._fake.kernel)
        return self._fake

    def carry(self, packet: Packet) -> bool:
        return self._fake.carry(packet, 64) is None

    async def flush(self) -> None:
        self._fake.disturb()

    @contextmanager
    def lingering(self) -> Iterator[None]:
        self._fake.linger(1_000)
        yield
        self._fake.linger(0)

    def talk(self, opener: Address, opened: Address, port: int) -> Talk:
        return FakeTalk(self, (opener, opened), UDP, port)

    async def echo(self, opener: Address, opened: Address) -> bool:
        talk = FakeTalk(self, (opener, opened), ICMPV6, ECHO_PORT)
        return await talk.ask() and await talk.answer()

    async def close(self) -> None:
        await self._fake.close()


class FakeTalk:
    """Packets of one conversation, described."""

    def __init__(self, rig: FakeRig, ends: tuple[Address, Address], protocol: int, port: int) -> None:
        self._rig, self._ends, self._protocol, self._port = rig, ends, protocol, port

    async def ask(self) -> bool:
        return self._carry(*self._ends, reply=False)

    async def answer(self) -> bool:
        return self._carry(*reversed(self._ends), reply=True)

    def _carry(self, source: Address, target: Address, *, reply: bool) -> bool:
        way = Way.TO_MESH if source == OWN else Way.FROM_MESH
        packet = Packet(way=way, source=source, target=target, protocol=self._protocol, port=self._port, reply=reply)
        return self._rig.carry(packet)


# ---- the real one


class Pair:
    """A node whose mesh interface leads to a far end that has the addresses of everybody else."""

    def __init__(self) -> None:
        self.site = Site()
        self.node: Host
        self.far: Host

    def __enter__(self) -> Self:
        self.site.__enter__()
        self.node, self.far = self.site.hosts("node", "far")
        self.appear()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.site.__exit__(kind, value, tb)

    def appear(self) -> None:
        """The mesh interface comes up, with the far end behind it."""
        self.site.cable(self.node, self.far, names=(MESH, "far0"))
        for host, interface, addresses in (
            (self.node, MESH, [OWN]),
            (self.far, "far0", [FAR, OTHER, HOST, STRANGER]),
        ):
            like_a_tun(host, interface)
            host.ip(*(f"addr add {address_text(address)}/7 dev {interface} nodad" for address in addresses))

    def vanish(self) -> None:
        """The mesh interface goes, with its addresses and routes."""
        self.node.ip(f"link del {MESH}")

    def host_of(self, address: Address) -> Host:
        return self.node if address == OWN else self.far

    def connect(self) -> socket.socket:
        """A netfilter socket of the node."""
        with self.node.enter():
            return connect()


def like_a_tun(host: Host, interface: str) -> None:
    """Make a veth carry packets to whatever address, unasked."""
    host.ip(
        f"link set {interface} down",
        f"link set {interface} address 02:00:00:00:00:01 arp off multicast off",
        f"link set {interface} up",
    )


class KernelRig:
    """The firewall in nf_tables; packets are sent. `connect` makes its sockets."""

    def __init__(self, pair: Pair, connect: Callable[[], socket.socket] | None = None) -> None:
        self.pair = pair
        self._connect = connect or pair.connect
        self._talks: list[KernelTalk] = []
        self._made = [NftFirewall(TABLE, connect=self._connect)]

    @property
    def firewall(self) -> AnyFirewall:
        return self._made[-1]

    def restart(self) -> AnyFirewall:
        self._made.append(NftFirewall(TABLE, connect=self._connect))
        return self.firewall

    async def flush(self) -> None:
        await asyncio.to_thread(self.pair.node.run, ["nft", "flush", "ruleset"])

    def talk(self, opener: Address, opened: Address, port: int) -> Talk:
        made = KernelTalk(self.pair, (opener, opened), port)
        self._talks.append(made)
        return made

    async def echo(self, opener: Address, opened: Address) -> bool:
        with self.pair.host_of(opener).socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as one:
            one.bind((address_text(opener), 0))
            one.connect((address_text(opened), 0))
            return await asyncio.to_thread(_arrives, one, one, ECHO_REQUEST)

    async def close(self) -> None:
        for talk in self._talks:
            talk.close()
        for firewall in self._made:
            await firewall.close()


class KernelTalk:
    """Two UDP sockets, each connected to the other."""

    def __init__(self, pair: Pair, ends: tuple[Address, Address], port: int) -> None:
        self._sockets = [pair.host_of(end).socket(socket.AF_INET6, socket.SOCK_DGRAM) for end in ends]
        opener, opened = self._sockets
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opener.bind((address_text(ends[0]), 0))
        opened.bind((address_text(ends[1]), port))
        opener.connect((address_text(ends[1]), port))
        opened.connect(opener.getsockname()[:2])

    async def ask(self) -> bool:
        return await asyncio.to_thread(_arrives, self._sockets[0], self._sockets[1])

    async def answer(self) -> bool:
        return await asyncio.to_thread(_arrives, self._sockets[1], self._sockets[0])

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def _arrives(sender: socket.socket, receiver: socket.socket, data: bytes = b"x" * 16) -> bool:
    try:
        sender.send(data)
    except OSError:  # EPERM: our own output chain dropped it; or an error of the far end
        return False
    if not select.select([receiver], [], [], SHORT_S)[0]:
        return False
    try:
        return bool(receiver.recv(64))
    except OSError:
        return False
