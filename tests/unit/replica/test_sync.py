"""Sync sessions over a link without time or disk: rounds, bytes, pushes, cuts, back-pressure."""

from __future__ import annotations

import pytest

from appliance.core.limits import LIMITS, Limits
from appliance.replica.sync_flow import blob_bytes_max
from tests.sim.model_link import Link, equal, synced
from tests.sim.model_replica import ModelReplica, author_id, copy, replica

FILLING = bytes(3_400)  # a one-entry batch with its signature is about that long
SMALL = Limits(batch_bytes=8_192, sync_window_bytes=blob_bytes_max(Limits(batch_bytes=8_192)) + 1_000)


def _round_bytes(of: ModelReplica, buckets: int) -> int:
    """At most, both ways: all bucket digests, two entries for each author of those that differ, small frames."""
    sizes = sorted((len(of.vector.bucket(index)) for index in range(256)), reverse=True)
    return 2 * 4096 + 2 * 75 * sum(sizes[:buckets]) + 1_500


# --- rounds and bytes -------------------------------------------------------------------------------------------------


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


# --- live -------------------------------------------------------------------------------------------------------------


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


# --- cuts -------------------------------------------------------------------------------------------------------------


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


# --- back-pressure ----------------------------------------------------------------------------------------------------


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
