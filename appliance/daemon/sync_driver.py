"""Sync driver: runs a sync session over a stream, with the replica that it is for.

The session decides; here are only the tasks that carry bytes and batches between the stream, the session and the
replica, all in one TaskGroup for each link. It verifies nothing: `replica.receive` does, and a batch that no
honest replica keeps is the peer's fault, because an honest peer passes on nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import structlog

from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId
from appliance.core.limits import Limits
from appliance.daemon import events
from appliance.replica.batch import parse_batch
from appliance.replica.paging import Known
from appliance.replica.reports import Page as LogPage
from appliance.replica.reports import Received as Outcome
from appliance.replica.service import Commit
from appliance.replica.sync import SyncSession
from appliance.replica.sync_events import (
    Closed,
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
from appliance.transport.stream import Stream

SEND_BYTES: Final = 1 << 18  # bytes handed to the stream at once
STORE_BYTES: Final = 1 << 20  # bytes handed to the replica at once: a quarter of the window, so credit flows
READ_AT_ONCE: Final = 16  # batches by hash: 1 MiB at most
STORERS: Final = 2  # one group of batches is checked while the one before it is folded
TICK_S: Final = 1.0  # the longest sleep between two looks at the session's deadline
FAREWELL_S: Final = 2.0  # for the last frame, which says why

# Reasons of ours to refuse a batch, or passing ones; every other `batch.*` proves that the sender is not honest.
EXCUSED: Final = frozenset({"batch.clock_ahead", "batch.quota"})


class SyncReplica(Protocol):
    """What sync needs of a replica. `vector` is up to date when `receive` returns and when a commit is told."""

    mesh: bytes
    vector: Vector

    async def receive(self, blobs: Sequence[bytes]) -> Outcome:
        """Verify, store and fold; calls take effect in the order in which they are made."""
        ...

    async def batches_after(self, cursor: tuple[int, bytes], known: Known, max_bytes: int) -> LogPage:
        """Batches after a place, parents first, skipping what the peer has and what was archived here."""
        ...

    async def batches(self, hashes: Sequence[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
        """(hash, blob) of those that are in the log; None if archived."""
        ...

    def subscribe(self) -> AbstractAsyncContextManager[asyncio.Queue[Commit]]:
        """What enters the log from now on, in its order."""
        ...


def monotonic_ms() -> int:
    """The clock of sessions."""
    return time.monotonic_ns() // 1_000_000


class SyncDriver:
    """Runs links; what is common to all of them."""

    def __init__(
        self,
        replica: SyncReplica,
        limits: Limits,
        channel: str = "control",
        clock: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._replica = replica
        self._limits = limits
        self._channel = channel
        self._clock = clock
        self.met = asyncio.Event()  # set for good once this replica was equal with some peer

    async def run(self, stream: Stream, _dialled: bool) -> None:  # noqa: FBT001  # the shape of links.Drive
        """Sync until the peer ends it. Raises what the peer did wrong (`sync.*`), or how the stream was lost."""
        async with self._replica.subscribe() as commits:
            session = SyncSession(self._replica.mesh, self._channel, self._replica.vector, self._limits, self._clock())
            link = _Link(self._replica, stream, session, self._limits, self._clock)
            link.met = self.met
            await link.run(commits)


class _Link:
    """One session with its stream: a task reads, one writes, some store, one supplies, one tells of commits."""

    def __init__(
        self,
        replica: SyncReplica,
        stream: Stream,
        session: SyncSession,
        limits: Limits,
        clock: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._stream = stream
        self._session = session
        self._limits = limits
        self._clock = clock
        self.met = asyncio.Event()
        self._received: asyncio.Queue[tuple[bytes, ...]] = asyncio.Queue()  # the session's window bounds it
        self._reads: asyncio.Queue[NeedBatches | NeedBlobs] = asyncio.Queue()  # it asks for one at a time
        self._unsent = asyncio.Event()
        self._taken = asyncio.Event()
        self._over = asyncio.Event()
        self._failure: X0tError | OSError | TimeoutError | None = None
        peer = str(NodeId(stream.peer.node_id))
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("sync").bind(peer=peer)

    async def run(self, commits: asyncio.Queue[Commit]) -> None:
        """Until one of the tasks ends, for it ends the link."""
        self._unsent.set()
        works: list[Callable[[], Awaitable[None]]] = [self._read, self._write, self._supply, self._watch_time]
        works += [self._store] * STORERS
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._until_over(work)) for work in works]
            tasks.append(group.create_task(self._until_over(lambda: self._announce(commits))))
            await self._over.wait()
            for task in tasks:
                task.cancel()
        await self._farewell()
        if self._failure is not None:
            raise self._failure

    async def _until_over(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (X0tError, OSError, TimeoutError) as err:
            if self._failure is None and not self._over.is_set():
                self._failure = err
        self._over.set()

    # --- the tasks ------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while (data := await self._stream.receive()) is not None:
            self._do(self._session.receive_data(data, self._clock()))

    async def _write(self) -> None:
        while True:
            await self._unsent.wait()
            self._unsent.clear()
            data = self._session.bytes_to_send()
            self._taken.set()
            for start in range(0, len(data), SEND_BYTES):
                await self._send(data[start : start + SEND_BYTES])

    async def _send(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.sync_stall_s):
                await self._stream.send(data)
        except TimeoutError:
            raise error("sync.stall", seconds=self._limits.sync_stall_s) from None

    async def _store(self) -> None:
        while True:
            blobs = list(await self._received.get())
            size = sum(map(len, blobs))
            while size < STORE_BYTES and not self._received.empty():
                more = self._received.get_nowait()
                blobs += more
                size += sum(map(len, more))
            outcome = await self._replica.receive(blobs)
            self._do(self._judge(outcome, len(blobs), size))

    def _judge(self, outcome: Outcome, count: int, size: int) -> list[Event]:
        for digest, key in outcome.refused:
            if key.startswith("batch.") and key not in EXCUSED:
                batch = digest.hex() if digest else "?"
                return self._session.drop("sync.invalid_batch", reason=f"{key}, batch {batch[:12]}")
        stored = Stored(
            cost=size,
            count=count,
            new=outcome.new,
            refused=tuple(digest for digest, _ in outcome.refused if digest is not None),
            parked=outcome.parked,
            wanted=outcome.wanted,
        )
        return self._session.stored(stored, self._clock())

    async def _supply(self) -> None:
        """Read for the peer, but not before what was read last is with the stream."""
        while True:
            match await self._reads.get():
                case NeedBatches(cursor, have, budget):
                    page = await self._replica.batches_after(cursor, have, budget)
                    answer = Page(page.blobs, page.cursor, page.done, page.archived_epoch)
                    self._do(self._session.supply(answer, self._clock()))
                case NeedBlobs(hashes, depth, budget):
                    found = await self._find(hashes, depth, budget)
                    self._do(self._session.supply_blobs(found, self._clock()))
            await self._taken.wait()

    async def _find(self, hashes: tuple[bytes, ...], depth: int, budget: int) -> Found:
        """Batches by hash with up to `depth` predecessors each, level by level, reading little beyond the budget."""
        chosen: dict[bytes, bytes] = {}
        present: dict[bytes, bool] = {}
        asked: set[bytes] = set()
        size = 0
        level: Sequence[bytes] = hashes
        for _ in range(depth + 1):
            before: dict[bytes, bytes] = {}
            for start in range(0, len(level), READ_AT_ONCE):
                if size > budget:
                    break
                part = level[start : start + READ_AT_ONCE]
                asked.update(part)
                for digest, blob in await self._replica.batches(part):
                    present[digest] = bool(blob)
                    size += len(blob or b"")
                    if blob and size <= budget:
                        before[digest] = blob
            chosen = before | chosen  # predecessors first, and each level in its order
            parsed = [parse_batch(blob, self._limits).batch.prev for blob in before.values()] if depth else []
            level = [prev for prev in parsed if prev is not None and prev not in present]
            if not level:
                break
        missing = tuple(digest for digest in hashes if digest in asked and digest not in present)
        pruned = tuple(digest for digest in hashes if present.get(digest) is False)
        return Found(tuple(chosen), tuple(chosen.values()), missing, pruned)

    async def _announce(self, commits: asyncio.Queue[Commit]) -> None:
        while True:
            commit = await commits.get()
            if commit.resync:
                self._do(self._session.resync(self._clock()))
            if commit.hashes:
                self._do(self._session.offer(commit.hashes, self._clock()))

    async def _watch_time(self) -> None:
        while (due_ms := self._session.next_deadline_ms) is not None:
            await asyncio.sleep(min(TICK_S, max(0, due_ms - self._clock()) / 1000))
            if self._clock() >= due_ms:
                self._do(self._session.tick(self._clock()))

    # --- what the session asks ------------------------------------------------------------------------------

    def _do(self, wishes: list[Event]) -> None:
        for event in wishes:
            match event:
                case Received(blobs):
                    self._received.put_nowait(blobs)
                case NeedBatches() | NeedBlobs():
                    self._reads.put_nowait(event)
                case InSync(digest):
                    self.met.set()
                    self._log.debug(events.SYNC_IN_SYNC, digest=digest.hex()[:16])
                case PeerArchived(epoch):
                    self._log.warning(events.SYNC_ARCHIVED, epoch=epoch)
                case Drop(key, detail):
                    self._failure = error(key, **detail)
                case Closed(key):
                    self._failure = error("stream.closed_by_peer", reason=key) if key else None
        if self._session.closed:
            self._over.set()
        elif self._session.unsent_bytes:
            self._taken.clear()
            self._unsent.set()

    async def _farewell(self) -> None:
        """The last frame, if the peer still listens. What was cut off half-way is no frame and harms nobody."""
        if not isinstance(self._failure, OSError | TimeoutError):
            self._session.close()
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._stream.send(self._session.bytes_to_send())
        except (X0tError, OSError, TimeoutError):
            pass  # it does not
