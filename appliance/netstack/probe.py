"""Sends one packet that a conversation would begin with, and says what came back. What it means, `finding` decides.

It sends what any program of this node could send: a TCP connect, a UDP datagram, an ICMPv6 echo request, an SCTP INIT.
It needs CAP_NET_RAW for the last two, and scapy, imported when it is needed (60 MiB), for the last. Nothing is spoofed,
and nothing is sent that the policy would not let a program send.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from appliance.core.errors import error
from appliance.core.prefix import address_text, parse_address
from appliance.netstack.finding import Answer, Order, Seen
from appliance.policy.filter import Address
from appliance.policy.model import NUMBERS, Protocol

OpenSocket = Callable[[int, int, int], socket.socket]  # family, type, protocol

_TCP, _UDP, _ICMPV6, _SCTP = (NUMBERS[name] for name in (Protocol.TCP, Protocol.UDP, Protocol.ICMPV6, Protocol.SCTP))
_IPV6_RECVERR: Final = 25  # linux/in6.h
_ICMPV6_FILTER: Final = 1  # linux/icmpv6.h: a bit for each type that is not wanted
_ECHO_REQUEST, _ECHO_REPLY = 128, 129  # RFC 4443 section 4
_INIT_ACK, _ABORT = 2, 6  # RFC 9260 section 3.2
_OFFENDER: Final = slice(24, 40)  # struct sock_extended_err, and of the sockaddr_in6 behind it the address
_ANSWER_BYTES: Final = 65_536
_DISCARD_PORT: Final = 9

# What the kernel makes of the ICMPv6 errors (RFC 4443 section 3) and resets that come back.
_CAME_BACK: Final = {
    errno.ECONNREFUSED: Answer.CLOSED,
    errno.ECONNRESET: Answer.CLOSED,
    errno.EPROTO: Answer.CLOSED,  # parameter problem: the protocol is unknown there
    errno.EACCES: Answer.PROHIBITED,
    errno.EHOSTUNREACH: Answer.UNREACHABLE,
    errno.ENETUNREACH: Answer.UNREACHABLE,
    errno.EMSGSIZE: Answer.TOO_BIG,
    errno.EPERM: Answer.NOT_SENT,  # our own output hook dropped it
}


class _Talk(NamedTuple):
    """How to probe with one protocol over a connected socket."""

    kind: int
    protocol: int
    packet: bytes
    read: Callable[[bytes], Answer | None]  # what a packet from the target means; None: it is not about us


async def observe(order: Order, open_socket: OpenSocket = socket.socket) -> Seen:
    """Send it and wait. Raises `probe.protocol`, and OSError where this node cannot open the socket."""
    if order.protocol not in {_TCP, _UDP, _ICMPV6, _SCTP}:
        raise error("probe.protocol", protocol=order.protocol)
    if (lost := _way(order, open_socket)) is not None:
        return lost
    if order.protocol == _TCP:
        return await _connect(order, open_socket)
    if order.protocol == _UDP:
        talk = _Talk(socket.SOCK_DGRAM, _UDP, bytes(order.size_bytes), lambda _: Answer.REPLIED)
    elif order.protocol == _ICMPV6:
        talk = _echo(order.size_bytes)
    else:
        talk = await asyncio.to_thread(_init, order.port)
    return await _exchange(order, talk, open_socket)


def _way(order: Order, open_socket: OpenSocket) -> Seen | None:
    """None if packets to the target leave with our address on the mesh."""
    with open_socket(socket.AF_INET6, socket.SOCK_DGRAM, 0) as asked:
        try:
            asked.connect((address_text(order.target), order.port or _DISCARD_PORT))  # asks for a route, sends nothing
        except OSError:
            return Seen(answer=Answer.NO_ROUTE)
        source = parse_address(asked.getsockname()[0].partition("%")[0])
    return None if source == order.source else Seen(answer=Answer.OTHER_WAY, by=source)


async def _connect(order: Order, open_socket: OpenSocket) -> Seen:
    loop = asyncio.get_running_loop()
    with open_socket(socket.AF_INET6, socket.SOCK_STREAM, 0) as tried:
        tried.settimeout(0)
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # end with a reset
        begun = time.monotonic()
        try:
            async with asyncio.timeout(order.timeout_s):
                await loop.sock_connect(tried, (address_text(order.target), order.port))
        except TimeoutError:
            return Seen(answer=Answer.SILENCE)
        except OSError as err:
            return _failed(err, None, begun)
        return Seen(answer=Answer.REPLIED, round_trip_ms=_since_ms(begun))


async def _exchange(order: Order, talk: _Talk, open_socket: OpenSocket) -> Seen:
    loop = asyncio.get_running_loop()
    with open_socket(socket.AF_INET6, talk.kind, talk.protocol) as opened:
        opened.settimeout(0)
        opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        if talk.protocol == _ICMPV6:
            wanted = bytearray(b"\xff" * 32)
            struct.pack_into("=I", wanted, _ECHO_REPLY // 32 * 4, ~(1 << _ECHO_REPLY % 32) & 0xFFFFFFFF)
            opened.setsockopt(_ICMPV6, _ICMPV6_FILTER, bytes(wanted))
        begun = time.monotonic()
        try:
            opened.connect((address_text(order.target), order.port if talk.kind == socket.SOCK_DGRAM else 0))
            opened.send(talk.packet)
            async with asyncio.timeout(order.timeout_s):
                while (answer := talk.read(await loop.sock_recv(opened, _ANSWER_BYTES))) is None:
                    pass
        except TimeoutError:
            return Seen(answer=Answer.SILENCE)
        except OSError as err:
            return _failed(err, _offender(opened), begun)
        return Seen(answer=answer, round_trip_ms=_since_ms(begun))


def _echo(size_bytes: int) -> _Talk:
    mark = secrets.token_bytes(4)  # identifier and sequence number
    request = struct.pack("!BBH", _ECHO_REQUEST, 0, 0) + mark + bytes(size_bytes)  # the kernel writes the checksum
    return _Talk(socket.SOCK_RAW, _ICMPV6, request, lambda reply: Answer.REPLIED if reply[4:8] == mark else None)


def _init(port: int) -> _Talk:
    """An INIT that opens an association; where the kernel has no SCTP of its own, nothing more follows."""
    from scapy.layers.sctp import SCTP, SCTPChunkInit

    own_port = 49_152 + secrets.randbelow(16_384)
    tag = 1 + secrets.randbelow(0xFFFFFFFE)
    packet = bytes(SCTP(sport=own_port, dport=port) / SCTPChunkInit(init_tag=tag, a_rwnd=65_535, n_in_streams=1))

    def read(reply: bytes) -> Answer | None:
        if len(reply) < 13 or struct.unpack_from("!HH", reply) != (port, own_port):
            return None
        return {_INIT_ACK: Answer.REPLIED, _ABORT: Answer.CLOSED}.get(reply[12])

    return _Talk(socket.SOCK_RAW, _SCTP, packet, read)


def _failed(err: OSError, by: Address | None, begun: float) -> Seen:
    answer = _CAME_BACK.get(err.errno or 0)
    if answer is None:
        raise err
    return Seen(answer=answer, by=by, round_trip_ms=None if answer is Answer.NOT_SENT else _since_ms(begun))


def _offender(opened: socket.socket) -> Address | None:
    """Who sent the ICMPv6 error that the socket was told of; None if this node made it itself."""
    with suppress(OSError):
        _, ancillary, _, _ = opened.recvmsg(0, 512, socket.MSG_ERRQUEUE)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_RECVERR) and any(data[_OFFENDER]):
                return data[_OFFENDER]
    return None


def _since_ms(begun_s: float) -> float:
    return (time.monotonic() - begun_s) * 1000
