"""Replica: the engine behind an asyncio face. One thread writes; the event loop never waits for the disk.

Callers put requests in a bounded queue; the writer takes as many as wait, makes them durable in one transaction (group
commit), answers those that asked for no more, and folds. Signatures of a peer's batches are checked on a thread of
their own, where the provider releases the interpreter lock, so that checking and folding run side by side.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from appliance.core.errors import UnavailableError, X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import Entry, Sign, SignedBatch, Verify, parse_batch, short, verify_batch
from appliance.replica.engine import Engine
from appliance.replica.intake import Admitted
from appliance.replica.paging import Known, read_batches, read_page
from appliance.replica.reports import Page, Receipt, Received
from appliance.replica.request import Request
from appliance.replica.stores import Position
from appliance.replica.vector import Vector
from appliance.trust.grants import Role

T = TypeVar("T")
Checked = tuple[SignedBatch, bool]
LINGER_S = 0.002  # how long the writer waits for more work before it folds, unless somebody waits for the fold
UNFOLDED_MAX = 4096  # durable batches that may wait for the fold: about 30 MB in memory
SUBSCRIBER_QUEUE = 256  # announcements; a subscriber that lags further is told to start a new round


class Writer(msgspec.Struct, frozen=True):
    """Who writes here: node id, signing function, and the wall clock in ms since the Unix epoch."""

    node: bytes
    sign: Sign
    now_ms: Callable[[], int]


class Commit(msgspec.Struct, frozen=True):
    """Batches that are durable and folded since the last announcement; `resync` if some announcements were lost."""

    hashes: tuple[bytes, ...]
    resync: bool = False


class Replica:
    """One mesh's replica on this node; use as `async with`."""

    def __init__(self, engine: Engine, writer: Writer, verify: Verify, limits: Limits = LIMITS) -> None:
        self.engine = engine
        self.node = writer.node
        self.mesh = engine.identity.mesh
        self.limits = limits
        self.vector = Vector()
        self.now_ms = writer.now_ms
        self._me = writer
        self.verify = verify
        self._queue: deque[Request[object]] = deque()
        self._wake = threading.Condition()
        self._in_work: set[Request[object]] = set()
        self._pumping = False
        self._closing = False
        self._failed: X0tError | None = None  # while it is `unavailable`, each group of requests tries again
        self._untold: tuple[Admitted, ...] = ()  # durable when a write failed, and not yet told to anybody
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="replica-writer")
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="replica-checker")
        self._subscribers: set[asyncio.Queue[Commit]] = set()

    async def __aenter__(self) -> Replica:
        """Load the state; ready when it returns."""
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._writer, self.engine.load)
        heads = [meta for meta in self.engine.ancestry.heads if meta is not None]
        self.vector = Vector.from_rows((meta.author, meta.seq, meta.hash) for meta in heads)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what was begun, refuse the rest, close the stores."""
        self._closing = True
        await self._loop.run_in_executor(self._checker, lambda: None)
        await self._loop.run_in_executor(self._writer, self.engine.close)
        for threads in (self._writer, self._checker):
            await asyncio.to_thread(threads.shutdown)

    # -- writing

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        """Write one batch of our own: durable and folded when this returns, with what became of each entry."""
        return await self._ask(self._authoring(lambda _engine, _now_ms: entries))

    async def edit(self, build: Callable[[Engine, int], Sequence[Entry]]) -> Receipt:
        """As `append`, of what `build(engine, now_ms)` makes on the writer's thread of the state, with all folded."""
        request = self._authoring(build)
        request.alone = True
        return await self._ask(request)

    async def submit(self, batch: SignedBatch) -> None:
        """Store one verified batch of any author: durable when this returns, folded soon after.

        For authors in this process that sign for themselves; raises `replica.parked` if it follows what is not here.
        """
        request = self._request(lambda: self._submit(batch))
        request.durable_only = True
        await self._ask(request)

    async def receive(self, blobs: Sequence[bytes]) -> Received:
        """Verify, store and fold batches from a peer. A bad one is refused and counted; nothing else stops."""
        self._check_open()
        checked, refused = await self._loop.run_in_executor(self._checker, self._check, blobs)
        taken = await self._ask(self._request(lambda: self.engine.take(checked, self.now_ms())))
        self.engine.refused.update(key for _, key in refused)
        given = {signed.hash for signed, _ in checked}  # not those of others that had waited for them
        return Received(
            new=tuple(item.meta.hash for item in taken.admitted if item.meta.hash in given),
            refused=(*refused, *(refusal for refusal in taken.refused if refusal[0] in given)),
            parked=taken.parked,
            wanted=taken.wanted,
        )

    async def run(self, work: Callable[[Engine], T]) -> T:
        """Run a query or maintenance on the writer's thread, between two groups, with everything folded."""
        request = self._request(lambda: work(self.engine))
        request.alone = True
        return await self._ask(request)

    # -- reading, on the event loop

    def permitted(self, node: bytes) -> bool:
        """True if the node may connect: it is a member by all that this replica has seen."""
        return self.engine.holds(node, Role.MEMBER, self.now_ms())

    def holds(self, need: Role) -> bool:
        """True if this node itself holds the role."""
        return self.engine.holds(self.node, need, self.now_ms())

    def member_key(self, node: bytes) -> bytes | None:
        """The public key of a node that some grant names."""
        return self.engine.key_of(node)

    async def batches_after(self, cursor: Position, known: Known, max_bytes: int) -> Page:
        """Batches that a peer lacks, in fold order after a place, up to a size."""
        return await self.run(lambda engine: read_page(engine.log, engine.view, cursor, known, max_bytes))

    async def batches(self, hashes: Sequence[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
        """(hash, signed bytes) of those of these batches that are in the log; None if archived."""
        return await self.run(lambda engine: read_batches(engine.log, engine.view, hashes))

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[asyncio.Queue[Commit]]:
        """A bounded queue of what gets folded from now on. A subscriber that lags finds `resync` set."""
        queue: asyncio.Queue[Commit] = asyncio.Queue(SUBSCRIBER_QUEUE)
        self._subscribers.add(queue)
        try:
            yield queue
        finally:
            self._subscribers.discard(queue)

    # -- the writer

    def _request(self, work: Callable[[], T]) -> Request[T]:
        return Request(self._loop.create_future(), work)

    def _authoring(self, build: Callable[[Engine, int], Sequence[Entry]]) -> Request[Receipt]:
        request = self._request(lambda: self._author(build))
        request.finish = lambda done, effects: msgspec.structs.replace(done, effects=effects.get(done.hash, ()))
        return request

    def _check_open(self) -> None:
        if self._failed is not None and not isinstance(self._failed, UnavailableError):
            raise self._failed
        if self._closing:
            raise error("replica.closing")

    async def _ask(self, request: Request[T]) -> T:
        self._check_open()
        with self._wake:
            if len(self._queue) >= self.limits.append_queue:
                raise error("replica.queue_full", limit=self.limits.append_queue)
            self._queue.append(request)  # type: ignore[arg-type]  # the queue forgets what each one returns
            self._wake.notify()
            start, self._pumping = not self._pumping, True
        if start:
            self._loop.run_in_executor(self._writer, self._pump).add_done_callback(self._pumped)
        return await request.future

    def _pump(self) -> None:
        """On the writer's thread: groups of requests until none is left and all is folded."""
        waiting: list[Request[object]] = []
        while True:
            group = self._next_group(linger=not waiting)
            if not group:
                waiting = self._fold(waiting)
                with self._wake:
                    if not self._queue:
                        self._pumping = False
                        return
                continue
            if self._failed is not None:  # the disk was full: perhaps it no longer is
                self._reload()
            if self._failed is not None:
                self._fail(group, self._failed)
                continue
            if group[0].alone:
                waiting = self._fold(waiting)
                group[0].run()
                self._fold(self._committed(group))
                continue
            for request in group:
                request.run()
            done = self._committed(group)
            self._resolve(
                [request for request in done if request.durable_only or isinstance(request.outcome, X0tError)]
            )
            waiting += [r for r in done if not r.durable_only and not isinstance(r.outcome, X0tError)]
            if self.engine.unfolded >= UNFOLDED_MAX:
                waiting = self._fold(waiting)

    def _next_group(self, *, linger: bool) -> list[Request[object]]:
        with self._wake:
            if not self._queue and linger and self.engine.unfolded:
                self._wake.wait(LINGER_S)
            group: list[Request[object]] = []
            while self._queue and len(group) < self.limits.group_commit:
                if self._queue[0].alone and group:
                    break
                group.append(self._queue.popleft())
                if group[-1].alone:
                    break
            self._in_work.update(group)
            return group

    def _committed(self, group: list[Request[object]]) -> list[Request[object]]:
        try:
            self.engine.commit()
        except X0tError as err:
            for request in group:
                request.outcome = err
            self._recover()
        return group

    def _fold(self, waiting: list[Request[object]]) -> list[Request[object]]:
        if self._failed is not None:
            return self._fail(waiting, self._failed)
        try:
            folded = self.engine.fold()
        except X0tError as err:
            self._recover()
            return self._fail(waiting, err)
        for request in waiting:
            if request.finish is not None and not isinstance(request.outcome, Exception):
                request.outcome = request.finish(request.outcome, folded.effects)
        self._resolve(waiting, folded.batches)
        return []

    def _fail(self, requests: list[Request[object]], err: X0tError) -> list[Request[object]]:
        for request in requests:
            request.outcome = err
        self._resolve(requests)
        return []

    def _recover(self) -> None:
        """What is in memory may be ahead of the disk after a failed write: start again from the disk."""
        self._untold = self.engine.unfolded_batches()
        self._reload()

    def _reload(self) -> None:
        try:
            self.engine.load()
        except X0tError as err:
            self._failed = err
            return
        self._failed = None
        self._resolve([], self._untold)

    def _resolve(self, requests: list[Request[object]], folded: Sequence[Admitted] = ()) -> None:
        if requests or folded:
            self._in_work.difference_update(requests)
            self._loop.call_soon_threadsafe(self._tell, requests, folded)

    def _tell(self, requests: Sequence[Request[object]], folded: Sequence[Admitted]) -> None:
        """On the event loop. Who brought batches learns of them before the subscribers do, and so echoes none."""
        for item in folded:
            batch = item.signed.batch
            self.vector.add(batch.author, batch.seq, item.meta.hash, batch.prev)
        for request in requests:
            request.resolve()
        if folded:
            self._loop.call_soon(self._announce, Commit(hashes=tuple(item.meta.hash for item in folded)))

    def _pumped(self, pump: asyncio.Future[None]) -> None:
        """A fault of ours on the writer's thread must not leave anybody waiting."""
        fault = None if pump.cancelled() else pump.exception()
        if fault is not None:
            self._failed = error("replica.corrupt", what="engine", reason=repr(fault))
            with self._wake:
                left, self._pumping = [*self._in_work, *self._queue], False
                self._queue.clear()
                self._in_work.clear()
            for request in left:
                request.outcome = self._failed
            self._tell(left, ())
            raise fault

    def _announce(self, commit: Commit) -> None:
        for queue in self._subscribers:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(Commit(hashes=(), resync=True))
            else:
                queue.put_nowait(commit)

    # -- work on the threads

    def _author(self, build: Callable[[Engine, int], Sequence[Entry]]) -> Receipt:
        now_ms = self.now_ms()
        meta = self.engine.author(self.node, build(self.engine, now_ms), self._me.sign, now_ms).meta
        return Receipt(hash=meta.hash, seq=meta.seq, hlc=meta.hlc, effects=())

    def _submit(self, batch: SignedBatch) -> None:
        taken = self.engine.take([(batch, True)], self.now_ms())
        for _, key in taken.refused:
            raise error(key, batch=short(batch.hash))
        if not taken.admitted and not taken.known:
            raise error("replica.parked", batch=short(batch.hash))

    def _check(self, blobs: Sequence[bytes]) -> tuple[list[Checked], list[tuple[bytes | None, str]]]:
        checked: list[Checked] = []
        refused: list[tuple[bytes | None, str]] = []
        for blob in blobs:
            try:
                signed = parse_batch(blob, self.limits)
            except X0tError as err:
                refused.append((None, err.key))
                continue
            key = self.engine.key_of(signed.batch.author)
            if key is not None and not verify_batch(signed, key, self.verify):
                refused.append((signed.hash, "batch.signature"))
            else:
                checked.append((signed, key is not None))
        return checked, refused
