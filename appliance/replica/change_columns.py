"""Columns of an Automerge change: LEB128 numbers and run-length coded cells (Automerge binary format).

Reading is bounded and lenient about form; `change_codec` encodes again and compares, which leaves one form.
This module knows no operation and no document, and never sees a null cell: our changes have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NoReturn, TypeVar

from appliance.core.errors import error

T = TypeVar("T", int, str)

_LEB_BITS = 63  # the shift of the last byte that a 64-bit LEB128 number may have
_ONE = b"\x7f"  # a list of one cell: most columns of most changes


def malformed(reason: str) -> NoReturn:
    """Raise `change.canonical`."""
    raise error("change.canonical", reason=reason)


class Reader:
    """A place in a byte string, moving forward. Reading past the end raises `change.canonical`."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        start = self._position
        end = start + length
        if end > len(self._data):
            malformed("it ends too early")
        self._position = end
        return self._data[start:end]

    def uint(self) -> int:
        """An unsigned LEB128 number below 2**64."""
        position = self._position
        if position < len(self._data) and (byte := self._data[position]) < 0x80:
            self._position = position + 1
            return byte
        value, _ = self._long()
        if value >> 64:
            malformed("a number is too large")
        return value

    def sint(self) -> int:
        """A signed LEB128 number from -2**63 to 2**63 - 1."""
        position = self._position
        if position < len(self._data) and (byte := self._data[position]) < 0x80:
            self._position = position + 1
            return byte - (byte << 1 & 0x80)
        value, bits = self._long()
        if value >> (bits - 1):
            value -= 1 << bits
        if not -(1 << 63) <= value < 1 << 63:
            malformed("a number is too large")
        return value

    def text(self) -> str:
        """A length and that many bytes of UTF-8."""
        return utf8(self.take(self.uint()))

    def _long(self) -> tuple[int, int]:
        """The payload bits of a LEB128 number, and how many there are."""
        data, position = self._data, self._position
        value = bits = 0
        try:
            while (byte := data[position]) & 0x80:
                value |= (byte & 0x7F) << bits
                bits += 7
                position += 1
                if bits > _LEB_BITS:
                    malformed("a number is too long")
        except IndexError:
            malformed("it ends too early")
        self._position = position + 1
        return value | byte << bits, bits + 7


def utf8(data: bytes) -> str:
    """The text of strict UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        malformed("a text is not UTF-8")


def uint_bytes(value: int) -> bytes:
    """Unsigned LEB128."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def sint_bytes(value: int) -> bytes:
    """Signed LEB128."""
    encoded = bytearray()
    while not -0x40 <= value < 0x40:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value & 0x7F)
    return bytes(encoded)


def text_bytes(text: str) -> bytes:
    """A length and UTF-8."""
    data = text.encode()
    return uint_bytes(len(data)) + data


def read_runs(data: bytes, count: int, read: Callable[[Reader], T]) -> list[T]:
    """Exactly `count` cells of a run-length coded column: n > 0 repeats a cell, n < 0 lists -n cells."""
    reader = Reader(data)
    cells: list[T] = []
    while len(cells) < count:
        length = reader.sint()
        if length == 0:
            malformed("a cell is empty")
        if len(cells) + abs(length) > count:
            malformed("a column is too long")
        if length > 0:
            cells += [read(reader)] * length
        else:
            cells += [read(reader) for _ in range(-length)]
    if reader.left:
        malformed("a column is too long")
    return cells


def read_deltas(data: bytes, count: int) -> list[int]:
    """Exactly `count` numbers of a column that holds their differences."""
    total = 0
    return [total := total + step for step in read_runs(data, count, Reader.sint)]


def runs_bytes(cells: Sequence[T], write: Callable[[T], bytes]) -> bytes:
    """The one run-length form: a run for equal neighbours, a list for what lies between runs."""
    if len(cells) == 1:
        return _ONE + write(cells[0])
    encoded: list[bytes] = []
    single: list[bytes] = []
    for cell, group in groupby(cells):
        length = sum(1 for _ in group)
        if length == 1:
            single.append(write(cell))
            continue
        if single:
            encoded += sint_bytes(-len(single)), *single
            single = []
        encoded += sint_bytes(length), write(cell)
    if single:
        encoded += sint_bytes(-len(single)), *single
    return b"".join(encoded)


def deltas_bytes(numbers: Sequence[int]) -> bytes:
    """A column of the differences of `numbers`."""
    return runs_bytes([b - a for a, b in zip((0, *numbers), numbers, strict=False)], sint_bytes)
