"""What `explain` tells a person about a flow."""

from __future__ import annotations

import pytest

from appliance.policy.evaluate import Flow, Reason
from appliance.policy.explain import NEAR_RULES, Because, Miss, Provenance, explain
from appliance.policy.model import MAX_PORT, Action, Protocol, Rule, Service
from tests.unit.policy.cells import NODES, NOW_MS, allow, cell, deny, flow, policy

ROBOTS = allow("tag:robot", "tag:plc", note="the line needs it")
SIGNED = Provenance(author=NODES["hmi"], name="hmi", since_ms=NOW_MS - 1, batch=bytes(32))

SENTENCES: list[tuple[list[Rule], Flow, str]] = [
    ([], flow("robot-1", "plc"), "no rule lets robot-1 (tags cell-3, robot) reach plc (tags cell-3, plc) on tcp/502"),
    (
        [ROBOTS],
        flow("robot-1", "plc"),
        "1 rule lets robot-1 (tags cell-3, robot) reach plc (tags cell-3, plc) on tcp/502",
    ),
    (
        [ROBOTS, allow("any", "any", Service(Protocol.ANY))],
        flow("robot-1", "plc"),
        "2 rules let robot-1 (tags cell-3, robot) reach plc (tags cell-3, plc) on tcp/502",
    ),
    (
        [ROBOTS, deny("any", "any")],
        flow("robot-1", "plc"),
        "1 rule denies robot-1 (tags cell-3, robot) plc (tags cell-3, plc) on tcp/502, whatever 1 other allows",
    ),
    (
        [deny("any", "any"), deny("any", "tag:plc")],
        flow("fd00::5", "plc", 0, 58),
        "no rule lets fd00::5 (behind gateway) reach plc (tags cell-3, plc) on icmpv6",
    ),
    (
        [deny("any", "any"), deny("any", "tag:plc"), ROBOTS, allow("any", "any")],
        flow("robot-1", "plc"),
        "2 rules deny robot-1 (tags cell-3, robot) plc (tags cell-3, plc) on tcp/502, whatever 2 others allow",
    ),
    ([], flow("200::99", "plc"), "nobody on the mesh speaks for 200::99: it reaches nothing"),
    ([], flow("plc", "fd00:1::"), "nobody on the mesh speaks for fd00:1::: nothing reaches it"),
    (
        [],
        flow("gateway", "fd00::5", 0, 47),
        "no rule lets gateway (tags gateway) reach fd00::5 (behind gateway) on protocol 47; both are at one node, so "
        "the flow does not cross the mesh and nothing judges it",
    ),
]


@pytest.mark.parametrize("rules, asked, sentence", SENTENCES)
def test_the_verdict_is_one_sentence(rules: list[Rule], asked: Flow, sentence: str) -> None:
    assert explain(policy(*rules), cell(), asked, NOW_MS).sentence == sentence


def test_a_rule_that_decided_says_through_what_and_whose_it_is() -> None:
    found = explain(policy(ROBOTS), cell(), flow("robot-1", "plc"), NOW_MS, {ROBOTS.id: SIGNED})
    assert found.verdict.reason is Reason.ALLOWED
    assert found.allows == (
        Because(
            rule=ROBOTS.id,
            action=Action.ALLOW,
            text="allow tag:robot -> tag:plc: tcp/502; the line needs it",
            sources=("tag:robot",),
            targets=("tag:plc",),
            services=("tcp/502",),
            provenance=SIGNED,
        ),
    )
    assert found.denies == found.near == ()


def test_only_the_selectors_and_services_that_mean_the_flow_are_named() -> None:
    rule = allow("tag:hmi tag:robot node:robot-1", "self tag:plc any", Service(Protocol.TCP), Service(Protocol.UDP))
    (because,) = explain(policy(rule), cell(), flow("robot-1", "plc"), NOW_MS).allows
    assert because.sources == ("tag:robot", "node:robot-1")
    assert because.targets == ("tag:plc", "any")
    assert because.services == ("tcp",)


def test_through_self_a_rule_names_the_selector_that_means_both_ends() -> None:
    rule = allow("tag:cell-3 tag:robot", "self")
    (because,) = explain(policy(rule), cell(), flow("robot-1", "plc"), NOW_MS).allows
    assert (because.sources, because.targets) == (("tag:cell-3",), ("tag:cell-3",))


def test_rules_that_one_thing_kept_from_matching_are_near_and_others_are_not() -> None:
    near = [
        (Miss.EXPIRED, allow("tag:robot", "tag:plc", until_ms=NOW_MS)),
        (Miss.SERVICE, allow("tag:robot", "tag:plc", Service(Protocol.TCP, 503, MAX_PORT))),
        (Miss.TARGET, allow("tag:robot", "tag:hmi")),
        (Miss.SOURCE, allow("tag:hmi", "tag:plc")),
    ]
    far = [
        allow("tag:hmi", "tag:hmi"),
        allow("tag:robot", "tag:hmi", Service(Protocol.UDP)),
        allow("tag:hmi", "tag:plc", until_ms=NOW_MS),
        allow("tag:plc tag:robot", "self"),
        deny("tag:hmi", "tag:plc"),
    ]
    found = explain(policy(*far, *(rule for _, rule in near)), cell(), flow("robot-1", "plc"), NOW_MS)
    assert [(because.misses, because.rule) for because in found.near] == [(miss, rule.id) for miss, rule in near]


def test_as_many_near_rules_are_named_as_a_person_reads() -> None:
    rules = [allow("tag:robot", "tag:plc", Service(Protocol.TCP, port, port)) for port in range(20)]
    assert len(explain(policy(*rules), cell(), flow("robot-1", "plc"), NOW_MS).near) == NEAR_RULES


def test_what_is_denied_or_allowed_has_no_near_rules() -> None:
    rules = policy(ROBOTS, deny("tag:robot", "tag:hmi"), allow("tag:robot", "tag:hmi", Service(Protocol.UDP)))
    assert explain(rules, cell(), flow("robot-1", "plc"), NOW_MS).near == ()
    assert explain(rules, cell(), flow("robot-1", "hmi"), NOW_MS).near == ()
