"""Ancestry: chains, forks and what lies in whose past."""

from __future__ import annotations

import pytest

from appliance.replica.ancestry import Ancestry, Fork, Meta


class Logs:
    """Writes metas straight into an ancestry, as intake does."""

    def __init__(self) -> None:
        self.ancestry = Ancestry()
        self._clock = 0

    def add(self, author: str, prev: Meta | None = None, *after: Meta, mark: bool = False) -> Meta:
        self._clock += 1
        name = author.encode()
        branch, _ = self.ancestry.place(name, prev.seq + 1 if prev else 1, prev)
        meta = Meta(
            hash=self._clock.to_bytes(32),
            author=name,
            seq=prev.seq + 1 if prev else 1,
            hlc=self._clock,
            branch=branch,
            reach=self.ancestry.reach_of([*([prev] if prev else []), *after]),
            mark=mark,
        )
        self.ancestry.extend(meta)
        return meta


@pytest.fixture
def logs() -> Logs:
    return Logs()


def test_a_mark_precedes_what_was_written_after_seeing_it_through_others_too(logs: Logs) -> None:
    mark = logs.add("anna", mark=True)
    seen = logs.add("bert", None, mark)
    through = logs.add("cleo", None, seen)
    beside = logs.add("dora")
    precedes = logs.ancestry.precedes
    assert [precedes(mark, meta) for meta in (mark, seen, through, beside)] == [False, True, True, False]


def test_batches_between_marks_leave_no_trace_in_the_reach(logs: Logs) -> None:
    mark = logs.add("anna", mark=True)
    head = mark
    for _ in range(50):
        head = logs.add("anna", head)
    assert head.reach == ((mark.branch, 1),)


def test_equal_reaches_are_one_object(logs: Logs) -> None:
    mark = logs.add("anna", mark=True)
    assert logs.add("bert", None, mark).reach is logs.add("cleo", None, mark).reach


def test_a_mark_on_one_side_of_a_fork_does_not_precede_the_other(logs: Logs) -> None:
    first = logs.add("anna", mark=True)
    left = logs.add("anna", first, mark=True)
    right = logs.add("anna", first)
    after = logs.add("anna", right)
    assert logs.ancestry.precedes(first, after)
    assert not logs.ancestry.precedes(left, after)


def test_a_log_forks_where_two_batches_follow_one(logs: Logs) -> None:
    first = logs.add("anna")
    left = logs.add("anna", first)
    assert logs.ancestry.fork_seq(b"anna") is None
    right = logs.add("anna", first)
    assert logs.ancestry.fork_seq(b"anna") == 2
    assert [list(logs.ancestry.forks_before(meta)) for meta in (first, left, right)] == [
        [],
        [Fork(2, left.branch, (left.branch, right.branch))],
        [Fork(2, right.branch, (left.branch, right.branch))],
    ]


def test_forks_within_forks_are_met_on_the_way_and_others_are_not(logs: Logs) -> None:
    first = logs.add("anna")
    left = logs.add("anna", first)
    right = logs.add("anna", first)
    deep_left = logs.add("anna", right)
    deep_right = logs.add("anna", right)
    ancestry = logs.ancestry
    assert {fork.seq for fork in ancestry.forks_before(deep_right)} == {2, 3}
    assert {fork.seq for fork in ancestry.forks_before(left)} == {2}
    assert {fork.own for fork in ancestry.forks_before(deep_left)} == {right.branch}


def test_a_log_may_begin_more_than_once(logs: Logs) -> None:
    left, right, third = logs.add("anna"), logs.add("anna"), logs.add("anna")
    after = logs.add("anna", right)
    firsts = (left.branch, right.branch, third.branch)
    assert list(logs.ancestry.forks_before(after)) == [Fork(1, right.branch, firsts)]
    assert logs.ancestry.branch_at(left.branch, 0) is None


def test_a_third_batch_in_the_same_place_proves_nothing_new(logs: Logs) -> None:
    first = logs.add("anna")
    logs.add("anna", first)
    assert not logs.ancestry.forks_again(b"anna", first)
    logs.add("anna", first)
    assert logs.ancestry.forks_again(b"anna", first)
    assert not logs.ancestry.forks_again(b"anna", None)
    logs.add("anna")
    assert logs.ancestry.forks_again(b"anna", None)


def test_within_a_cut_lies_what_leads_to_it_and_no_other_branch(logs: Logs) -> None:
    first = logs.add("anna")
    left = logs.add("anna", first)
    right = logs.add("anna", first)
    cut = logs.add("anna", right)
    beyond = logs.add("anna", cut)
    within = [logs.ancestry.within(meta, cut) for meta in (first, right, cut, left, beyond)]
    assert within == [True, True, True, False, False]
    assert not logs.ancestry.within(first, None)


def test_the_memory_for_reaches_is_bounded(logs: Logs) -> None:
    for number in range(65_537):
        logs.ancestry.intern(((number, 1),))
    assert logs.ancestry.intern(((0, 1),)) == ((0, 1),)
