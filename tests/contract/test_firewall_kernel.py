"""What the kernel does with packets that somebody made by hand, and what `nft` reads in our table.

Each packet of the table is described a second time for `verdict`, which must say the same.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from scapy.compat import raw
from scapy.layers import inet
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6NIQueryName,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as Layers

from appliance.core.prefix import address_text, parse_address
from appliance.lab.host import Host
from appliance.netstack.nft.firewall import NftFirewall, wall_clock_ms
from appliance.netstack.nft.skeleton import skeleton
from appliance.netstack.nft.verdict import ICMPV6, Lookup, Packet, Way
from appliance.policy.enforcement import Drop, Stage
from appliance.policy.filter import Filter, Grant, Key
from tests.firewall_rig import (
    ECHO,
    FAR,
    HIGH,
    HOST,
    HOSTS,
    LOW,
    MEMBERS,
    MESH,
    NODE,
    OTHER,
    OWN,
    SHORT_S,
    STRANGER,
    TABLE,
    UDP,
    Pair,
    a_filter,
    like_a_tun,
)

pytestmark = pytest.mark.usefixtures("root")

LAN_HOST, NODE_ON_LAN, NOT_ON_LAN = (parse_address(text) for text in ("fd07::2", "fd07::1", "fd08::1"))
LAN = (parse_address("fd07::"), parse_address("fd08::ffff"))
BEHIND = 7  # the class of the LAN
MAPPED = bytes(10) + b"\xff\xff"
MAC = "02:00:00:00:00:01"
PATIENT_S = 5.0
TCP_NUMBER = 6


class Ground(NamedTuple):
    """The node with its mesh interface and a LAN, the far end, a host of the LAN, and the firewall."""

    pair: Pair
    lan: Host
    firewall: NftFirewall
    wanted: Filter


def the_filter() -> Filter:
    """Members may do everything low, and echo; so may the LAN; the node may open what is high."""
    base = a_filter(inbound=[(MEMBERS, LOW), (MEMBERS, ECHO), (HOSTS, LOW)], outbound=[(MEMBERS, HIGH)])
    for_lan = {Key(MEMBERS, BEHIND, LOW): Grant(())}
    return msgspec.structs.replace(
        base,
        locals={(OWN, OWN): NODE, LAN: BEHIND},
        inbound=base.inbound | for_lan,
        outbound=base.outbound | for_lan,
    )


@pytest_asyncio.fixture
async def ground() -> AsyncIterator[Ground]:
    pair = Pair()
    await asyncio.to_thread(pair.__enter__)
    try:
        lan = await asyncio.to_thread(_with_lan, pair)
        firewall = NftFirewall(TABLE, connect=pair.connect)
        await firewall.prepare()
        wanted = the_filter()
        await firewall.apply(wanted)
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(firewall.run())
            await asyncio.sleep(0)
            await firewall.verify()  # the worker does one thing after the other, so by now it reads the log
            yield Ground(pair, lan, firewall, wanted)
            reader.cancel()
        await firewall.close()
    finally:
        await asyncio.to_thread(pair.__exit__, None, None, None)


def _with_lan(pair: Pair) -> Host:
    (lan,) = pair.site.hosts("lan")
    pair.site.cable(pair.node, lan, names=("lan0", "lan1"))
    for host, interface, address in ((pair.node, "lan0", NODE_ON_LAN), (lan, "lan1", LAN_HOST)):
        like_a_tun(host, interface)
        host.ip(f"addr add {address_text(address)}/64 dev {interface} nodad")
    lan.ip("route add default dev lan1", "route add ::/0 dev lan1")
    pair.node.ip("route add 10.0.0.0/8 dev x0t0", "addr add 10.7.0.1/24 dev lan0", "addr add 10.0.0.1/32 dev x0t0")
    pair.node.forward()
    return lan


# ---- packets


def v6(source: bytes, target: bytes, **fields: Any) -> Layers:
    return IPv6(src=address_text(source), dst=address_text(target), **fields)


def udp(port: int = 1500) -> Layers:
    return inet.UDP(sport=4000, dport=port) / b"hello"


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
    await asyncio.to_thread(_send, ground, case.sender, case.layers)
    if case.stage is None:
        await asyncio.to_thread(_send, ground, "far", v6(STRANGER, OWN) / udp(7))  # what comes after it is seen
    sent = STRANGER if case.stage is None else case.told.source
    drop = await _first_drop(ground.firewall, lambda drop: case.told.ipv4 or drop.source == sent)
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
                await asyncio.to_thread(_send, ground, "far", part)
        assert len(await asyncio.to_thread(receiver.recv, 4000)) == 2000
    assert (await _first_drop(ground.firewall)).stage is Stage.INBOUND


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
        await asyncio.to_thread(_send, ground, "far", part)
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
        await asyncio.to_thread(_send, ground, "far", v6(sender, OWN) / ICMPv6DestUnreach(code=4) / about)
        with pytest.raises(ConnectionRefusedError if passes else TimeoutError):
            await asyncio.to_thread(one.recv, 100)
    if not passes:
        assert (await _first_drop(ground.firewall)).stage is Stage.SOURCE
    ends = (OWN, FAR)
    error = Packet(way=IN, source=sender, target=OWN, protocol=UDP, port=2500, reply=True, error_about=ends)
    assert (Lookup(ground.wanted).judge(error, wall_clock_ms()) is None) is passes


async def test_a_member_is_not_reached_by_another_interface_when_the_mesh_interface_is_away(ground: Ground) -> None:
    node = ground.pair.node
    await asyncio.to_thread(node.ip, f"link set {MESH} down", "route add ::/0 dev lan0")
    await asyncio.to_thread(_send, ground, "node", v6(NODE_ON_LAN, FAR) / udp(2500))
    drop = await _first_drop(ground.firewall)
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
    await asyncio.to_thread(_send, ground, "far", v6(FAR, OWN) / udp(2500))
    assert (await _first_drop(ground.firewall)).stage is Stage.INBOUND


# ---- nft, the independent reader


async def test_nft_reads_what_was_applied(ground: Ground) -> None:
    until = {Key(MEMBERS, NODE, HIGH): Grant((), wall_clock_ms() + 90_900)}
    wanted = msgspec.structs.replace(ground.wanted, inbound=ground.wanted.inbound | until)
    await ground.firewall.apply(wanted)
    listed = await asyncio.to_thread(_listed, ground.pair.node)
    sets = {one["name"]: one for one in (*listed["set"], *listed["map"])}
    assert _pairs(sets["peers"]) == {address_text(key): value for key, value in wanted.peers.items()}
    assert _pairs(sets["services"]) == {
        "udp.1000-1999": LOW, "udp.2000-2999": HIGH, "ipv6-icmp.0-65535": ECHO,
    }  # fmt: skip
    assert _pairs(sets["locals"]) == {"200::1": NODE, "fd07::-fd08::ffff": BEHIND}
    assert _pairs(sets["peer_nets"]) == {"300:9::/112": HOSTS}
    assert _keys(sets["inbound"]) == {tuple(key) for key in wanted.inbound}
    assert _keys(sets["outbound"]) == {tuple(key) for key in wanted.outbound}
    assert [one["elem"]["timeout"] for one in sets["inbound"]["elem"] if "timeout" in one["elem"]] == [90]
    chains = {one["name"]: one for one in listed["chain"]}
    assert {name for name, one in chains.items() if "hook" in one} == {"input", "forward", "output"}
    assert set(chains) == {label.split()[1] for label in skeleton(TABLE) if label.startswith("chain ")}
    assert len(listed["rule"]) == sum(label.startswith("rule ") for label in skeleton(TABLE))


async def test_other_tables_are_left_alone_and_do_not_break_ours(ground: Ground) -> None:
    node = ground.pair.node
    docker = """
        table ip nat { chain DOCKER { }; chain PREROUTING { type nat hook prerouting priority dstnat; jump DOCKER; }; }
        table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy accept; counter accept; }; }
        table inet firewalld {
            chain input { type filter hook input priority 10; policy drop; udp dport 1500 accept; }
        }
    """
    await asyncio.to_thread(node.run, ["nft", "-f", "-"], stdin=docker)
    before = await asyncio.to_thread(_listing, node)
    assert await ground.firewall.verify() == []
    await ground.firewall.apply(a_filter(inbound=[(MEMBERS, HIGH)]))
    await ground.firewall.apply(ground.wanted)
    await asyncio.to_thread(_send, ground, "far", v6(FAR, OWN) / udp(3000))
    assert (await _first_drop(ground.firewall)).stage is Stage.INBOUND
    await ground.firewall.remove()
    assert await asyncio.to_thread(_listing, node) == before


async def test_conversations_are_ended_as_conntrack_sees_it_and_others_are_left(ground: Ground) -> None:
    await asyncio.to_thread(_send, ground, "far", v6(FAR, OWN) / udp(1500))
    await asyncio.to_thread(_send, ground, "far", v6(FAR, OWN) / ICMPv6EchoRequest(id=3))
    await asyncio.to_thread(_send, ground, "lan", v6(LAN_HOST, NODE_ON_LAN) / udp(1500))
    flows = {(flow.protocol, flow.port, flow.inbound, flow.state) for flow in await ground.firewall.flows()}
    assert (UDP, 1500, True, "unreplied") in flows
    assert any(protocol == ICMPV6 for protocol, *_ in flows)
    done = await ground.firewall.apply(a_filter(inbound=[(MEMBERS, ECHO)]))
    assert done.ended == 1
    left = (await asyncio.to_thread(ground.pair.node.run, ["conntrack", "-L", "-f", "ipv6"])).stdout
    assert "src=200::2" not in "".join(line for line in left.splitlines() if line.startswith("udp"))
    assert "src=fd07::2" in left


async def test_a_drop_says_what_it_was(ground: Ground) -> None:
    await asyncio.to_thread(_send, ground, "far", v6(FAR, OWN) / udp(3000))
    drop = await _first_drop(ground.firewall)
    assert abs(drop.at_ms - wall_clock_ms()) < PATIENT_S * 1000
    seen = (drop.stage, drop.source, drop.target, drop.protocol, drop.port, drop.size_bytes)
    assert seen == (Stage.INBOUND, FAR, OWN, UDP, 3000, 53)


async def _first_drop(firewall: NftFirewall, fits: Callable[[Drop], bool] = lambda _: True) -> Drop:
    async with asyncio.timeout(PATIENT_S):
        while not (found := [drop for drop in firewall.drops() if fits(drop)]):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.01)
    return found[0]


def _send(ground: Ground, sender: str, layers: Layers) -> None:
    if sender == "node":
        _send_through_the_stack(ground.pair.node, raw(layers))
        return
    host, interface = (ground.pair.far, "far0") if sender == "far" else (ground.lan, "lan1")
    frame = raw(Ether(src=MAC, dst=MAC) / layers)
    with host.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
        one.bind((interface, 0))
        one.send(frame)


def _send_through_the_stack(node: Host, data: bytes) -> None:
    """A packet with a header of its own goes through the output hook all the same."""
    is_ipv4 = data[0] >> 4 == 4
    family = socket.AF_INET if is_ipv4 else socket.AF_INET6
    target = socket.inet_ntop(family, data[16:20] if is_ipv4 else data[24:40])
    with node.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as one:
        try:
            one.sendto(data, (target, 0))
        except PermissionError:
            pass  # dropped by the output chain


def _listing(node: Host) -> str:
    names = ("ip nat", "ip6 filter", "inet firewalld")
    return "".join(node.run(["nft", "-s", "list", "table", *name.split()]).stdout for name in names)


def _listed(node: Host) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {"set": [], "map": [], "chain": [], "rule": []}
    for one in json.loads(node.run(["nft", "-j", "list", "table", "inet", TABLE.name]).stdout)["nftables"]:
        ((kind, content),) = one.items()
        found.setdefault(kind, []).append(content)
    return found


def _pairs(listed: dict[str, Any]) -> dict[str, int]:
    return {
        _text(key["elem"]["val"] if isinstance(key, dict) and "elem" in key else key): value
        for key, value in listed["elem"]
    }


def _keys(listed: dict[str, Any]) -> set[tuple[int, ...]]:
    """Behind the word that is always zero."""
    assert all(one["elem"]["val"]["concat"][0] == 0 for one in listed["elem"])
    return {tuple(one["elem"]["val"]["concat"][1:]) for one in listed["elem"]}


def _text(value: Any) -> str:  # whatever nft writes
    match value:
        case {"concat": parts}:
            return ".".join(_text(part) for part in parts)
        case {"range": [first, last]}:
            return f"{first}-{last}"
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case _:
            return str(value)
