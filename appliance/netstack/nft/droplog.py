"""Dropped packets as NFLOG shows them, parsed into records (linux/netfilter/nfnetlink_log.h).

The packets are whatever somebody sent: nothing in them is trusted, and what is too short for its own header is left
out. The stage is the prefix that our rule wrote. This module opens no socket and waits for nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import SUBSYSTEM_LOG, Request
from appliance.policy.enforcement import Drop, Stage
from appliance.policy.model import NUMBERS, WITH_PORTS

_PACKET: Final = SUBSYSTEM_LOG << 8 | 0
_CONFIGURE: Final = SUBSYSTEM_LOG << 8 | 1
_PAYLOAD, _PREFIX = 9, 10
_COMMAND, _MODE, _WAIT, _THRESHOLD = 1, 2, 4, 5  # of a configuration
_BIND: Final = 1
_COPY_PACKET: Final = 2
_PORT_PROTOCOLS: Final = frozenset(NUMBERS[one] for one in WITH_PORTS)
_STAGES: Final = {stage.value: stage for stage in Stage}
_IPV6: Final = struct.Struct(">IHBB16s16s")  # RFC 8200 section 3
_IPV4: Final = struct.Struct(">BBHIBBH4s4s")  # RFC 791 section 3.1
_MAPPED: Final = bytes(10) + b"\xff\xff"  # an IPv4 address as an IPv6 one, RFC 4291 section 2.5.5.2


def subscription(group: int, snap_bytes: int) -> Iterator[Request]:
    """The requests that make a socket the reader of a group."""
    mode = snap_bytes.to_bytes(4, "big") + bytes([_COPY_PACKET, 0])
    for body in (
        wire.attribute(_COMMAND, bytes([_BIND])),
        wire.attribute(_MODE, mode) + wire.number(_THRESHOLD, 1) + wire.number(_WAIT, 1),
    ):
        yield Request(_CONFIGURE, body, family=wire.FAMILY_UNSPEC, resource=group)


def drops(datagram: bytes, now_ms: int) -> Iterator[Drop]:
    """The dropped packets in a datagram. Raises ValueError for what is no netlink message."""
    for message in wire.messages(datagram):
        if message.kind != _PACKET:
            continue
        said = wire.fields(message.body)
        stage = _STAGES.get(wire.string(said.get(_PREFIX, b"")))
        found = _packet(said.get(_PAYLOAD, b""))
        if stage is not None and found is not None:
            source, target, protocol, port, size = found
            yield Drop(
                at_ms=now_ms, stage=stage, source=source, target=target, protocol=protocol, port=port, size_bytes=size
            )


def _packet(data: bytes) -> tuple[bytes, bytes, int, int, int] | None:
    """Source, target, protocol, destination port and size in bytes."""
    version = data[0] >> 4 if data else 0
    if version == 6 and len(data) >= _IPV6.size:
        _, length, protocol, _, source, target = _IPV6.unpack_from(data)
        return source, target, protocol, _port(protocol, data[_IPV6.size :]), _IPV6.size + length
    if version == 4 and len(data) >= _IPV4.size:
        first, _, size, _, _, protocol, _, source, target = _IPV4.unpack_from(data)
        return _MAPPED + source, _MAPPED + target, protocol, _port(protocol, data[(first & 15) * 4 :]), size
    return None


def _port(protocol: int, data: bytes) -> int:
    return int.from_bytes(data[2:4], "big") if protocol in _PORT_PROTOCOLS and len(data) >= 4 else 0
