"""Conversations of the mesh as the kernel tracks them: listed, and ended where a filter does not allow them any more.

The rules judge every packet by its conversation, so ending one changes no verdict: it frees what the kernel remembers,
and nobody is shown a conversation that is dead. What does not cross the mesh interface is left alone. Packets and bytes
are counted only where the system counts them (net.netfilter.nf_conntrack_acct, see `count_traffic`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import SUBSYSTEM_CONNTRACK, Channel, RefusedError, Request
from appliance.netstack.nft.turns import Pace, at_once
from appliance.netstack.nft.verdict import ICMPV6, Lookup
from appliance.policy.filter import Address

_GET: Final = SUBSYSTEM_CONNTRACK << 8 | 1
_DELETE: Final = SUBSYSTEM_CONNTRACK << 8 | 2
_ORIGINAL, _STATUS, _PROTOCOL_INFO, _COUNT_ORIGINAL, _COUNT_REPLY, _ID, _ZONE = 1, 3, 4, 9, 10, 12, 18
_IP, _PROTOCOL = 1, 2  # within a tuple
_SOURCE, _TARGET = 3, 4  # within IP, for IPv6
_NUMBER, _SOURCE_PORT, _TARGET_PORT, _ICMPV6_TYPE, _ICMPV6_CODE = 1, 2, 3, 8, 9  # within protocol
_SEEN_REPLY: Final = 2  # of the status
_AT_ONCE: Final = 256  # deletions of one datagram; their answers take 20 KiB
_TCP_STATES: Final = (
    "none", "syn-sent", "syn-received", "established", "fin-wait", "close-wait", "last-ack", "time-wait", "close",
    "syn-sent-2",
)  # fmt: skip  # linux/netfilter/nf_conntrack_tcp.h

_ACCOUNTING: Final = Path("/proc/sys/net/netfilter/nf_conntrack_acct")


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that crosses the mesh interface, seen from who opened it."""

    source: Address
    target: Address
    protocol: int
    port: int  # destination port; 0 where there is none
    source_port: int
    inbound: bool  # the far end opened it
    state: str  # of TCP; or unreplied, replied
    packets: int  # both directions
    bytes: int


class _Tracked(NamedTuple):
    """An entry of the table: who opened it to whom, for what, and all that the kernel says about it."""

    ends: tuple[Address, Address]
    protocol: int
    port: int
    source_port: int
    said: Mapping[int, bytes]


def end(channel: Channel, olds: Sequence[Lookup], new: Lookup, now_ms: int, pace: Pace = at_once) -> int:
    """End the conversations of the mesh that the new filter does not allow; returns how many there were."""
    doomed = [
        one
        for one in _tracked(channel, pace)
        if not new.allows(one.ends, one.protocol, one.port, now_ms)
        and any(each.concerns(*one.ends) for each in (*olds, new))
    ]
    ended = 0
    for first in range(0, len(doomed), _AT_ONCE):
        requests = [_deletion(one.said) for one in doomed[first : first + _AT_ONCE]]
        for answer in channel.each(requests):
            if answer.errno not in (0, errno.ENOENT):
                raise RefusedError(answer.errno, answer.text)
            ended += answer.errno == 0
    return ended


def conversations(channel: Channel, held: Lookup, limit: int, pace: Pace = at_once) -> list[Conversation]:
    """Conversations of the mesh, at most so many."""
    return list(islice(_conversations(_tracked(channel, pace), held), limit))


def _conversations(found: Iterable[_Tracked], held: Lookup) -> Iterator[Conversation]:
    for one in found:
        if not held.concerns(*one.ends):
            continue
        packets, size = _counted(one.said)
        yield Conversation(
            source=one.ends[0],
            target=one.ends[1],
            protocol=one.protocol,
            port=0 if one.protocol == ICMPV6 else one.port,
            source_port=one.source_port,
            inbound=held.peer(one.ends[0]) is not None,
            state=_state(one.said),
            packets=packets,
            bytes=size,
        )


def _tracked(channel: Channel, pace: Pace) -> Iterator[_Tracked]:
    for body in pace(channel.dump(Request(_GET, b"", family=wire.FAMILY_IPV6), pace)):
        said = wire.fields(body)
        original = wire.fields(said.get(_ORIGINAL, b""))
        address, protocol = wire.fields(original.get(_IP, b"")), wire.fields(original.get(_PROTOCOL, b""))
        if _SOURCE not in address or _TARGET not in address:
            continue
        number = _number(protocol.get(_NUMBER, b""))
        if number == ICMPV6:
            port = _number(protocol.get(_ICMPV6_TYPE, b"")) << 8 | _number(protocol.get(_ICMPV6_CODE, b""))
        else:
            port = _number(protocol.get(_TARGET_PORT, b""))
        ends = address[_SOURCE], address[_TARGET]
        yield _Tracked(ends, number, port, _number(protocol.get(_SOURCE_PORT, b"")), said)


def _deletion(said: Mapping[int, bytes]) -> Request:
    """By tuple and id, so that a conversation that took the place of the one that was seen is not hit."""
    body = b"".join(wire.attribute(kind, said[kind]) for kind in (_ORIGINAL, _ZONE, _ID) if kind in said)
    return Request(_DELETE, body, family=wire.FAMILY_IPV6)


def _state(said: Mapping[int, bytes]) -> str:
    tcp = wire.fields(wire.fields(said.get(_PROTOCOL_INFO, b"")).get(1, b""))
    if 1 in tcp:
        number = _number(tcp[1])
        return _TCP_STATES[number] if number < len(_TCP_STATES) else str(number)
    return "replied" if _number(said.get(_STATUS, b"")) & _SEEN_REPLY else "unreplied"


def _counted(said: Mapping[int, bytes]) -> tuple[int, int]:
    both = [wire.fields(said.get(kind, b"")) for kind in (_COUNT_ORIGINAL, _COUNT_REPLY)]
    return sum(_number(one.get(1, b"")) for one in both), sum(_number(one.get(2, b"")) for one in both)


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def count_traffic() -> None:
    """Have the kernel count packets and bytes of conversations in this network namespace, which it does not by itself.

    Where that is not allowed, conversations are listed with zeros.
    """
    try:
        _ACCOUNTING.write_text("1", encoding="ascii")
    except OSError:
        pass
