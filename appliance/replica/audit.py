"""Audit: admits batches from a file by the same rules as a replica, with nothing but the authority key to go by.

It keeps an index in memory, some 500 bytes a batch, and no batch itself. It folds nothing: it answers whether each
batch is its author's, follows what it names and was allowed into the log, and which checkpoints are in force.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.ancestry import Ancestry, Meta
from appliance.replica.authority import Authority
from appliance.replica.batch import SignedBatch, Verify, short, verify_batch
from appliance.replica.entries import CheckpointEntry
from appliance.replica.epochs import Epochs
from appliance.replica.intake import Intake, Missing
from appliance.replica.marking import Marker
from appliance.replica.marks import Mark, Standing
from appliance.replica.stores import Indexed, Position


class Audit:
    """One mesh and channel, from its first batch on. `read(number)` gives a batch again by the number it came with."""

    def __init__(
        self,
        mesh: bytes,
        authority_key: bytes,
        check: Verify,
        read: Callable[[int], SignedBatch],
        limits: Limits = LIMITS,
    ) -> None:
        self.authority = Authority(Ancestry(), self._batch_at)
        self._check = check
        self._read = read
        self._index: dict[bytes, Indexed] = {}
        self._order: list[Position] = []
        self._branches: dict[tuple[int, int], Meta] = {}
        marker = Marker(mesh, authority_key, self.authority, check, limits)
        self._intake = Intake(mesh, self.authority, marker, self._find, limits)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def authors(self) -> int:
        """Number of authors whose batches were taken."""
        return len({branch.author for branch in self.authority.ancestry.branches})

    def take(self, number: int, signed: SignedBatch) -> bool:
        """Admit a batch; False if it was there. Raises `batch.*`, or `replica.not_found` for what it follows."""
        if signed.hash in self._index:
            return False
        key = self._intake.author_key(signed.batch)
        if key is not None and not verify_batch(signed, key, self._check):
            raise error("batch.signature", batch=short(signed.hash))
        outcome = self._intake.admit(signed, None, wanted=True, verified=key is not None)
        if outcome is None:
            return False
        if isinstance(outcome, Missing):
            raise error(
                "replica.not_found", what=f"batch {short(outcome.hashes[0])}, which {short(signed.hash)} follows,"
            )
        meta = outcome.meta
        self._index[meta.hash] = Indexed(number, meta)
        bisect.insort(self._order, meta.position)
        self._branches[meta.branch, meta.seq] = meta
        self.authority.note_late(meta)
        self._close_epochs(signed)
        return True

    def checkpoint(self, epoch: int) -> Mark | None:
        """The checkpoint in force that closed an epoch."""
        self.authority.settle()
        for mark in self.authority.checkpoints:
            if isinstance(mark.body, CheckpointEntry) and mark.body.epoch == epoch and mark.standing is Standing.IN:
                return mark
        return None

    # -- what Epochs reads

    def lookup(self, digest: bytes) -> Indexed | None:
        """The index row of a batch by its hash."""
        return self._index.get(digest)

    def from_position(self, position: Position, limit: int) -> list[Indexed]:
        """Index rows at or after a place in the fold, in its order."""
        start = bisect.bisect_left(self._order, position)
        return [self._index[digest] for _, digest in self._order[start : start + limit]]

    def _close_epochs(self, signed: SignedBatch) -> None:
        for mark in self.authority.by_batch.get(signed.hash, ()):
            if isinstance(mark.body, CheckpointEntry) and mark.void is None:
                epochs = Epochs(self._read, self, {}, self.authority)
                self.authority.close_epoch(mark, epochs.close(mark, signed.batch))

    def _batch_at(self, branch: int, seq: int) -> Meta | None:
        return self._branches.get((branch, seq))

    def _find(self, digest: bytes) -> Meta | None:
        found = self._index.get(digest)
        return None if found is None else found.meta
