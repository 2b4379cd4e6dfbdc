"""Difference of two vectors: which batches the peer lacks, and which heads it claims that we lack.

Works from bucket digests, then from the entries of the buckets that differ. A peer is taken to hold whatever an author
wrote up to its highest head, but for heads of ours that it does not list beside a fork. Where that is wrong (a fork
that neither side knew of), the peer asks for the parents it misses, and the next round finds the rest. It never reads
storage and sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from appliance.replica.vector import BUCKET_DIGEST_BYTES, BUCKETS, Head, Heads, Vector, unpack


class Gap(NamedTuple):
    """What the peer lacks of one author: every batch with `after` < seq <= `upto`, and these heads of branches."""

    after: int
    upto: int
    heads: frozenset[bytes]


class Difference:
    """Filled by `take` for each frame of entries, complete after `finish`."""

    def __init__(self, vector: Vector, ours: bytes, theirs: bytes) -> None:
        self._vector = vector
        self._listed: set[bytes] = set()
        self._last = b""
        self.buckets: tuple[int, ...] = tuple(
            index for index in range(BUCKETS) if _slot(ours, index) != _slot(theirs, index)
        )
        self.gaps: dict[bytes, Gap] = {}
        self.claims: dict[bytes, Heads] = {}

    def packed(self) -> Iterator[bytes]:
        """Our entries of the buckets that differ."""
        for index in self.buckets:
            yield from self._vector.pack(index)

    def take(self, packed: bytes) -> None:
        """Entries of the peer; ValueError where they are malformed, out of order or were not asked for."""
        wanted = set(self.buckets)
        for author, heads in unpack(packed):
            if author <= self._last or author[0] not in wanted:
                raise ValueError("an entry that has no place here")
            self._last = author
            self._listed.add(author)
            self._compare(author, heads)

    def finish(self) -> None:
        """The peer listed all that it has: of other authors in these buckets it has nothing."""
        for index in self.buckets:
            for author in self._vector.authors(index):
                if author not in self._listed:
                    self.gaps[author] = Gap(0, self._vector.top(author), frozenset())
        self._listed.clear()

    def __call__(self, author: bytes, seq: int, digest: bytes) -> bool:
        """True if the peer has this batch of ours, else it is to be sent. `gaps` tells an index where to look."""
        gap = self.gaps.get(author)
        return gap is None or not (gap.after < seq <= gap.upto or digest in gap.heads)

    def broken_claims(self) -> list[bytes]:
        """Authors of whom the peer claimed a head that has not come."""
        return [
            author
            for author, claimed in self.claims.items()
            if not all(_covered(head, self._vector.heads(author)) for head in claimed)
        ]

    def _compare(self, author: bytes, theirs: Heads) -> None:
        ours = self._vector.heads(author)
        if ours == theirs:
            return
        claims = tuple(head for head in theirs if not _covered(head, ours))
        if claims:
            self.claims[author] = claims
        if not ours:
            return
        after, upto = theirs[-1][0], ours[-1][0]
        branches: frozenset[bytes] = frozenset()
        if len(ours) > 1 or len(theirs) > 1 or after == upto:
            known = set(theirs)
            branches = frozenset(head[1] for head in ours if head not in known and head[0] <= after)
        if upto > after or branches:
            self.gaps[author] = Gap(after, upto, branches)


def _covered(head: Head, heads: Heads) -> bool:
    """True if a head is ours, or lies below one of ours and so is its ancestor or a branch found by the next round."""
    return any(seq > head[0] or (seq, digest) == head for seq, digest in heads)


def _slot(digests: bytes, index: int) -> bytes:
    return digests[index * BUCKET_DIGEST_BYTES : (index + 1) * BUCKET_DIGEST_BYTES]
