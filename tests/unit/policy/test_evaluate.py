"""The written semantics, sentence by sentence (docs/policy.md)."""

from __future__ import annotations

import pytest

from appliance.policy.evaluate import Flow, Reason, Verdict, evaluate, judge, selects
from appliance.policy.model import Protocol, Rule, SelfSelector, Service, Subject
from tests.unit.policy.cells import MODBUS, NOW_MS, allow, cell, deny, flow, policy

ICMP, ANY, UDP = Service(Protocol.ICMPV6), Service(Protocol.ANY), Service(Protocol.UDP)
RANGE = Service(Protocol.TCP, 500, 502)

CASES: list[tuple[str, list[Rule], Flow, Reason]] = [
    ("nothing is allowed without a rule", [], flow("robot-1", "plc"), Reason.NO_RULE),
    ("a tag means the nodes that hold it", [allow("tag:robot", "tag:plc")], flow("robot-2", "plc"), Reason.ALLOWED),
    ("a rule has one direction", [allow("tag:robot", "tag:plc")], flow("plc", "robot-1"), Reason.NO_RULE),
    ("a rule has one service", [allow("tag:robot", "tag:plc")], flow("robot-1", "plc", 503), Reason.NO_RULE),
    ("protocols differ", [allow("tag:robot", "tag:plc")], flow("robot-1", "plc", protocol=17), Reason.NO_RULE),
    ("one of several sources is enough", [allow("tag:hmi tag:robot", "any")], flow("hmi", "plc"), Reason.ALLOWED),
    ("one of several targets is enough", [allow("any", "tag:x node:plc")], flow("hmi", "plc"), Reason.ALLOWED),
    ("one of several services is enough", [allow("any", "any", UDP, MODBUS)], flow("hmi", "plc"), Reason.ALLOWED),
    ("the first port of a range is in it", [allow("any", "any", RANGE)], flow("hmi", "plc", 500), Reason.ALLOWED),
    ("the last port of a range is in it", [allow("any", "any", RANGE)], flow("hmi", "plc", 502), Reason.ALLOWED),
    ("the port before is not", [allow("any", "any", RANGE)], flow("hmi", "plc", 499), Reason.NO_RULE),
    ("the port behind is not", [allow("any", "any", RANGE)], flow("hmi", "plc", 503), Reason.NO_RULE),
    ("a node is meant by its id", [allow("node:hmi", "any")], flow("hmi", "plc"), Reason.ALLOWED),
    ("and no other node", [allow("node:hmi", "any")], flow("robot-1", "plc"), Reason.NO_RULE),
    ("any is a host, too", [allow("any", "any")], flow("hmi", "fd00::5"), Reason.ALLOWED),
    ("a subnet is the hosts in it", [allow("any", "subnet:fd00::/124")], flow("hmi", "fd00::5"), Reason.ALLOWED),
    ("and not those beside it", [allow("any", "subnet:fd00::/124")], flow("hmi", "fd00::10"), Reason.NO_RULE),
    ("a subnet is no node", [allow("any", "subnet:200::/7")], flow("hmi", "plc"), Reason.NO_RULE),
    ("hosts do not hold their gateway's tags", [allow("tag:gateway", "any")], flow("fd00::5", "plc"), Reason.NO_RULE),
    ("hosts are not their gateway", [allow("node:gateway", "any")], flow("fd00::5", "plc"), Reason.NO_RULE),
    ("self is the same selector", [allow("tag:cell-3", "self")], flow("hmi", "plc"), Reason.ALLOWED),
    ("and not another one", [allow("tag:cell-3 tag:cell-4", "self")], flow("hmi", "robot-2"), Reason.NO_RULE),
    ("self may stand beside others", [allow("tag:cell-4", "self tag:plc")], flow("robot-2", "plc"), Reason.ALLOWED),
    ("any is every protocol", [allow("any", "any", ANY)], flow("hmi", "plc", 0, 47), Reason.ALLOWED),
    ("also one that has a name", [allow("any", "any", ANY)], flow("hmi", "plc", 0, 58), Reason.ALLOWED),
    ("icmpv6 has no ports", [allow("any", "any", ICMP)], flow("hmi", "plc", 128, 58), Reason.ALLOWED),
    ("deny beats allow", [allow("any", "any"), deny("tag:robot", "any")], flow("robot-1", "plc"), Reason.DENIED),
    (
        "deny is as narrow as it says",
        [allow("any", "any"), deny("tag:robot", "any")],
        flow("hmi", "plc"),
        Reason.ALLOWED,
    ),
    ("deny alone denies", [deny("any", "any")], flow("hmi", "plc"), Reason.DENIED),
    ("a rule holds until it is over", [allow("any", "any", until_ms=NOW_MS + 1)], flow("hmi", "plc"), Reason.ALLOWED),
    ("and not at that moment", [allow("any", "any", until_ms=NOW_MS)], flow("hmi", "plc"), Reason.NO_RULE),
    (
        "a denial that is over denies nothing",
        [allow("any", "any"), deny("any", "any", until_ms=NOW_MS)],
        flow("hmi", "plc"),
        Reason.ALLOWED,
    ),
    ("a stranger sends nothing", [allow("any", "any")], flow("200::99", "plc"), Reason.STRANGER_SOURCE),
    ("a stranger gets nothing", [allow("any", "any")], flow("plc", "fd00::1:0"), Reason.STRANGER_TARGET),
]


@pytest.mark.parametrize("what, rules, asked, reason", CASES, ids=[case[0] for case in CASES])
def test_the_meaning_is_what_the_page_says(what: str, rules: list[Rule], asked: Flow, reason: Reason) -> None:
    verdict = evaluate(policy(*rules), cell(), asked, NOW_MS)
    assert verdict.reason is reason
    assert verdict.allowed is (reason is Reason.ALLOWED)


def test_a_verdict_names_every_rule_that_matches_sorted() -> None:
    rules = [allow("any", "any"), allow("tag:robot", "tag:plc"), deny("any", "node:plc"), allow("tag:hmi", "any")]
    verdict = evaluate(policy(*rules), cell(), flow("robot-1", "plc"), NOW_MS)
    assert verdict == Verdict(Reason.DENIED, tuple(sorted((rules[0].id, rules[1].id))), (rules[2].id,))


def test_subjects_that_are_nowhere_are_judged_by_their_tags() -> None:
    robot, plc = Subject(tags=frozenset({"robot"})), Subject(tags=frozenset({"plc"}))
    rules = policy(allow("tag:robot", "tag:plc"), deny("node:plc", "any"))
    assert judge(rules, robot, plc, 6, 502, NOW_MS).allowed
    assert judge(rules, plc, robot, 6, 502, NOW_MS).reason is Reason.NO_RULE


def test_self_has_no_meaning_of_its_own() -> None:
    with pytest.raises(ValueError, match="self has no meaning of its own"):
        selects(SelfSelector(), Subject())
