"""A replica without signatures, disk or fold, and a link between two: what the sync protocol is tested on.

A batch is an opaque blob of which the model knows author, seq, hash, predecessor, parents and HLC. It keeps the rules
that sync relies on: predecessors and parents first, unknown ones parked and asked for, a batch known once. The link
runs two sessions by hand, so a test sees each byte, event and moment.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from hashlib import sha256

import msgspec

from appliance.core.limits import LIMITS, Limits
from appliance.replica.sync import SyncSession
from appliance.replica.sync_events import (
    Closed,
    Cursor,
    Drop,
    Event,
    Found,
    InSync,
    NeedBatches,
    NeedBlobs,
    Page,
    PeerArchived,
    Received,
    Stored,
)
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


class Side:
    """One end of a link: a session with its replica, and the events that wait to be handled."""

    def __init__(self, replica: ModelReplica, limits: Limits = LIMITS, now_ms: int = 0) -> None:
        self.replica = replica
        self.now_ms = now_ms
        self._offered = len(replica.committed)
        self.session = SyncSession(MESH, CHANNEL, replica.vector, limits, now_ms)
        self.events: list[Event] = []
        self.outbox = bytearray(self.session.bytes_to_send())
        self.sent_bytes = len(self.outbox)
        self.received_blobs = 0
        self.in_sync = 0
        self.drop: Drop | None = None
        self.closed: Closed | None = None
        self.archived: list[int] = []
        self.stores = True
        self.unstored_bytes = 0
        self._unstored: list[tuple[bytes, ...]] = []

    def skip_offers(self) -> None:
        """What was committed is not offered: the subscription lagged."""
        self._offered = len(self.replica.committed)

    def resync(self) -> None:
        self._do(self.session.resync(self.now_ms))

    def ask_for(self, hashes: tuple[bytes, ...]) -> None:
        """As if a batch that came had named these."""
        self._do(self.session.stored(Stored(cost=0, count=1, wanted=hashes), self.now_ms))

    def hear(self, data: bytes) -> None:
        self._do(self.session.receive_data(data, self.now_ms))

    def tick(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self._do(self.session.tick(now_ms))

    def work(self) -> bool:
        """Handle the oldest event, store, or offer what was committed; False if there is nothing to do."""
        if self._unstored and self.stores:
            self._store(self._unstored.pop(0))
            return True
        if self.events:
            self._handle(self.events.pop(0))
            return True
        fresh = self.replica.committed[self._offered :]
        self._offered += len(fresh)
        if fresh:
            self._do(self.session.offer(fresh, self.now_ms))
        return bool(fresh)

    @property
    def has_work(self) -> bool:
        return bool(self.events or self._unstored) or self._offered < len(self.replica.committed)

    def _handle(self, event: Event) -> None:
        match event:
            case Received(blobs):
                self.received_blobs += len(blobs)
                self.unstored_bytes += sum(map(len, blobs))
                self._unstored.append(blobs)
            case NeedBatches(cursor, have, budget):
                self._do(self.session.supply(self.replica.batches_after(cursor, have, budget), self.now_ms))
            case NeedBlobs(hashes, depth, budget):
                found = self.replica.batches_by_hash(hashes, depth, budget)
                self._do(self.session.supply_blobs(found, self.now_ms))
            case InSync():
                self.in_sync += 1
            case PeerArchived(epoch):
                self.archived.append(epoch)
            case Drop():
                self.drop = event
            case Closed():
                self.closed = event

    def _store(self, blobs: tuple[bytes, ...]) -> None:
        self.unstored_bytes -= sum(map(len, blobs))
        outcome = self.replica.receive(blobs)
        faults = [key for _, key in outcome.refused if key != "batch.clock_ahead"]
        if faults:
            self._do(self.session.drop("sync.invalid_batch", reason=faults[0]))
            return
        stored = Stored(
            cost=sum(map(len, blobs)),
            count=len(blobs),
            new=outcome.new,
            refused=tuple(digest for digest, _ in outcome.refused if digest is not None),
            parked=outcome.parked,
            wanted=outcome.wanted,
        )
        self._do(self.session.stored(stored, self.now_ms))

    def _do(self, events: list[Event]) -> None:
        self.events.extend(events)
        data = self.session.bytes_to_send()
        self.sent_bytes += len(data)
        self.outbox += data


class Link:
    """Two sides; `flights` counts how often bytes crossed, both ways at once: a round trip is one flight each way."""

    def __init__(self, left: ModelReplica, right: ModelReplica, limits: Limits = LIMITS) -> None:
        self.left, self.right = Side(left, limits), Side(right, limits)
        self.flights = 0

    def settle(self) -> None:
        """Let everything happen that can happen without time passing."""
        while self.step():
            pass

    def step(self) -> bool:
        """Let both sides do all that they can, or else let bytes cross."""
        return self._work() or self.fly()

    def carry_frames(self, count: int) -> None:
        """Let everything happen until so many frames have crossed, both ways counted; then the link is cut."""
        while self._work() or self.left.outbox or self.right.outbox:
            for side, other in ((self.left, self.right), (self.right, self.left)):
                if side.outbox and count == 0:
                    return
                if side.outbox:
                    _carry(side, other, 4 + int.from_bytes(side.outbox[:4]))
                    count -= 1

    def carry_bytes(self, count: int) -> None:
        """Let everything happen until so many bytes of the left side have crossed; then the link is cut."""
        while self._work() or self.right.outbox or (self.left.outbox and count):
            size = min(count, len(self.left.outbox))
            _carry(self.left, self.right, size)
            _carry(self.right, self.left, len(self.right.outbox))
            count -= size

    def fly(self) -> bool:
        """All bytes that wait cross at once; False if there are none."""
        ahead, back = _drain(self.left), _drain(self.right)
        if ahead:
            self.right.hear(ahead)
        if back:
            self.left.hear(back)
        self.flights += bool(ahead or back)
        return bool(ahead or back)

    def settle_at_random(self, dice: random.Random) -> None:
        """As `settle`, but bytes cross in pieces and work waits, as the dice decide."""
        while self.step_at_random(dice, 1):
            pass

    def step_at_random(self, dice: random.Random, steps: int) -> bool:
        """So many moves; False if there is none left."""
        for _ in range(steps):
            moves: list[Callable[[], object]] = []
            for side, other in ((self.left, self.right), (self.right, self.left)):
                if side.outbox:
                    moves.append(partial(_carry, side, other, dice.choice([1, 50, 3000, 100_000])))
                if side.has_work:
                    moves.append(side.work)
            if not moves:
                return False
            dice.choice(moves)()
        return True

    def tick(self, now_ms: int) -> None:
        self.left.tick(now_ms)
        self.right.tick(now_ms)

    @property
    def sent_bytes(self) -> int:
        return self.left.sent_bytes + self.right.sent_bytes

    @property
    def drops(self) -> list[str]:
        return [side.drop.key for side in (self.left, self.right) if side.drop]

    def _work(self) -> bool:
        busy = False
        while self.left.work() | self.right.work():
            busy = True
        return busy


def _carry(side: Side, other: Side, size: int) -> None:
    other.hear(_drain(side, size))


def _drain(side: Side, size: int | None = None) -> bytes:
    data = bytes(side.outbox[:size])
    del side.outbox[: len(data)]
    return data
