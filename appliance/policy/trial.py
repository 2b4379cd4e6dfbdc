"""The tests that a policy carries: does it do what its author expects, for every flow that a test speaks of?

Rules are numbered and sets of them are bit masks: which join the two ends, from an index by selector, and which serve
a protocol and port, from disjoint ranges within which no rule ends. So a test of a range is judged whole and not by
samples. Verdicts are those of `evaluate.judge`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from operator import or_
from typing import TypeAlias

import msgspec

from appliance.core.prefix import ADDRESS_BITS, ADDRESS_BYTES, Prefix
from appliance.policy.evaluate import Reason
from appliance.policy.model import (
    MAX_PORT,
    NUMBERS,
    Action,
    AnySelector,
    NodeSelector,
    Policy,
    PolicyTest,
    Protocol,
    Rule,
    RuleId,
    Selector,
    SelfSelector,
    Service,
    Subject,
    SubnetSelector,
    TagSelector,
)
from appliance.policy.partition import LAST_PROTOCOL, partition
from appliance.policy.pieces import bits

Mask: TypeAlias = int  # a set of rules: bit n is the rule number n
Segment: TypeAlias = tuple[int, int, Mask]  # the first protocol and port where exactly these rules serve


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A test that the policy does not pass, and the first flow that shows it."""

    test: PolicyTest
    expected: Action
    found: Reason
    protocol: int  # IANA number
    port: int
    rules: tuple[RuleId, ...]  # which bring the verdict about, sorted; none where no rule matches


def run_tests(policy: Policy, now_ms: int) -> tuple[Failure, ...]:
    """The tests that fail at a moment (ms since the Unix epoch), in the order of their ids."""
    if not policy.tests:
        return ()
    bench = _Bench(policy, now_ms)
    tests = (test for _, test in sorted(policy.tests.items()))
    return tuple(failure for test in tests if (failure := bench.trial(test)) is not None)


class _Bench:
    """The active rules of a policy, numbered by id."""

    def __init__(self, policy: Policy, now_ms: int) -> None:
        self._ids = sorted(name for name, rule in policy.rules.items() if rule.active(now_ms))
        rules = [policy.rules[name] for name in self._ids]
        self._denies = _union(1 << number for number, rule in enumerate(rules) if rule.action is Action.DENY)
        self._joined = _Joined(rules)
        self._segments = list(_segments(rules))
        self._found: dict[tuple[Mask, Service, Action], tuple[int, int, Mask] | None] = {}

    def trial(self, test: PolicyTest) -> Failure | None:
        """What is wrong with the test; None if nothing is."""
        question = (self._joined.masks(test.source, test.target), test.service, test.expect)
        if question not in self._found:
            self._found[question] = self._first_otherwise(*question)
        answer = self._found[question]
        if answer is None:
            return None
        protocol, port, matching = answer
        denies = matching & self._denies
        reason = Reason.DENIED if denies else Reason.ALLOWED if matching else Reason.NO_RULE
        rules = tuple(self._ids[number] for number in bits(denies or matching))
        return Failure(test=test, expected=test.expect, found=reason, protocol=protocol, port=port, rules=rules)

    def _first_otherwise(self, joined: Mask, service: Service, expect: Action) -> tuple[int, int, Mask] | None:
        """The first protocol and port of the service that is not judged as expected, and the rules that match."""
        first, last = _reach(service)
        wanted, denies = expect is Action.ALLOW, self._denies & joined
        if not wanted and not joined & ~denies:
            return None  # the usual test that something is denied: no rule speaks about these ends
        begin = bisect_right(self._segments, first, key=_start) - 1
        end = bisect_right(self._segments, last, key=_start)
        for protocol, port, serving in self._segments[begin:end]:
            if (bool(joined & serving) and not denies & serving) is not wanted:
                return *max((protocol, port), first), joined & serving
        return None


def _start(segment: Segment) -> tuple[int, int]:
    return segment[0], segment[1]


def _reach(service: Service) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first and the last protocol and port of a service."""
    if service.protocol is Protocol.ANY:
        return (0, 0), (LAST_PROTOCOL, MAX_PORT)
    number = NUMBERS[service.protocol]
    return (number, service.first), (number, service.last)


def _segments(rules: Iterable[Rule]) -> Iterator[Segment]:
    """Every protocol and port from the first to the last, also those that no rule serves; ascending."""
    following = (0, 0)
    for (first, last, port_first, port_last), mask in partition(
        (1 << number, rule.services) for number, rule in enumerate(rules)
    ):
        if following < (first, port_first):
            yield *following, 0
        yield first, port_first, mask
        following = (last, port_last + 1) if port_last < MAX_PORT else (last + 1, 0)
    if following <= (LAST_PROTOCOL, MAX_PORT):
        yield *following, 0


class _Joined:
    """Which rules speak about two ends, whatever the service."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._sources: dict[Selector, Mask] = defaultdict(int)
        self._targets: dict[Selector, Mask] = defaultdict(int)
        self._selves: dict[Selector, Mask] = defaultdict(int)  # a source that pairs with itself
        for number, rule in enumerate(rules):
            bit = 1 << number
            for selector in rule.sources:
                self._sources[selector] |= bit
            for selector in rule.targets:
                if not isinstance(selector, SelfSelector):
                    self._targets[selector] |= bit
                    continue
                for source in rule.sources:
                    self._selves[source] |= bit
        used = {*self._sources, *self._targets}
        self._lengths = sorted({found.prefix.length for found in used if isinstance(found, SubnetSelector)})

    def masks(self, source: Subject, target: Subject) -> Mask:
        """The rules whose pieces select both."""
        ours, theirs = self._selecting(source), self._selecting(target)
        plain = _of(self._sources, ours) & _of(self._targets, theirs)
        return plain | _of(self._selves, ours & theirs)

    def _selecting(self, subject: Subject) -> set[Selector]:
        """Every selector that means the subject, of those that rules may use."""
        found: set[Selector] = {AnySelector()}
        if subject.host is not None:
            return found | {SubnetSelector(_cut(subject.host, length)) for length in self._lengths}
        found |= {TagSelector(tag) for tag in subject.tags}
        return found if subject.node is None else found | {NodeSelector(subject.node)}


def _cut(address: bytes, length: int) -> Prefix:
    """The prefix of that length that holds the address."""
    host_bits = ADDRESS_BITS - length
    return Prefix((int.from_bytes(address, "big") >> host_bits << host_bits).to_bytes(ADDRESS_BYTES, "big"), length)


def _of(index: Mapping[Selector, Mask], selectors: Iterable[Selector]) -> Mask:
    return _union(index.get(selector, 0) for selector in selectors)


def _union(masks: Iterable[Mask]) -> Mask:
    return reduce(or_, masks, 0)
