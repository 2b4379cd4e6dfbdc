"""The tests that a policy carries: judged for all their flows, told by the first that is otherwise."""

from __future__ import annotations

import pytest

from appliance.core.prefix import parse_address
from appliance.policy.evaluate import Reason
from appliance.policy.model import Action, Policy, PolicyTest, Protocol, Rule, Service, Subject
from appliance.policy.trial import NAMED, Failure, run_tests
from tests.policy_past import policy_of
from tests.unit.policy.cells import MODBUS, NODES, NOW_MS, allow, deny

ROBOT = Subject(tags=frozenset({"robot", "cell-3"}))
PLC = Subject(node=NODES["plc"], tags=frozenset({"plc", "cell-3"}))
HOST = Subject(host=parse_address("fd00::5"))


def expects(action: Action, service: Service = MODBUS, source: Subject = ROBOT, target: Subject = PLC) -> PolicyTest:
    return PolicyTest(source=source, target=target, service=service, expect=action)


def tcp(first: int, last: int) -> Service:
    return Service(Protocol.TCP, first, last)


def failed(test: PolicyTest, *rules: Rule) -> Failure:
    (failure,) = run_tests(policy_of(rules, [test]), NOW_MS)
    return failure


def passes(test: PolicyTest, *rules: Rule) -> bool:
    return not run_tests(policy_of(rules, [test]), NOW_MS)


def test_a_policy_without_tests_passes() -> None:
    assert run_tests(Policy(), NOW_MS) == ()
    assert run_tests(policy_of([allow("any", "any")]), NOW_MS) == ()


def test_without_rules_everything_is_denied() -> None:
    assert passes(expects(Action.DENY, Service(Protocol.ANY)))
    failure = failed(expects(Action.ALLOW))
    assert (failure.found, failure.rules, failure.protocol, failure.port) == (Reason.NO_RULE, (), 6, 502)


def test_a_failure_names_the_rules_that_deny() -> None:
    denial, allowance = deny("tag:robot", "any"), allow("tag:robot", "tag:plc")
    failure = failed(expects(Action.ALLOW), allowance, denial)
    assert (failure.expected, failure.found, failure.rules) == (Action.ALLOW, Reason.DENIED, (denial.id,))


def test_a_failure_names_the_rules_that_allow() -> None:
    first, second = allow("tag:robot", "node:plc"), allow("any", "any", Service(Protocol.ANY))
    other = allow("tag:hmi", "tag:plc")
    failure = failed(expects(Action.DENY), first, second, other)
    assert (failure.found, failure.rules) == (Reason.ALLOWED, tuple(sorted((first.id, second.id))))


def test_a_failure_names_the_first_of_many_rules() -> None:
    rules = [allow("tag:robot", "tag:plc", note=str(number)) for number in range(NAMED + 5)]
    assert failed(expects(Action.DENY), *rules).rules == tuple(sorted(rule.id for rule in rules))[:NAMED]


@pytest.mark.parametrize(
    "rules, port",
    [
        ([allow("any", "any", tcp(100, 150))], 151),
        ([allow("any", "any", tcp(101, 200))], 100),
        ([allow("any", "any", tcp(100, 150)), allow("any", "any", tcp(152, 200))], 151),
        ([allow("any", "any", tcp(0, 65_535)), deny("any", "any", tcp(200, 300))], 200),
        ([allow("any", "any", tcp(0, 65_535)), deny("any", "any", tcp(17, 100))], 100),
    ],
)
def test_of_a_range_every_port_must_be_allowed(rules: list[Rule], port: int) -> None:
    assert failed(expects(Action.ALLOW, tcp(100, 200)), *rules).port == port


@pytest.mark.parametrize("port", [100, 137, 200])
def test_of_a_range_no_port_may_be_allowed(port: int) -> None:
    failure = failed(expects(Action.DENY, tcp(100, 200)), allow("any", "any", tcp(port, port)))
    assert failure.port == port
    assert passes(expects(Action.DENY, tcp(100, 200)), allow("any", "any", tcp(99, 99), tcp(201, 201)))


def test_ranges_that_touch_are_one() -> None:
    rules = [allow("any", "any", tcp(100, 149)), allow("tag:robot", "any", tcp(150, 200))]
    assert passes(expects(Action.ALLOW, tcp(100, 200)), *rules)


def test_any_means_every_protocol() -> None:
    named = [Service(protocol) for protocol in (Protocol.ICMPV6, Protocol.SCTP, Protocol.TCP, Protocol.UDP)]
    everything = Service(Protocol.ANY)
    assert passes(expects(Action.ALLOW, everything), allow("any", "any", everything))
    assert failed(expects(Action.ALLOW, everything), allow("any", "any", *named)).protocol == 0
    failure = failed(expects(Action.DENY, everything), allow("any", "any", Service(Protocol.UDP, 9, 9)))
    assert (failure.protocol, failure.port) == (17, 9)
    failure = failed(expects(Action.ALLOW, everything), allow("any", "any", everything), deny("any", "any", named[0]))
    assert (failure.protocol, failure.found) == (58, Reason.DENIED)


def test_self_pairs_each_source_with_itself() -> None:
    rule = allow("tag:cell-3 tag:cell-4", "self")
    other = Subject(tags=frozenset({"cell-4"}))
    assert passes(expects(Action.ALLOW), rule)
    assert passes(expects(Action.DENY, source=other), rule)


def test_hosts_are_meant_by_subnets_and_by_any_alone() -> None:
    assert passes(expects(Action.ALLOW, source=HOST), allow("subnet:fd00::/120", "tag:plc"))
    assert passes(expects(Action.ALLOW, source=HOST), allow("subnet:fd00::5/128", "tag:plc"))
    assert passes(expects(Action.DENY, source=HOST), allow("subnet:fd00::8/125 tag:robot node:plc", "tag:plc"))
    assert passes(expects(Action.DENY), allow("subnet:::/0", "any"))
    assert passes(expects(Action.ALLOW, source=HOST), allow("any", "any"))


def test_a_rule_counts_until_it_expires() -> None:
    test, rule = expects(Action.ALLOW), allow("any", "any", until_ms=NOW_MS)
    assert not run_tests(policy_of([rule], [test]), NOW_MS - 1)
    assert run_tests(policy_of([rule], [test]), NOW_MS)


def test_failures_come_in_the_order_of_the_tests_ids() -> None:
    policy = policy_of(tests=[expects(Action.ALLOW, tcp(port, port)) for port in range(1, 20)])
    failures = run_tests(policy, NOW_MS)
    assert [failure.test for failure in failures] == [test for _, test in sorted(policy.tests.items())]
