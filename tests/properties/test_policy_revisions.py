"""Laws of revisions: what is in force follows from the history alone, and no half of an edit ever is."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.core.prefix import parse_address
from appliance.policy.canonical_rule import canonical, fault
from appliance.policy.document import edit, from_keys, is_open, parts, to_keys
from appliance.policy.evaluate import judge
from appliance.policy.model import NUMBERS, Action, AnySelector, Policy, PolicyTest, Protocol, Rule, Service, Subject
from appliance.policy.revisions import Revisions, Standing
from appliance.policy.trial import run_tests
from appliance.replica.change_codec import Scalar
from appliance.replica.history import DocumentChange
from tests.policy_past import Past, policy_of
from tests.policy_worlds import BORDER_PORTS, NODES, NOW_MS, ported, rules, tags

AUTHORS = ("ada", "bob", "cleo")
NUMBERED = (0, 5, 6, 7, 16, 17, 18, 57, 58, 59, 131, 132, 133, 255)  # protocols, and their neighbours
ANYBODY = (AnySelector(),)
MARK = Rule(action=Action.ALLOW, sources=ANYBODY, targets=ANYBODY, services=(Service(Protocol.SCTP, 7, 7),), note="x")
PORTED = {NUMBERS[protocol] for protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP)}
good_rules = rules.map(canonical).filter(lambda rule: not fault(rule))
subjects = st.one_of(
    st.builds(Subject, tags=tags),
    st.builds(Subject, node=st.sampled_from(NODES), tags=tags),
    st.sampled_from(["fd00::1", "fd00::5", "fd00::8", "2001:db8::1"]).map(
        lambda text: Subject(host=parse_address(text))
    ),
)
services = ported | st.sampled_from([Service(Protocol.ICMPV6), Service(Protocol.ANY), Service(Protocol.TCP)])
expectations = st.builds(
    PolicyTest, source=subjects, target=subjects, service=services, expect=st.sampled_from(list(Action))
)
policies = st.builds(policy_of, st.lists(good_rules, max_size=5), st.lists(expectations, max_size=2))


@st.composite
def histories(draw: st.DrawFn) -> list[DocumentChange]:
    """Edits of whole policies on what their author knew; now and then a part left open, or something unreadable."""
    past = Past()
    for number in range(draw(st.integers(1, 8))):
        author = draw(st.sampled_from(AUTHORS))
        known = draw(st.sampled_from([None, *([change.change] for change in past.changes[-3:])]))
        match draw(st.sampled_from(["edit"] * 6 + ["open", "unreadable"])):
            case "edit":
                past.edit(author, draw(policies), known)
            case "open":
                past.write(author, {f"part/{number:016x}": True}, knowing=known)
            case _:
                past.write(author, {f"group/new-{number}": b"\xff"}, knowing=known)
    return past.changes


@given(histories(), histories(), st.randoms(use_true_random=False))
def test_the_course_is_the_same_whatever_was_followed_before(
    history: list[DocumentChange], other: list[DocumentChange], chance: Random
) -> None:
    followed = Revisions()
    for _ in range(6):
        shown = chance.choice((history, other))
        shown = shown[: chance.randint(0, len(shown))]
        fresh = Revisions()
        assert followed.update(shown) == fresh.update(shown)
        if chance.random() < 0.5:
            assert followed.standings() == fresh.standings()


@given(histories())
def test_in_force_is_the_last_revision_that_may_be(history: list[DocumentChange]) -> None:
    followed = Revisions()
    course = followed.update(history)
    found = followed.standings()
    able = [revision for revision in found if revision.standing in {Standing.IN_FORCE, Standing.SUPERSEDED}]
    assert able[:1] == ([] if course.in_force is None else [course.in_force])
    assert [revision.change for revision in found] == [change.change for change in reversed(history)]
    assert (course.blocked is None) == (not found or found[0].standing is Standing.IN_FORCE)
    assert course.blocked is None or course.blocked.edits


@given(st.lists(good_rules, max_size=4), subjects, subjects, ported, st.booleans())
def test_of_two_edits_that_only_together_fail_the_earlier_stays_and_both_are_named(
    base: list[Rule], source: Subject, target: Subject, service: Service, swapped: bool
) -> None:
    denial = Rule(action=Action.DENY, sources=ANYBODY, targets=ANYBODY, services=(service,))
    allowance = replace(denial, action=Action.ALLOW)
    kept = [rule for rule in base if rule.action is Action.ALLOW]
    test = PolicyTest(source=source, target=target, service=service, expect=Action.ALLOW)
    edits = [policy_of([MARK, *kept, allowance], [test]), policy_of([MARK, *kept, denial])]
    past = Past()
    start = past.edit("cleo", policy_of([*kept, MARK]))
    first, second = (
        past.edit(author, policy, [start])
        for author, policy in zip(AUTHORS, reversed(edits) if swapped else edits, strict=False)
    )
    course = Revisions().update(past.changes)
    assert course.in_force is not None
    assert course.in_force.change == first
    assert course.blocked is not None
    assert [made.change for made in course.blocked.edits] == [second, first]


@given(policies, policies, st.integers(0, 250), st.binary(min_size=8, max_size=8))
def test_an_edit_in_parts_gives_the_policy_and_is_open_until_the_last(
    old: Policy, new: Policy, more: int, marker: bytes
) -> None:
    new = policy_of([*new.rules.values(), *(replace(MARK, note=f"{number} {'x' * 200}") for number in range(more))])
    content: dict[str, Scalar] = dict(to_keys(old))
    made = parts(*edit(content, new), marker=marker)
    for number, part in enumerate(made, start=1):
        content.update(part.puts)
        for key in part.deletes:
            del content[key]
        assert is_open(content) == (number < len(made))
    assert content == to_keys(new)


@given(policies)
def test_a_document_is_read_back(policy: Policy) -> None:
    assert from_keys(to_keys(policy)) == policy


@given(st.lists(good_rules, max_size=7), st.lists(expectations, min_size=1, max_size=6))
def test_tests_are_judged_as_every_one_of_their_flows_is(found: list[Rule], wanted: list[PolicyTest]) -> None:
    policy = policy_of(found, wanted)
    failures = {failure.test: failure for failure in run_tests(policy, NOW_MS)}
    for test in policy.tests.values():
        failure = failures.get(test)
        otherwise = [
            flow
            for flow in flows_of(test.service)
            if judge(policy, test.source, test.target, *flow, NOW_MS).allowed != (test.expect is Action.ALLOW)
        ]
        assert (failure is not None) == bool(otherwise)
        if failure is not None:
            assert (failure.protocol, failure.port) == otherwise[0]
            verdict = judge(policy, test.source, test.target, failure.protocol, failure.port, NOW_MS)
            assert failure.found is verdict.reason
            assert failure.rules == (verdict.denies or verdict.allows)


def flows_of(service: Service) -> list[tuple[int, int]]:
    """The flows of a service at every border that rules here can have."""
    if service.protocol is Protocol.ANY:
        return [(number, port) for number in NUMBERED for port in (BORDER_PORTS if number in PORTED else [0])]
    if service.protocol is Protocol.ICMPV6:
        return [(NUMBERS[service.protocol], 0)]
    ports = sorted({service.first, service.last, *BORDER_PORTS})
    return [(NUMBERS[service.protocol], port) for port in ports if service.first <= port <= service.last]
