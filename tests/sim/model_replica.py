"""A replica without signatures, disk or fold: what the sync protocol is tested on.

A batch is an opaque blob of which the model knows author, seq, hash, predecessor, parents and HLC. It keeps the rules
that sync relies on: predecessors and parents first, unknown ones parked and asked for, a batch known once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

import msgspec

from appliance.replica.sync_events import Cursor, Found, Page
from appliance.replica.vector import Vector

MESH = sha256(b"mesh").digest()
CHANNEL = "control"


def author_id(name: str | int) -> bytes:
    return sha256(f"author {name}".encode()).digest()


class ModelBatch(msgspec.Struct, frozen=True, array_like=True):
    author: bytes
    seq: int
    prev: bytes | None
    parents: tuple[bytes, ...]
    hlc: int
    filling: bytes

    @property
    def blob(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @property
    def hash(self) -> bytes:
        return sha256(self.blob).digest()


class Outcome(msgspec.Struct, frozen=True):
    new: tuple[bytes, ...]
    refused: tuple[tuple[bytes | None, str], ...]
    parked: int
    wanted: tuple[bytes, ...]


class ModelReplica:
    """Holds batches; `refuse` names hashes that it does not take, with the key of the reason."""

    def __init__(self) -> None:
        self.vector = Vector()
        self.batches: dict[bytes, ModelBatch] = {}
        self.parked: dict[bytes, ModelBatch] = {}
        self.refuse: dict[bytes, str] = {}
        self.archived: set[bytes] = set()
        self.committed: list[bytes] = []
        self._order: list[tuple[int, bytes]] | None = []

    def write(
        self, author: bytes, *, prev: ModelBatch | None = None, filling: bytes = b"", join: bool = True
    ) -> ModelBatch:
        """The author's next batch, or one after `prev`; `join`: its parents are the newest batch of all."""
        if prev is None and (heads := self.vector.heads(author)):
            prev = self.batches[heads[-1][1]]
        newest = max(self.batches.values(), key=lambda batch: (batch.hlc, batch.hash), default=None) if join else None
        parents = () if newest is None or newest is prev else (newest.hash,)
        hlc = max(prev.hlc if prev else 0, newest.hlc if newest else 0) + 1
        batch = ModelBatch(author, prev.seq + 1 if prev else 1, prev.hash if prev else None, parents, hlc, filling)
        self._commit(batch)
        return batch

    def take(self, batches: Iterable[ModelBatch]) -> None:
        """Batches that somebody else wrote, by another way than sync."""
        for batch in batches:
            self._commit(batch)

    def receive(self, blobs: Sequence[bytes]) -> Outcome:
        new: list[bytes] = []
        refused: list[tuple[bytes | None, str]] = []
        wanted: dict[bytes, None] = {}
        parked = 0
        for blob in blobs:
            try:
                batch = msgspec.msgpack.decode(blob, type=ModelBatch)
            except msgspec.DecodeError:
                refused.append((None, "batch.malformed"))
                continue
            if batch.hash in self.refuse:
                refused.append((batch.hash, self.refuse[batch.hash]))
            elif batch.hash not in self.batches:
                missing = self._missing(batch)
                if missing:
                    self.parked[batch.hash] = batch
                    parked += 1
                    wanted.update(dict.fromkeys(self._roots(batch)))
                else:
                    self._commit(batch)
                    new.append(batch.hash)
                    self._release()
        return Outcome(tuple(new), tuple(refused), parked, tuple(wanted))

    def batches_after(self, cursor: Cursor, have: Callable[[bytes, int, bytes], bool], max_bytes: int) -> Page:
        if self._order is None:
            self._order = sorted((batch.hlc, digest) for digest, batch in self.batches.items())
        blobs: list[bytes] = []
        size, epoch = 0, None
        for place in self._order:
            batch = self.batches[place[1]]
            if place <= cursor or have(batch.author, batch.seq, place[1]):
                continue
            if place[1] in self.archived:
                epoch = 1
                continue
            if size + len(batch.blob) > max_bytes:
                return Page(tuple(blobs), cursor, done=False, epoch=epoch)
            blobs.append(batch.blob)
            size += len(batch.blob)
            cursor = place
        return Page(tuple(blobs), cursor, done=True, epoch=epoch)

    def batches_by_hash(self, hashes: Sequence[bytes], depth: int, max_bytes: int) -> Found:
        chosen: dict[bytes, ModelBatch] = {}
        missing: list[bytes] = []
        pruned: list[bytes] = []
        size = 0
        for digest in hashes:
            if digest in self.archived:
                pruned.append(digest)
                continue
            if digest not in self.batches:
                missing.append(digest)
                continue
            trail: list[bytes] = []
            at: bytes | None = digest
            while at is not None and len(trail) <= depth and at not in chosen and at not in self.archived:
                size += len(self.batches[at].blob)
                if size > max_bytes:
                    break
                trail.append(at)
                at = self.batches[at].prev
            for found in reversed(trail):
                chosen[found] = self.batches[found]
        return Found(tuple(chosen), tuple(b.blob for b in chosen.values()), tuple(missing), tuple(pruned), epoch=1)

    def _roots(self, batch: ModelBatch) -> list[bytes]:
        """What a batch waits for, directly or through others that are parked."""
        roots: list[bytes] = []
        trail, seen = self._missing(batch), set[bytes]()
        while trail:
            digest = trail.pop()
            if digest in self.parked and digest not in seen:
                trail.extend(self._missing(self.parked[digest]))
            elif digest not in self.parked:
                roots.append(digest)
            seen.add(digest)
        return roots

    def _missing(self, batch: ModelBatch) -> list[bytes]:
        named = batch.parents if batch.prev is None else (batch.prev, *batch.parents)
        return [digest for digest in named if digest not in self.batches]

    def _commit(self, batch: ModelBatch) -> None:
        digest = batch.hash
        if digest in self.batches:
            return
        assert not self._missing(batch), "a log is causally closed"
        self.batches[digest] = batch
        self.parked.pop(digest, None)
        self.vector.add(batch.author, batch.seq, digest, batch.prev)
        self.committed.append(digest)
        self._order = None

    def _release(self) -> None:
        while ready := [batch for batch in self.parked.values() if not self._missing(batch)]:
            for batch in ready:
                self._commit(batch)


def replica(authors: int, batches: int = 1, filling: bytes = b"") -> ModelReplica:
    """Some authors with some batches each, none joined to another."""
    made = ModelReplica()
    for number in range(authors):
        for _ in range(batches):
            made.write(author_id(number), filling=filling, join=False)
    return made


def copy(of: ModelReplica) -> ModelReplica:
    made = ModelReplica()
    made.take(of.batches.values())
    return made
