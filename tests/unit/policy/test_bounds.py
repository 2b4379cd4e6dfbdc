"""What a policy may hold in all: accepted at each bound, refused beyond it, where it is read, written and folded."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from appliance.core.errors import InputError
from appliance.core.limits import LIMITS
from appliance.policy import trial
from appliance.policy.bounds import check, excess
from appliance.policy.document import from_keys, to_keys
from appliance.policy.joined import looked_at
from appliance.policy.model import Action, Policy, PolicyTest, Protocol, Rule, Service, Subject, TagSelector
from appliance.policy.parse import parse
from appliance.policy.points import Point, Points, united
from appliance.policy.revisions import Revisions, Standing
from appliance.policy.trial import run_tests
from tests.policy_past import AUTHORS, Past, policy_of
from tests.unit.policy.cells import NOW_MS, allow, cell, deny


def tcp(first: int, last: int) -> Service:
    return Service(Protocol.TCP, first, last)


def expects(source: str, target: str) -> PolicyTest:
    ends = (Subject(tags=frozenset(tags.split())) for tags in (source, target))
    return PolicyTest(source=next(ends), target=next(ends), service=tcp(80, 80), expect=Action.ALLOW)


WHOLE = Policy(
    rules=policy_of(
        [
            allow("tag:a tag:b", "self tag:c", tcp(80, 90), tcp(100, 100)),
            deny("any", "tag:c", tcp(85, 200), until_ms=5),  # over long ago, and counted
        ]
    ).rules,
    tests=policy_of(tests=[expects("a", "c"), expects("a", "a"), expects("x", "y")]).tests,
    groups={"machines": ("a", "b")},
    services={"web": (tcp(80, 90),)},
)
SIZE = sum(len(key) + len(value) for key, value in to_keys(WHOLE).items())

# the bound, what WHOLE has of it, how it is called
SUMS = [
    ("policy_rules", 2, "rules"),
    ("policy_tests", 3, "tests"),
    ("policy_names", 1, "groups"),
    ("policy_ends", 6, "selectors in its rules"),
    ("policy_pieces", 4, "pieces of rules, a rule to `self` having one for each source"),  # 1 + 2, and 1
    ("policy_ranges", 5, "ranges of ports that its rules tell apart"),  # 80-84, 85-90, 91-99, 100, 101-200
    ("policy_overlaps", 7, "overlaps of ranges of ports in its rules"),  # two of them in both lists
    ("policy_trials", 5, "ranges of ports for its tests to look at, each test at those of all rules about its ends"),
    ("policy_bytes", SIZE, "bytes"),
]


@pytest.mark.parametrize("bound, total, what", SUMS)
def test_a_document_at_a_bound_is_read_and_one_beyond_it_is_refused_by_name(bound: str, total: int, what: str) -> None:
    keys = to_keys(WHOLE)
    assert from_keys(keys, replace(LIMITS, **{bound: total})) == WHOLE
    below = replace(LIMITS, **{bound: total - 1})
    for attempt in (lambda: from_keys(keys, below), lambda: to_keys(WHOLE, below)):
        with pytest.raises(InputError) as refused:
            attempt()
        assert refused.value.key == "policy.bounds"
        assert refused.value.message == f"The policy has {total} {what}; at most {total - 1} may be."
        assert not refused.value.hint.startswith((".", "{"))


def test_named_services_are_bounded_as_groups_are() -> None:
    found = excess(replace(WHOLE, groups={}), replace(LIMITS, policy_names=0))
    assert found is not None
    assert found.what == "named services"


def test_a_text_beyond_a_bound_is_refused_once_it_has_no_mistake() -> None:
    text = "version: 1\nrules: [{allow: tcp/443, from: [tag:plc, tag:hmi, tag:robot], to: %s}]"
    assert parse(text % "self", cell(), replace(LIMITS, policy_pieces=3)).policy.rules
    tight = replace(LIMITS, policy_pieces=2)
    for target, key in (("self", "policy.bounds"), ("[self, tag:PLC]", "policy.text")):
        with pytest.raises(InputError) as refused:
            parse(text % target, cell(), tight)
        assert refused.value.key == key


def test_a_revision_beyond_a_bound_has_no_effect_and_says_which() -> None:
    past = Past()
    first = past.edit("ada", policy_of([allow("tag:a tag:b", "self")]))
    past.edit("bob", policy_of([allow("tag:a tag:b tag:c", "self")]))
    found = Revisions(replace(LIMITS, policy_pieces=2)).update(past.changes)
    assert found.in_force is not None
    assert found.in_force.change == first
    assert found.blocked is not None
    assert found.blocked.revision.standing is Standing.TOO_LARGE
    assert "3 pieces of rules" in found.blocked.reason
    assert "at most 2 may be" in found.blocked.reason
    assert [made.author for made in found.blocked.edits] == [AUTHORS["bob"]]
    assert Revisions().update(past.changes).blocked is None


def test_of_two_edits_that_are_too_large_only_together_both_are_named() -> None:
    past = Past()
    base = past.edit("ada", policy_of([allow("tag:hmi", "tag:plc")]))
    for author, tag in (("ada", "a"), ("bob", "b")):
        past.edit(author, policy_of([allow("tag:hmi", "tag:plc"), allow(f"tag:{tag}", "tag:plc")]), [base])
    found = Revisions(replace(LIMITS, policy_rules=2)).update(past.changes)
    assert found.blocked is not None
    assert "3 rules" in found.blocked.reason
    assert [made.author for made in found.blocked.edits] == [AUTHORS["bob"], AUTHORS["ada"]]


def crowded(count: int) -> Policy:
    """Rules of one port about all ends of as many tests, each about another set of these rules."""
    rules = [
        Rule(
            action=Action.ALLOW,
            sources=(TagSelector(f"odd-{number}"), TagSelector("x")) if number % 2 else (TagSelector("x"),),
            targets=(TagSelector("y"),),
            services=(tcp(2 * number, 2 * number),),
        )
        for number in range(count)
    ]
    tests = [
        PolicyTest(
            source=Subject(tags=frozenset({f"odd-{number}", *(["x"] if number % 3 else [])})),
            target=Subject(tags=frozenset({"y"})),
            service=Service(Protocol.ANY),
            expect=Action.ALLOW,
        )
        for number in range(count)
    ]
    return policy_of(rules, tests)


def test_tests_look_at_no_more_ranges_than_the_bound_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(firsts: list[Point], lasts: list[Point]) -> Points:
        begins = list(firsts)
        seen.append(len(begins))
        return united(begins, lasts)

    monkeypatch.setattr(trial, "united", counted)
    policy = crowded(60)
    assert len(run_tests(policy, NOW_MS)) == 60
    assert 0 < sum(seen) < looked_at(policy)
    assert len(seen) < 60  # tests that the same rules are about share what those allow


def test_a_policy_of_five_thousand_rules_with_hundreds_of_tests_keeps_all_bounds() -> None:
    rules = [
        allow(
            f"tag:cell-{number % 200} tag:role-{number % 24}", f"tag:line-{number % 50}", tcp(port, port + number % 9)
        )
        for number in range(LIMITS.policy_rules)
        for port in [1_000 + number * 7 % 4_000]
    ]
    rules[:100] = [
        allow(" ".join(f"tag:cell-{cell}" for cell in range(64)), "self", tcp(port, port)) for port in range(100)
    ]
    tests = [
        PolicyTest(
            source=Subject(tags=frozenset({f"cell-{number % 200}", f"role-{number % 24}", f"line-{number % 50}"})),
            target=Subject(tags=frozenset({f"line-{number * 3 % 50}", f"cell-{number * 5 % 200}"})),
            service=tcp(number, number + 10),
            expect=Action.DENY,
        )
        for number in range(500)
    ]
    policy = policy_of(rules, tests)
    assert (len(policy.rules), len(policy.tests)) == (5_000, 500)
    check(policy)
