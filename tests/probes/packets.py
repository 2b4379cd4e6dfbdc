"""Probes as bytes: IPv6 packets that each carry a number, and how to find the number again wherever one is seen.

Everything is made by hand (RFC 8200, 9293, 768, 4443, 9260, 2784), with right checksums, because connection tracking
judges them. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

TCP, UDP, ICMPV6, SCTP, GRE, ESP = 6, 17, 58, 132, 47, 50
PLAIN: Final = (ESP, 99, 253, 254)  # for connection tracking protocols without ports, and without a form
ECHO_REQUEST, ECHO_REPLY, UNREACHABLE = 128, 129, 1
PORT_UNREACHABLE: Final = 4
FRAGMENT, DESTINATION_OPTIONS, HOP_BY_HOP, ROUTING = 44, 60, 0, 43
HEADER_BYTES: Final = 40
MARK: Final = b"x0tp"
_NUMBER: Final = struct.Struct("!4sI")
_MTU: Final = 1_500
_SYN, _RST = 0x02, 0x04
_HOP_LIMIT: Final = 64


class Kind(StrEnum):
    """How a flow is tried."""

    PLAIN = "plain"  # one packet, as it is
    FRAGMENTS = "fragments"  # made by hand, of which the first is as small as may be
    BIG = "big"  # larger than the link takes: the sender's kernel fragments it (udp)
    OPTIONS = "options"  # with an extension header, which the mesh does not carry
    NO_ECHO = "no_echo"  # ICMPv6 that opens no conversation; the port is the type


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One packet that is to be sent. `sport` is unique among the probes of a round."""

    number: int  # not 0
    mesh: str  # of the target
    kind: Kind
    source: bytes
    target: bytes
    protocol: int
    port: int = 0
    sport: int = 0


def number_of(number: int) -> bytes:
    """The mark that a probe carries."""
    return _NUMBER.pack(MARK, number)


def packets(probe: Probe) -> list[bytes]:
    """What goes out for a probe; of a big one the datagram, for the kernel to cut."""
    ends = probe.source, probe.target
    match probe.kind:
        case Kind.BIG:
            return [number_of(probe.number) + bytes(2 * _MTU)]
        case Kind.FRAGMENTS:
            return fragments(ends, probe.protocol, segment(probe, bytes(64)), probe.number)
        case Kind.OPTIONS:
            padded = struct.pack("!BB6x", probe.protocol, 0)  # Pad1 six times: RFC 8200 section 4.2
            return [ipv6(ends, DESTINATION_OPTIONS, padded + segment(probe))]
        case _:
            return [ipv6(ends, probe.protocol, segment(probe))]


def segment(probe: Probe, more: bytes = b"") -> bytes:
    """What is behind the IPv6 header."""
    mark, ends = number_of(probe.number) + more, (probe.source, probe.target)
    match probe.protocol:
        case 6:
            begin = probe.number - 1 - len(mark) & 0xFFFFFFFF  # so that what is acknowledged is the number
            head = struct.pack("!HHIIBBHHH", probe.sport, probe.port, begin, 0, 5 << 4, _SYN, 8_192, 0, 0)
            return _summed(ends, TCP, head + mark, 16)
        case 17:
            return _summed(ends, UDP, struct.pack("!HHHH", probe.sport, probe.port, 8 + len(mark), 0) + mark, 6)
        case 58:
            what = (probe.port, 0) if probe.kind is Kind.NO_ECHO else (ECHO_REQUEST, 0)
            return _summed(ends, ICMPV6, struct.pack("!BBHHH", *what, 0, probe.sport, 1) + mark, 2)
        case 132:
            chunk = struct.pack("!BBHIIHHI", 1, 0, 20, probe.number, 65_535, 1, 1, 1)  # INIT
            head = struct.pack("!HHII", probe.sport, probe.port, 0, 0)
            return head[:8] + struct.pack("<I", crc32c(head + chunk)) + chunk
        case 47:
            return struct.pack("!HH", 0, 0x86DD) + mark
        case _:
            return mark


def ipv6(ends: tuple[bytes, bytes], protocol: int, payload: bytes) -> bytes:
    """A packet with its header."""
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, _HOP_LIMIT) + ends[0] + ends[1] + payload


def fragments(ends: tuple[bytes, bytes], protocol: int, payload: bytes, ident: int, size: int = 40) -> list[bytes]:
    """A packet in pieces of so many bytes, a multiple of 8."""
    pieces = [(at, payload[at : at + size]) for at in range(0, len(payload), size)]
    return [fragment(ends, protocol, piece, (ident, at, at + len(piece) < len(payload))) for at, piece in pieces]


def fragment(ends: tuple[bytes, bytes], protocol: int, piece: bytes, place: tuple[int, int, bool]) -> bytes:
    """One piece; its place is the identification, the offset in bytes, and whether more follow."""
    ident, offset, more = place
    return ipv6(ends, FRAGMENT, struct.pack("!BBHI", protocol, 0, offset | more, ident) + piece)


def number_in(protocol: int, data: bytes) -> int | None:
    """The number of the probe that this segment is; None for anything else, answers included."""
    if protocol == SCTP:
        return int.from_bytes(data[16:20], "big") if data[12:13] == b"\x01" else None
    offset = _MARK_AT.get(protocol, 0)
    if data[offset : offset + 4] != MARK:
        return None
    return int.from_bytes(data[offset + 4 : offset + 8], "big")


def answered_in(protocol: int, data: bytes) -> int | None:
    """The number of the probe that this segment answers: a reset, an echo reply, a port that is unreachable."""
    if protocol == TCP:
        is_reset = len(data) == 20 and data[13] & _RST
        return int.from_bytes(data[8:12], "big") if is_reset else None
    if protocol == ICMPV6 and data[0] == ECHO_REPLY:
        return number_in(ICMPV6, data)
    if protocol == ICMPV6 and data[:2] == bytes((UNREACHABLE, PORT_UNREACHABLE)):
        inner = data[8:]
        return number_in(UDP, inner[HEADER_BYTES:]) if inner[6] == UDP else None
    return None


def sent_in(packet: bytes) -> tuple[bytes, int] | None:
    """Source and number of the probe that this packet is, or the first fragment of; None for anything else."""
    header, at = packet[6], HEADER_BYTES
    if header == FRAGMENT:
        if int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF8:
            return None
        header, at = packet[at], at + 8
    elif header == DESTINATION_OPTIONS:
        header, at = packet[at], at + 8
    number = number_in(header, packet[at : at + 28])
    return None if number is None else (packet[8:24], number)


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260 appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def checksum(ends: tuple[bytes, bytes], protocol: int, data: bytes) -> int:
    """The checksum over pseudo-header and data (RFC 8200 section 8.1); sixteen-bit words add up modulo 65,535."""
    whole = ends[0] + ends[1] + struct.pack("!II", len(data), protocol) + data + bytes(len(data) % 2)
    return 0xFFFF - int.from_bytes(whole, "big") % 0xFFFF or 0xFFFF


def _summed(ends: tuple[bytes, bytes], protocol: int, data: bytes, at: int) -> bytes:
    return data[:at] + checksum(ends, protocol, data).to_bytes(2, "big") + data[at + 2 :]


def _table(step: Callable[[int], int]) -> list[int]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = step(byte)
        found.append(byte)
    return found


_CRC: Final = _table(lambda crc: crc >> 1 ^ 0x82F63B78 if crc & 1 else crc >> 1)
_MARK_AT: Final = {TCP: 20, UDP: 8, ICMPV6: 8, GRE: 4}
