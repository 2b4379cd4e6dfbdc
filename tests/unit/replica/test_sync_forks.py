"""Sync of forked logs, and of batches that one side refuses, parks or has archived."""

from __future__ import annotations

import pytest

from tests.sim.model_link import Link, synced
from tests.sim.model_replica import ModelReplica, author_id, copy, replica


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
