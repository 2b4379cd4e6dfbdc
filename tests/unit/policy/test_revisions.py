"""Which revision of a policy is in force, why the last one may not be, and whose edits that is about."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from appliance.core.errors import StateError
from appliance.core.ids import NodeId
from appliance.policy import revisions, trial
from appliance.policy.document import edit, parts, to_keys
from appliance.policy.model import EMPTY, Action, Policy, PolicyTest, Rule, Subject
from appliance.policy.revisions import Course, Revisions, Standing, content_at
from appliance.policy.trial import Failure, run_tests
from tests.policy_past import AUTHORS, START_MS, Past, policy_of
from tests.unit.policy.cells import MODBUS, allow, deny

ROBOT, PLC = (Subject(tags=frozenset({tag})) for tag in ("robot", "plc"))
WRITES = PolicyTest(source=ROBOT, target=PLC, service=MODBUS, expect=Action.ALLOW)
ALLOWED, DENIED = allow("tag:robot", "tag:plc"), deny("any", "tag:plc")
BASE = policy_of([allow("tag:gateway", "tag:plc")])


def course(past: Past) -> Course:
    return Revisions().update(past.changes)


def standings(past: Past) -> list[Standing]:
    """Oldest first."""
    found = Revisions()
    found.update(past.changes)
    return [revision.standing for revision in reversed(found.standings())]


def large(count: int = 1_000) -> Policy:
    return policy_of(
        Rule(action=Action.ALLOW, sources=rule.sources, targets=rule.targets, services=rule.services, note=f"{number}")
        for number, rule in enumerate([ALLOWED] * count)
    )


def test_without_history_there_is_no_policy() -> None:
    assert Revisions().update(()) == Course()
    assert Course().policy is EMPTY


def test_the_last_revision_is_in_force() -> None:
    past = Past()
    past.edit("ada", BASE)
    last = past.edit("bob", policy_of([ALLOWED], [WRITES]))
    found = course(past)
    assert found.policy == policy_of([ALLOWED], [WRITES])
    assert found.in_force == found.head
    assert found.blocked is None
    assert found.in_force is not None
    assert (found.in_force.change, found.in_force.author) == (last, AUTHORS["bob"])
    assert standings(past) == [Standing.SUPERSEDED, Standing.IN_FORCE]


def test_a_revision_that_fails_its_tests_does_not_come_into_force() -> None:
    past = Past()
    first = past.edit("ada", BASE)
    past.edit("bob", policy_of([DENIED], [WRITES]))
    found = course(past)
    assert found.policy == BASE
    assert found.in_force is not None
    assert found.in_force.change == first
    assert found.blocked is not None
    assert found.blocked.revision.standing is Standing.FAILED
    assert [failure.test for failure in found.blocked.failures] == [WRITES]
    assert [made.author for made in found.blocked.edits] == [AUTHORS["bob"]]


def test_the_first_revision_may_fail_and_nothing_is_in_force_then() -> None:
    past = Past()
    past.edit("ada", policy_of([], [WRITES]))
    found = course(past)
    assert (found.policy, found.in_force) == (EMPTY, None)
    assert found.blocked is not None


def test_two_edits_that_do_not_fit_together_are_both_named() -> None:
    past = Past()
    base = past.edit("ada", BASE)
    first = past.edit("ada", policy_of([*BASE.rules.values(), ALLOWED], [WRITES]), [base])
    second = past.edit("bob", policy_of([*BASE.rules.values(), DENIED]), [base])
    found = course(past)
    assert found.in_force is not None
    assert found.in_force.change == first
    assert found.blocked is not None
    assert [(made.change, made.author) for made in found.blocked.edits] == [
        (second, AUTHORS["bob"]),
        (first, AUTHORS["ada"]),
    ]
    assert standings(past) == [Standing.SUPERSEDED, Standing.IN_FORCE, Standing.FAILED]


def test_what_an_edit_followed_or_what_followed_it_is_not_named() -> None:
    past = Past()
    base = past.edit("ada", BASE)
    early = past.edit("cleo", policy_of([*BASE.rules.values(), allow("tag:hmi", "tag:gateway")]), [base])
    past.edit("ada", policy_of([*BASE.rules.values(), ALLOWED], [WRITES]), [base])
    past.edit("bob", policy_of([allow("tag:hmi", "tag:gateway"), DENIED]), [early])
    found = course(past)
    assert found.blocked is not None
    assert [made.author for made in found.blocked.edits] == [AUTHORS["bob"], AUTHORS["ada"]]


def test_an_edit_that_mends_it_comes_into_force() -> None:
    past = Past()
    past.edit("ada", BASE)
    past.edit("bob", policy_of([DENIED], [WRITES]))
    past.edit("cleo", policy_of([ALLOWED], [WRITES]))
    assert course(past).blocked is None
    assert standings(past) == [Standing.SUPERSEDED, Standing.FAILED, Standing.IN_FORCE]


def test_a_revision_is_judged_at_the_time_of_its_change() -> None:
    past = Past()
    ending = policy_of([allow("tag:robot", "tag:plc", until_ms=START_MS + 1_000)], [WRITES])
    past.edit("ada", ending)
    past.write("bob", dict(to_keys(BASE)))
    assert standings(past) == [Standing.IN_FORCE, Standing.FAILED]


def test_an_edit_is_in_force_when_its_last_part_is_there() -> None:
    past = Past()
    past.edit("ada", BASE)
    past.edit("bob", large())
    assert len(past.changes) > 3
    followed = Revisions()
    for count in range(2, len(past.changes)):
        found = followed.update(past.changes[:count])
        assert found.policy == BASE
        assert found.blocked is not None
        assert found.blocked.revision.standing is Standing.OPEN
        assert str(NodeId(AUTHORS["bob"])) in found.blocked.reason
        assert [made.author for made in found.blocked.edits] == [AUTHORS["bob"]]
    assert followed.update(past.changes).policy == large()


def test_who_left_an_edit_open_is_named_and_not_who_came_after() -> None:
    past = Past()
    past.edit("ada", BASE)
    begun = parts(*edit(past.content(), large()), marker=bytes(8))[0]
    past.write("bob", begun.puts, begun.deletes)
    past.write("cleo", dict(to_keys(policy_of([DENIED]))))
    found = course(past).blocked
    assert found is not None
    assert found.revision.author == AUTHORS["cleo"]
    assert [made.author for made in found.edits] == [AUTHORS["bob"]]
    past.edit("cleo", policy_of([DENIED]))
    assert course(past).policy == policy_of([DENIED])


def test_what_cannot_be_read_may_be_of_newer_software() -> None:
    past = Past()
    past.edit("ada", BASE)
    past.write("bob", {"group/machines": b"\xff"})
    past.write("cleo", dict(to_keys(policy_of([DENIED]))))
    found = course(past)
    assert found.policy == BASE
    assert found.blocked is not None
    assert found.blocked.revision.standing is Standing.UNREADABLE
    assert "newer software" in found.blocked.reason
    assert [made.author for made in found.blocked.edits] == [AUTHORS["bob"]]


def test_one_more_change_judges_one_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    real = run_tests

    def counted(policy: Policy, now_ms: int) -> tuple[Failure, ...]:
        judged.append(now_ms)
        return real(policy, now_ms)

    monkeypatch.setattr(revisions, "run_tests", counted)
    past = Past()
    followed = Revisions()
    for number in range(20):
        past.edit("ada", policy_of([allow("tag:robot", "tag:plc", note=str(number))]))
        followed.update(past.changes)
    assert len(judged) == 20
    followed.standings()
    assert len(judged) == 20
    Revisions().update(past.changes)
    assert len(judged) == 21


def test_of_revisions_before_the_last_one_failing_test_is_enough_and_the_likely_are_tried_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thirty tests of as many ends, of which one fails in each of ten revisions."""
    judged: list[int] = []
    real = trial._Bench.judge

    def counted(bench: trial._Bench, about: int, tests: list[PolicyTest]) -> Iterator[Failure]:
        judged.append(len(tests))
        return real(bench, about, tests)

    tags = [f"line-{number}" for number in range(30)]
    rules = [allow(f"tag:{tag}", f"tag:{tag}") for tag in tags]
    tests = [
        PolicyTest(source=ends, target=ends, service=MODBUS, expect=Action.ALLOW)
        for ends in (Subject(tags=frozenset({tag})) for tag in tags)
    ]
    past = Past()
    past.edit("ada", policy_of(rules, tests))
    for number in range(10):
        past.edit("bob", policy_of([*rules[1:], allow("tag:hmi", "tag:plc", note=str(number))], tests))
    monkeypatch.setattr(trial._Bench, "judge", counted)
    followed = Revisions()
    found = followed.update(past.changes)
    assert found.blocked is not None
    assert found.blocked.reason == "1 of its tests fails"
    assert len(judged) == 30 + 9 + 30  # all of the last, one of each before, all of the one that is in force
    assert [revision.reason for revision in followed.standings(2)] == ["it fails tests of its own"] * 2
    assert len(judged) == 69
    followed.update(past.changes[:-1])
    assert len(judged) == 69 + 30  # it is the last now, and all that fails is told


def test_the_same_revision_has_the_same_policy_object() -> None:
    past = Past()
    past.edit("ada", BASE)
    followed = Revisions()
    before = followed.update(past.changes).policy
    past.edit("bob", policy_of([DENIED], [WRITES]))
    assert followed.update(past.changes).policy is before


def test_a_long_history_is_followed_from_its_end() -> None:
    past = Past()
    chance = Random(7)
    for _ in range(1_000):
        past.edit("ada", policy_of([allow("tag:robot", "tag:plc", note=str(chance.randrange(50))), ALLOWED], [WRITES]))
    followed = Revisions()
    assert followed.update(past.changes).blocked is None
    assert len(followed.standings(10)) == 10
    assert len(followed.standings()) == len(past.changes)


def test_the_content_after_each_change_can_be_had_again() -> None:
    past = Past()
    first = past.edit("ada", BASE)
    last = past.edit("bob", policy_of([DENIED]))
    assert content_at(past.changes, first) == to_keys(BASE)
    assert content_at(past.changes, last) == to_keys(policy_of([DENIED]))
    with pytest.raises(StateError, match="no revision"):
        content_at(past.changes, b"\x00" * 32)
