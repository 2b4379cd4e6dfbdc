"""Where probes fly: nodes, gateways with networks behind them and an outlaw, in namespaces, joined by two meshes.

A wire is a bridge in a host of its own, where a tap sees what left each node. A network behind a gateway is one
namespace that answers for every address of its prefixes. Packets are sent with raw sockets and seen by raw sockets, so
by what passed the input hook. Nothing here waits for time: see `flight`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Final

from appliance.core.prefix import Prefix, address_text
from appliance.lab.site import Host, Site
from appliance.netstack.nft.channel import connect
from appliance.netstack.nft.firewall import NftFirewall
from appliance.netstack.nft.skeleton import MeshTable
from appliance.policy.filter import Filter
from tests.probes.drawing import GATEWAYS, MESHES, NODES, OUTLAW, Mesh, mesh
from tests.probes.flight import Flight, one_processor
from tests.probes.packets import (
    GRE,
    ICMPV6,
    PLAIN,
    SCTP,
    TCP,
    UDP,
    Kind,
    Probe,
    answered_in,
    number_in,
    packets,
    sent_in,
)


def network(gateway: str) -> str:
    """The host that is the network behind a gateway."""
    return f"{gateway}-lan"


SWITCH: Final = "switch"
NETWORKS: Final = tuple(map(network, GATEWAYS))
RECEIVED: Final = (TCP, UDP, ICMPV6, SCTP, GRE, *PLAIN)
Place = tuple[str, str]  # mesh, node
_BUFFER_BYTES: Final = 64 << 20
_SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_IGNORE_OUTGOING = 33, 263, 23
_ETH_P_ALL, _ETHERNET_BYTES, _IPV6 = 3, 14, b"\x86\xdd"
_BIG_SPORT: Final = 19_999
_IN_FLIGHT: Final = 48  # probes between two looks; the queue of a processor takes 1,000 packets
_SYSCTLS: Final = {
    "net.ipv6.ip_nonlocal_bind": "1",
    "net.ipv6.icmp.ratelimit": "0",  # each answer counts
    "net.ipv4.icmp_msgs_per_sec": "1000000000",
    "net.ipv4.icmp_msgs_burst": "1000000000",
}


class Sighting:
    """What was seen of the probes of a round: by number, and the host that saw it."""

    def __init__(self) -> None:
        self.left: set[tuple[bytes, int]] = set()  # source and number of what went onto a wire
        self.arrived: dict[int, set[str]] = {}
        self.answered: set[tuple[str, int]] = set()


class Ground:
    """A context manager; `async` work of the firewalls runs on a loop of its own."""

    def __init__(self) -> None:
        self.meshes: Final[dict[str, Mesh]] = {name: mesh(name) for name in MESHES}
        self.firewalls: Final[dict[Place, NftFirewall]] = {}
        self._stack: Final = ExitStack()
        self._raw: Final[dict[str, socket.socket]] = {}
        self._udp: Final[dict[str, socket.socket]] = {}
        self._flushers: Final[list[socket.socket]] = []
        self._receivers: Final[dict[int, tuple[str, int, socket.socket]]] = {}
        self._routes: Final[dict[str, list[str]]] = {}
        self._poll: Final = select.poll()

    def __enter__(self) -> Ground:
        with ExitStack() as undone:
            undone.push(self.__exit__)
            self.site: Site = self._stack.enter_context(Site())
            self._runner = self._stack.enter_context(asyncio.Runner())
            self._build()
            self._open()
            undone.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    # ---- what is in force

    def enforce(self, filters: Mapping[Place, Filter]) -> None:
        """Bring the firewalls to these filters, and begin without conversations."""

        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as group:
                for place, wanted in filters.items():
                    group.create_task(self._enforce(place, wanted))

        self._runner.run(all_of_them())
        for flusher in self._flushers:
            flusher.send(struct.pack("=IHHIIBBH", 20, 0x102, 5, 1, 0, 0, 0, 0))  # IPCTNL_MSG_CT_DELETE of all
            code = struct.unpack_from("=i", flusher.recv(1024), 16)[0]
            assert code == 0, os.strerror(-code)

    def route(self, behind: Mapping[str, Mapping[Prefix, str]], members: Mapping[str, Sequence[str]]) -> None:
        """Lead the prefixes of each mesh to the networks behind these gateways, and members' addresses to members."""
        for host in self.site:
            wanted = list(self._wanted_routes(host.name, behind, members))
            before = self._routes.get(host.name, [])
            gone = [f"route del {line}" for line in reversed(before) if line not in wanted]
            if lines := gone + [f"route add {line}" for line in wanted if line not in before]:
                host.ip(*lines)
            self._routes[host.name] = wanted

    # ---- what is sent and seen

    def send(self, probes: Iterable[tuple[str, Probe]]) -> Sighting:
        """Send probes from hosts; returns what was seen when nothing is in flight any more."""
        seen = Sighting()
        with one_processor():
            for number, (host, probe) in enumerate(probes):
                self._send(host, probe)
                if number % _IN_FLIGHT == _IN_FLIGHT - 1:
                    self._flight.settle()
                    self._collect(seen)
            self._flight.settle()
            self._collect(seen)
        return seen

    def _send(self, host: str, probe: Probe) -> None:
        to = address_text(probe.target)
        try:
            if probe.kind is Kind.BIG:
                source = struct.pack("16sI", probe.source, 0)
                (data,) = packets(probe)
                ancillary = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)]
                self._udp[host].sendmsg([data], ancillary, 0, (to, probe.port))
            else:
                for packet in packets(probe):
                    self._raw[host].sendto(packet, (to, 0))
        except PermissionError:  # the output hook dropped it
            pass

    def _collect(self, seen: Sighting) -> None:
        for fd, _ in self._poll.poll(0):
            host, protocol, receiver = self._receivers[fd]
            for data in waiting(receiver):
                if host == SWITCH:
                    if data[12:14] == _IPV6 and (found := sent_in(data[_ETHERNET_BYTES:])) is not None:
                        seen.left.add(found)
                    continue
                if (number := number_in(protocol, data)) is not None:
                    seen.arrived.setdefault(number, set()).add(host)
                if (number := answered_in(protocol, data)) is not None:
                    seen.answered.add((host, number))

    # ---- building

    def _build(self) -> None:
        self.site.hosts(SWITCH, OUTLAW, *NODES, *NETWORKS)
        for host in self.site:
            if host.name != SWITCH:
                for name, value in _SYSCTLS.items():
                    host.sysctl(name, value)
        for of in self.meshes.values():
            self._wire(of)
        for number, name in enumerate(GATEWAYS):
            self._network(name, number)
        for name in NODES:
            self.site[name].forward()
        self._runner.run(self._prepare())

    def _wire(self, of: Mesh) -> None:
        switch, ends = self.site[SWITCH], {**of.addresses, OUTLAW: of.outlaw}
        switch.ip(f"link add name {of.name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
        switch.ip(f"link set dev {of.name} up")
        for name in ends:
            port = f"{name}-{of.name}"
            self.site.cable(self.site[name], switch, names=(of.interface, port))
            switch.ip(f"link set dev {port} master {of.name}")
        macs = {name: f"02:00:00:00:{ord(of.name):02x}:{number:02x}" for number, name in enumerate(ends)}
        for name, own in ends.items():
            others = {other: address_text(address) for other, address in ends.items() if other != name}
            dev = f"dev {of.interface}"
            lines = [f"link set {dev} address {macs[name]}", f"address add {address_text(own)}/128 {dev} nodad"]
            lines += [f"neigh replace {to} lladdr {macs[other]} {dev} nud permanent" for other, to in others.items()]
            lines += [f"route add {address_text(of.outlaw)}/128 {dev}"] if name != OUTLAW else []
            astray = (str(Prefix(of.prefixes[0].address, 16)), *(["200::/7"] if of.name == "a" else []))
            lines += [f"route add {net} via {others[OUTLAW]} {dev}" for net in astray if name != OUTLAW]
            self.site[name].ip(*lines)

    def _network(self, gateway: str, number: int) -> None:
        one, other = self.site[gateway], self.site[network(gateway)]
        cable = self.site.cable(one, other, names=("lan", "lan"), prefixes=[f"fd99:{number}::/64"])
        for host, peer, mac in ((one, other, "02:00:00:01:00:01"), (other, one, "02:00:00:01:00:02")):
            host.ip(f"link set dev lan address {mac}")
            peer.ip(f"neigh replace {cable.end(host).v6} lladdr {mac} dev lan nud permanent")
        other.ip(f"route add default via {cable.end(one).v6} dev lan")

    async def _prepare(self) -> None:
        for of in self.meshes.values():
            for name, own in of.addresses.items():
                table = MeshTable(name=f"x0t-probe-{of.name}", interface=of.interface, own=own, log_group=ord(of.name))
                self.firewalls[of.name, name] = NftFirewall(table, connect=_inside(self.site[name]))
                self._stack.callback(self._close, (of.name, name))
                await self.firewalls[of.name, name].prepare()

    async def _enforce(self, place: Place, wanted: Filter) -> None:
        await self.firewalls[place].apply(wanted)

    def _close(self, place: Place) -> None:
        self._runner.run(self.firewalls[place].close())

    def _wanted_routes(
        self, host: str, behind: Mapping[str, Mapping[Prefix, str]], members: Mapping[str, Sequence[str]]
    ) -> Iterator[str]:
        """What is reached directly comes before what is reached through it."""
        for of in self.meshes.values():
            to = {name: address_text(of.addresses[name]) for name in members[of.name] if name != host}
            if host in NETWORKS:
                before = f"via fd99:{NETWORKS.index(host)}::1 dev lan"
                yield from (f"{address}/128 {before}" for address in to.values())
                for prefix, gateway in behind[of.name].items():
                    yield f"local {prefix} dev lo table main" if host == network(gateway) else f"{prefix} {before}"
            elif host in of.addresses or host == OUTLAW:
                yield from (f"{address}/128 dev {of.interface}" for address in to.values())
                for prefix, gateway in behind[of.name].items():
                    near = f"via fd99:{GATEWAYS.index(gateway)}::2 dev lan"
                    far = f"via {address_text(of.addresses[gateway])} dev {of.interface}"
                    yield f"{prefix} {near if host == gateway else far}"

    def _open(self) -> None:
        for host in self.site:
            if host.name == SWITCH:
                tap = self._kept(host, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
                tap.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                self._listen(host.name, 0, tap)
                continue
            self._raw[host.name] = self._kept(host, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._udp[host.name] = self._kept(host, socket.AF_INET6, socket.SOCK_DGRAM, 0)
            self._udp[host.name].bind(("::", _BIG_SPORT))
            if host.name in NODES:
                with host.enter():
                    self._flushers.append(self._stack.enter_context(connect()))
            if host.name != OUTLAW:
                for protocol in RECEIVED:
                    receiver = self._kept(host, socket.AF_INET6, socket.SOCK_RAW, protocol)
                    self._listen(host.name, protocol, receiver)
        self._flight = self._stack.enter_context(closing(Flight(self.site[OUTLAW])))

    def _kept(self, host: Host, family: int, kind: int, protocol: int) -> socket.socket:
        return self._stack.enter_context(host.socket(family, kind, protocol))

    def _listen(self, host: str, protocol: int, receiver: socket.socket) -> None:
        receiver.setblocking(False)
        receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._receivers[receiver.fileno()] = host, protocol, receiver
        self._poll.register(receiver, select.POLLIN)


def _inside(host: Host) -> Callable[[], socket.socket]:
    def opened() -> socket.socket:
        with host.enter():
            return connect()

    return opened


def waiting(receiver: socket.socket) -> Iterator[bytes]:
    """What a socket holds, until nothing is left."""
    while True:
        try:
            yield receiver.recv(4096)
        except BlockingIOError:
            return
        except OSError as err:
            if err.errno not in {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EPROTO}:
                raise
