"""A gateway among neighbours that obey nobody: where frames are sent that should not get through.

It has a mesh, a network behind it and a street before its door. The members beside it on the mesh and the host on the
street have no firewall, and put whatever frames they like on the wire. Sockets everywhere show which kernel took a
packet for its own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from types import TracebackType

from appliance.core.prefix import Prefix, address_text, parse_address
from appliance.lab.site import Host, Site
from appliance.netstack.nft.channel import connect
from appliance.netstack.nft.firewall import NftFirewall
from appliance.netstack.nft.skeleton import MeshTable
from appliance.policy.compile import compile_filter
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.enforcement import Applied
from appliance.policy.model import Action, AnySelector, Policy, Rule, Service
from tests.policy_worlds import policy_of
from tests.probes.flight import Flight, one_processor
from tests.probes.ground import waiting
from tests.probes.packets import ICMPV6, UDP, checksum, ipv6

GATEWAY, PEER, OTHER, LAN, STREET = "gateway", "peer", "other", "lan", "street"
MEMBERS = (GATEWAY, PEER, OTHER)
MESH = {name: parse_address(f"200::{number}") for number, name in enumerate(MEMBERS, 1)}
NET = Prefix.parse("fd01::/64")
HOST = parse_address("fd01::2")  # behind the gateway
OUT, OUTSIDE = parse_address("fd02::1"), parse_address("fd02::2")  # the gateway's end of the street, and the other
STRANGER = parse_address("64:ff9b::a09:2")
LINK_LOCAL = parse_address("fe80::1")  # the gateway's on the mesh
V4 = {name: bytes((10, 9, 0, number)) for number, name in enumerate(MEMBERS, 1)}
V4_HOST = bytes((10, 1, 0, 2))
OPEN, SHUT = 502, 503  # ports
SPORT = 40_000

_ETH_P_ALL, _PACKET_IGNORE_OUTGOING, _SOL_PACKET = 3, 23, 263
IPV6, IPV4 = 0x86DD, 0x0800  # of frames


def allowing(*services: Service) -> Policy:
    """A policy that lets anybody open these to anybody."""
    return policy_of(Rule(action=Action.ALLOW, sources=(AnySelector(),), targets=(AnySelector(),), services=services))


class Scene:
    """The hosts, who listens everywhere, and the firewall of the gateway."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._listeners: list[tuple[str, socket.socket]] = []
        self.count = 0  # of marks
        self.firewall: NftFirewall | None = None

    def __enter__(self) -> Scene:
        with ExitStack() as undone:
            undone.push(self.__exit__)
            self.site = self._stack.enter_context(Site())
            self.runner = self._stack.enter_context(asyncio.Runner())
            self._build()
            undone.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stand_open()
        self._stack.close()

    def __getitem__(self, name: str) -> Host:
        return self.site[name]

    # ---- the firewall

    def stand_open(self) -> None:
        """No table at all."""
        if self.firewall is not None:
            self.runner.run(self.firewall.remove())
            self.runner.run(self.firewall.close())
            self.firewall = None

    def prepare(self) -> None:
        """The table, with no filter yet."""
        if self.firewall is None:
            table = MeshTable(name="x0t-noway", interface="mesh0", own=MESH[GATEWAY], log_group=9)
            self.firewall = NftFirewall(table, connect=self._inside)
            self.runner.run(self.firewall.prepare())

    def enforce(self, policy: Policy, without: tuple[str, ...] = ()) -> Applied:
        """The table, with a policy; some may be members no more."""
        self.prepare()
        members = [
            Member(node=bytes([number]) * 32, name=name, address=MESH[name])
            for number, name in enumerate(MEMBERS)
            if name not in without
        ]
        directory = Directory(members, [Subnet(prefix=NET, gateway=members[0].node)])
        assert self.firewall is not None
        return self.runner.run(
            self.firewall.apply(compile_filter(policy, directory, members[0].node, time.time_ns() // 1_000_000))
        )

    # ---- packets

    def mark(self) -> bytes:
        """Sixteen bytes by which a packet is known; never twice the same."""
        self.count += 1
        return struct.pack("!8sQ", b"no-way!!", self.count)

    def frame(self, sender: str, packet: bytes, to: str = GATEWAY, kind: int = IPV6) -> None:
        """Put a packet on the wire between two hosts, with the gateway's interface as its target or somebody else's."""
        interface = self._interface(sender, to)
        head = self._macs[to, self._interface(to, sender)] + self._macs[sender, interface] + kind.to_bytes(2, "big")
        self._raw[sender].sendto(head + packet, (interface, 0))

    def send(self, packet: bytes) -> None:
        """Let the gateway itself send an IPv6 packet; its kernel finds the way and may refuse."""
        with suppress(PermissionError):
            self._own.sendto(packet, (address_text(packet[24:40]), 0))

    def watch(self, send: Callable[[Scene, bytes], None]) -> set[str]:
        """Who takes what is sent for its own; the host on the street sees also what only passes."""
        mark = self.mark()
        with one_processor():
            send(self, mark)
            self._flight.settle()
        return {name for name, listener in self._listeners if any(mark in data for data in waiting(listener))}

    # ---- building

    def _inside(self) -> socket.socket:
        with self.site[GATEWAY].enter():
            return connect()

    def _interface(self, host: str, other: str) -> str:
        return "mesh0" if {host, other} <= set(MEMBERS) else (LAN if LAN in {host, other} else STREET)

    def _build(self) -> None:
        gateway, *others = self.site.hosts(*MEMBERS, LAN, STREET)
        self.site.bridge("mesh0", [gateway, *others[:2]])
        for net, prefixes in ((LAN, [str(NET), "10.1.0.0/24"]), (STREET, ["fd02::/64", "10.2.0.0/24"])):
            self.site.cable(gateway, self.site[net], names=(net, net), prefixes=prefixes)
        gateway.forward()
        ends = [*((name, "mesh0") for name in MEMBERS), (GATEWAY, LAN), (GATEWAY, STREET), (LAN, LAN), (STREET, STREET)]
        self._macs = {end: bytes((2, 0, 0, 0, 0, number)) for number, end in enumerate(ends, 1)}
        for (host, interface), mac in self._macs.items():
            self.site[host].ip(f"link set dev {interface} address {mac.hex(':')}")
        self.join()
        self._know(GATEWAY, LAN, (LAN, LAN), (address_text(HOST), "10.1.0.2"))
        self._know(GATEWAY, STREET, (STREET, STREET), (address_text(OUTSIDE),))
        gateway.ip(f"route add default via {address_text(OUTSIDE)} dev {STREET}")
        self._open()

    def join(self) -> None:
        """Give the members their addresses on the mesh; again after an interface was down."""
        for name in MEMBERS:
            own = f"{address_text(MESH[name])}/7 dev mesh0 nodad", f"{socket.inet_ntoa(V4[name])}/24 dev mesh0"
            self.site[name].ip(*(f"address replace {address}" for address in own))
            for other in set(MEMBERS) - {name}:
                self._know(name, "mesh0", (other, "mesh0"), (address_text(MESH[other]), socket.inet_ntoa(V4[other])))
        self.site[GATEWAY].ip(f"address replace {address_text(LINK_LOCAL)}/64 dev mesh0 nodad")

    def _know(self, host: str, interface: str, end: tuple[str, str], addresses: tuple[str, ...]) -> None:
        mac = self._macs[end].hex(":")
        self.site[host].ip(*(f"neigh replace {to} lladdr {mac} dev {interface} nud permanent" for to in addresses))

    def _open(self) -> None:
        self._raw = {host.name: self._kept(host, socket.AF_PACKET, socket.SOCK_RAW, 0) for host in self.site}
        self._own = self._kept(self.site[GATEWAY], socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._flight = self._stack.enter_context(closing(Flight(self.site[STREET])))
        for host in self.site:
            for family, protocol in ((socket.AF_INET6, UDP), (socket.AF_INET6, ICMPV6), (socket.AF_INET, UDP)):
                self._listeners.append((host.name, self._kept(host, family, socket.SOCK_RAW, protocol)))
        tap = self._kept(self.site[STREET], socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        tap.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._listeners.append((STREET, tap))
        for _, listener in self._listeners:
            listener.setblocking(False)

    def _kept(self, host: Host, family: int, kind: int, protocol: int) -> socket.socket:
        return self._stack.enter_context(host.socket(family, kind, protocol))


def udp(ends: tuple[bytes, bytes], port: int, mark: bytes) -> bytes:
    """A datagram without its IPv6 header."""
    data = struct.pack("!HHHH", SPORT, port, 8 + len(mark), 0) + mark
    return data[:6] + checksum(ends, UDP, data).to_bytes(2, "big") + data[8:]


def icmpv6(ends: tuple[bytes, bytes], head: bytes, mark: bytes, hop_limit: int = 64) -> bytes:
    """An ICMPv6 packet: type and code, then four bytes, then what else."""
    data = head[:2] + bytes(2) + head[2:] + mark
    packet = ipv6(ends, ICMPV6, data[:2] + checksum(ends, ICMPV6, data).to_bytes(2, "big") + data[4:])
    return packet[:7] + bytes([hop_limit]) + packet[8:]


def datagram(source: bytes, target: bytes, mark: bytes, port: int = OPEN) -> bytes:
    return ipv6((source, target), UDP, udp((source, target), port, mark))


def ipv4(source: bytes, target: bytes, mark: bytes) -> bytes:
    data = struct.pack("!HHHH", SPORT, OPEN, 8 + len(mark), 0) + mark
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(data), 0, 0, 64, UDP, 0, source, target)
    total = 0xFFFF - int.from_bytes(head, "big") % 0xFFFF
    return head[:10] + total.to_bytes(2, "big") + head[12:] + data
