"""Netlink messages as bytes: headers, attributes, acknowledgements (RFC 3549; linux/netlink.h, nfnetlink.h).

Attributes are read strictly: a length that does not fit raises ValueError. This module opens no socket and knows no
table; what the numbers mean is said where they are used. It exists beside pyroute2's encoder because that one costs
47 us an element, and because its decoder forgets what it does not know, which a comparison must not.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLMSG_OVERRUN: Final = 4

FAMILY_UNSPEC: Final = 0
FAMILY_INET: Final = 1  # nf_tables: a table for IPv4 and IPv6
FAMILY_IPV6: Final = 10

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC: Final = struct.Struct(">BBH")  # family, version, resource
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_KIND_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_ACK_HEADER_BYTES: Final = 20  # errno, and the header of what was answered
_NLM_F_CAPPED: Final = 0x100  # the answer does not repeat the body
_NLM_F_ACK_TLVS: Final = 0x200
_NLMSGERR_ATTR_MSG: Final = 1


class Message(NamedTuple):
    """One message; `payload` begins with the four bytes of nfgenmsg, or with errno."""

    kind: int
    flags: int
    sequence: int
    port: int
    payload: bytes

    @property
    def family(self) -> int:
        """The family of nfgenmsg."""
        return self.payload[0]

    @property
    def body(self) -> bytes:
        """The attributes, behind nfgenmsg."""
        return self.payload[_GENERIC.size :]


class Answer(NamedTuple):
    """An acknowledgement: 0 or a positive errno, and what the kernel says about it."""

    sequence: int
    errno: int
    text: str


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """A string that ends with a zero byte."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """32 bits, big-endian."""
    return attribute(kind, value.to_bytes(4, "big"))


def long(kind: int, value: int) -> bytes:
    """64 bits, big-endian."""
    return attribute(kind, value.to_bytes(8, "big"))


def generic(family: int, resource: int = 0) -> bytes:
    """The four bytes of nfgenmsg, before the attributes."""
    return _GENERIC.pack(family, 0, resource)


def message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """A whole message; the payload is a multiple of four bytes."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise ValueError("a netlink header is cut off")
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, at)
        if not _HEADER.size + 4 <= length <= len(data) - at:
            raise ValueError("a netlink message is cut off")
        yield Message(kind, flags, sequence, port, data[at + _HEADER.size : at + length])
        at += length + 3 & ~3


def answer(found: Message) -> Answer:
    """What an NLMSG_ERROR says; its optional text needs NETLINK_EXT_ACK on the socket."""
    code = -int.from_bytes(found.payload[:4], sys.byteorder, signed=True)
    said = ""
    if found.flags & _NLM_F_ACK_TLVS and found.flags & _NLM_F_CAPPED:
        said = (
            fields(found.payload[_ACK_HEADER_BYTES:])
            .get(_NLMSGERR_ATTR_MSG, b"")
            .rstrip(b"\0")
            .decode(errors="replace")
        )
    return Answer(found.sequence, code, said or (os.strerror(code) if code else ""))


def spans(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, begin and end of the value of each attribute."""
    at, end = 0, len(data)
    while at < end:
        if end - at < 4:
            raise ValueError("an attribute header is cut off")
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= length <= end - at:
            raise ValueError("an attribute is cut off")
        yield kind & _KIND_MASK, at + 4, at + length
        at += length + 3 & ~3


def fields(data: bytes) -> dict[int, bytes]:
    """The attributes by kind; of a repeated one the last."""
    return {kind: data[begin:end] for kind, begin, end in spans(data)}


def items(data: bytes) -> list[bytes]:
    """The values of a list, whatever their kind."""
    return [data[begin:end] for _, begin, end in spans(data)]


def string(value: bytes) -> str:
    """A string of the kernel."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def agrees(wanted: bytes, found: bytes) -> bool:
    """True if the attributes that were found are those that were wanted.

    Attributes that are all zero may be on one side alone, for the kernel adds some defaults and leaves out others.
    """
    if wanted == found:
        return True
    try:
        left, right = _said(wanted), _said(found)
    except ValueError:
        return False
    return [kind for kind, _ in left] == [kind for kind, _ in right] and all(
        agrees(value, other) for (_, value), (_, other) in zip(left, right, strict=True)
    )


def _said(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes that are not all zero, by kind; lists keep their order."""
    found = [(kind, data[begin:end]) for kind, begin, end in spans(data)]
    if not found:
        raise ValueError("no attributes")
    return sorted((one for one in found if any(one[1])), key=lambda one: one[0])
