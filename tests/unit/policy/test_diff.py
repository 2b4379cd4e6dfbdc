"""What is written otherwise in two policies."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from appliance.core.ids import NodeId
from appliance.core.prefix import parse_address
from appliance.policy.diff import Changed, PolicyDiff, Words, diff, lines
from appliance.policy.filter import ServiceRange
from appliance.policy.model import (
    EMPTY,
    MAX_PORT,
    Action,
    NodeSelector,
    Policy,
    PolicyTest,
    Protocol,
    Service,
    Subject,
    content_id,
    encode_test,
)
from appliance.policy.wording import flow_service, place_text, range_text, selector_text
from tests.unit.policy.cells import ADDRESSES, MODBUS, NODES, NOW_MS, allow, cell, deny, policy

HTTPS = Service(Protocol.TCP, 443, 443)
TRIAL = PolicyTest(
    source=Subject(tags=frozenset({"robot", "cell-3"})),
    target=Subject(node=NODES["plc"]),
    service=MODBUS,
    expect=Action.ALLOW,
    note="the line stops without it",
)
OTHER = PolicyTest(source=Subject(host=parse_address("fd00::5")), target=Subject(), service=HTTPS, expect=Action.DENY)


def with_tests(made: Policy, *tests: PolicyTest) -> Policy:
    return replace(made, tests={content_id(encode_test(test)): test for test in tests})


def test_equal_policies_differ_in_nothing() -> None:
    found = diff(policy(allow("any", "any")), policy(allow("any", "any")))
    assert not found
    assert found == PolicyDiff()
    assert lines(found, cell()) == []


def test_rules_that_came_and_went_are_told_from_one_that_changed() -> None:
    kept, gone, new = allow("any", "any"), allow("tag:hmi", "any"), deny("tag:hmi", "any")
    old, renewed = allow("tag:robot", "tag:plc", until_ms=NOW_MS), allow("tag:robot", "tag:plc", HTTPS, note="safer")
    found = diff(policy(kept, gone, old), policy(kept, new, renewed))
    assert found == PolicyDiff(rules_added=(new,), rules_removed=(gone,), rules_changed=(Changed(old, renewed),))
    assert found
    assert lines(found, cell()) == [
        "- allow tag:hmi -> any: tcp/502",
        "+ deny tag:hmi -> any: tcp/502",
        "~ allow tag:robot -> tag:plc: tcp/443; safer, before: tcp/502; until 2027-01-15T08:00:00Z",
    ]


def test_of_several_rules_between_the_same_ends_none_has_changed_into_another() -> None:
    before, after = allow("any", "any"), [allow("any", "any", HTTPS), allow("any", "any", Service(Protocol.UDP))]
    found = diff(policy(before), policy(*after))
    assert found.rules_changed == ()
    assert (found.rules_removed, set(found.rules_added)) == ((before,), set(after))


def test_tests_groups_and_services_are_compared_too() -> None:
    before = with_tests(Policy(groups={"old": ("a",), "line": ("a",)}, services={"web": (HTTPS,)}), TRIAL)
    after = with_tests(Policy(groups={"line": ("a", "b")}, services={"web": (HTTPS,), "plc": (MODBUS,)}), OTHER)
    found = diff(before, after)
    assert found == PolicyDiff(
        tests_added=(OTHER,),
        tests_removed=(TRIAL,),
        groups=(Words("line", ("a",), ("a", "b")), Words("old", ("a",), None)),
        services=(Words("plc", None, ("tcp/502",)),),
    )
    assert lines(found, cell()) == [
        "- test allow tag:cell-3, tag:robot -> node:plc: tcp/502; the line stops without it",
        "+ test deny fd00::5 -> a node without tags: tcp/443",
        "- group line: a",
        "+ group line: a, b",
        "- group old: a",
        "+ service plc: tcp/502",
    ]


def test_the_way_back_is_the_reverse() -> None:
    before, after = policy(allow("any", "any")), policy(deny("any", "any"))
    there, back = diff(before, after), diff(after, before)
    assert (there.rules_added, there.rules_removed) == (back.rules_removed, back.rules_added)
    assert diff(EMPTY, after).rules_added == tuple(after.rules.values())


@pytest.mark.parametrize(
    "served, text",
    [
        (ServiceRange(0, 255, 0, MAX_PORT), "any"),
        (ServiceRange(0, 5, 0, MAX_PORT), "protocols 0-5"),
        (ServiceRange(47, 47, 0, MAX_PORT), "protocol 47"),
        (ServiceRange(6, 6, 0, MAX_PORT), "tcp"),
        (ServiceRange(17, 17, 53, 53), "udp/53"),
        (ServiceRange(132, 132, 0, 9), "sctp/0-9"),
        (ServiceRange(58, 58, 0, MAX_PORT), "icmpv6"),
    ],
)
def test_a_range_of_services_reads_as_a_person_writes_it(served: ServiceRange, text: str) -> None:
    assert range_text(served) == text


def test_words_for_nodes_and_flows() -> None:
    stranger = NodeSelector(bytes(32))
    assert selector_text(stranger, cell()) == f"node:{NodeId(bytes(32))}"
    assert flow_service(6, 502) == "tcp/502"
    assert flow_service(58, 502) == "icmpv6"
    bare = cell({"plc": set()})
    assert place_text(bare.place(ADDRESSES["plc"]), ADDRESSES["plc"], bare) == "plc (no tags)"
