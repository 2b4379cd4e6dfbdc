"""The sync driver over streams in memory, with model replicas: it carries, and it ends as it should."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.daemon.sync_driver import SyncDriver
from appliance.replica import sync_frames as frames
from appliance.replica.batch import Batch, build_batch
from appliance.replica.reports import Page, Received
from appliance.replica.service import Commit
from appliance.transport.peers import PeerIdentity
from tests.sim.model_replica import CHANNEL, MESH, ModelBatch, ModelReplica, author_id
from tests.sim.model_stream import ModelStream, pair

LIMITS = Limits(sync_stall_s=1)


class AsyncReplica:
    """The model behind the face that the driver asks for."""

    def __init__(self, model: ModelReplica) -> None:
        self.model = model
        self.mesh = MESH
        self.vector = model.vector
        self.failure: X0tError | None = None
        self.changed = asyncio.Condition()
        self.queues: list[asyncio.Queue[Commit]] = []
        self.calls: Counter[str] = Counter()
        self._told = len(model.committed)

    async def receive(self, blobs: Sequence[bytes]) -> Received:
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.calls["receive"] += 1
        outcome = self.model.receive(blobs)
        await self.tell()
        return Received(outcome.new, outcome.refused, outcome.parked, outcome.wanted)

    async def batches_after(
        self, cursor: tuple[int, bytes], have: Callable[[bytes, int, bytes], bool], max_bytes: int
    ) -> Page:
        page = self.model.batches_after(cursor, have, max_bytes)
        return Page(page.blobs, (), page.cursor, page.done, page.epoch)

    async def batches(self, hashes: Sequence[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
        model = self.model
        return tuple(
            (digest, None if digest in model.archived else model.batches[digest].blob)
            for digest in hashes
            if digest in model.batches
        )

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[asyncio.Queue[Commit]]:
        queue: asyncio.Queue[Commit] = asyncio.Queue()
        self.queues.append(queue)
        try:
            yield queue
        finally:
            self.queues.remove(queue)

    async def write(self, author: bytes, *, silently: bool = False) -> ModelBatch:
        batch = self.model.write(author, filling=bytes(500))
        if silently:
            self._told = len(self.model.committed)
        await self.tell()
        return batch

    async def tell(self) -> None:
        fresh, self._told = tuple(self.model.committed[self._told :]), len(self.model.committed)
        for queue in self.queues:
            queue.put_nowait(Commit(fresh))
        async with self.changed:
            self.changed.notify_all()

    async def until(self, batches: int) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: len(self.model.batches) >= batches)


def filled(authors: int, batches: int) -> ModelReplica:
    model = ModelReplica()
    for number in range(authors):
        for _ in range(batches):
            model.write(author_id(number), filling=bytes(3_000), join=False)
    return model


@asynccontextmanager
async def linked(left: AsyncReplica, right: AsyncReplica, limits: Limits = LIMITS) -> AsyncIterator[ModelStream]:
    """Two drivers on one stream; the left end of it. At the end the left closes and both return."""
    ends = pair(limits.sync_frame_bytes)
    async with asyncio.TaskGroup() as group:
        group.create_task(SyncDriver(left, limits).run(ends[0], True))
        group.create_task(SyncDriver(right, limits).run(ends[1], False))
        yield ends[0]
        await ends[0].close()


async def test_two_replicas_become_equal_over_a_stream() -> None:
    left, right = AsyncReplica(filled(20, 30)), AsyncReplica(filled(3, 40))
    async with linked(left, right):
        await right.until(630)
        await left.until(630)
    assert left.vector.digest() == right.vector.digest()


async def test_a_new_batch_is_pushed() -> None:
    left, right = AsyncReplica(filled(2, 2)), AsyncReplica(filled(2, 2))
    async with linked(left, right) as stream:
        await stream.heard(1)
        await left.write(author_id(7))
        await right.until(5)
        await right.write(author_id(8))
        await left.until(6)
    assert left.vector.digest() == right.vector.digest()


async def test_a_lagging_subscription_begins_a_round() -> None:
    left, right = AsyncReplica(filled(2, 2)), AsyncReplica(filled(2, 2))
    async with linked(left, right) as stream:
        await stream.heard(1)
        await left.write(author_id(7), silently=True)
        for queue in left.queues:
            queue.put_nowait(Commit((), resync=True))
        await right.until(5)
    assert left.vector.digest() == right.vector.digest()


async def test_what_is_archived_is_told_and_the_rest_still_flows() -> None:
    left, right = AsyncReplica(filled(3, 3)), AsyncReplica(ModelReplica())
    left.model.archived.add(next(batch.hash for batch in left.model.batches.values() if batch.seq == 1))
    async with linked(left, right):
        await right.until(6)


class Scripted:
    """A peer that says what a test tells it to."""

    def __init__(self, replica: AsyncReplica, limits: Limits = LIMITS) -> None:
        self.mine, self.theirs = pair(limits.sync_frame_bytes)
        self.driver = SyncDriver(replica, limits)
        self.reader = frames.FrameReader(limits)

    async def run(self, *said: frames.Frame) -> X0tError:
        """The driver meets a peer that says this and then nothing; how that ends."""
        hello = frames.Hello(frames.PROTOCOL, MESH, CHANNEL, ModelReplica().vector.digest(), LIMITS.sync_window_bytes)
        for frame in (hello, *said):
            await self.mine.send(frames.encode(frame))
        with pytest.raises(X0tError) as raised:
            async with asyncio.timeout(5):
                await self.driver.run(self.theirs, False)
        return raised.value

    async def heard(self) -> list[frames.Frame]:
        return [frame for data in self.mine.arrived() for frame in self.reader.feed(data)]


async def test_a_peer_that_sends_a_batch_which_is_none_is_told_and_raised() -> None:
    peer = Scripted(AsyncReplica(ModelReplica()))
    err = await peer.run(frames.Batches((b"\xff",)))
    assert (err.key, err.detail["reason"]) == ("sync.invalid_batch", "batch.malformed, batch ?")
    assert (await peer.heard())[-1] == frames.Bye("sync.invalid_batch")


async def test_a_batch_that_is_early_by_our_clock_is_not_the_peers_fault() -> None:
    replica = AsyncReplica(ModelReplica())
    early = ModelBatch(author_id(1), 1, None, (), 99, b"")
    replica.model.refuse[early.hash] = "batch.clock_ahead"
    peer = Scripted(replica)
    err = await peer.run(frames.Batches((early.blob,)), frames.Bye("sync.stall"))
    assert err.key == "stream.closed_by_peer"


async def test_a_peer_that_stalls_is_raised() -> None:
    peer = Scripted(AsyncReplica(filled(1, 1)))
    assert (await peer.run()).key == "sync.stall"


async def test_a_replica_that_fails_ends_the_link_with_its_own_error() -> None:
    replica = AsyncReplica(ModelReplica())
    replica.failure = error("replica.disk_full")
    batch = ModelBatch(author_id(1), 1, None, (), 1, b"")
    assert (await Scripted(replica).run(frames.Batches((batch.blob,)))).key == "replica.disk_full"


async def test_a_stream_that_is_cut_is_raised_as_such() -> None:
    replica = AsyncReplica(ModelReplica())
    mine, theirs = pair(LIMITS.sync_frame_bytes)
    mine.cut()
    with pytest.raises(X0tError, match=r"stream\.cut"):
        await SyncDriver(replica, LIMITS).run(theirs, True)
    assert replica.queues == []


async def test_a_peer_that_does_not_read_is_a_stall() -> None:
    mine, theirs = pair(LIMITS.sync_frame_bytes)
    theirs.block()
    with pytest.raises(X0tError, match=r"sync\.stall"):
        await SyncDriver(AsyncReplica(ModelReplica()), LIMITS).run(theirs, True)
    assert list(mine.arrived()) == []


async def test_a_proper_end_raises_nothing() -> None:
    mine, theirs = pair(LIMITS.sync_frame_bytes)
    hello = frames.Hello(frames.PROTOCOL, MESH, CHANNEL, ModelReplica().vector.digest(), LIMITS.sync_window_bytes)
    await mine.send(frames.encode(hello) + frames.encode(frames.Bye("")))
    await SyncDriver(AsyncReplica(ModelReplica()), LIMITS).run(theirs, True)


async def test_predecessors_are_found_first_and_within_the_budget() -> None:
    """A question with depth, over a real log's batches, is for the contract suite; here, those at depth 0."""
    replica = AsyncReplica(filled(1, 5))
    hashes = tuple(replica.model.committed)
    peer = Scripted(replica)
    await peer.run(frames.Want((*hashes, bytes(32)), 0))
    heard = await peer.heard()
    assert [blob for frame in heard if isinstance(frame, frames.Batches) for blob in frame.blobs] == [
        replica.model.batches[digest].blob for digest in hashes
    ]
    assert frames.Answer((bytes(32),)) in heard


def test_peers_of_a_pair_are_told_apart() -> None:
    left, right = pair(1)
    assert left.peer == PeerIdentity(bytes([2]) * 32, b"")
    assert right.peer == PeerIdentity(bytes([1]) * 32, b"")


class ChainOfBatches(AsyncReplica):
    """One author's real batches, unsigned, so that their predecessors can be read."""

    def __init__(self, count: int) -> None:
        super().__init__(filled(1, 1))  # more than the peer has, so that it owes us a comparison
        self.blobs: dict[bytes, bytes] = {}
        prev: bytes | None = None
        for seq in range(1, count + 1):
            batch = Batch(1, MESH, CHANNEL, author_id(1), seq, prev, (), seq, (("note", b"\xf6"),))
            signed = build_batch(batch, lambda _message, _context: bytes(3_309))
            self.blobs[signed.hash] = signed.blob
            prev = signed.hash

    async def batches(self, hashes: Sequence[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
        return tuple((digest, self.blobs[digest]) for digest in hashes if digest in self.blobs)


@pytest.mark.parametrize("depth, found", [(0, [9]), (3, [6, 7, 8, 9]), (255, list(range(10)))])
async def test_a_question_with_depth_is_answered_predecessors_first(depth: int, found: list[int]) -> None:
    replica = ChainOfBatches(10)
    hashes = list(replica.blobs)
    peer = Scripted(replica)
    await peer.run(frames.Want((hashes[9],), depth))
    blobs = [blob for frame in await peer.heard() if isinstance(frame, frames.Batches) for blob in frame.blobs]
    assert blobs == [replica.blobs[hashes[number]] for number in found]
