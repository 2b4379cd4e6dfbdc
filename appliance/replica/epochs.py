"""Epochs: what a checkpoint covers, and proof that this replica means the same batches.

A checkpoint covers the batches in its past up to its horizon, and names their number and digest. Where a replica holds
nothing else up to the horizon, the digest says so at once; otherwise the graph is walked back from the checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping

from appliance.core.errors import error
from appliance.replica.ancestry import Meta
from appliance.replica.batch import Batch, parse_batch
from appliance.replica.entries import CheckpointEntry
from appliance.replica.intake import Admitted
from appliance.replica.marks import Mark
from appliance.replica.stores import START, Log, View

CHUNK = 2000


def covered_digest(metas: Iterable[Meta]) -> bytes:
    """SHA-256 over the hashes of batches in fold order."""
    digest = hashlib.sha256()
    for meta in sorted(metas, key=lambda item: item.position):
        digest.update(meta.hash)
    return digest.digest()


class Epochs:
    """Reads the log for checkpoints.

    `pending`: batches that are admitted and not in the index yet; `late`: those that came late to an earlier epoch.
    """

    def __init__(self, log: Log, view: View, pending: Mapping[bytes, Admitted], late: Container[bytes]) -> None:
        self._log = log
        self._view = view
        self._pending = pending
        self._late = late

    def up_to(self, horizon: int) -> dict[bytes, Meta]:
        """Everything this replica holds up to a horizon, but for what came late to an earlier epoch."""
        found = {digest: item.meta for digest, item in self._pending.items() if item.meta.hlc <= horizon}
        start = START
        while rows := self._view.from_position(start, CHUNK):
            inside = [meta for _, meta in rows if meta.hlc <= horizon]
            found.update((meta.hash, meta) for meta in inside)
            if len(inside) < len(rows):
                break
            start = (rows[-1].meta.hlc, rows[-1].meta.hash + b"\0")
        return {digest: meta for digest, meta in found.items() if digest not in self._late}

    def close(self, mark: Mark, batch: Batch) -> list[Meta]:
        """Batches up to the horizon that the checkpoint leaves out. A checkpoint whose digest is wrong becomes void."""
        body = mark.body
        if not isinstance(body, CheckpointEntry):
            return []
        held = self.up_to(body.horizon)
        if len(held) == body.count and covered_digest(held.values()) == body.digest:
            return []
        past = self._past_of(batch)
        covered = {digest: meta for digest, meta in held.items() if digest in past}
        if len(covered) != body.count or covered_digest(covered.values()) != body.digest:
            mark.void = "checkpoint.digest"
            return []
        return [meta for digest, meta in held.items() if digest not in past]

    def _past_of(self, batch: Batch) -> set[bytes]:
        past: set[bytes] = set()
        stack = list(batch.dependencies())
        while stack:
            digest = stack.pop()
            if digest not in past:
                past.add(digest)
                stack.extend(self._dependencies(digest))
        return past

    def _dependencies(self, digest: bytes) -> tuple[bytes, ...]:
        waiting = self._pending.get(digest)
        if waiting is not None:
            return waiting.signed.batch.dependencies()
        indexed = self._view.lookup(digest)
        blob = None if indexed is None else self._log.blob(indexed.arrival)
        if blob is None:
            raise error("replica.archived", batch=digest.hex()[:12])
        return parse_batch(blob).batch.dependencies()
