"""Epochs: what a checkpoint covers, and proof that this replica means the same batches.

A checkpoint covers the batches in its past up to its horizon, and names their number and digest. Every replica walks
the graph back from it, as far as an earlier checkpoint: a digest alone would let an owner cover what it never saw,
and replicas that hold more would then disagree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from appliance.core.errors import error
from appliance.replica.ancestry import Meta
from appliance.replica.authority import Authority
from appliance.replica.batch import Batch, SignedBatch, short
from appliance.replica.entries import CheckpointEntry
from appliance.replica.intake import Admitted, dependencies
from appliance.replica.marks import Mark
from appliance.replica.stores import START, Index

CHUNK = 2000
WRONG_DIGEST = "checkpoint.digest"


def covered_digest(metas: Iterable[Meta]) -> bytes:
    """SHA-256 over the hashes of batches in fold order."""
    digest = hashlib.sha256()
    for meta in sorted(metas, key=lambda item: item.position):
        digest.update(meta.hash)
    return digest.digest()


class Epoch(NamedTuple):
    """What an earlier checkpoint covers: all up to the horizon that was not late to it."""

    horizon: int
    late: set[bytes]


class Epochs:
    """Reads the log for checkpoints: `read(arrival)` gives a batch, `pending` are those not in the index yet."""

    def __init__(
        self, read: Callable[[int], SignedBatch], index: Index, pending: Mapping[bytes, Admitted], authority: Authority
    ) -> None:
        self._read = read
        self._index = index
        self._pending = pending
        self._authority = authority

    def up_to(self, horizon: int) -> dict[bytes, Meta]:
        """Everything this replica holds up to a horizon, but for what came late to an earlier epoch."""
        late = self._authority.late_before(None)
        return {digest: meta for digest, meta in self._held(horizon).items() if digest not in late}

    def _held(self, horizon: int) -> dict[bytes, Meta]:
        found = {digest: item.meta for digest, item in self._pending.items() if item.meta.hlc <= horizon}
        start = START
        while rows := self._index.from_position(start, CHUNK):
            inside = [meta for _, meta in rows if meta.hlc <= horizon]
            found.update((meta.hash, meta) for meta in inside)
            if len(inside) < len(rows):
                break
            start = (rows[-1].meta.hlc, rows[-1].meta.hash + b"\0")
        return found

    def covered(self, mark: Mark, batch: Batch) -> dict[bytes, Meta] | None:
        """What the checkpoint of this batch covers; None if its digest is not that of what it names."""
        return self._divide(mark, batch)[0]

    def close(self, mark: Mark, batch: Batch) -> list[Meta]:
        """Batches up to the horizon that the checkpoint leaves out. A checkpoint whose digest is wrong becomes void."""
        covered, late = self._divide(mark, batch)
        if covered is None:
            mark.void = WRONG_DIGEST
        return late

    def _divide(self, mark: Mark, batch: Batch) -> tuple[dict[bytes, Meta] | None, list[Meta]]:
        body = mark.body
        if not isinstance(body, CheckpointEntry):
            return None, []
        held = self._held(body.horizon)
        before = self._last_before(mark)
        past = self._past_of(batch, before)
        seen = {digest: meta for digest, meta in held.items() if digest in past or _left_in(before, meta)}
        late = self._authority.late_before(mark.meta)
        covered = {digest: meta for digest, meta in seen.items() if digest not in late}
        if len(covered) != body.count or covered_digest(covered.values()) != body.digest:
            return None, []
        return covered, [meta for digest, meta in held.items() if digest not in seen]

    def _last_before(self, mark: Mark) -> Epoch | None:
        """The furthest checkpoint in the past of this one: what that covers need not be walked again."""
        found = [
            (other.body.horizon, other.key, other)
            for other in self._authority.checkpoints
            if isinstance(other.body, CheckpointEntry)
            and other.void is None
            and self._authority.ancestry.precedes(other.meta, mark.meta)
        ]
        if not found:
            return None
        horizon, _, last = max(found)
        return Epoch(horizon, {digest for digest, (_, marks) in self._authority.late.items() if last in marks})

    def _past_of(self, batch: Batch, before: Epoch | None) -> set[bytes]:
        """The past of a batch, but for what an earlier checkpoint in it covers."""
        past: set[bytes] = set()
        stack = list(dependencies(batch))
        while stack:
            digest = stack.pop()
            if digest not in past:
                past.add(digest)
                meta, named = self._look_up(digest)
                if not _left_in(before, meta):
                    stack.extend(named)
        return past

    def _look_up(self, digest: bytes) -> tuple[Meta, tuple[bytes, ...]]:
        waiting = self._pending.get(digest)
        if waiting is not None:
            return waiting.meta, dependencies(waiting.signed.batch)
        indexed = self._index.lookup(digest)
        if indexed is None:
            raise error("replica.corrupt", what="index", reason=f"batch {short(digest)} is not in it")
        return indexed.meta, dependencies(self._read(indexed.arrival).batch)


def _left_in(epoch: Epoch | None, meta: Meta) -> bool:
    return epoch is not None and meta.hlc <= epoch.horizon and meta.hash not in epoch.late
