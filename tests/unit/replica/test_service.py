"""The replica's asyncio face: durable before acknowledged, many at once, and one bad batch harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS, Limits
from appliance.replica import service
from appliance.replica.batch import parse_batch
from appliance.replica.engine import Engine
from appliance.replica.entries import RevokeEntry, make
from appliance.replica.reports import Received
from appliance.replica.service import Commit
from appliance.replica.stores import START
from appliance.storage.log import LogStore
from appliance.trust.grants import Role
from tests.mesh_rig import Member, Mesh
from tests.unit.replica.service_rig import Node, held, hello


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Member]:
    """The founder of another mesh."""
    (tmp_path / "other").mkdir()
    founder = Mesh(tmp_path / "other", authority="another").founder("anna")
    yield founder
    founder.engine.close()


def limits(**changed: int) -> Limits:
    return msgspec.structs.replace(LIMITS, **changed)


class Has:
    """A peer that has these batches."""

    gaps = None

    def __init__(self, *hashes: bytes) -> None:
        self.hashes = set(hashes)

    def __call__(self, author: bytes, seq: int, digest: bytes, /) -> bool:
        return digest in self.hashes


# ---- writing


@pytest.mark.parametrize("at_most, groups", [(512, [64]), (16, [16, 16, 16, 16])])
async def test_writers_that_wait_together_share_one_durable_transaction(
    node: Node, at_most: int, groups: list[int]
) -> None:
    async with node.live(limits(group_commit=at_most)) as replica:
        before = len(node.log.groups)
        async with held(replica) as group:
            tasks = [group.create_task(replica.append(hello(f"robot {number}"))) for number in range(64)]
        receipts = [task.result() for task in tasks]
        assert node.log.groups[before:] == groups
        assert [receipt.seq for receipt in receipts] == list(range(3, 67))
        assert all(effect.ok for receipt in receipts for effect in receipt.effects)


async def test_a_receipt_says_what_became_of_each_entry(node: Node) -> None:
    async with node.live() as replica:
        nobody = make(RevokeEntry(bytes(32), (), 3, None, ""))
        receipt = await replica.append([*hello("anna"), ("of next year", b"\x01"), nobody])
    assert [effect.reason for effect in receipt.effects] == [None, "unknown", "revoke.cut"]


async def test_what_is_refused_while_it_is_built_stops_nobody_else(node: Node) -> None:
    async with node.live() as replica:
        async with held(replica) as group:
            before = group.create_task(replica.append(hello("before")))
            refused = [
                asyncio.ensure_future(replica.append([])),
                asyncio.ensure_future(replica.append(hello("huge", LIMITS.entry_bytes + 1))),
            ]
            after = group.create_task(replica.append(hello("after")))
        assert (before.result().seq, after.result().seq) == (3, 4)
        keys = [err.key for err in await asyncio.gather(*refused, return_exceptions=True) if isinstance(err, X0tError)]
        assert keys == ["batch.size", "batch.size"]


async def test_a_cancelled_writer_is_not_waited_for_and_its_batch_is_kept(node: Node) -> None:
    async with node.live() as replica:
        async with held(replica) as group:
            gone = group.create_task(replica.append(hello("gone")))
            stays = group.create_task(replica.append(hello("stays")))
            await asyncio.sleep(0)
            gone.cancel()
        assert gone.cancelled()
        assert stays.result().seq == 4
        assert (await replica.append(hello("after"))).seq == 5


async def test_more_writers_than_the_queue_holds_are_refused(node: Node) -> None:
    async with node.live(limits(append_queue=2)) as replica, held(replica) as group:
        group.create_task(replica.append(hello("one")))
        group.create_task(replica.append(hello("two")))
        await asyncio.sleep(0)
        with pytest.raises(X0tError) as refused:
            await replica.append(hello("three"))
        assert refused.value.key == "replica.queue_full"


# ---- batches of others


async def test_a_submitted_batch_is_durable_before_it_is_folded(node: Node) -> None:
    bert = node.bert
    bert.say("bert")
    node.view.gate.clear()
    async with node.live() as replica:
        try:
            await asyncio.wait_for(replica.submit(parse_batch(bert.blobs()[-1])), 10)
            disk = LogStore(node.log.path)
            assert [blob for _, _, blob in disk.after(0, 100)] == bert.blobs()
            disk.close()
            assert replica.vector.heads(bert.id) == ()
        finally:
            node.view.gate.set()
        assert await replica.run(lambda engine: engine.view.lookup(bert.last().hash)) is not None
        await asyncio.sleep(0)
        assert replica.vector.top(bert.id) == 1


async def test_a_submitted_batch_that_must_wait_or_is_unfit_is_refused(node: Node, elsewhere: Member) -> None:
    bert = node.bert
    bert.say("one")
    bert.say("two")
    async with node.live() as replica:
        with pytest.raises(X0tError) as parked:
            await replica.submit(parse_batch(bert.blobs()[-1]))
        with pytest.raises(X0tError) as foreign:
            await replica.submit(parse_batch(elsewhere.blobs()[0]))
        await replica.submit(parse_batch(bert.blobs()[-2]))
        await replica.submit(parse_batch(bert.blobs()[-2]))
    assert (parked.value.key, foreign.value.key) == ("replica.parked", "batch.mesh")


async def test_bad_batches_of_a_peer_are_refused_and_counted_and_the_good_ones_stay(node: Node) -> None:
    bert = node.bert
    for name in ("one", "two", "three"):
        bert.say(name)
    one, two, three = bert.blobs()[-3:]
    unsigned = bytearray(two)
    unsigned[-1] ^= 1
    async with node.live() as replica:
        received = await replica.receive([one, b"garbage", bytes(unsigned), three, one])
        hashes = [parse_batch(blob).hash for blob in (one, two, three)]
        assert received == Received(
            new=(hashes[0],),
            refused=((None, "batch.malformed"), (hashes[1], "batch.signature")),
            parked=1,
            wanted=(hashes[1],),
        )
        assert await replica.run(lambda engine: dict(engine.refused)) == {"batch.malformed": 1, "batch.signature": 1}
        assert (await replica.receive([two])).new == (hashes[1],)
        assert replica.vector.heads(bert.id) == ((3, hashes[2]),)
        assert (await replica.receive([one, two, three])) == Received((), (), 0, ())


async def test_a_peer_gets_what_it_lacks_and_archived_bytes_are_none(node: Node) -> None:
    async with node.live() as replica:
        receipt = await replica.append(hello("anna"))
        root, gave, said = node.member.blobs()
        page = await replica.batches_after(START, Has(), 1 << 20)
        assert (page.blobs, page.done) == ((root, gave, said), True)
        page = await replica.batches_after(START, Has(receipt.hash), 1 << 20)
        assert (page.blobs, page.done) == ((root, gave), True)
        assert await replica.batches([receipt.hash, bytes(32)]) == ((receipt.hash, said),)


async def test_whoever_was_granted_a_role_is_permitted_until_it_is_revoked(node: Node) -> None:
    bert = node.bert
    async with node.live() as replica:
        assert [replica.permitted(who) for who in (node.member.id, bert.id, bytes(32))] == [True, True, False]
        assert replica.member_key(bert.id) == bert.key.public_key
        assert replica.member_key(bytes(32)) is None
        assert (replica.holds(Role.OWNER), replica.mesh) == (True, node.mesh.id)
        await replica.append([make(RevokeEntry(bert.id, (), 0, None, ""))])
        assert not replica.permitted(bert.id)


# ---- subscribers


async def test_subscribers_learn_of_what_was_folded_in_order(node: Node) -> None:
    async with node.live() as replica, replica.subscribe() as queue:
        first = await replica.append(hello("one"))
        second = await replica.append(hello("two"))
        assert [await queue.get(), await queue.get()] == [Commit((first.hash,)), Commit((second.hash,))]


async def test_a_subscriber_that_lags_is_told_to_begin_a_round(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SUBSCRIBER_QUEUE", 2)
    async with node.live() as replica:
        async with replica.subscribe() as queue:
            for number in range(3):
                await replica.append(hello(str(number)))
            await asyncio.sleep(0)
            assert [queue.get_nowait(), queue.empty()] == [Commit((), resync=True), True]
            last = await replica.append(hello("last"))
            assert await queue.get() == Commit((last.hash,))
        await replica.append(hello("nobody listens"))
        assert queue.empty()


# ---- the end


async def test_closing_finishes_what_was_begun_and_refuses_the_rest(node: Node) -> None:
    replica = await node.live().__aenter__()
    async with held(replica) as group:
        begun = [group.create_task(replica.append(hello(str(number)))) for number in range(3)]
        await asyncio.sleep(0)
        group.create_task(replica.__aexit__())
        await asyncio.sleep(0)
        too_late = asyncio.ensure_future(replica.append(hello("too late")))
    assert [task.result().seq for task in begun] == [3, 4, 5]
    later = (too_late, replica.receive([b""]), replica.run(Engine.load))
    ended = await asyncio.gather(*later, return_exceptions=True)
    assert [isinstance(err, X0tError) and err.key for err in ended] == ["replica.closing"] * 3


async def test_after_a_fault_of_the_program_nobody_waits_for_ever(node: Node) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context.get("exception")))
    async with node.live() as replica:
        async with held(replica):
            broken = asyncio.ensure_future(replica.edit(lambda _engine, now_ms: hello("never" * (now_ms // 0))))
            waiting = asyncio.ensure_future(replica.append(hello("waits")))
        ended = await asyncio.gather(broken, waiting, replica.append(hello("later")), return_exceptions=True)
    assert [isinstance(err, X0tError) and err.key for err in ended] == ["replica.corrupt"] * 3
    assert [type(fault) for fault in faults] == [ZeroDivisionError]


# ---- a full disk


@pytest.mark.parametrize("failing", ["log", "view"])
async def test_a_full_disk_fails_who_waits_and_nothing_half_is_left(node: Node, failing: str) -> None:
    async with node.live() as replica:
        await replica.append(hello("before"))
        database = getattr(node, failing)._db
        pages = await replica.run(lambda _: database.execute("PRAGMA page_count").get)
        await replica.run(lambda _: database.execute(f"PRAGMA max_page_count={pages}").get)
        async with held(replica):
            tasks = [asyncio.ensure_future(replica.append(hello(str(n), 4_000))) for n in range(64)]
        failed = await asyncio.gather(*tasks, return_exceptions=True)
        assert {err.key for err in failed if isinstance(err, X0tError)} == {"replica.disk_full"}
        await asyncio.to_thread(lambda: database.execute("PRAGMA max_page_count=1000000").get)
        receipt = await replica.append(hello("after"))
        assert receipt.seq == (4 if failing == "log" else 68)
        assert replica.vector.heads(node.member.id) == ((receipt.seq, receipt.hash),)
        live = await replica.run(lambda _: node.member.dump())
    await asyncio.to_thread(node.member.start)
    assert node.member.dump() == live
    node.member.engine.close()


async def test_a_fault_in_a_query_is_its_callers_alone(node: Node) -> None:
    async with node.live() as replica:
        with pytest.raises(ZeroDivisionError):
            await replica.run(lambda _: 1 // 0)
        assert (await replica.append(hello("still here"))).effects[0].ok
