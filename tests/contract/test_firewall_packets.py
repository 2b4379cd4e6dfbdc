"""What the kernel does with packets that somebody made by hand. Each is described a second time for `verdict`, which
must say the same."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, NamedTuple

import pytest
from scapy.compat import raw
from scapy.layers import inet
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6NIQueryName,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet as Layers

from appliance.core.prefix import address_text, parse_address
from appliance.netstack.nft.firewall import wall_clock_ms
from appliance.netstack.nft.verdict import ICMPV6, Lookup, Packet, Way
from appliance.policy.enforcement import Stage
from tests.firewall_ground import (
    LAN_HOST,
    MAPPED,
    NODE_ON_LAN,
    NOT_ON_LAN,
    PATIENT_S,
    Ground,
    first_drop,
    send,
    udp,
    v6,
)
from tests.firewall_rig import (
    FAR,
    HOST,
    LOW,
    MEMBERS,
    MESH,
    OTHER,
    OWN,
    SHORT_S,
    STRANGER,
    UDP,
    a_filter,
)

pytestmark = pytest.mark.usefixtures("root")


class Case(NamedTuple):
    """A packet: what it is, its bytes, what `verdict` is told of it, and what must drop it."""

    name: str
    layers: Layers
    told: Packet
    stage: Stage | None

    @property
    def sender(self) -> str:
        """`far` and `lan` put a frame on the wire; `node` uses its own stack."""
        if self.told.way in {Way.FROM_MESH, Way.HAIRPIN}:
            return "far"
        return "node" if self.told.way is Way.TO_MESH else "lan"


Ends = tuple[bytes, bytes]


def case(name: str, way: Way, ends: Ends, stage: Stage | None, behind: Layers | None = None, **more: Any) -> Case:
    """UDP to a port that is granted, unless said otherwise; `more` is told to `verdict` beyond that."""
    layers = v6(*ends) / (udp(more.get("port", 1500)) if behind is None else behind)
    told = Packet(way=way, source=ends[0], target=ends[1], **{"protocol": UDP, "port": 1500, **more})
    return Case(name, layers, told, stage)


def without_v6(name: str, way: Way, source: str, target: str) -> Case:
    told = Packet(way=way, source=MAPPED, target=MAPPED, protocol=UDP, ipv4=True)
    return Case(name, IP(src=source, dst=target) / udp(), told, Stage.IPV4)


IN, OUT, THROUGH, OTHER_IN, OTHER_OUT = (
    Way.FROM_MESH,
    Way.TO_MESH,
    Way.FORWARD_TO_MESH,
    Way.OTHER_IN,
    Way.OTHER_OUT,
)
HEADER, STATE, SOURCE, INBOUND, OUTBOUND = (
    Stage.HEADER,
    Stage.STATE,
    Stage.SOURCE,
    Stage.INBOUND,
    Stage.OUTBOUND,
)
ALL_NODES, NEIGHBOUR = parse_address("ff02::1"), parse_address("fe80::9")
TO_US, TO_FAR, FROM_LAN = (FAR, OWN), (OWN, FAR), (LAN_HOST, FAR)
ERROR = ICMPv6DestUnreach()

CASES = [
    case("granted", IN, TO_US, None),
    case("granted to a host", IN, (FAR, LAN_HOST), None),
    case("granted from a host", THROUGH, FROM_LAN, None),
    case("granted from here", OUT, TO_FAR, None, port=2500),
    case("granted from afar", IN, (HOST, OWN), None),
    without_v6("IPv4", IN, "10.0.0.9", "10.0.0.1"),
    without_v6("IPv4 to a host", IN, "10.0.0.9", "10.7.0.2"),
    without_v6("IPv4 from a host", THROUGH, "10.7.0.2", "10.0.0.9"),
    without_v6("IPv4 from here", OUT, "10.0.0.1", "10.0.0.9"),
    case("hop-by-hop", IN, TO_US, HEADER, IPv6ExtHdrHopByHop() / udp(), next_header=0),
    case("destination options", IN, TO_US, HEADER, IPv6ExtHdrDestOpt() / udp(), next_header=60),
    case("routing", IN, TO_US, HEADER, IPv6ExtHdrRouting(type=4, segleft=0) / udp(), next_header=43),
    case("options from here", OUT, TO_FAR, HEADER, IPv6ExtHdrDestOpt() / udp(2500), next_header=60),
    case("options from a host", THROUGH, FROM_LAN, HEADER, IPv6ExtHdrDestOpt() / udp(), next_header=60),
    Case("mobility", v6(*TO_US, nh=135) / bytes(16), Packet(way=IN, source=FAR, target=OWN, protocol=135), HEADER),
    Case("no next header", v6(*TO_US, nh=59), Packet(way=IN, source=FAR, target=OWN, protocol=59), HEADER),
    case("another port", IN, TO_US, INBOUND, port=3000),
    case("another protocol", IN, TO_US, INBOUND, TCP(dport=1500), protocol=6),
    case("the middle of a TCP stream", IN, TO_US, INBOUND, TCP(dport=1500, flags="A"), protocol=6),
    case("impossible flags", IN, TO_US, STATE, TCP(dport=1500, flags="SFR"), protocol=6, tracked=False),
    case("a member without rights", IN, (OTHER, OWN), INBOUND),
    case("a stranger", IN, (STRANGER, OWN), INBOUND),
    case("our own address from there", IN, (OWN, OWN), INBOUND),
    case("a host's address from there", IN, (LAN_HOST, OWN), INBOUND),
    case("our address on the LAN", IN, (FAR, NODE_ON_LAN), INBOUND, port=3000),
    case("link-local source", IN, (NEIGHBOUR, OWN), SOURCE),
    case("multicast target", IN, (FAR, ALL_NODES), SOURCE),
    case("mesh to mesh", Way.HAIRPIN, (FAR, OTHER), Stage.HAIRPIN),
    case("an answer to nothing", IN, TO_US, STATE, ICMPv6EchoReply(id=9), protocol=ICMPV6, tracked=False),
    case("an error about nothing", IN, TO_US, STATE, ERROR / v6(*TO_FAR) / udp(), protocol=ICMPV6, tracked=False),
    case("node information", IN, TO_US, STATE, ICMPv6NIQueryName(), protocol=ICMPV6, port=139 << 8),
    case("a member by another way", OTHER_IN, (FAR, NODE_ON_LAN), SOURCE),
    case("our address by another way", OTHER_IN, (LAN_HOST, OWN), SOURCE),
    case("a host with our address", THROUGH, TO_FAR, SOURCE, port=2500),
    case("a host with a member's address", THROUGH, (OTHER, FAR), SOURCE, routed_back=False),
    case("a host of another LAN", THROUGH, (NOT_ON_LAN, FAR), SOURCE, routed_back=False),
    case("from here, but not allowed", OUT, TO_FAR, OUTBOUND),
    case("from here with another source", OUT, (NODE_ON_LAN, FAR), OUTBOUND, port=2500),
    case("from a host to a stranger", THROUGH, (LAN_HOST, STRANGER), OUTBOUND),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_packet_passes_or_is_dropped_by_the_check_that_should(ground: Ground, case: Case) -> None:
    assert Lookup(ground.wanted).judge(case.told, wall_clock_ms()) is case.stage
    await asyncio.to_thread(send, ground, case.sender, case.layers)
    if case.stage is None:
        await asyncio.to_thread(send, ground, "far", v6(STRANGER, OWN) / udp(7))  # what comes after it is seen
    sent = STRANGER if case.stage is None else case.told.source
    drop = await first_drop(ground.firewall, lambda drop: case.told.ipv4 or drop.source == sent)
    if case.stage is None:
        assert sum(count.packets for count in (await ground.firewall.counters()).values()) >= 1
    else:
        assert drop.stage is case.stage


async def test_fragments_are_judged_as_the_packet_that_they_make(ground: Ground) -> None:
    with ground.pair.node.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address_text(OWN), 1500))
        receiver.settimeout(PATIENT_S)
        for port in (3000, 1500):
            whole = raw(v6(FAR, OWN) / inet.UDP(sport=4000, dport=port) / bytes(2000))[40:]
            for offset, more in ((0, 1), (1000, 0)):
                head = IPv6ExtHdrFragment(nh=UDP, offset=offset // 8, m=more, id=port)
                part = v6(FAR, OWN) / head / (whole[:1000] if more else whole[1000:])
                await asyncio.to_thread(send, ground, "far", part)
        assert len(await asyncio.to_thread(receiver.recv, 4000)) == 2000
    assert (await first_drop(ground.firewall)).stage is Stage.INBOUND


async def test_a_first_fragment_alone_goes_nowhere(ground: Ground) -> None:
    with ground.pair.node.socket(socket.AF_INET6, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address_text(OWN), 1500))
        receiver.settimeout(SHORT_S)
        part = (
            v6(FAR, OWN)
            / IPv6ExtHdrFragment(nh=UDP, m=1, id=5)
            / inet.UDP(sport=4000, dport=1500, len=1008, chksum=1)
            / bytes(1000)
        )
        await asyncio.to_thread(send, ground, "far", part)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(receiver.recv, 4000)


def address_or_not(value: object) -> str:
    return address_text(value) if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize(
    "sender, passes", [(FAR, True), (OTHER, True), (HOST, True), (STRANGER, False)], ids=address_or_not
)
async def test_an_error_about_a_conversation_comes_from_somebody_of_the_mesh(
    ground: Ground, sender: bytes, passes: bool
) -> None:
    node, far = ground.pair.node, ground.pair.far
    with (
        node.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one,
        far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listener,
    ):
        listener.bind((address_text(FAR), 2500))
        one.bind((address_text(OWN), 4000))
        one.connect((address_text(FAR), 2500))
        one.send(b"hello")
        one.settimeout(PATIENT_S if passes else SHORT_S)
        about = v6(OWN, FAR) / inet.UDP(sport=4000, dport=2500) / b"hello"
        await asyncio.to_thread(send, ground, "far", v6(sender, OWN) / ICMPv6DestUnreach(code=4) / about)
        with pytest.raises(ConnectionRefusedError if passes else TimeoutError):
            await asyncio.to_thread(one.recv, 100)
    if not passes:
        assert (await first_drop(ground.firewall)).stage is Stage.SOURCE
    ends = (OWN, FAR)
    error = Packet(way=IN, source=sender, target=OWN, protocol=UDP, port=2500, reply=True, error_about=ends)
    assert (Lookup(ground.wanted).judge(error, wall_clock_ms()) is None) is passes


async def test_a_member_is_not_reached_by_another_interface_when_the_mesh_interface_is_away(ground: Ground) -> None:
    node = ground.pair.node
    await asyncio.to_thread(node.ip, f"link set {MESH} down", "route add ::/0 dev lan0")
    await asyncio.to_thread(send, ground, "node", v6(NODE_ON_LAN, FAR) / udp(2500))
    drop = await first_drop(ground.firewall)
    assert (drop.stage, drop.target) == (Stage.SOURCE, FAR)
    leaving = Packet(way=OTHER_OUT, source=NODE_ON_LAN, target=FAR, protocol=UDP, port=2500)
    assert Lookup(ground.wanted).judge(leaving, wall_clock_ms()) is Stage.SOURCE


async def test_the_table_denies_while_the_interface_vanishes_and_returns(ground: Ground) -> None:
    node = ground.pair.node
    await asyncio.to_thread(node.ip, f"link set {MESH} down", f"link set {MESH} name away")
    assert await ground.firewall.verify() == []
    assert (await ground.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))).rebuilt is False
    back = f"link set away name {MESH}", f"link set {MESH} up", f"addr add {address_text(OWN)}/7 dev {MESH} nodad"
    await asyncio.to_thread(node.ip, *back)
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / udp(2500))
    assert (await first_drop(ground.firewall)).stage is Stage.INBOUND
