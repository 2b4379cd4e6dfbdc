"""Laws of the semantics: no order, deny beats allow, nothing by default, and what `self` means."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow, Reason, evaluate
from appliance.policy.model import EMPTY, Action, Policy, Rule, SelfSelector
from tests.policy_worlds import NOW_MS, policy_of, rules, worlds

World = tuple[Policy, Directory, list[Flow]]


@given(worlds(), st.randoms(use_true_random=False))
def test_every_order_of_the_rules_gives_the_same_verdict(world: World, chance: Random) -> None:
    policy, directory, flows = world
    shuffled = list(policy.rules.items())
    chance.shuffle(shuffled)
    for flow in flows:
        assert evaluate(Policy(rules=dict(shuffled)), directory, flow, NOW_MS) == evaluate(
            policy, directory, flow, NOW_MS
        )


@given(worlds(), rules)
def test_one_more_deny_never_allows_more(world: World, added: Rule) -> None:
    policy, directory, flows = world
    more = policy_of(*policy.rules.values(), replace(added, action=Action.DENY))
    for flow in flows:
        assert evaluate(more, directory, flow, NOW_MS).allowed <= evaluate(policy, directory, flow, NOW_MS).allowed


@given(worlds(), rules)
def test_one_more_allow_never_allows_less(world: World, added: Rule) -> None:
    policy, directory, flows = world
    more = policy_of(*policy.rules.values(), replace(added, action=Action.ALLOW))
    for flow in flows:
        assert evaluate(more, directory, flow, NOW_MS).allowed >= evaluate(policy, directory, flow, NOW_MS).allowed


@given(worlds())
def test_a_deny_that_matches_beats_every_allow(world: World) -> None:
    policy, directory, flows = world
    for flow in flows:
        verdict = evaluate(policy, directory, flow, NOW_MS)
        assert verdict.allowed == (bool(verdict.allows) and not verdict.denies)
        assert (verdict.reason is Reason.DENIED) == bool(verdict.denies)
        assert {policy.rules[name].action for name in verdict.denies} <= {Action.DENY}
        assert {policy.rules[name].action for name in verdict.allows} <= {Action.ALLOW}


@given(worlds())
def test_without_rules_nothing_is_allowed(world: World) -> None:
    _, directory, flows = world
    for flow in flows:
        assert not evaluate(EMPTY, directory, flow, NOW_MS).allowed


@given(worlds())
def test_the_verdict_is_the_union_of_what_single_rules_say(world: World) -> None:
    policy, directory, flows = world
    for flow in flows:
        verdict = evaluate(policy, directory, flow, NOW_MS)
        alone = {name: evaluate(policy_of(rule), directory, flow, NOW_MS) for name, rule in policy.rules.items()}
        assert verdict.allows == tuple(sorted(name for name, found in alone.items() if found.allows))
        assert verdict.denies == tuple(sorted(name for name, found in alone.items() if found.denies))


def without_self(rule: Rule) -> list[Rule]:
    """The same with plain selectors only."""
    plain = tuple(target for target in rule.targets if not isinstance(target, SelfSelector))
    paired = rule.sources if len(plain) < len(rule.targets) else ()
    return [replace(rule, targets=plain)] * bool(plain) + [
        replace(rule, sources=(source,), targets=(source,)) for source in paired
    ]


@given(worlds())
def test_a_rule_to_self_is_one_rule_for_each_of_its_sources(world: World) -> None:
    policy, directory, flows = world
    plain = policy_of(*(part for rule in policy.rules.values() for part in without_self(rule)))
    for flow in flows:
        assert evaluate(plain, directory, flow, NOW_MS).reason is evaluate(policy, directory, flow, NOW_MS).reason
