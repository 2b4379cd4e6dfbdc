"""What the kernel tells unasked: foreign changes and dropped packets; and what is no such message."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from appliance.core.errors import X0tError
from appliance.core.prefix import parse_address
from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import SUBSYSTEM_LOG, SUBSYSTEM_TABLES
from appliance.netstack.nft.droplog import drops
from appliance.netstack.nft.firewall import NftFirewall
from appliance.netstack.nft.skeleton import Kind, MeshTable
from appliance.netstack.nft.watch import UNKNOWN, Watch
from appliance.policy.enforcement import Drop, Stage

OURS, THEIRS, KERNEL = 11, 22, 0
FAR, OWN = parse_address("200::2"), parse_address("200::1")
TABLE = MeshTable(name="x0t-abcdefgh", interface="x0t0", own=OWN, log_group=1)


def notice(kind: int, port: int, *attributes: bytes, family: int = wire.FAMILY_INET) -> bytes:
    made = wire.message(kind, 0, 0, wire.generic(family) + b"".join(attributes))
    return made[:12] + struct.pack("=I", port) + made[16:]


def generation(port: int, name: str = "nft") -> bytes:
    said = wire.number(1, 7), wire.number(2, 4711), wire.text(3, name)
    return notice(Kind.GENERATION, port, *said, family=wire.FAMILY_UNSPEC)


@pytest.mark.parametrize(
    "datagrams, told",
    [
        ([notice(Kind.RULE, THEIRS, wire.text(1, TABLE.name)) + generation(THEIRS)], ["nft (process 4711)"]),
        ([notice(Kind.RULE, THEIRS, wire.text(1, TABLE.name)), generation(THEIRS)], ["nft (process 4711)"]),
        ([notice(Kind.SET + 2, THEIRS, wire.text(1, TABLE.name)) + generation(THEIRS, "a\x01b")], [UNKNOWN]),
        ([notice(Kind.RULE, OURS, wire.text(1, TABLE.name)) + generation(OURS)], []),
        ([notice(Kind.ELEMENTS + 2, KERNEL, wire.text(1, TABLE.name)) + generation(KERNEL)], []),
        ([notice(Kind.RULE, THEIRS, wire.text(1, "docker")) + generation(THEIRS)], []),
        ([notice(Kind.RULE, THEIRS, wire.text(1, TABLE.name), family=2) + generation(THEIRS)], []),
        ([generation(THEIRS)], []),
    ],
    ids=["one datagram", "two", "strange name", "ours", "the kernel", "another table", "another family", "nothing"],
)
def test_a_notice_tells_who_touched_our_table(datagrams: list[bytes], told: list[str]) -> None:
    watch = Watch(TABLE.name, {OURS})
    assert [who for datagram in datagrams for who in watch.read(datagram)] == told


def logged(prefix: str, packet: bytes) -> bytes:
    return notice(SUBSYSTEM_LOG << 8, KERNEL, wire.text(10, prefix), wire.attribute(9, packet))


def ipv6(protocol: int, behind: bytes) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(behind), protocol, 64) + FAR + OWN + behind


def drop(stage: Stage, protocol: int, port: int, size_bytes: int) -> Drop:
    return Drop(at_ms=5, stage=stage, source=FAR, target=OWN, protocol=protocol, port=port, size_bytes=size_bytes)


UDP_HEADER = struct.pack(">HHHH", 4000, 1500, 8, 0)


@pytest.mark.parametrize(
    "datagram, found",
    [
        (logged("inbound", ipv6(17, UDP_HEADER)), [drop(Stage.INBOUND, 17, 1500, 48)]),
        (logged("header", ipv6(0, UDP_HEADER)), [drop(Stage.HEADER, 0, 0, 48)]),
        (logged("state", ipv6(58, UDP_HEADER)), [drop(Stage.STATE, 58, 0, 48)]),
        (logged("outbound", ipv6(6, b"\x01")), [drop(Stage.OUTBOUND, 6, 0, 41)]),
        (logged("no stage", ipv6(17, UDP_HEADER)), []),
        (logged("inbound", ipv6(17, UDP_HEADER)[:39]), []),
        (logged("inbound", b""), []),
        (logged("ipv4", b"\x45" + bytes(18)), []),
        (notice(SUBSYSTEM_TABLES << 8, KERNEL, wire.text(10, "inbound")), []),
    ],
    ids=["udp", "header", "icmpv6", "no room for ports", "prefix", "cut", "empty", "cut IPv4", "another message"],
)
def test_a_dropped_packet_becomes_a_record_or_nothing(datagram: bytes, found: list[Drop]) -> None:
    assert list(drops(datagram, 5)) == found


def test_an_ipv4_packet_is_shown_with_mapped_addresses() -> None:
    head = struct.pack(">BBHIBBH4s4s", 0x45, 0, 28, 0, 64, 17, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    (found,) = drops(logged("ipv4", head + UDP_HEADER), 5)
    assert found.source == parse_address("::ffff:10.0.0.1")
    assert (found.stage, found.protocol, found.port, found.size_bytes) == (Stage.IPV4, 17, 1500, 28)


async def test_without_netlink_the_firewall_is_unavailable() -> None:
    def refuse() -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    firewall = NftFirewall(TABLE, connect=refuse)
    for call in (firewall.prepare, firewall.verify, firewall.run):
        with pytest.raises(X0tError) as caught:
            await call()
        assert caught.value.key == "firewall.unavailable"
    with pytest.raises(X0tError) as caught:
        await firewall.disturbed()
    assert caught.value.key == "firewall.closed"
    await firewall.close()
    with pytest.raises(X0tError) as caught:
        await firewall.verify()
    assert caught.value.key == "firewall.closed"
