"""Links between nodes: the real sync sessions, and bytes that arrive in pieces, late, or not at all.

A stream keeps its order, as TLS does; the network decides how much of it arrives and when it is cut. What was cut comes
again on the next stream, and batches come by every link that there is: so there are duplicates and reordering enough.
"""

from __future__ import annotations

from appliance.replica.batch import parse_batch
from appliance.replica.paging import read_page
from appliance.replica.sync import SyncSession
from appliance.replica.sync_events import Closed, Drop, Event, Found, NeedBatches, NeedBlobs, Page, Received, Stored
from tests.sim.node import Node

EXCUSED = frozenset({"batch.clock_ahead", "batch.quota"})  # as the daemon's sync driver says


class End:
    """One end of a link: a session, driven as the daemon's sync driver does."""

    def __init__(self, node: Node, now_ms: int) -> None:
        self.node = node
        self.now_ms = now_ms
        self.skew_ms = 0
        self.fault: Drop | Closed | None = None
        self.session = SyncSession(node.mesh.id, "control", node.vector, node.limits, now_ms)
        self.outbox = bytearray(self.session.bytes_to_send())
        self._offered = len(node.committed)

    def hear(self, data: bytes, now_ms: int) -> None:
        self.now_ms = now_ms
        self._do(self.session.receive_data(data, now_ms))

    def tick(self, now_ms: int) -> None:
        self.now_ms = now_ms
        due = self.session.next_deadline_ms
        if due is not None and due <= now_ms:
            self._do(self.session.tick(now_ms))

    def offer(self) -> bool:
        """Tell of what was committed since the last time."""
        fresh = self.node.committed[self._offered :]
        self._offered += len(fresh)
        if fresh:
            self._do(self.session.offer(fresh, self.now_ms))
        return bool(fresh)

    def _do(self, wishes: list[Event]) -> None:
        for event in wishes:
            match event:
                case Received(blobs):
                    self._store(blobs)
                case NeedBatches(cursor, have, budget):
                    page = read_page(self.node.log, self.node.view, cursor, have, budget)
                    answer = Page(page.blobs, page.cursor, page.done, page.archived_epoch)
                    self._do(self.session.supply(answer, self.now_ms))
                case NeedBlobs(hashes, depth, budget):
                    self._do(self.session.supply_blobs(self._find(hashes, depth, budget), self.now_ms))
                case Drop() | Closed():
                    self.fault = event
                case _:
                    pass
        self.outbox += self.session.bytes_to_send()

    def _store(self, blobs: tuple[bytes, ...]) -> None:
        outcome = self.node.receive(blobs, self.now_ms + self.skew_ms)
        for _, key in outcome.refused:
            if key.startswith("batch.") and key not in EXCUSED:
                self._do(self.session.drop("sync.invalid_batch", reason=key))
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

    def _find(self, hashes: tuple[bytes, ...], depth: int, budget: int) -> Found:
        chosen: dict[bytes, bytes] = {}
        present: set[bytes] = set()
        size, level = 0, list(hashes)
        for _ in range(depth + 1):
            before = {}
            for digest, blob in self.node.blobs(level).items():
                present.add(digest)
                size += len(blob)
                if size <= budget:
                    before[digest] = blob
            chosen = before | chosen
            prevs = [parse_batch(blob, self.node.limits).batch.prev for blob in before.values()] if depth else []
            level = [prev for prev in prevs if prev is not None and prev not in present]
            if not level:
                break
        missing = tuple(digest for digest in hashes if digest not in present)
        return Found(tuple(chosen), tuple(chosen.values()), missing)


class Link:
    """Two nodes that may be connected."""

    def __init__(self, left: str, right: str) -> None:
        self.names = (left, right)
        self.ends: tuple[End, End] | None = None
        self.faults: list[str] = []  # why a side gave the other up

    def connect(self, left: Node, right: Node, now_ms: int, skews_ms: dict[str, int]) -> None:
        self.ends = (End(left, now_ms), End(right, now_ms))
        for end in self.ends:
            end.skew_ms = skews_ms[end.node.name]

    def cut(self) -> None:
        """The stream is gone, with whatever was on its way."""
        self.ends = None

    def carry(self, way: int, share: float, now_ms: int) -> bool:
        """Let a part of what waits on one way arrive; False if nothing did."""
        if self.ends is None:
            return False
        sender, receiver = self.ends if way == 0 else self.ends[::-1]
        size = max(1, int(len(sender.outbox) * share)) if sender.outbox else 0
        data = bytes(sender.outbox[:size])
        del sender.outbox[:size]
        if data:
            receiver.hear(data, now_ms)
        offered = sender.offer() | receiver.offer()
        self._close_if_over()
        return bool(data) or offered

    def tick(self, now_ms: int) -> None:
        for end in self.ends or ():
            end.tick(now_ms)
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self.ends is not None and (faults := [end.fault for end in self.ends if end.fault is not None]):
            self.faults += [fault.key for fault in faults if isinstance(fault, Drop)]
            self.cut()
