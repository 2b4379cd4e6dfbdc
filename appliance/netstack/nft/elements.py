"""Elements of sets and maps, packed for the kernel and parsed from it (NFTA_SET_ELEM of linux/netfilter/nf_tables.h).

An interval of addresses is two elements, a begin and an end; an interval of services is one element with two keys. An
element costs less than a microsecond either way: what all elements of a set have in common is taken apart once.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple

from appliance.netstack.nft import wire
from appliance.netstack.nft.raw import GRANTS, INTERVALS, RawKey, RawTable, RawValue

_ADDRESS_BYTES: Final = 16
_LAST_ADDRESS: Final = b"\xff" * _ADDRESS_BYTES
_SET_KEY, _DATA, _FLAGS, _TIMEOUT, _EXPIRATION, _EXPRESSION, _KEY_END = 1, 2, 3, 4, 5, 7, 10
_VALUES: Final = {_SET_KEY: "key", _DATA: "data", _KEY_END: "key_end"}
_NUMBERS: Final = {_FLAGS: "flags", _TIMEOUT: "timeout", _EXPIRATION: "expires"}
_ELEMENTS: Final = 1_000  # of one list: the longest element has 56 bytes, and an attribute holds 65,535
_INTERVAL_END: Final = wire.number(_FLAGS, 1)


def _value(kind: int, data: bytes) -> bytes:
    return wire.nest(kind, wire.attribute(1, data))


def _before_key(more_bytes: int = 0) -> bytes:
    """What stands before a key of sixteen bytes in an element that has so many bytes behind it."""
    return wire.nest(1, _value(_SET_KEY, bytes(16)) + bytes(more_bytes))[:12]


_SIXTEEN: Final = _before_key()
_SIXTEEN_AND_MORE: Final = _before_key(12)
_MAPPED: Final = _value(_DATA, bytes(4))[:8]


class Element(NamedTuple):
    """An element as the kernel lists it."""

    key: bytes
    key_end: bytes
    data: bytes
    expires: bytes  # ms from now, big-endian; empty for never
    packet_count: bytes  # big-endian; empty without a counter
    byte_count: bytes
    flags: bytes  # big-endian; empty for none

    @property
    def is_end(self) -> bool:
        """True for the end of an interval, which is no part of it any more."""
        return self.flags == _INTERVAL_END[4:]


def pack(name: str, table: Mapping[RawKey, RawValue], now_ms: int) -> Iterator[bytes]:
    """The elements of one set, each as a list item."""
    if name in INTERVALS:
        for key, value in table.items():
            assert isinstance(value, bytes)
            yield from _interval(key, value)
    elif name in GRANTS:
        for key, value in table.items():
            assert isinstance(value, int)
            if value:
                yield _SIXTEEN_AND_MORE + key + wire.long(_TIMEOUT, max(value - now_ms, 1))
            else:
                yield _SIXTEEN + key
    elif name == "services":
        for key, value in table.items():
            assert isinstance(value, bytes)
            yield wire.nest(1, _value(_SET_KEY, key[:8]), _value(_KEY_END, key[8:]), _value(_DATA, value))
    elif name == "peers":
        for key, value in table.items():
            assert isinstance(value, bytes)
            yield _SIXTEEN_AND_MORE + key + _MAPPED + value
    else:
        for key in table:
            yield wire.nest(1, _value(_SET_KEY, key))


def pack_keys(name: str, keys: Iterable[RawKey]) -> Iterator[bytes]:
    """The elements of one set as they are named to delete or to find them."""
    for key in keys:
        if name in INTERVALS:
            yield from _interval(key, None)
        elif name == "services":
            yield wire.nest(1, _value(_SET_KEY, key[:8]), _value(_KEY_END, key[8:]))
        elif len(key) == 16:
            yield _SIXTEEN + key
        else:
            yield wire.nest(1, _value(_SET_KEY, key))


def chunks(elements: Iterator[bytes]) -> Iterator[bytes]:
    """Lists that each fit into one attribute."""
    while chunk := b"".join(islice(elements, _ELEMENTS)):
        yield chunk


def _interval(key: RawKey, value: bytes | None) -> Iterator[bytes]:
    first, last = key[:_ADDRESS_BYTES], key[_ADDRESS_BYTES:]
    yield wire.nest(1, _value(_SET_KEY, first), b"" if value is None else _value(_DATA, value))
    if last != _LAST_ADDRESS:
        yield wire.nest(1, _value(_SET_KEY, _following(last)), _INTERVAL_END)


def _following(address: bytes) -> bytes:
    return (int.from_bytes(address, "big") + 1).to_bytes(_ADDRESS_BYTES, "big")


def _before(address: bytes) -> bytes:
    return (int.from_bytes(address, "big") - 1).to_bytes(_ADDRESS_BYTES, "big")


def parse(blocks: Iterable[bytes]) -> Iterator[Element]:
    """The elements in lists of elements, as the kernel sends them."""
    shapes: dict[int, _Shape] = {}
    for block in blocks:
        length = int.from_bytes(block[:2], sys.byteorder)
        if length in shapes and (found := shapes[length].read(block)) is not None:
            yield from found
            continue
        for begin, end in _places_in_list(block):
            element = block[begin:end]
            shape = shapes.get(end - begin)
            if shape is None or (found := shape.read(element)) is None:
                shape = shapes[end - begin] = _Shape(element)
                found = shape.read(element)
            yield from found or ()


def raw_table(name: str, elements: Iterable[Element], now_ms: int) -> RawTable:
    """A set as it was listed, in raw form."""
    if name in INTERVALS:
        return dict(_joined(elements))
    if name in GRANTS:
        return {one.key: now_ms + int.from_bytes(one.expires, "big") if one.expires else 0 for one in elements}
    return {one.key + one.key_end: one.data for one in elements}


def _joined(elements: Iterable[Element]) -> Iterator[tuple[RawKey, RawValue]]:
    """Begins and ends of intervals as intervals."""
    begun: Element | None = None
    for one in sorted(elements, key=lambda one: (one.key, not one.is_end)):
        if begun is not None:
            yield begun.key + _before(one.key), begun.data
        begun = None if one.is_end else one
    if begun is not None:
        yield begun.key + _LAST_ADDRESS, begun.data


class _Shape:
    """Elements of one length whose bytes are all the same but for those that are asked for."""

    def __init__(self, element: bytes) -> None:
        form, at, order = ">", 0, []
        for begin, end, name in sorted(_places(element)):
            form += f"{begin - at}s{end - begin}s"
            order.append(name)
            at = end
        self._struct = struct.Struct(f"{form}{len(element) - at}s0s")
        index = {name: 2 * place + 1 for place, name in enumerate(order)}
        self._pick = itemgetter(*(index.get(name, -1) for name in Element._fields))
        self._rest = itemgetter(slice(0, -1, 2))
        self._same = {self._rest(self._struct.unpack(element))}

    def read(self, block: bytes) -> Iterator[Element] | None:
        """The elements of a list, if all are of this shape."""
        if len(block) % self._struct.size:
            return None
        rows = list(self._struct.iter_unpack(block))
        return map(Element._make, map(self._pick, rows)) if set(map(self._rest, rows)) == self._same else None


def _places_in_list(block: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of each element, header and padding included."""
    for _, begin, end in wire.spans(block):
        yield begin - 4, end + 3 & ~3


def _places(element: bytes) -> Iterator[tuple[int, int, str]]:
    """Begin, end and name of each part that differs from element to element."""
    for kind, begin, end in wire.spans(element[4:]):
        begin, end = begin + 4, end + 4
        if kind in _VALUES:
            (first, last), *_ = [place[1:] for place in wire.spans(element[begin:end])]
            yield begin + first, begin + last, _VALUES[kind]
        elif kind in _NUMBERS:
            yield begin, end, _NUMBERS[kind]
        elif kind == _EXPRESSION:
            yield from _counter(element, begin, end)


def _counter(element: bytes, begin: int, end: int) -> Iterator[tuple[int, int, str]]:
    """The numbers in a counter: name of the expression, then its attributes."""
    for kind, low, high in wire.spans(element[begin:end]):
        if kind == 2:
            for number, first, last in wire.spans(element[begin + low : begin + high]):
                if number in (1, 2):
                    yield begin + low + first, begin + low + last, "byte_count" if number == 1 else "packet_count"
