"""Paging: batches out of the log for a peer, in fold order, so that what a batch follows always comes before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from appliance.replica.reports import Page
from appliance.replica.stores import START, Log, Position, View

CHUNK = 500  # index rows read at once
AIMED_GAPS = 256  # so many gaps are looked up one by one; with more the log is read from its beginning


class Gap(Protocol):
    """What a peer lacks of one author: what follows `after`, and these heads of branches."""

    @property
    def after(self) -> int:
        """Every batch with a greater seq is lacking."""
        ...

    @property
    def heads(self) -> frozenset[bytes]:
        """Hashes of batches at or below `after` that are lacking too."""
        ...


class Known(Protocol):
    """What a peer has: asked of each batch. `gaps` names the authors of whom it lacks some, if that is known."""

    @property
    def gaps(self) -> Mapping[bytes, Gap] | None:
        """What is lacking by author; None: anything may be."""
        ...

    def __call__(self, author: bytes, seq: int, digest: bytes, /) -> bool:
        """True if the peer has this batch."""
        ...


def read_page(log: Log, view: View, cursor: Position, known: Known, max_bytes: int) -> Page:
    """Batches after a place that the peer lacks, up to a size. What was archived is left out, and the page says so.

    A page costs the index rows between the first batch that the peer lacks and the last one that it gets.
    """
    blobs: list[bytes] = []
    heads: list[tuple[bytes, int, bytes]] = []
    size, epoch = 0, None
    if cursor == START:
        cursor = _before_first(view, known)
    while rows := view.from_position((cursor[0], cursor[1] + b"\0"), CHUNK):
        for arrival, meta in rows:
            blob = None
            if not known(meta.author, meta.seq, meta.hash):
                blob = log.blob(arrival)
                epoch = log.archived_epoch() if blob is None and epoch is None else epoch
            if blob is not None:
                if blobs and size + len(blob) > max_bytes:
                    return Page(tuple(blobs), tuple(heads), cursor, done=False, archived_epoch=epoch)
                size += len(blob)
                blobs.append(blob)
                heads.append((meta.author, meta.seq, meta.hash))
            cursor = meta.position
    return Page(tuple(blobs), tuple(heads), cursor, done=True, archived_epoch=epoch)


def read_batches(log: Log, view: View, hashes: Sequence[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
    """(hash, signed bytes) of those of these batches that are in the log; None if archived."""
    found = [(digest, view.lookup(digest)) for digest in hashes]
    return tuple((digest, log.blob(row.arrival)) for digest, row in found if row is not None)


def _before_first(view: View, known: Known) -> Position:
    """A place before the first batch that the peer lacks."""
    gaps = known.gaps
    if gaps is None or len(gaps) > AIMED_GAPS:
        return START
    places = [view.first_position(author, gap.after + 1, START) for author, gap in gaps.items()]
    heads = [view.lookup(digest) for gap in gaps.values() for digest in gap.heads]
    found = [place for place in places if place] + [row.meta.position for row in heads if row]
    if not found:
        return START
    hlc, _ = min(found)
    return (hlc - 1, b"\xff" * 32)  # any place just before that clock reading
