"""What a filter says about a packet: the packet path of the kernel in Python, for conntrack, the fake and the tests.

It must say the same as the rules of `skeleton`; the contract suite and the probes hold both against each other. Pure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from appliance.netstack.nft.raw import HEADERS
from appliance.policy.enforcement import Stage
from appliance.policy.filter import Address, ClassId, Filter, Interval, Key

ICMPV6 = 58
ECHO_REQUEST = 128
ECHO_PORT = ECHO_REQUEST << 8  # where other protocols have a port, ICMPv6 has type and code
_NEIGHBOURS = (b"\xfe\x80", b"\xff")


class Way(StrEnum):
    """How a packet crosses this node."""

    FROM_MESH = "from_mesh"  # to the node itself or to a host behind it
    TO_MESH = "to_mesh"  # from the node itself
    FORWARD_TO_MESH = "forward_to_mesh"  # from a host behind it
    HAIRPIN = "hairpin"
    OTHER_IN = "other_in"  # by an interface that is neither the mesh nor lo
    OTHER_THROUGH = "other_through"
    OTHER_OUT = "other_out"


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """A packet as the firewall sees it, and the conversation that it belongs to."""

    way: Way
    source: Address
    target: Address
    protocol: int
    port: int = 0  # destination port of the packet that opened the conversation; type and code for ICMPv6
    reply: bool = False  # it goes against the direction in which the conversation was opened
    tracked: bool = True
    ipv4: bool = False
    next_header: int | None = None  # of the IPv6 header, where it is not the protocol
    error_about: tuple[Address, Address] | None = None  # ICMPv6 error: who opened the conversation, and to whom
    routed_back: bool = True  # a packet to the source would leave by the interface by which this one came


class Lookup:
    """A filter made ready to answer; it takes time in proportion to its intervals and services."""

    def __init__(self, held: Filter) -> None:
        self.held = held
        self._nets = _Intervals(held.peer_nets)
        self._locals = _Intervals(held.locals)
        self._services: dict[int, list[tuple[int, int, ClassId]]] = {}
        for found, number in sorted(held.services.items()):
            for protocol in range(found.protocol_first, found.protocol_last + 1):
                self._services.setdefault(protocol, []).append((found.port_first, found.port_last, number))

    def peer(self, address: Address) -> ClassId | None:
        """The class of a far end."""
        number = self.held.peers.get(address)
        return self._nets.find(address) if number is None else number

    def local(self, address: Address) -> ClassId | None:
        """The class of a near end."""
        return self._locals.find(address)

    def service(self, protocol: int, port: int) -> ClassId | None:
        """The class of a protocol and destination port."""
        ranges = self._services.get(protocol, [])
        at = bisect_right(ranges, port, key=lambda found: found[0]) - 1
        return ranges[at][2] if at >= 0 and port <= ranges[at][1] else None

    def inbound(self, opener: Address, opened: Address, protocol: int, port: int) -> Key | None:
        """The key of a conversation that a far end opened; None where one of its parts is unknown."""
        return _key(self.peer(opener), self.local(opened), self.service(protocol, port))

    def outbound(self, opener: Address, opened: Address, protocol: int, port: int) -> Key | None:
        """The key of a conversation that a near end opened."""
        return _key(self.peer(opened), self.local(opener), self.service(protocol, port))

    def concerns(self, opener: Address, opened: Address) -> bool:
        """True if a conversation between the two crosses the mesh interface."""
        known = self.peer(opener) is not None and self.local(opened) is not None
        return known or (self.local(opener) is not None and self.peer(opened) is not None)

    def allows(self, ends: tuple[Address, Address], protocol: int, port: int, now_ms: int) -> bool:
        """True if a conversation may go on that the first end opened to the second."""
        if protocol == ICMPV6 and port >> 8 != ECHO_REQUEST:
            return False
        held = self.held
        for grants, key in (
            (held.inbound, self.inbound(*ends, protocol, port)),
            (held.outbound, self.outbound(*ends, protocol, port)),
        ):
            grant = None if key is None else grants.get(key)
            if grant is not None and (grant.until_ms is None or now_ms < grant.until_ms):
                return True
        return False

    def judge(self, packet: Packet, now_ms: int) -> Stage | None:
        """Which check drops the packet; None lets it pass."""
        match packet.way:
            case Way.HAIRPIN:
                return Stage.HAIRPIN
            case Way.FROM_MESH:
                return self._crossing(packet, now_ms, from_mesh=True)
            case Way.TO_MESH:
                return self._crossing(packet, now_ms, from_mesh=False)
            case Way.FORWARD_TO_MESH:
                wrong = packet.source == self.held.own or not packet.routed_back
                if wrong and not packet.ipv4:
                    return Stage.SOURCE
                return self._crossing(packet, now_ms, from_mesh=False)
            case Way.OTHER_IN | Way.OTHER_THROUGH | Way.OTHER_OUT:
                return Stage.SOURCE if self._misplaced(packet) else None

    def _misplaced(self, packet: Packet) -> bool:
        """True if the packet carries a mesh address where the mesh is not."""
        comes, goes = packet.source in self.held.peers, packet.target in self.held.peers
        match packet.way:
            case Way.OTHER_IN:
                return comes or packet.target == self.held.own
            case Way.OTHER_OUT:
                return goes
            case _:
                return comes or goes

    def _crossing(self, packet: Packet, now_ms: int, *, from_mesh: bool) -> Stage | None:
        if packet.ipv4:
            return Stage.IPV4
        header = packet.protocol if packet.next_header is None else packet.next_header
        if header in HEADERS:
            return Stage.HEADER
        if not packet.tracked:
            return _unless_neighbour(packet, Stage.STATE)
        if packet.error_about is not None:
            known = self.peer(packet.source) if from_mesh else self.local(packet.source)
            if known is None:
                return Stage.SOURCE
        elif packet.protocol == ICMPV6 and packet.port >> 8 != ECHO_REQUEST:
            return Stage.STATE
        return self._conversation(packet, now_ms, by_far_end=from_mesh != packet.reply)

    def _conversation(self, packet: Packet, now_ms: int, *, by_far_end: bool) -> Stage | None:
        ends = (packet.target, packet.source) if packet.reply else (packet.source, packet.target)
        ends = packet.error_about or ends
        find, grants = (self.inbound, self.held.inbound) if by_far_end else (self.outbound, self.held.outbound)
        key = find(*ends, packet.protocol, packet.port)
        grant = None if key is None else grants.get(key)
        if grant is not None and (grant.until_ms is None or now_ms < grant.until_ms):
            return None
        return _unless_neighbour(packet, Stage.INBOUND if by_far_end else Stage.OUTBOUND)


class _Intervals:
    """Intervals that do not overlap."""

    def __init__(self, table: Mapping[Interval, ClassId]) -> None:
        self._ordered = sorted((first, last, number) for (first, last), number in table.items())

    def find(self, address: Address) -> ClassId | None:
        at = bisect_right(self._ordered, address, key=lambda found: found[0]) - 1
        return self._ordered[at][2] if at >= 0 and address <= self._ordered[at][1] else None


def _key(peer: ClassId | None, local: ClassId | None, service: ClassId | None) -> Key | None:
    if peer is None or local is None or service is None:
        return None
    return Key(peer, local, service)


def _unless_neighbour(packet: Packet, stage: Stage) -> Stage:
    """Link-local and multicast addresses have no place on the mesh."""
    for address in (packet.source, packet.target):
        if address[0] == 0xFF or (address[0] == 0xFE and address[1] & 0xC0 == 0x80):
            return Stage.SOURCE
    return stage
