"""Sync sessions over a link without time or disk: rounds, bytes, cuts, back-pressure, forks, pushes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.core.limits import LIMITS, Limits
from appliance.replica import sync_frames as frames
from appliance.replica.sync import SyncSession
from appliance.replica.sync_events import Closed, Drop, Found, NeedBatches, NeedBlobs, Page, Received
from appliance.replica.sync_flow import blob_bytes_max
from appliance.replica.vector import Vector
from tests.sim.model_replica import CHANNEL, MESH, Link, ModelReplica, Side, author_id

FILLING = bytes(3_400)  # a one-entry batch with its signature is about that long
SMALL = Limits(batch_bytes=8_192, sync_window_bytes=blob_bytes_max(Limits(batch_bytes=8_192)) + 1_000)


def replica(authors: int, batches: int = 1, filling: bytes = b"") -> ModelReplica:
    made = ModelReplica()
    for number in range(authors):
        for _ in range(batches):
            made.write(author_id(number), filling=filling, join=False)
    return made


def copy(of: ModelReplica) -> ModelReplica:
    made = ModelReplica()
    made.take(of.batches.values())
    return made


def _round_bytes(of: ModelReplica, buckets: int) -> int:
    """At most, both ways: all bucket digests, two entries for each author of those that differ, small frames."""
    sizes = sorted((len(of.vector.bucket(index)) for index in range(256)), reverse=True)
    return 2 * 4096 + 2 * 75 * sum(sizes[:buckets]) + 1_500


def equal(*replicas: ModelReplica) -> bool:
    return len({one.vector.digest() for one in replicas}) == 1


def synced(left: ModelReplica, right: ModelReplica, limits: Limits = LIMITS) -> Link:
    link = Link(left, right, limits)
    link.settle()
    assert link.drops == []
    assert equal(left, right)
    return link


# --- rounds and bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("authors", [0, 1, 1_000])
def test_equal_replicas_settle_in_one_round_trip_and_a_few_bytes(authors: int) -> None:
    left = replica(authors)
    link = synced(left, copy(left))
    assert (link.flights, link.left.in_sync, link.right.in_sync) == (1, 1, 1)
    assert link.sent_bytes <= 200


BEHIND: list[tuple[str, int, int, int]] = [
    # case, batches that only the left has, only the right has, flights until both know that they are equal
    ("one batch on one side", 1, 0, 6),
    ("a hundred on one side", 100, 0, 6),
    ("one on each side", 1, 1, 5),
    ("a hundred and fifty on each side", 150, 150, 5),
]


@pytest.mark.parametrize("lefts, rights, flights", [row[1:] for row in BEHIND], ids=[row[0] for row in BEHIND])
def test_a_gap_costs_what_is_missing_and_a_round(lefts: int, rights: int, flights: int) -> None:
    left = replica(1_000)
    right = copy(left)
    for number in range(lefts):
        left.write(author_id(number % 20), filling=FILLING, join=False)
    for number in range(rights):
        right.write(author_id(500 + number % 20), filling=FILLING, join=False)
    link = synced(left, right)
    missing = sum(len(batch.blob) for batch in left.batches.values() if batch.filling)
    assert link.flights == flights
    assert missing <= link.sent_bytes <= missing + _round_bytes(left, min(20, lefts) + min(20, rights))
    assert (link.left.received_blobs, link.right.received_blobs) == (rights, lefts)
    assert (link.left.in_sync, link.right.in_sync) == (1, 1)


def test_a_new_replica_gets_everything_once() -> None:
    left, right = replica(300, batches=5, filling=bytes(500)), ModelReplica()
    link = synced(left, right)
    assert (link.right.received_blobs, link.left.received_blobs) == (1_500, 0)


def test_vectors_of_many_frames_are_compared_whole() -> None:
    left, right = replica(3_000), replica(2_000)
    link = synced(left, right)
    assert link.right.received_blobs == 1_000


def test_parents_arrive_before_their_children() -> None:
    left = ModelReplica()
    for number in range(200):
        left.write(author_id(number % 7))
    link = Link(left, ModelReplica())
    link.settle()
    assert list(link.right.replica.committed) == list(left.committed)
    assert link.right.replica.parked == {}


# --- live -----------------------------------------------------------------------------------------------------


def test_a_new_batch_is_pushed_and_neither_echoed_nor_pushed_again() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    before = link.sent_bytes
    blob = left.write(author_id(1)).blob
    link.settle()
    assert equal(left, link.right.replica)
    assert link.sent_bytes - before <= len(blob) + 40
    assert (link.left.received_blobs, link.right.received_blobs) == (0, 1)


def test_pushes_of_both_sides_cross() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    for number in range(50):
        left.write(author_id(number % 5), join=False)
        link.right.replica.write(author_id(5 + number % 5), join=False)
    link.settle()
    assert equal(left, link.right.replica)
    assert (link.left.received_blobs, link.right.received_blobs) == (50, 50)


def test_what_is_written_during_a_round_arrives_by_push() -> None:
    left, right = replica(50, batches=4, filling=FILLING), ModelReplica()
    link = Link(left, right)
    for _ in range(3):
        link.fly()
    left.write(author_id(3), filling=FILLING)
    right.write(author_id(77))
    link.settle()
    assert equal(left, right)
    assert link.right.received_blobs == 201


def test_more_new_batches_than_may_wait_are_found_by_a_new_round() -> None:
    limits = Limits(sync_offers=10)
    left = replica(10)
    link = synced(left, copy(left), limits)
    for number in range(40):
        left.write(author_id(number % 10), join=False)
    link.settle()
    assert equal(left, link.right.replica)
    assert link.right.received_blobs == 40


def test_a_lagging_subscription_is_repaired_by_a_new_round() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    left.write(author_id(1))
    link.left.skip_offers()
    link.settle()
    assert not equal(left, link.right.replica)
    link.left.resync()
    link.settle()
    assert equal(left, link.right.replica)
    assert (link.left.in_sync, link.right.in_sync) == (2, 2)


def test_both_sides_may_begin_a_round_at_once() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    for side, number in ((link.left, 1), (link.right, 2)):
        side.replica.write(author_id(number), join=False)
        side.skip_offers()
        side.resync()
    link.settle()
    assert equal(left, link.right.replica)


def test_rounds_in_a_row_are_few_and_then_pause() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    for count in range(5):
        link.left.resync()
        link.settle()
        assert link.left.in_sync == 1 + min(count + 1, LIMITS.sync_rounds)
    due_ms = link.left.session.next_deadline_ms
    assert due_ms == LIMITS.sync_round_pause_s * 1000
    link.left.tick(due_ms)
    link.settle()
    assert link.left.in_sync == 2 + LIMITS.sync_rounds


# --- cuts -----------------------------------------------------------------------------------------------------


def test_a_cut_after_any_frame_is_resumed_by_the_next_session() -> None:
    base = replica(30)
    for cut in range(1, 40):
        left, right = copy(base), copy(base)
        for number in range(30):
            left.write(author_id(number % 6), filling=bytes(4_000), join=False)
            right.write(author_id(20 + number % 6), filling=bytes(4_000), join=False)
        first = Link(left, right)
        first.carry_frames(cut)
        already = (len(left.batches), len(right.batches))
        second = synced(left, right)
        assert second.left.received_blobs == 90 - already[0]
        assert second.right.received_blobs == 90 - already[1]


def test_a_cut_at_any_byte_is_resumed_by_the_next_session() -> None:
    base = replica(3)
    whole = Link(*_two_apart(base))
    whole.settle()
    for cut in range(0, whole.left.sent_bytes, 7):
        left, right = _two_apart(base)
        first = Link(left, right)
        first.carry_bytes(cut)
        synced(left, right)


def _two_apart(base: ModelReplica) -> tuple[ModelReplica, ModelReplica]:
    left, right = copy(base), copy(base)
    for number in range(3):
        left.write(author_id(number), filling=bytes(200), join=False)
        right.write(author_id(10 + number), join=False)
    return left, right


# --- back-pressure --------------------------------------------------------------------------------------------


def test_a_sender_never_exceeds_a_tiny_window() -> None:
    left = replica(40, batches=2, filling=bytes(3_000))
    link = Link(left, ModelReplica(), SMALL)
    while link.step():
        assert link.right.unstored_bytes + len(link.left.outbox) <= SMALL.sync_window_bytes + 6_000
    assert link.drops == []
    assert equal(left, link.right.replica)


def test_a_receiver_that_does_not_store_gets_no_more_than_its_window() -> None:
    left = replica(100, batches=10, filling=FILLING)
    limits = Limits(sync_window_bytes=200_000)
    link = Link(left, ModelReplica(), limits)
    link.right.stores = False
    link.settle()
    assert 130_000 <= link.right.unstored_bytes <= limits.sync_window_bytes
    assert len(link.left.outbox) == 0
    link.right.stores = True
    link.settle()
    assert equal(left, link.right.replica)


def test_a_sender_holds_no_more_than_the_credit_when_nothing_leaves() -> None:
    left = replica(200, batches=20, filling=FILLING)
    limits = Limits(sync_window_bytes=1 << 20)
    link = Link(left, ModelReplica(), limits)
    for _ in range(3):
        link.fly()
    for _ in range(100):
        link.left.work()
    assert len(link.left.outbox) <= limits.sync_window_bytes + 10_000


# --- forks ----------------------------------------------------------------------------------------------------


def _fork(base: ModelReplica, lefts: int, rights: int) -> tuple[ModelReplica, ModelReplica]:
    left, right = copy(base), copy(base)
    for side, count, mark in ((left, lefts, b"left"), (right, rights, b"right")):
        for _ in range(count):
            side.write(author_id(1), filling=mark, join=False)
    return left, right


@pytest.mark.parametrize("lefts, rights", [(1, 1), (1, 9), (9, 1), (40, 40), (300, 200), (7, 300)])
def test_both_branches_of_a_fork_reach_both_sides(lefts: int, rights: int) -> None:
    base = replica(20, batches=3)
    left, right = _fork(base, lefts, rights)
    link = synced(left, right)
    assert len(left.vector.heads(author_id(1))) == 2
    assert link.left.received_blobs + link.right.received_blobs <= 2 * (lefts + rights) + 2


def test_a_known_fork_costs_nothing_more() -> None:
    left, right = _fork(replica(20), 3, 5)
    synced(left, right)
    assert synced(left, right).flights == 1


def test_a_branch_that_grows_is_sent_from_where_it_was() -> None:
    left, right = _fork(replica(20), 3, 5)
    synced(left, right)
    tall = left.batches[left.vector.heads(author_id(1))[-1][1]]
    for _ in range(50):
        tall = left.write(author_id(1), prev=tall, join=False)
    link = synced(left, right)
    assert link.right.received_blobs == 50
    assert link.left.received_blobs <= 1  # its old head of the branch, which it cannot know to be an ancestor


def test_a_branch_that_only_one_side_knows_is_sent_by_its_head() -> None:
    base = replica(20, batches=6)
    left, right = copy(base), copy(base)
    start = next(batch for batch in base.batches.values() if batch.author == author_id(1) and batch.seq == 2)
    left.write(author_id(1), prev=start, filling=b"branch", join=False)
    assert synced(left, right).right.received_blobs == 1


# --- refused, parked, archived --------------------------------------------------------------------------------


def test_a_batch_that_is_refused_for_now_drops_nobody_and_does_not_loop() -> None:
    left = replica(5)
    right = copy(left)
    ahead = left.write(author_id(1))
    child = left.write(author_id(2))
    right.refuse[ahead.hash] = "batch.clock_ahead"
    link = Link(left, right)
    link.settle()
    assert link.drops == []
    assert (ahead.hash in right.batches, child.hash in right.parked) == (False, True)
    assert link.flights <= 10
    del right.refuse[ahead.hash]
    synced(left, right)


def test_what_lies_in_an_archive_is_told_and_not_held_against_the_peer() -> None:
    left, right = replica(5, batches=3), ModelReplica()
    old = next(batch for batch in left.batches.values() if batch.seq == 1)
    left.archived.add(old.hash)
    link = Link(left, right)
    link.settle()
    assert (link.drops, set(link.right.archived)) == ([], {1})
    assert len(right.batches) == 12
    right.take([old])
    right.receive([])
    synced(left, right)


# --- time -----------------------------------------------------------------------------------------------------


def test_an_idle_link_pings_and_costs_less_than_200_bytes_a_second() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    before = link.sent_bytes
    for second in range(1, 601):
        link.tick(second * 1000)
        link.settle()
    assert link.drops == []
    assert 0 < (link.sent_bytes - before) / 600 < 10


def test_an_idle_link_repairs_what_was_missed() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    left.write(author_id(1))
    link.left.skip_offers()
    link.tick(LIMITS.sync_keepalive_s * 1000)
    link.settle()
    assert equal(left, link.right.replica)


def test_replicas_that_stay_different_compare_once() -> None:
    left = replica(5)
    right = copy(left)
    right.refuse[left.write(author_id(1)).hash] = "batch.clock_ahead"
    link = Link(left, right)
    link.settle()
    before = link.sent_bytes
    for second in range(1, 301):
        link.tick(second * 1000)
        link.settle()
    assert link.sent_bytes - before <= 2 * 10 * 50


def test_the_next_deadline_is_when_something_happens() -> None:
    side = Side(replica(1))
    assert side.session.next_deadline_ms == LIMITS.sync_stall_s * 1000
    link = synced(replica(1), replica(1))
    assert link.left.session.next_deadline_ms == LIMITS.sync_keepalive_s * 1000
    link.left.session.close()
    assert link.left.session.next_deadline_ms is None


# --- the end, and misuse --------------------------------------------------------------------------------------


def test_a_session_that_is_closed_says_so_to_the_peer_once() -> None:
    link = synced(replica(1), replica(1))
    link.left.session.close()
    link.left.session.close()
    link.left.tick(1)
    link.settle()
    assert link.right.closed == Closed("")
    assert link.right.session.closed
    assert link.right.session.receive_data(b"more", 2) == []


def test_the_driver_may_drop_a_peer_and_the_peer_learns_why() -> None:
    link = synced(replica(1), replica(1))
    events = link.left.session.drop("sync.invalid_batch", reason="batch.signature")
    assert events == [Drop("sync.invalid_batch", {"reason": "batch.signature"})]
    link.left.tick(1)
    link.settle()
    assert link.right.closed == Closed("sync.invalid_batch")


def test_unasked_answers_are_the_drivers_fault() -> None:
    session = SyncSession(MESH, CHANNEL, Vector(), LIMITS, 0)
    with pytest.raises(ValueError, match="no page"):
        session.supply(Page((), (0, b""), done=True), 0)
    with pytest.raises(ValueError, match="no batches"):
        session.supply_blobs(Found((), ()), 0)


def test_a_page_over_its_budget_is_the_drivers_fault() -> None:
    link = Link(replica(1), ModelReplica())
    for _ in range(3):
        link.fly()
    read = next(event for event in link.left.events if isinstance(event, NeedBatches))
    with pytest.raises(ValueError, match="credit"):
        link.left.session.supply(Page((bytes(read.budget_bytes + 1),), (0, b""), done=True), 0)


def test_batches_that_cannot_be_read_are_given_up() -> None:
    """A driver that finds nothing and says nothing must not be asked for ever."""
    link = synced(replica(3), replica(3))
    events = link.left.session.offer([bytes(32)], 0)
    assert [type(event) for event in events] == [NeedBlobs]
    assert link.left.session.supply_blobs(Found((), ()), 0) == []
    asked = link.left.session.receive_data(frames.encode(frames.Want((bytes(32),), 0)), 0)
    assert [type(event) for event in asked] == [NeedBlobs]
    assert link.left.session.supply_blobs(Found((), ()), 0) == []
    answer = list(frames.FrameReader().feed(link.left.session.bytes_to_send()))
    assert answer == [frames.Answer((bytes(32),))]


def test_a_want_in_the_middle_of_a_push_is_answered_after_it() -> None:
    left = replica(3)
    link = synced(left, copy(left))
    session = link.left.session
    new = left.write(author_id(1))
    session.offer([new.hash], 0)
    known = next(iter(left.batches))
    session.receive_data(frames.encode(frames.Want((known,), 0)), 0)
    (read,) = session.supply_blobs(Found((new.hash,), (new.blob,)), 0)
    assert isinstance(read, NeedBlobs)
    assert read.hashes == (known,)
    session.supply_blobs(Found((known,), (left.batches[known].blob,)), 0)
    sent = list(frames.FrameReader().feed(session.bytes_to_send()))
    assert [type(frame) for frame in sent] == [frames.Batches, frames.Batches, frames.Answer]


def test_large_answers_come_in_pieces_within_the_credit() -> None:
    left = replica(1, batches=30, filling=bytes(5_000))
    link = Link(left, copy(left), SMALL)
    link.settle()
    wanted = tuple(left.batches)
    link.right.ask_for(wanted)
    link.settle()
    assert link.right.received_blobs == 30


def test_frames_survive_any_cut_of_the_stream() -> None:
    reader = frames.FrameReader()
    sent: list[frames.Frame] = [
        frames.Done(),
        frames.Credit(5),
        frames.Batches((b"one", b"two")),
        frames.Bye("sync.stall"),
    ]
    data = b"".join(frames.encode(frame) for frame in sent)
    got = [frame for byte in data for frame in reader.feed(bytes([byte]))]
    assert (got, reader.buffered) == (sent, 0)


NOT_FRAMES: list[tuple[str, bytes, str]] = [
    ("too long", (LIMITS.sync_frame_bytes + 1).to_bytes(4), "sync.frame_size"),
    ("empty", b"\0\0\0\0", "sync.garbage"),
    ("no array", b"\0\0\0\x01\xa0", "sync.garbage"),
    ("an unknown kind", b"\0\0\0\x03\x81\x18\x63", "sync.garbage"),
    ("a field too few", b"\0\0\0\x02\x81\x06", "sync.garbage"),
    ("a field too many", b"\0\0\0\x03\x82\x07\x00", "sync.garbage"),
    ("a grant of nothing", b"\0\0\0\x03\x82\x06\x00", "sync.garbage"),
    ("no batches", b"\0\0\0\x03\x82\x05\x80", "sync.garbage"),
    ("an empty batch", b"\0\0\0\x04\x82\x05\x81\x40", "sync.garbage"),
    ("text for bytes", b"\0\0\0\x04\x82\x05\x81\x60", "sync.garbage"),
    ("not canonical", b"\0\0\0\x03\x81\x18\x07", "sync.garbage"),
]


@pytest.mark.parametrize("data, key", [row[1:] for row in NOT_FRAMES], ids=[row[0] for row in NOT_FRAMES])
def test_what_is_no_frame_drops_the_peer(data: bytes, key: str) -> None:
    side = Side(replica(1))
    side.hear(data)
    assert isinstance(side.events[-1], Drop)
    assert side.events[-1].key == key


HELLO = frames.Hello(frames.PROTOCOL, MESH, CHANNEL, Vector().digest(), LIMITS.sync_window_bytes)
STRANGERS: list[tuple[str, Callable[[], frames.Hello], str]] = [
    ("another version", lambda: _hello(version=2), "sync.protocol_version"),
    ("another mesh", lambda: _hello(mesh=bytes(32)), "sync.mesh"),
    ("another channel", lambda: _hello(channel="audit"), "sync.channel"),
    ("a window below one batch", lambda: _hello(window=65_535), "sync.window_small"),
]


def _hello(
    version: int = frames.PROTOCOL,
    mesh: bytes = MESH,
    channel: str = CHANNEL,
    window: int = LIMITS.sync_window_bytes,
) -> frames.Hello:
    return frames.Hello(version, mesh, channel, Vector().digest(), window)


@pytest.mark.parametrize("hello, key", [row[1:] for row in STRANGERS], ids=[row[0] for row in STRANGERS])
def test_a_peer_that_does_not_fit_is_dropped(hello: Callable[[], frames.Hello], key: str) -> None:
    side = Side(ModelReplica())
    side.hear(frames.encode(hello()))
    assert [event.key for event in side.events if isinstance(event, Drop)] == [key]


def test_batches_before_a_broken_frame_are_still_handed_over() -> None:
    side = Side(ModelReplica())
    side.hear(frames.encode(HELLO))
    side.events.clear()
    side.hear(frames.encode(frames.Batches((b"blob",))) + b"\0\0\0\x01\xa0")
    assert [type(event) for event in side.events] == [Received, Drop]
