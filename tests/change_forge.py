"""Takes change chunks apart and puts them together wrongly, always with a right length and checksum.

Independent of the codec under test, which could not write most of this: it knows header and columns, no operations.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass, field

MAGIC = b"\x85\x6f\x4a\x83"


def uleb(number: int, padding: int = 0) -> bytes:
    """Unsigned LEB128; padding adds bytes that a canonical number does not have."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)] + [0] * padding
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def sleb(number: int) -> bytes:
    """Signed LEB128."""
    length = 1
    while not -(1 << 7 * length - 1) <= number < 1 << 7 * length - 1:
        length += 1
    return uleb((number & (1 << 7 * length) - 1) | 1 << 7 * length)[: length - 1] + bytes(
        [number >> 7 * (length - 1) & 0x7F]
    )


def frame(body: bytes, kind: int = 1) -> bytes:
    """A chunk with a right checksum; a compressed one (2) is summed as what it inflates to."""
    rest = bytes([kind]) + uleb(len(body)) + body
    summed = rest
    if kind == 2:
        inflated = zlib.decompress(body, wbits=-15)
        summed = b"\1" + uleb(len(inflated)) + inflated
    return MAGIC + hashlib.sha256(summed).digest()[:4] + rest


def deflated(body: bytes) -> bytes:
    """A raw deflate stream, as in a compressed chunk."""
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(body) + packer.flush()


@dataclass
class RawChange:
    """Header and columns of a change as they lie in its body."""

    deps: list[bytes] = field(default_factory=list)
    actor: bytes = bytes(32)
    seq: int = 1
    start_op: int = 1
    time: int = 0
    message: bytes = b""
    others: list[bytes] = field(default_factory=list)
    columns: list[tuple[int, bytes]] = field(default_factory=list)
    extra: bytes = b""

    @classmethod
    def parse(cls, chunk: bytes) -> RawChange:
        """The parts of a sound chunk."""
        scan = _Scan(chunk, 9)
        scan.uleb()
        raw = cls([scan.take(32) for _ in range(scan.uleb())], scan.take(scan.uleb()), scan.uleb(), scan.uleb())
        raw.time = scan.sleb()
        raw.message = scan.take(scan.uleb())
        raw.others = [scan.take(scan.uleb()) for _ in range(scan.uleb())]
        heads = [(scan.uleb(), scan.uleb()) for _ in range(scan.uleb())]
        raw.columns = [(number, scan.take(length)) for number, length in heads]
        raw.extra = chunk[scan.position :]
        return raw

    def column(self, number: int) -> bytes:
        """The bytes of a column; empty without it."""
        return dict(self.columns).get(number, b"")

    def with_column(self, number: int, data: bytes) -> RawChange:
        """Put a column in its place; no bytes take it away."""
        columns = dict(self.columns) | {number: data}
        self.columns = sorted((number, data) for number, data in columns.items() if data)
        return self

    def body(self) -> bytes:
        """The body, however wrong."""
        parts = [uleb(len(self.deps)), *self.deps, uleb(len(self.actor)), self.actor]
        parts += [uleb(self.seq), uleb(self.start_op), sleb(self.time), uleb(len(self.message)), self.message]
        parts += [uleb(len(self.others)), *(uleb(len(other)) + other for other in self.others)]
        parts += [uleb(len(self.columns)), *(uleb(number) + uleb(len(data)) for number, data in self.columns)]
        return b"".join([*parts, *(data for _, data in self.columns), self.extra])

    def chunk(self, kind: int = 1) -> bytes:
        """The chunk around the body."""
        return frame(deflated(self.body()) if kind == 2 else self.body(), kind)


class _Scan:
    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position

    def take(self, length: int) -> bytes:
        self.position += length
        return self.data[self.position - length : self.position]

    def uleb(self) -> int:
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    def sleb(self) -> int:
        start = self.position
        number = self.uleb()
        bits = 7 * (self.position - start)
        return number - (1 << bits) if number >> bits - 1 else number
