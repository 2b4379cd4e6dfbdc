"""Deterministic CBOR (RFC 8949, section 4.2.1): one value has one encoding, and nothing else decodes.

The subset: null, booleans, integers of 64 bits and a sign, bytes, text, arrays, maps (keys: integers, text,
bytes) and the tags that a caller allows. Maps are sorted by the bytes of their encoded keys. So for all bytes
that `decode` accepts, `encode(decode(data)) == data`. Floats, other simple values, indefinite lengths and
unknown tags are refused, as is anything beyond the limits. It never converts values into records (msgspec
does that) and never repairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, TypeAlias

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits

Key: TypeAlias = int | str | bytes
Cbor: TypeAlias = "bool | int | bytes | str | list[Cbor] | dict[Key, Cbor] | Tagged | None"
EncodableMap: TypeAlias = "Mapping[Any, Encodable]"  # keys are checked: a Mapping is invariant in them
Encodable: TypeAlias = "bool | int | bytes | str | Sequence[Encodable] | EncodableMap | Tagged | None"

# Major types, RFC 8949 section 3.1: the high three bits of the first byte.
_UINT, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_DIRECT_MAX: Final = 23  # the largest argument that fits the first byte; 24 to 27: 1, 2, 4, 8 bytes follow
_INDEFINITE: Final = 31
_SIMPLE_VALUES: Final[Mapping[int, bool | None]] = {20: False, 21: True, 22: None}
_FLOATS: Final = (25, 26, 27)
_ARGUMENT_MAX: Final = (1 << 64) - 1
_ONE_BYTE: Final = tuple(bytes([n]) for n in range(256))
_PACK_U8, _PACK_U16 = Struct(">BB").pack, Struct(">BH").pack
_PACK_U32, _PACK_U64 = Struct(">BI").pack, Struct(">BQ").pack


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under a tag; decoded only where the caller allows the tag."""

    tag: int
    value: Cbor


def encode(value: Encodable) -> bytes:
    """The one encoding of *value*; tuples count as arrays.

    Raises `cbor.type`, `cbor.key_type`, `cbor.integer`, `cbor.utf8` or, for nesting, `cbor.depth`.
    """
    out = bytearray()
    _write(out, value, LIMITS.cbor_depth)
    return bytes(out)


def decode(data: bytes, *, limits: Limits = LIMITS, allowed_tags: frozenset[int] = frozenset()) -> Cbor:
    """The value that *data* encodes, all of it; raises a `cbor.*` error for whatever is not canonical."""
    size = len(data)
    if size > limits.cbor_bytes:
        raise error("cbor.size", size=size, limit=limits.cbor_bytes)
    try:
        value, end = _read(data, 0, limits.cbor_depth, _Bounds(size, limits, allowed_tags))
    except IndexError as err:
        raise error("cbor.truncated", size=size) from err
    if end != size:
        raise error("cbor.trailing", count=size - end)
    return value


# --- decoding: functions take the data and an offset and return a value and the offset behind it ---------


class _Bounds:
    """What one decoding may use, and how many items it has used."""

    __slots__ = ("items_left", "limits", "size", "tags")

    def __init__(self, size: int, limits: Limits, tags: frozenset[int]) -> None:
        self.size = size
        self.limits = limits
        self.tags = tags
        self.items_left = limits.cbor_items

    def enter(self, items: int, depth: int) -> None:
        """Open a container of *items*, counted before any is read, with *depth* levels left."""
        if depth <= 0:
            raise error("cbor.depth", limit=self.limits.cbor_depth)
        self.items_left -= items
        if self.items_left < 0:
            raise error("cbor.items", limit=self.limits.cbor_items)


def _read(data: bytes, at: int, depth: int, bounds: _Bounds) -> tuple[Cbor, int]:
    """The item at *at*; IndexError where the data ends within its head."""
    first = data[at]
    at += 1
    major = first >> 5
    argument = first & 31
    if argument > _DIRECT_MAX and major != _SIMPLE:
        if argument == 24:  # hashes and most texts: not worth a call
            argument = data[at]
            at += 1
            if argument <= _DIRECT_MAX:
                raise error("cbor.not_shortest", offset=at - 2)
        else:
            argument, at = _long_argument(data, at, argument)
    if major == _BYTES:
        end = at + argument
        if end > bounds.size:
            raise error("cbor.truncated", size=bounds.size)
        return data[at:end], end
    if major == _UINT:
        return argument, at
    return _READERS[major](data, at, argument, depth, bounds)


def _long_argument(data: bytes, at: int, info: int) -> tuple[int, int]:
    """An argument of 2, 4 or 8 bytes; the largest that a shorter form holds is already too small."""
    if info > 27:
        raise error("cbor.indefinite" if info == _INDEFINITE else "cbor.reserved", offset=at - 1)
    width = 1 << info - 24
    end = at + width
    if end > len(data):
        raise error("cbor.truncated", size=len(data))
    argument = int.from_bytes(data[at:end])
    if not argument >> width * 4:
        raise error("cbor.not_shortest", offset=at - 1)
    return argument, end


def _read_negative(_data: bytes, at: int, argument: int, _depth: int, _bounds: _Bounds) -> tuple[Cbor, int]:
    return -1 - argument, at


def _read_text(data: bytes, at: int, length: int, _depth: int, bounds: _Bounds) -> tuple[Cbor, int]:
    end = at + length
    if end > bounds.size:
        raise error("cbor.truncated", size=bounds.size)
    try:
        return data[at:end].decode(), end
    except UnicodeDecodeError as err:
        raise error("cbor.utf8", offset=at + err.start) from err


def _read_array(data: bytes, at: int, count: int, depth: int, bounds: _Bounds) -> tuple[Cbor, int]:
    bounds.enter(count, depth)
    depth -= 1
    array: list[Cbor] = []
    append = array.append
    for _ in range(count):
        value, at = _read(data, at, depth, bounds)
        append(value)
    return array, at


def _read_map(data: bytes, at: int, count: int, depth: int, bounds: _Bounds) -> tuple[Cbor, int]:
    bounds.enter(2 * count, depth)
    depth -= 1
    entries: dict[Key, Cbor] = {}
    previous = b""
    for _ in range(count):
        start = at
        if data[at] >> 5 > _TEXT:
            raise error("cbor.key_type", offset=at)
        key, at = _read(data, at, depth, bounds)
        encoded = data[start:at]
        if encoded <= previous:
            raise error("cbor.duplicate_key" if encoded == previous else "cbor.key_order", offset=start)
        previous = encoded
        value, at = _read(data, at, depth, bounds)
        entries[key] = value  # type: ignore[index]  # its major type is that of a Key
    return entries, at


def _read_tag(data: bytes, at: int, tag: int, depth: int, bounds: _Bounds) -> tuple[Cbor, int]:
    if tag not in bounds.tags:
        raise error("cbor.tag", tag=tag)
    bounds.enter(1, depth)
    value, at = _read(data, at, depth - 1, bounds)
    return Tagged(tag, value), at


def _read_simple(_data: bytes, at: int, info: int, _depth: int, _bounds: _Bounds) -> tuple[Cbor, int]:
    if info not in _SIMPLE_VALUES:
        raise _simple_refusal(info, at - 1)
    return _SIMPLE_VALUES[info], at


def _simple_refusal(info: int, offset: int) -> X0tError:
    if info in _FLOATS:
        return error("cbor.float", offset=offset)
    return error("cbor.indefinite" if info == _INDEFINITE else "cbor.reserved", offset=offset)


_READERS: Final[Mapping[int, Callable[[bytes, int, int, int, _Bounds], tuple[Cbor, int]]]] = {
    _NEGATIVE: _read_negative,
    _TEXT: _read_text,
    _ARRAY: _read_array,
    _MAP: _read_map,
    _TAG: _read_tag,
    _SIMPLE: _read_simple,
}


# --- encoding: functions append to one buffer ---------------------------------------------------------------


def _head(major: int, argument: int) -> bytes:
    """The shortest head of an item."""
    first = major << 5
    if argument <= _DIRECT_MAX:
        return _ONE_BYTE[first | argument]
    if argument < 1 << 8:
        return _PACK_U8(first | 24, argument)
    if argument < 1 << 16:
        return _PACK_U16(first | 25, argument)
    if argument < 1 << 32:
        return _PACK_U32(first | 26, argument)
    return _PACK_U64(first | 27, argument)


def _write(out: bytearray, value: Encodable, depth: int) -> None:
    if value is None:
        out += b"\xf6"
    elif isinstance(value, bytes):
        out += _head(_BYTES, len(value))
        out += value
    elif isinstance(value, bool):
        out += b"\xf5" if value else b"\xf4"
    elif isinstance(value, int):
        out += _integer(value)
    elif isinstance(value, str):
        out += _text(value)
    elif depth <= 0:
        raise error("cbor.depth", limit=LIMITS.cbor_depth)
    elif isinstance(value, list | tuple):
        out += _head(_ARRAY, len(value))
        for item in value:
            _write(out, item, depth - 1)
    elif isinstance(value, Mapping):
        _write_map(out, value, depth - 1)
    elif isinstance(value, Tagged):
        out += _head(_TAG, _argument(value.tag))
        _write(out, value.value, depth - 1)
    else:
        raise error("cbor.type", type=type(value).__name__)


def _write_map(out: bytearray, entries: EncodableMap, depth: int) -> None:
    out += _head(_MAP, len(entries))
    for key, value in sorted([(_key(key), value) for key, value in entries.items()], key=_first):
        out += key
        _write(out, value, depth)


def _first(pair: tuple[bytes, Encodable]) -> bytes:
    return pair[0]


def _key(key: object) -> bytes:
    match key:
        case bytes():
            return _head(_BYTES, len(key)) + key
        case str():
            return _text(key)
        case int() if not isinstance(key, bool):
            return _integer(key)
        case _:
            raise error("cbor.key_type", type=type(key).__name__)


def _integer(number: int) -> bytes:
    return _head(_UINT, _argument(number)) if number >= 0 else _head(_NEGATIVE, _argument(-1 - number))


def _argument(number: int) -> int:
    if not 0 <= number <= _ARGUMENT_MAX:
        raise error("cbor.integer", bits=number.bit_length())
    return number


def _text(text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as err:
        raise error("cbor.utf8", offset=err.start) from err
    return _head(_TEXT, len(encoded)) + encoded
