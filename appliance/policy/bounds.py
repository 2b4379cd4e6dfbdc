"""How much a policy may hold: sums over the whole document, so that every replica refuses the same ones.

They hang on nothing else: not on who is a member, nor on the time. What it costs a node to read a policy, to judge its
tests and to prepare filters and previews follows from them. A document beyond one of them has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.policy.joined import looked_at
from appliance.policy.model import Policy
from appliance.policy.points import extent


class Excess(NamedTuple):
    """A bound that a policy does not keep: what there is too much of, and what people can do about it."""

    what: str
    total: int
    limit: int
    advice: str


def excess(policy: Policy, limits: Limits = LIMITS) -> Excess | None:
    """The first bound that the policy does not keep; None if it keeps all."""
    return next((found for found in _sums(policy, limits) if found.total > found.limit), None)


def check(policy: Policy, limits: Limits = LIMITS) -> None:
    """Raises `policy.bounds`, with the bound, the sum and what to do."""
    refuse(excess(policy, limits))


def check_size(size: int, limits: Limits = LIMITS) -> None:
    """The same for the bytes of a document."""
    if size > limits.policy_bytes:
        advice = "Let one rule speak of several ends and services, and shorten the longest notes"
        refuse(Excess("bytes", size, limits.policy_bytes, advice))


def refuse(found: Excess | None) -> None:
    """Raises `policy.bounds` where there is an excess."""
    if found is not None:
        total, limit = f"{found.total:,}", f"{found.limit:,}"
        raise error("policy.bounds", count=total, what=found.what, limit=limit, advice=found.advice)


def _sums(policy: Policy, limits: Limits) -> Iterator[Excess]:
    """Each of the sums, those first that bound what the later ones cost."""
    rules = policy.rules.values()
    fewer = "Let one rule speak of several ends and services: up to 64 of each"
    yield Excess("rules", len(rules), limits.policy_rules, fewer)
    yield Excess("tests", len(policy.tests), limits.policy_tests, "Take out tests that say the same")
    for what, names in (("groups", policy.groups), ("named services", policy.services)):
        yield Excess(what, len(names), limits.policy_names, "Take out those that no rule uses")
    yield Excess(
        "selectors in its rules",
        sum(len(rule.sources) + len(rule.targets) for rule in rules),
        limits.policy_ends,
        "Give nodes that may do the same one tag, and name that one instead of many",
    )
    yield Excess(
        "pieces of rules, a rule to `self` having one for each source",
        sum(len(rule.pieces()) for rule in rules),
        limits.policy_pieces,
        "Put rules to `self` with the same sources together: one rule may have up to 64 services",
    )
    ranges, overlaps = extent({rule.services for rule in rules})
    yield Excess(
        "ranges of ports that its rules tell apart",
        ranges,
        limits.policy_ranges,
        "Write neighbouring ports as one range",
    )
    yield Excess(
        "overlaps of ranges of ports in its rules",
        overlaps,
        limits.policy_overlaps,
        "Use the same list of services in several rules, and narrower ranges",
    )
    yield Excess(
        "ranges of ports for its tests to look at, each test at those of all rules about its ends",
        looked_at(policy),
        limits.policy_trials,
        "Take out tests that say the same, and give rules from `any` or to `any` narrower ends or fewer ranges",
    )
