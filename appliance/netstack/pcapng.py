"""Blocks of a pcapng file (draft-ietf-opsawg-pcapng), as bytes: what Wireshark and tcpdump open.

One section with one interface, times in nanoseconds, and for each packet the way that it went. A file may end behind
any block and is whole. Pure: who reads packets, and who writes files, is elsewhere.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

SNAP_BYTES: Final = 262_144  # of one packet, as tcpdump has it; a TUN hands over up to 65,575
STATISTICS_BYTES: Final = 52  # of the block that ends a file


class LinkType(IntEnum):
    """How a packet begins (the registry of tcpdump.org)."""

    ETHERNET = 1
    RAW = 101  # with its IP header


class Way(IntEnum):
    """Direction of a packet at the interface: the low bits of epb_flags."""

    INBOUND = 1
    OUTBOUND = 2


_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_MAGIC: Final = 0x1A2B3C4D
_UNKNOWN_LENGTH: Final = -1
_IF_NAME, _IF_TSRESOL = 2, 9
_EPB_FLAGS: Final = 2
_ISB_RECEIVED, _ISB_DROPPED = 4, 5
_NANOSECONDS: Final = b"\x09"
_EDGE: Final = struct.Struct("<II")
_LENGTH: Final = struct.Struct("<I")
_PACKET_HEAD: Final = struct.Struct("<IIIIIII")
_PACKET_END: Final = struct.Struct("<HHIII")


def opening(interface: str, link: LinkType) -> bytes:
    """The head of a file: the section, and the interface that all its packets are of."""
    section = _block(_SECTION, struct.pack("<IHHq", _MAGIC, 1, 0, _UNKNOWN_LENGTH))
    head = struct.pack("<HHI", link, 0, SNAP_BYTES)
    return section + _block(
        _INTERFACE, head, _option(_IF_NAME, interface.encode()), _option(_IF_TSRESOL, _NANOSECONDS), _option(0, b"")
    )


def packet(data: bytes | memoryview, size_bytes: int, at_ns: int, way: Way) -> bytes:
    """One packet: as much of it as was kept, its length on the wire, ns since the Unix epoch."""
    padding = -len(data) % 4
    length = _PACKET_HEAD.size + len(data) + padding + _PACKET_END.size
    return b"".join(
        (
            _PACKET_HEAD.pack(_PACKET, length, 0, at_ns >> 32, at_ns & 0xFFFFFFFF, len(data), size_bytes),
            data,
            bytes(padding),
            _PACKET_END.pack(_EPB_FLAGS, 4, way, 0, length),
        )
    )


def statistics(at_ns: int, received: int, dropped: int) -> bytes:
    """The end of a file: how many packets the kernel had for us, and how many found no room."""
    head = struct.pack("<III", 0, at_ns >> 32, at_ns & 0xFFFFFFFF)
    counts = _option(_ISB_RECEIVED, struct.pack("<Q", received)) + _option(_ISB_DROPPED, struct.pack("<Q", dropped))
    return _block(_STATISTICS, head, counts, _option(0, b""))


def _block(kind: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = _EDGE.size + len(body) + _LENGTH.size
    return _EDGE.pack(kind, length) + body + _LENGTH.pack(length)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
