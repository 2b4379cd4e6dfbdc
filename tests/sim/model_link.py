"""A link between two model replicas: two sessions run by hand, so that a test sees each byte, event and moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from appliance.core.limits import LIMITS, Limits
from appliance.replica.sync import SyncSession
from appliance.replica.sync_events import (
    Closed,
    Drop,
    Event,
    InSync,
    NeedBatches,
    NeedBlobs,
    PeerArchived,
    Received,
    Stored,
)
from tests.sim.model_replica import CHANNEL, MESH, ModelReplica


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


def equal(*replicas: ModelReplica) -> bool:
    return len({one.vector.digest() for one in replicas}) == 1


def synced(left: ModelReplica, right: ModelReplica, limits: Limits = LIMITS) -> Link:
    link = Link(left, right, limits)
    link.settle()
    assert link.drops == []
    assert equal(left, right)
    return link
