"""The words of nf_tables rules, as attributes (linux/netfilter/nf_tables.h).

A rule is words put one behind another; it ends at the first one that does not match. Registers are named as the kernel
names them when it lists a rule, so that what is read back can be compared. This module knows no chain and no set.

pyroute2 could encode most of this, but not all: it gives a log group 32 bits where the kernel reads 16, and takes the
result of a fib lookup for a set of flags (0.9.7).
"""

from __future__ import annotations

import ipaddress
import sys
from enum import IntEnum
from typing import Final

from appliance.netstack.nft import wire


class _Data(IntEnum):
    VALUE = 1
    VERDICT = 2


class _Compare(IntEnum):
    EQUAL = 0
    OTHER = 1


class _Meta(IntEnum):
    IN_NAME = 6
    OUT_NAME = 7
    FAMILY = 15
    PROTOCOL = 16


class _Ct(IntEnum):
    STATE = 0
    DIRECTION = 1
    PROTOCOL = 10
    PROTO_DST = 12
    SRC_IP6 = 21
    DST_IP6 = 22


# Sixteen registers of 32 bits; those at a multiple of 16 bytes have a name of their own.
KEY: Final = 1  # the first four: zero, peer, local, service
PEER: Final = 9
LOCAL: Final = 10
SERVICE: Final = 11
_WORK: Final = 2  # the fifth; up to the eighth there is room for an address
_WORK_NEXT: Final = 13
_WORK_TARGET, _WORK_PROTOCOL, _WORK_PORT = 3, 4, 21  # behind a source at _WORK

ORIGINAL: Final = 0
REPLY: Final = 1
INVALID: Final = 1
RELATED: Final = 4
UNTRACKED: Final = 64
ECHO_REQUEST: Final = 128  # RFC 4443 section 4.1

_FAMILY_IPV4: Final = 2
_ICMPV6: Final = 58
_NETWORK_HEADER: Final = 1
_SOURCE_OFFSET, _TARGET_OFFSET, _NEXT_HEADER_OFFSET = 8, 24, 6  # RFC 8200 section 3
_FIB_OIF, _FIB_SOURCE, _FIB_IIF = 1, 1, 8
_ADD: Final = 0
_SECOND: Final = 1
_NAME_BYTES: Final = 16  # IFNAMSIZ


def arrives(interface: str) -> bytes:
    """The packet came in by the interface; no interface of that name need exist."""
    return _meta(_Meta.IN_NAME) + _compare(interface.encode().ljust(_NAME_BYTES, b"\0"))


def leaves(interface: str) -> bytes:
    """The packet goes out by the interface."""
    return _meta(_Meta.OUT_NAME) + _compare(interface.encode().ljust(_NAME_BYTES, b"\0"))


def is_ipv4() -> bytes:
    """The packet is IPv4."""
    return _meta(_Meta.FAMILY) + _compare(bytes([_FAMILY_IPV4]))


def not_ipv6() -> bytes:
    """The packet is not IPv6."""
    return _meta(_Meta.FAMILY) + _compare(bytes([wire.FAMILY_IPV6]), _Compare.OTHER)


def is_icmpv6() -> bytes:
    """The packet, behind its extension headers, is ICMPv6."""
    return _meta(_Meta.PROTOCOL) + _compare(bytes([_ICMPV6]))


def not_icmpv6() -> bytes:
    """The packet is of another protocol."""
    return _meta(_Meta.PROTOCOL) + _compare(bytes([_ICMPV6]), _Compare.OTHER)


def load_next_header() -> bytes:
    """The next header of the IPv6 header itself."""
    return _payload(_NEXT_HEADER_OFFSET, 1)


def load_source() -> bytes:
    """The source address of the packet."""
    return _payload(_SOURCE_OFFSET, 16)


def load_target() -> bytes:
    """The target address of the packet."""
    return _payload(_TARGET_OFFSET, 16)


def source_is(address: bytes) -> bytes:
    """The packet comes from this address."""
    return load_source() + _compare(address)


def target_is(address: bytes) -> bytes:
    """The packet goes to this address."""
    return load_target() + _compare(address)


def source_in(prefix: str) -> bytes:
    """The source address lies in a prefix."""
    return load_source() + _in_prefix(prefix)


def target_in(prefix: str) -> bytes:
    """The target address lies in a prefix."""
    return load_target() + _in_prefix(prefix)


def begin_key(peers: str, *, by_far_end: bool) -> bytes:
    """Find the far end of the conversation in a map, as the peer of a key; no match without a conversation.

    The address is loaded to where the key begins and its first word made zero, so that a key is sixteen bytes. For
    `nft` 1.0.6 does not know how long a value is that came out of a map, and ends with a failed assertion when it
    lists a rule that looks up nothing but such values. This way it sees an address.
    """
    loaded = _tracked(_Ct.SRC_IP6 if by_far_end else _Ct.DST_IP6, ORIGINAL, KEY)
    found = _word("lookup", wire.text(1, peers), wire.number(2, KEY), wire.number(3, PEER))
    return loaded + found + _bits(bytes(4), KEY)


def add_local(name: str, *, by_far_end: bool) -> bytes:
    """Find the near end of the conversation in a map, as the local of the key."""
    return _tracked(_Ct.DST_IP6 if by_far_end else _Ct.SRC_IP6, ORIGINAL) + look_up(name, LOCAL)


def add_service(name: str) -> bytes:
    """Find protocol and destination port that opened the conversation; type and code for ICMPv6."""
    return _tracked(_Ct.PROTOCOL) + _tracked(_Ct.PROTO_DST, ORIGINAL, _WORK_NEXT) + look_up(name, SERVICE)


def recall(name: str) -> bytes:
    """Find the whole key of the conversation in a map of what was found out before; no match without a conversation.

    The protocol is the packet's own next header. So neither an error about the conversation nor a packet with an
    extension header finds what another packet left there.
    """
    return _opening() + look_up(name, KEY) + _bits(bytes(4), KEY, of=_WORK)


def remember(name: str) -> bytes:
    """Put the key into such a map, for a while; no match where the map is full."""
    what = wire.text(1, name), wire.number(3, _ADD), wire.number(4, _WORK), wire.number(5, KEY)
    return _opening() + _word("dynset", *what)


def _opening() -> bytes:
    """What opened the conversation: addresses, protocol and port, in all registers that the key leaves."""
    ends = _tracked(_Ct.SRC_IP6, ORIGINAL, _WORK) + _tracked(_Ct.DST_IP6, ORIGINAL, _WORK_TARGET)
    service = _payload(_NEXT_HEADER_OFFSET, 1, _WORK_PROTOCOL) + _tracked(_Ct.PROTO_DST, ORIGINAL, _WORK_PORT)
    return ends + service


def is_granted(name: str) -> bytes:
    """The key is in a set."""
    return _word("lookup", wire.text(1, name), wire.number(2, KEY))


def goes(way: int) -> bytes:
    """The packet goes this way within its conversation."""
    return _tracked(_Ct.DIRECTION) + _compare(bytes([way]))


def state_lacks(bits: int) -> bytes:
    """The packet's state to connection tracking is none of these."""
    return _state(bits) + _compare(bytes(4))


def opened_by_other_icmpv6_than(kind: int) -> bytes:
    """The conversation was opened by ICMPv6 of another type."""
    by_icmpv6 = _tracked(_Ct.PROTOCOL) + _compare(bytes([_ICMPV6]))
    type_alone = _tracked(_Ct.PROTO_DST, ORIGINAL) + _bits(b"\xff\0")
    return by_icmpv6 + type_alone + _compare(bytes([kind, 0]), _Compare.OTHER)


def has_no_way_back() -> bytes:
    """A packet to the source would not leave by the interface that this one came in by (RFC 3704, strict)."""
    return _word(
        "fib", wire.number(1, _WORK), wire.number(2, _FIB_OIF), wire.number(3, _FIB_SOURCE | _FIB_IIF)
    ) + _compare(bytes(4))


def look_up(name: str, into: int) -> bytes:
    """Find what was loaded in a map and put its value into a register; no match if it is not there."""
    return _word("lookup", wire.text(1, name), wire.number(2, _WORK), wire.number(3, into))


def is_in(name: str) -> bytes:
    """What was loaded is in a set."""
    return _word("lookup", wire.text(1, name), wire.number(2, _WORK))


def report(group: int, prefix: str, rate_per_s: int, snap_bytes: int) -> bytes:
    """Show at most so many packets a second to the reader of an NFLOG group."""
    limit = wire.long(1, rate_per_s), wire.long(2, _SECOND), wire.number(3, rate_per_s), wire.number(4, 0)
    log = wire.attribute(1, group.to_bytes(2, "big")), wire.text(2, prefix), wire.number(3, snap_bytes)
    return _word("limit", *limit) + _word("log", *log)


def accept() -> bytes:
    """Let it pass, as far as this chain is concerned."""
    return _verdict(1)


def drop() -> bytes:
    """End it."""
    return _verdict(0)


def leave() -> bytes:
    """Go on behind the jump."""
    return _verdict(-5)


def jump(chain: str) -> bytes:
    """Go through a chain and come back."""
    return _verdict(-3, chain)


def goto(chain: str) -> bytes:
    """Go to a chain for good."""
    return _verdict(-4, chain)


def counter() -> bytes:
    """Counts bytes and packets: the content of a word, as a set wants it for its elements."""
    return wire.text(1, "counter") + wire.nest(2, wire.long(1, 0), wire.long(2, 0))


def _word(name: str, *attributes: bytes) -> bytes:
    return wire.nest(1, wire.text(1, name), wire.nest(2, *attributes))


def _meta(key: _Meta) -> bytes:
    return _word("meta", wire.number(2, key), wire.number(1, _WORK))


def _payload(offset: int, size: int, register: int = _WORK) -> bytes:
    place = wire.number(2, _NETWORK_HEADER), wire.number(3, offset), wire.number(4, size)
    return _word("payload", wire.number(1, register), *place)


def _tracked(key: _Ct, way: int | None = None, register: int = _WORK) -> bytes:
    of = () if way is None else (wire.attribute(3, bytes([way])),)
    return _word("ct", wire.number(1, register), wire.number(2, key), *of)


def _state(bits: int) -> bytes:
    return _tracked(_Ct.STATE) + _bits(bits.to_bytes(4, sys.byteorder))


def _compare(data: bytes, how: _Compare = _Compare.EQUAL) -> bytes:
    return _word("cmp", wire.number(1, _WORK), wire.number(2, how), wire.nest(3, wire.attribute(_Data.VALUE, data)))


def _bits(mask: bytes, register: int = _WORK, *, of: int | None = None) -> bytes:
    registers = wire.number(1, of or register), wire.number(2, register), wire.number(3, len(mask))
    value = wire.attribute(_Data.VALUE, mask)
    return _word(
        "bitwise", *registers, wire.nest(4, value), wire.nest(5, wire.attribute(_Data.VALUE, bytes(len(mask))))
    )


def _in_prefix(prefix: str) -> bytes:
    network = ipaddress.IPv6Network(prefix)
    return _bits(network.netmask.packed) + _compare(network.network_address.packed)


def _verdict(code: int, chain: str = "") -> bytes:
    said = wire.attribute(1, code.to_bytes(4, "big", signed=True)) + (wire.text(2, chain) if chain else b"")
    return _word("immediate", wire.number(1, 0), wire.nest(2, wire.nest(_Data.VERDICT, said)))
