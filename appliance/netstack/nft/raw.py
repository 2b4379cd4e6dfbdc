"""A filter's tables in raw form: keys and values as the bytes that the kernel compares, by name of the set.

Raw tables are compared whole in milliseconds, and only what differs is looked at. Numbers of classes are in the byte
order of the machine, which is what `nft` shows as a mark. Nothing here speaks netlink.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from appliance.netstack.nft.turns import Pace, at_once
from appliance.policy.filter import ClassId, Filter, Grant, Interval, Key, ServiceRange

RawKey: TypeAlias = bytes  # address; first and last address; first and last service; peer, local, service
RawValue: TypeAlias = bytes | int  # a class; or the moment when a grant ends, ms since the epoch, 0 for never
RawTable: TypeAlias = dict[RawKey, RawValue]
Raw: TypeAlias = dict[str, RawTable]

GRANTS: Final = ("inbound", "outbound")
INTERVALS: Final = ("peer_nets", "locals")
NAMES: Final = ("headers", "peers", *INTERVALS, "services", *GRANTS)
# Hop-by-hop, routing, fragment, AH, none, destination, mobility, HIP, shim6: the extension headers of IANA's registry
# but for ESP, which hides its content as any other protocol may; and `none`, behind which there is nothing to judge.
HEADERS: Final = (0, 43, 44, 51, 59, 60, 135, 139, 140)

_CLASS: Final = struct.Struct("=I")
_KEY: Final = struct.Struct("=4xIII")
MEMORY: Final = struct.Struct(">16s16sB3xH2x")  # what opened a conversation: source, target, protocol, port
_SERVICE: Final = struct.Struct(">B3xH2x")
_ADDRESS_BYTES: Final = 16


def raw_key(key: RawKey | Interval | ServiceRange | Key) -> RawKey:
    """The raw form of a key of one of a filter's tables."""
    match key:
        case bytes():
            return key
        case Key():
            return _KEY.pack(*key)
        case ServiceRange(first, last, low, high):
            return _SERVICE.pack(first, low) + _SERVICE.pack(last, high)
        case (bytes(first), bytes(last)):
            return first + last


def raw_grant(key: Key) -> RawKey:
    """The raw form of the key of a grant."""
    return _KEY.pack(*key)


def raw_value(value: ClassId | Grant) -> RawValue:
    """The raw form of a value."""
    return _CLASS.pack(value) if isinstance(value, int) else value.until_ms or 0


def raw_filter(wanted: Filter, now_ms: int) -> Raw:
    """All elements that the kernel must hold, but for grants that have ended."""
    return {name: raw_set(wanted, name, now_ms) for name in NAMES}


def raw_set(wanted: Filter, name: str, now_ms: int, pace: Pace = at_once) -> RawTable:
    """The elements of one set."""
    match name:
        case "headers":
            return raw_headers()
        case "inbound" | "outbound":
            grants = wanted.inbound if name == "inbound" else wanted.outbound
            pack = _KEY.pack
            return {
                pack(*key): grant.until_ms or 0
                for key, grant in pace(grants.items())
                if grant.until_ms is None or grant.until_ms > now_ms
            }
        case "peers":
            return {address: _CLASS.pack(value) for address, value in pace(wanted.peers.items())}
        case "services":
            return {raw_key(key): _CLASS.pack(value) for key, value in pace(wanted.services.items())}
        case _:
            nets = wanted.peer_nets if name == "peer_nets" else wanted.locals
            return {raw_key(net): _CLASS.pack(value) for net, value in pace(nets.items())}


def raw_headers() -> RawTable:
    """The extension headers that are dropped; no filter changes them."""
    return {bytes([header]): b"" for header in HEADERS}


def filter_of(own: bytes, raw: Raw) -> Filter:
    """The filter that raw elements stand for; the rules behind its grants are not known to the kernel."""

    def intervals(name: str) -> dict[Interval, ClassId]:
        return {(key[:_ADDRESS_BYTES], key[_ADDRESS_BYTES:]): _class(value) for key, value in raw[name].items()}

    def grants(name: str) -> dict[Key, Grant]:
        return {Key(*_KEY.unpack(key)): Grant((), _until(value)) for key, value in raw[name].items()}

    return Filter(
        own=own,
        peers={key: _class(value) for key, value in raw["peers"].items()},
        peer_nets=intervals("peer_nets"),
        locals=intervals("locals"),
        services={_service(key): _class(value) for key, value in raw["services"].items()},
        inbound=grants("inbound"),
        outbound=grants("outbound"),
    )


def grant_key(raw: RawKey) -> Key:
    """The key of a grant."""
    return Key(*_KEY.unpack(raw))


def _service(raw: RawKey) -> ServiceRange:
    (first, low), (last, high) = _SERVICE.iter_unpack(raw)
    return ServiceRange(first, last, low, high)


def _class(value: RawValue) -> ClassId:
    assert isinstance(value, bytes)
    return int(_CLASS.unpack(value)[0])


def _until(value: RawValue) -> int | None:
    assert isinstance(value, int)
    return value or None
