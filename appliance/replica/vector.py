"""Version vector of one channel: author -> heads, digested in 256 buckets by the first byte of the author's id.

A head is (seq, hash) of a batch that no later batch of the same author follows. An author has one, unless it forked:
then every branch has its own. Digests are SHA-256 under a domain label, cached, and recomputed only for buckets that
changed. It keeps no history, so it cannot tell a new branch from a batch that was added before: the caller adds each
batch once, predecessors first. It never reads storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import pairwise
from struct import Struct
from typing import Final, TypeAlias

Head: TypeAlias = tuple[int, bytes]
Heads: TypeAlias = tuple[Head, ...]
Entry: TypeAlias = tuple[bytes, Heads]

BUCKETS: Final = 256
BUCKET_DIGEST_BYTES: Final = 16  # 128 bits tell buckets apart; the root digest keeps all 256
HASH_BYTES: Final = 32
SEQ_MAX: Final = 2**53

_DOMAIN: Final = b"x0t/vector/1"
_HEAD: Final = Struct(">Q32s")
_ENTRY_HEAD: Final = Struct(">32sH")  # author, number of heads


class Vector:
    """Heads of all authors. 10,000 authors take about 3 MB; `add` is O(1), a digest costs its changed buckets."""

    __slots__ = ("_authors", "_buckets", "_digests", "_root")

    def __init__(self) -> None:
        # Heads lie packed, because a tuple of tuples would take three times the memory.
        self._buckets: tuple[dict[bytes, bytes], ...] = tuple({} for _ in range(BUCKETS))
        self._digests: list[bytes | None] = [None] * BUCKETS
        self._root: bytes | None = None
        self._authors = 0

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[bytes, int, bytes]]) -> Vector:
        """A vector from its heads (author, seq, hash), in any order: the quick start of a replica."""
        vector = cls()
        for author, seq, digest in rows:
            vector._replace(author, [*vector.heads(author), (seq, digest)])
        return vector

    def __len__(self) -> int:
        """The number of authors."""
        return self._authors

    def heads(self, author: bytes) -> Heads:
        """Heads of one author, sorted; empty if it is not known."""
        packed = self._buckets[author[0]].get(author)
        return () if packed is None else _unpack_heads(packed)

    def top(self, author: bytes) -> int:
        """The highest seq of an author; 0 if it is not known."""
        packed = self._buckets[author[0]].get(author)
        return 0 if packed is None else int.from_bytes(packed[-_HEAD.size : -HASH_BYTES])

    def add(self, author: bytes, seq: int, digest: bytes, prev: bytes | None) -> bool:
        """Take in a new batch whose predecessor was added before; False if it is a head already.

        It takes the place of the head `prev`. Where `prev` is no head any more, or the author has other first
        batches, it is the head of a new branch.
        """
        heads = self.heads(author)
        if (seq, digest) in heads:
            return False
        self._replace(author, [*(head for head in heads if head[1] != prev), (seq, digest)])
        return True

    def digest(self) -> bytes:
        """32 bytes over everything: equal exactly for vectors with equal heads."""
        if self._root is None:
            root = sha256(_DOMAIN)
            for index in range(BUCKETS):
                root.update(self._bucket_hash(index))
            self._root = root.digest()
        return self._root

    def bucket_digest(self, index: int) -> bytes:
        """16 bytes over one bucket."""
        return self._bucket_hash(index)[:BUCKET_DIGEST_BYTES]

    def bucket_digests(self) -> bytes:
        """The digests of all buckets, one after the other: 4 KiB."""
        return b"".join(self.bucket_digest(index) for index in range(BUCKETS))

    def bucket(self, index: int) -> list[Entry]:
        """Authors of one bucket with their heads, sorted."""
        return [(author, _unpack_heads(packed)) for author, packed in sorted(self._buckets[index].items())]

    def authors(self, index: int) -> list[bytes]:
        """Authors of one bucket, sorted."""
        return sorted(self._buckets[index])

    def pack(self, index: int) -> Iterator[bytes]:
        """The entries of one bucket as they travel: author, number of heads, then seq and hash of each head."""
        for author, packed in sorted(self._buckets[index].items()):
            yield _ENTRY_HEAD.pack(author, len(packed) // _HEAD.size) + packed

    def _replace(self, author: bytes, heads: list[Head]) -> None:
        bucket = self._buckets[author[0]]
        if author not in bucket:
            self._authors += 1
        bucket[author] = b"".join(_HEAD.pack(seq, digest) for seq, digest in sorted(heads))
        self._digests[author[0]] = None
        self._root = None

    def _bucket_hash(self, index: int) -> bytes:
        cached = self._digests[index]
        if cached is None:
            cached = sha256(_DOMAIN + b"".join(self.pack(index))).digest()
            self._digests[index] = cached
        return cached


def unpack(packed: bytes) -> Iterator[Entry]:
    """Entries out of what `Vector.pack` made; ValueError for what it cannot have made.

    Authors and the heads of each ascend strictly, seq lies within 1..2**53, and nothing trails.
    """
    at, previous = 0, b""
    while at < len(packed):
        if at + _ENTRY_HEAD.size > len(packed):
            raise ValueError("an entry is cut short")
        author, count = _ENTRY_HEAD.unpack_from(packed, at)
        at += _ENTRY_HEAD.size
        end = at + count * _HEAD.size
        if not count or end > len(packed):
            raise ValueError("an entry has no heads, or they are cut short")
        heads = _unpack_heads(packed[at:end])
        if author <= previous or any(a >= b for a, b in pairwise(heads)):
            raise ValueError("entries are not in order")
        if not (heads[0][0] >= 1 and heads[-1][0] <= SEQ_MAX):
            raise ValueError("a seq is out of range")
        yield author, heads
        at, previous = end, author


def _unpack_heads(packed: bytes) -> Heads:
    return tuple(_HEAD.iter_unpack(packed))
