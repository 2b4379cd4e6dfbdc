"""Laws of the vector and of sync: order does not matter, any two replicas meet, any bytes end in a drop at worst."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from appliance.core.limits import Limits
from appliance.replica import sync_frames as frames
from appliance.replica.sync_events import Drop
from appliance.replica.sync_flow import blob_bytes_max
from appliance.replica.vector import Vector
from tests.sim.model_link import Link, Side
from tests.sim.model_replica import ModelBatch, ModelReplica, author_id

AUTHORS = 5
seeds = st.integers(0, 2**32 - 1)

# What a replica does: an author extends its newest or (a fork) its oldest head, joining the others' work or not.
writes = st.lists(st.tuples(st.integers(0, AUTHORS - 1), st.sampled_from(["newest", "oldest", "root"]), st.booleans()))
small_limits = Limits(batch_bytes=600, sync_window_bytes=blob_bytes_max(Limits(batch_bytes=600)))


def perform(replica: ModelReplica, script: list[tuple[int, str, bool]], mark: bytes) -> None:
    for author, where, join in script:
        name = author_id(author)
        heads = replica.vector.heads(name)
        prev = None
        if heads and where == "oldest":
            prev = replica.batches[heads[0][1]]
        if heads and where == "root":
            prev = next(batch for batch in replica.batches.values() if batch.author == name and batch.seq == 1)
        replica.write(name, prev=prev, filling=mark, join=join)


def world(common: list[tuple[int, str, bool]], *own: list[tuple[int, str, bool]]) -> list[ModelReplica]:
    base = ModelReplica()
    perform(base, common, b"common")
    replicas = []
    for number, script in enumerate(own):
        replica = ModelReplica()
        replica.take(base.batches.values())
        perform(replica, script, b"of %d" % number)
        replicas.append(replica)
    return replicas


def causal_order(batches: dict[bytes, ModelBatch], dice: random.Random) -> list[ModelBatch]:
    """Any order in which an author's predecessors come first."""
    left, done, ordered = list(batches.values()), set[bytes](), list[ModelBatch]()
    while left:
        ready = [batch for batch in left if batch.prev is None or batch.prev in done]
        chosen = dice.choice(ready)
        left.remove(chosen)
        done.add(chosen.hash)
        ordered.append(chosen)
    return ordered


@given(writes, seeds)
def test_the_vector_depends_on_the_batches_and_not_on_their_order(
    script: list[tuple[int, str, bool]], seed: int
) -> None:
    (replica,) = world([], script)
    vector = Vector()
    dice = random.Random(seed)
    for batch in causal_order(replica.batches, dice):
        assert vector.add(batch.author, batch.seq, batch.hash, batch.prev)
        if dice.random() < 0.3:
            vector.digest()  # what is cached must not matter
        assert not vector.add(batch.author, batch.seq, batch.hash, batch.prev)
    assert vector.digest() == replica.vector.digest()
    assert [vector.bucket(index) for index in range(256)] == [replica.vector.bucket(index) for index in range(256)]
    prevs = {batch.prev for batch in replica.batches.values()}
    rows = [(batch.author, batch.seq, digest) for digest, batch in replica.batches.items() if digest not in prevs]
    dice.shuffle(rows)
    assert Vector.from_rows(rows).digest() == vector.digest()


@given(writes, writes, writes, seeds, st.booleans())
def test_two_replicas_end_with_the_union_however_bytes_and_work_interleave(
    common: list[tuple[int, str, bool]],
    lefts: list[tuple[int, str, bool]],
    rights: list[tuple[int, str, bool]],
    seed: int,
    tiny: bool,
) -> None:
    left, right = world(common, lefts, rights)
    union = {**left.batches, **right.batches}
    link = Link(left, right, small_limits if tiny else Limits())
    link.settle_at_random(random.Random(seed))
    _repair(link)
    assert link.drops == []
    assert left.batches == right.batches == union
    assert left.vector.digest() == right.vector.digest()


@given(writes, writes, writes, seeds)
def test_without_forks_each_missing_batch_crosses_once(
    common: list[tuple[int, str, bool]],
    lefts: list[tuple[int, str, bool]],
    rights: list[tuple[int, str, bool]],
    seed: int,
) -> None:
    """The right side's authors are others, and nobody forks."""
    apart = [(author + AUTHORS, "newest", join) for author, _, join in rights]
    left, right = world(
        [(author, "newest", join) for author, _, join in common],
        [(author, "newest", join) for author, _, join in lefts],
        apart,
    )
    missing = [len(union.blob) for union in left.batches.values() if union.hash not in right.batches]
    missing += [len(union.blob) for union in right.batches.values() if union.hash not in left.batches]
    link = Link(left, right)
    link.settle_at_random(random.Random(seed))
    assert link.left.received_blobs == len(rights)
    assert link.right.received_blobs == len(lefts)
    assert link.sent_bytes <= sum(missing) + 2 * 4096 + 2 * 75 * 2 * AUTHORS + 30 * len(missing) + 400


@given(writes, writes, writes, writes, seeds)
def test_what_is_written_while_sync_runs_arrives_too(
    common: list[tuple[int, str, bool]],
    lefts: list[tuple[int, str, bool]],
    rights: list[tuple[int, str, bool]],
    later: list[tuple[int, str, bool]],
    seed: int,
) -> None:
    left, right = world(common, lefts, rights)
    dice = random.Random(seed)
    link = Link(left, right)
    for number, (author, _, join) in enumerate(later):
        link.step_at_random(dice, dice.randint(0, 8))
        replica = dice.choice([left, right])
        own = author_id(author + AUTHORS * (1 if replica is left else 2))
        replica.write(own, filling=b"later %d" % number, join=join)
    link.settle_at_random(dice)
    _repair(link)
    assert link.drops == []
    assert left.batches == right.batches


@given(writes, writes, writes, seeds, st.integers(0, 40))
def test_a_cut_anywhere_loses_nothing_and_the_next_session_ends_it(
    common: list[tuple[int, str, bool]],
    lefts: list[tuple[int, str, bool]],
    rights: list[tuple[int, str, bool]],
    seed: int,
    steps: int,
) -> None:
    left, right = world(common, lefts, rights)
    union = {**left.batches, **right.batches}
    dice = random.Random(seed)
    Link(left, right).step_at_random(dice, steps)
    again = Link(left, right)
    again.settle_at_random(dice)
    _repair(again)
    assert again.drops == []
    assert left.batches == right.batches == union


def _repair(link: Link) -> None:
    """Rounds in a row are bounded; let the pauses pass in which forks of forks are compared again."""
    for pause in range(1, 30):
        if link.left.replica.vector.digest() == link.right.replica.vector.digest():
            return
        link.tick(pause * 11_000)
        link.settle()


@given(st.binary(max_size=300), st.lists(st.integers(1, 40)))
def test_any_bytes_at_all_lead_to_a_drop_or_to_nothing(data: bytes, cuts: list[int]) -> None:
    side = Side(ModelReplica())
    at = 0
    for cut in [*cuts, len(data)]:
        side.hear(data[at : at + cut])
        at += cut
    assert all(isinstance(event, Drop) for event in side.events)


@given(writes, writes, seeds)
def test_any_flipped_bytes_of_an_honest_stream_lead_to_a_drop_or_to_events(
    lefts: list[tuple[int, str, bool]], rights: list[tuple[int, str, bool]], seed: int
) -> None:
    left, right = world([], lefts, rights)
    dice = random.Random(seed)
    link = Link(left, right)
    for _ in range(12):
        for side in (link.left, link.right):
            if side.outbox and dice.random() < 0.3:
                side.outbox[dice.randrange(len(side.outbox))] ^= 1 << dice.randrange(8)
        if not link.step():
            break
    link.settle()  # nothing raised, and it ends


any_hash = st.binary(min_size=32, max_size=32)
any_frame: st.SearchStrategy[frames.Frame] = st.one_of(
    st.builds(frames.Round, any_hash),
    st.builds(frames.Buckets, st.binary(min_size=4096, max_size=4096)),
    st.builds(frames.Entries, st.binary(max_size=200), st.booleans()),
    st.builds(frames.Batches, st.lists(st.binary(min_size=1, max_size=50), min_size=1).map(tuple)),
    st.builds(frames.Credit, st.integers(1, 2**53 - 1)),
    st.builds(frames.Done),
    st.builds(frames.Want, st.lists(any_hash, min_size=1, max_size=5).map(tuple), st.integers(0, 255)),
    st.builds(frames.Answer, st.lists(any_hash, max_size=5).map(tuple)),
    st.builds(frames.Archived, st.integers(0, 9)),
    st.builds(frames.Ping, any_hash),
    st.builds(frames.Bye, st.just("sync.stall")),
)


@given(st.lists(any_frame, max_size=30))
def test_any_frames_in_any_order_never_raise(said: list[frames.Frame]) -> None:
    left, right = world([(0, "newest", True)], [(1, "newest", True)], [])
    link = Link(left, right)
    link.fly()
    for frame in said:
        link.left.hear(frames.encode(frame))
        while link.left.work():
            pass
    assert link.left.session.unsent_bytes == 0


@given(any_frame)
def test_a_frame_reads_back_as_it_was_written(frame: frames.Frame) -> None:
    assert list(frames.FrameReader().feed(frames.encode(frame))) == [frame]
