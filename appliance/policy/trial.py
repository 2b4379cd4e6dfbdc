"""The tests that a policy carries: does it do what its author expects, for every flow that a test speaks of?

An index of rules by selector says which of them are about the two ends of a test. What those allow together is a set of
points, a service a span of them; so a test of a range is judged whole and not by samples, and tests that the same rules
are about share the set. Verdicts are those of `evaluate.judge`; what it all costs, `bounds` keeps within reason.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain, islice

import msgspec

from appliance.policy.evaluate import Reason
from appliance.policy.joined import Joined, Mask
from appliance.policy.model import MAX_PORT, Action, Policy, PolicyTest, Rule, RuleId
from appliance.policy.pieces import bits
from appliance.policy.points import PORT_BITS, Point, Points, span, united

NAMED = 20  # rules of one failure


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A test that the policy does not pass, and the first flow that shows it."""

    test: PolicyTest
    expected: Action
    found: Reason
    protocol: int  # IANA number
    port: int
    rules: tuple[RuleId, ...]  # which bring the verdict about, the first of them in order; none where no rule matches


def run_tests(policy: Policy, now_ms: int) -> tuple[Failure, ...]:
    """The tests that fail at a moment (ms since the Unix epoch), in the order of their ids."""
    found = {failure.test: failure for failure in failing(policy, now_ms)}
    return tuple(found[test] for _, test in sorted(policy.tests.items()) if test in found)


def failing(policy: Policy, now_ms: int, likely: Container[PolicyTest] = ()) -> Iterator[Failure]:
    """The tests that fail, as they are found; the likely ones are tried first."""
    if not policy.tests:
        return
    bench = _Bench(policy, now_ms)
    alike: dict[Mask, list[PolicyTest]] = defaultdict(list)
    for test in sorted(policy.tests.values(), key=lambda test: test not in likely):
        alike[bench.joined.about(test.source, test.target)].append(test)
    for about, tests in alike.items():
        yield from bench.judge(about, tests)


class _Served:
    """The services of a rule as spans, ascending."""

    def __init__(self, name: RuleId, rule: Rule) -> None:
        spans = sorted(map(span, rule.services))
        self.name = name
        self.firsts = [first for first, _ in spans]
        self.lasts = [last for _, last in spans]

    def __contains__(self, point: Point) -> bool:
        place = bisect_right(self.firsts, point) - 1
        return place >= 0 and point <= self.lasts[place]


class _Bench:
    """The active rules of a policy, numbered by id."""

    def __init__(self, policy: Policy, now_ms: int) -> None:
        active = [(name, rule) for name, rule in sorted(policy.rules.items()) if rule.active(now_ms)]
        self._served = [_Served(name, rule) for name, rule in active]
        self.joined = Joined(rule for _, rule in active)
        self._denying: Mask = sum(1 << number for number, (_, rule) in enumerate(active) if rule.action is Action.DENY)

    def judge(self, about: Mask, tests: Iterable[PolicyTest]) -> Iterator[Failure]:
        """The tests that fail, of those between ends that these rules are about."""
        allows, denies = (
            [self._served[number] for number in bits(rules)]
            for rules in (about & ~self._denying, about & self._denying)
        )
        allowed = _points(allows).without(_points(denies)) if allows else Points()
        for test in tests:
            ends = span(test.service)
            wanted = test.expect is Action.ALLOW
            point = allowed.first_missing(*ends) if wanted else allowed.first_within(*ends)
            if point is not None:
                yield _failure(test, point, allows, denies)


def _points(rules: Sequence[_Served]) -> Points:
    """What the rules serve together."""
    return united(chain.from_iterable(rule.firsts for rule in rules), chain.from_iterable(rule.lasts for rule in rules))


def _failure(test: PolicyTest, point: Point, allows: Sequence[_Served], denies: Sequence[_Served]) -> Failure:
    names = tuple(islice((rule.name for rule in denies if point in rule), NAMED))
    reason = Reason.DENIED
    if not names:
        names = tuple(islice((rule.name for rule in allows if point in rule), NAMED))
        reason = Reason.ALLOWED if names else Reason.NO_RULE
    return Failure(
        test=test,
        expected=test.expect,
        found=reason,
        protocol=point >> PORT_BITS,
        port=point & MAX_PORT,
        rules=names,
    )
