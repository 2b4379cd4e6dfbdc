"""Laws of the bounds of a policy: what is counted is what the meaning says, and in no order of its parts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.core.errors import StateError
from appliance.core.limits import LIMITS
from appliance.policy.bounds import excess
from appliance.policy.canonical_rule import canonical_services
from appliance.policy.compile import Compiler, compile_filter
from appliance.policy.directory import Directory
from appliance.policy.evaluate import joins
from appliance.policy.filter import Filter
from appliance.policy.joined import Joined, looked_at
from appliance.policy.model import NUMBERS, Policy, PolicyTest, Protocol, Rule, Service, Subject
from appliance.policy.partition import partition
from appliance.policy.pieces import bits
from appliance.policy.points import Points, extent, united
from appliance.policy.trial import run_tests
from tests.policy_past import policy_of
from tests.policy_worlds import NOW_MS, directories, policies, rules, services
from tests.properties.test_policy_revisions import expectations, good_rules, subjects

SUMS = ("policy_rules", "policy_tests", "policy_ends", "policy_pieces", "policy_ranges", "policy_overlaps")
chances = st.randoms(use_true_random=False)
spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)).map(lambda found: (found[0], sum(found))), max_size=8)


def points_of(found: Points) -> set[int]:
    return {point for first, last in zip(*found, strict=True) for point in range(first, last + 1)}


def made(found: Sequence[tuple[int, int]]) -> Points:
    return united((first for first, _ in found), (last for _, last in found))


@given(spans)
def test_spans_are_united_to_the_fewest_that_hold_the_same_points(found: list[tuple[int, int]]) -> None:
    whole = made(found)
    assert points_of(whole) == {point for first, last in found for point in range(first, last + 1)}
    assert all(last + 1 < first for last, first in zip(whole.lasts, whole.firsts[1:], strict=False))


@given(spans, spans, st.integers(0, 50), st.integers(0, 10))
def test_sets_of_points_are_sets(
    these: list[tuple[int, int]], others: list[tuple[int, int]], first: int, more: int
) -> None:
    left = made(these).without(made(others))
    wanted = points_of(made(these)) - points_of(made(others))
    assert points_of(left) == wanted
    asked = range(first, first + more + 1)
    assert left.first_within(first, first + more) == next((point for point in asked if point in wanted), None)
    assert left.first_missing(first, first + more) == next((point for point in asked if point not in wanted), None)


@given(st.integers(0, 1 << 90) | st.sets(st.integers(0, 9_000)).map(lambda found: sum(1 << bit for bit in found)))
@example(sum(1 << bit for bit in range(0, 4_097, 64)))
def test_the_bits_of_a_mask_are_those_that_are_set(mask: int) -> None:
    assert list(bits(mask)) == [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


@given(st.lists(st.lists(services, min_size=1, max_size=4).map(canonical_services), max_size=6))
@example([(Service(Protocol.TCP, 79, 79),), (Service(Protocol.TCP, 80, 80),)])
def test_the_extent_of_services_is_what_a_partition_of_them_has(lists: list[tuple[Service, ...]]) -> None:
    found = partition((1 << bit, each) for bit, each in enumerate(lists))
    ranges, overlaps = extent(lists)
    held = sum(mask.bit_count() for _, mask in found)
    if (Service(Protocol.ANY),) not in lists:
        assert (ranges, overlaps) == (len(found), held)
    more = 2 * len(NUMBERS)  # where a named protocol is apart from its neighbours, or has none of its own
    assert abs(len(found) - ranges) <= more
    assert abs(held - overlaps) <= more * len(lists)


@given(st.lists(rules, max_size=7), subjects, subjects)
def test_the_index_finds_the_rules_that_join_two_ends(found: list[Rule], source: Subject, target: Subject) -> None:
    wanted = [number for number, rule in enumerate(found) if joins(rule, source, target)]
    assert list(bits(Joined(found).about(source, target))) == wanted


@given(st.lists(good_rules, max_size=7), st.lists(expectations, max_size=6))
def test_tests_look_at_the_ranges_of_the_rules_about_their_ends(found: list[Rule], wanted: list[PolicyTest]) -> None:
    policy = policy_of(found, wanted)
    assert looked_at(policy) == sum(
        len(rule.services)
        for test in policy.tests.values()
        for rule in policy.rules.values()
        if joins(rule, test.source, test.target)
    )


@given(st.lists(good_rules, max_size=7), st.lists(expectations, max_size=6), chances)
def test_neither_a_refusal_nor_a_verdict_hangs_on_the_order_of_rules_and_tests(
    found: list[Rule], wanted: list[PolicyTest], chance: Random
) -> None:
    policy = policy_of(found, wanted)
    for each in (found, wanted):
        chance.shuffle(each)
    shuffled = policy_of(found, wanted)
    assert run_tests(shuffled, NOW_MS) == run_tests(policy, NOW_MS)
    for bound in (*SUMS, "policy_trials"):
        limits = replace(LIMITS, **{bound: chance.randint(0, 20)})
        assert excess(shuffled, limits) == excess(policy, limits)


def filtered(compiler: Compiler, node: bytes) -> Filter | None:
    """None where it takes too many steps."""
    try:
        return compiler.filter(node)
    except StateError:
        return None


def compiler_of(policy: Policy, steps: int) -> Compiler:
    made = Compiler(replace(LIMITS, filter_steps=steps))
    made.set_policy(policy, NOW_MS)
    return made


@given(policies(), directories(), directories())
def test_how_many_steps_a_filter_takes_does_not_hang_on_what_was_made_before(
    policy: Policy, before: Directory, directory: Directory
) -> None:
    node = min(directory.members)

    def is_made(steps: int) -> bool:
        fresh = compiler_of(policy, steps)
        fresh.set_directory(directory)
        return filtered(fresh, node) is not None

    needed = bisect_left(range(10_000), True, key=is_made)
    for steps, wanted in ((needed, compile_filter(policy, directory, node, NOW_MS)), (needed - 1, None)):
        warm = compiler_of(policy, steps)
        for known in (before, directory, before, directory):
            warm.set_directory(known)
            if node in known.members:
                filtered(warm, node)
        assert filtered(warm, node) == wanted
