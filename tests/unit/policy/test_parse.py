"""From text to policy: what is understood, and what is only warned of."""

from __future__ import annotations

import pytest

from appliance.core.errors import InputError
from appliance.core.ids import NodeId
from appliance.core.limits import Limits
from appliance.core.prefix import Prefix, parse_address
from appliance.policy.directory import Directory, Member
from appliance.policy.model import (
    EMPTY,
    Action,
    AnySelector,
    NodeSelector,
    Policy,
    PolicyTest,
    Protocol,
    Rule,
    Selector,
    SelfSelector,
    Service,
    Subject,
    SubnetSelector,
    TagSelector,
)
from appliance.policy.names import find_nodes
from appliance.policy.parse import acl_rule, parse
from tests.unit.policy.cells import NODES, TAGS, cell

ANY = AnySelector()
ROBOT, PLC, HMI = TagSelector("robot"), TagSelector("plc"), TagSelector("hmi")
HTTPS, MODBUS = Service(Protocol.TCP, 443, 443), Service(Protocol.TCP, 502, 502)
HOSTS = SubnetSelector(Prefix.parse("fd00::/120"))
SHARED_NAME = Directory(Member(node=bytes([n]) * 32, name="twin", address=bytes([2, n]) + bytes(14)) for n in (1, 2))
UNKNOWN = str(NodeId(b"\x77" * 32))


def parsed(text: str, limits: Limits | None = None) -> Policy:
    return parse(f"version: 1\n{text}", cell(), limits or Limits()).policy


def one_rule(text: str) -> Rule:
    (rule,) = parsed(f"rules: [{{{text}}}]").rules.values()
    return rule


def one_test(text: str) -> PolicyTest:
    (test,) = parsed(f"tests: [{{{text}}}]").tests.values()
    return test


def test_a_whole_document_is_read() -> None:
    text = """
        version: 1
        groups: {machines: [robot, tag:plc, robot]}
        services: {modbus: tcp/502, web: [tcp/443, tcp/80]}
        rules:
          - allow: [web, modbus, icmpv6, tcp/503-510]
            from: [tag:hmi, group:machines, node:plc, "subnet:fd00::/120"]
            to: [tag:gateway, self]
            note: remote maintenance
            until: 2026-12-01T00:00:00Z
          - {deny: any, from: any, to: "node:robot-1"}
        tests:
          - {from: tag:robot, to: [tag:gateway, tag:cell-4], allow: [tcp/443, modbus], note: why}
          - {from: node:plc, to: host:fd00::5, deny: any}
    """
    rules = (
        Rule(
            action=Action.ALLOW,
            sources=(NodeSelector(NODES["plc"]), HOSTS, HMI, PLC, ROBOT),
            targets=(SelfSelector(), TagSelector("gateway")),
            services=(
                Service(Protocol.ICMPV6),
                Service(Protocol.TCP, 80, 80),
                HTTPS,
                Service(Protocol.TCP, 502, 510),
            ),
            note="remote maintenance",
            until_ms=1_796_083_200_000,
        ),
        Rule(
            action=Action.DENY,
            sources=(ANY,),
            targets=(NodeSelector(NODES["robot-1"]),),
            services=(Service(Protocol.ANY),),
        ),
    )
    gateway = Subject(tags=frozenset({"gateway", "cell-4"}))
    tests = [
        PolicyTest(
            source=Subject(tags=frozenset({"robot"})), target=gateway, service=service, expect=Action.ALLOW, note="why"
        )
        for service in (HTTPS, MODBUS)
    ]
    tests.append(
        PolicyTest(
            source=Subject(node=NODES["plc"], tags=frozenset(TAGS["plc"])),
            target=Subject(host=parse_address("fd00::5")),
            service=Service(Protocol.ANY),
            expect=Action.DENY,
        )
    )
    found = parse(text, cell())
    assert found.warnings == ()
    assert found.policy.rules == {rule.id: rule for rule in rules}
    assert sorted(map(str, found.policy.tests.values())) == sorted(map(str, tests))
    assert found.policy.groups == {"machines": ("plc", "robot")}
    assert found.policy.services == {"modbus": (MODBUS,), "web": (Service(Protocol.TCP, 80, 80), HTTPS)}


def test_hujson_says_the_same_as_yaml() -> None:
    yaml = "version: 1\nservices: {web: tcp/443}\nrules: [{allow: web, from: tag:robot, to: any}]\n"
    hujson = """// the same
    {"version": 1, "services": {"web": ["tcp/443",],},
     /* one rule */ "rules": [{"allow": ["web"], "from": "tag:robot", "to": ["any"],}]}"""
    assert parse(yaml, cell()) == parse(hujson, cell())


@pytest.mark.parametrize("text", ["", "rules:", "rules: []\ntests: ~\ngroups: null\nservices: {}"])
def test_a_policy_may_say_nothing(text: str) -> None:
    assert parsed(text) == EMPTY


def test_groups_and_services_may_stand_behind_the_rules_that_use_them() -> None:
    policy = parsed(
        "rules: [{allow: web, from: group:all, to: group:all}]\nservices: {web: tcp/443}\ngroups: {all: plc}"
    )
    assert [(rule.sources, rule.services) for rule in policy.rules.values()] == [((PLC,), (HTTPS,))]


@pytest.mark.parametrize(
    "text,selectors",
    [
        ("any", (ANY,)),
        ("[tag:plc, any]", (ANY,)),
        ("[tag:robot, tag:plc, tag:robot]", (PLC, ROBOT)),
        ("node:plc", (NodeSelector(NODES["plc"]),)),
        (f"node:{NodeId(NODES['plc'])}", (NodeSelector(NODES["plc"]),)),
        (f"node:{str(NodeId(NODES['plc']))[:13]}", (NodeSelector(NODES["plc"]),)),
        (f"node:{UNKNOWN}", (NodeSelector(b"\x77" * 32),)),
        ("subnet:fd00::/120", (HOSTS,)),
        ('"subnet:fd00::5"', (SubnetSelector(Prefix.parse("fd00::5/128")),)),
    ],
)
def test_selectors_are_read_and_brought_into_one_form(text: str, selectors: tuple[Selector, ...]) -> None:
    assert one_rule(f"allow: any, from: {text}, to: tag:hmi").sources == selectors


@pytest.mark.parametrize(
    "text,services",
    [
        ("tcp/443", [HTTPS]),
        ("[tcp/443, tcp/443, tcp/0442-00442]", [Service(Protocol.TCP, 442, 443)]),
        ("[udp/10-20, udp/15-30, udp/31, udp/33]", [Service(Protocol.UDP, 10, 31), Service(Protocol.UDP, 33, 33)]),
        ("[tcp/1, tcp]", [Service(Protocol.TCP)]),
        ("[sctp/0-65535, icmpv6]", [Service(Protocol.ICMPV6), Service(Protocol.SCTP)]),
        ("[tcp/1, any, udp]", [Service(Protocol.ANY)]),
    ],
)
def test_services_are_read_and_ranges_merged(text: str, services: list[Service]) -> None:
    assert sorted(one_rule(f"allow: {text}, from: any, to: any").services) == sorted(services)


@pytest.mark.parametrize(
    "text,until_ms",
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-12-01T00:00:00Z", 1_796_083_200_000),
        ("2026-12-01T02:30:00.250+02:30", 1_796_083_200_250),
        ('"9999-12-31T23:59:59.999Z"', 253_402_300_799_999),
        ("null", None),
    ],
)
def test_a_rule_ends_at_a_moment_with_a_zone(text: str, until_ms: int | None) -> None:
    assert one_rule(f"allow: any, from: any, to: any, until: {text}").until_ms == until_ms


@pytest.mark.parametrize(
    "text,note",
    [
        ('"  two  spaces "', "  two  spaces "),
        ("no", "no"),
        ("12:30", "12:30"),
        ("~", ""),
        ('"null"', "null"),
        ("é # x", "é"),
    ],
)
def test_a_note_is_what_was_typed(text: str, note: str) -> None:
    policy = parsed(f"rules:\n- allow: any\n  from: any\n  to: any\n  note: {text}\n")
    assert [rule.note for rule in policy.rules.values()] == [note]


def test_a_note_of_several_lines_becomes_one() -> None:
    policy = parsed("rules:\n- allow: any\n  from: any\n  to: any\n  note: |\n    two\n      lines\n")
    assert [rule.note for rule in policy.rules.values()] == ["two lines"]


@pytest.mark.parametrize(
    "text,subject",
    [
        ("tag:robot", Subject(tags=frozenset({"robot"}))),
        ("[tag:robot, tag:vip]", Subject(tags=frozenset({"robot", "vip"}))),
        ("untagged", Subject()),
        ("node:hmi", Subject(node=NODES["hmi"], tags=frozenset(TAGS["hmi"]))),
        ("[node:hmi, tag:x]", Subject(node=NODES["hmi"], tags=frozenset({"x"}))),
        ("[node:hmi, untagged]", Subject(node=NODES["hmi"])),
        (f"node:{UNKNOWN}", Subject(node=b"\x77" * 32)),
        ("host:fd00::5", Subject(host=parse_address("fd00::5"))),
    ],
)
def test_an_end_of_a_test_is_a_node_as_it_would_be_or_a_host(text: str, subject: Subject) -> None:
    test = one_test(f"allow: tcp/443, from: {text}, to: {text}")
    assert (test.source, test.target) == (subject, subject)


def test_a_test_of_several_services_is_several_tests() -> None:
    policy = parsed("tests: [{allow: [tcp/1, tcp/2, udp/1], deny: sctp, from: tag:robot, to: tag:plc}]")
    assert sorted((test.expect.value, str(test.service)) for test in policy.tests.values()) == [
        *[("allow", "tcp/1-2"), ("allow", "udp/1"), ("deny", "sctp")]
    ]


RULE = "version: 1\nrules:\n- {allow: any, from: any, to: any}\n"


def test_a_name_that_two_nodes_have_names_neither() -> None:
    with pytest.raises(InputError, match="2:28: 2 nodes are called twin; write the id of one"):
        parse("version: 1\nrules: [{allow: any, from: node:twin, to: any}]", SHARED_NAME)


def test_the_beginning_of_an_id_names_a_node_if_it_is_long_enough() -> None:
    whole = str(NodeId(NODES["plc"]))
    assert [member.name for member in find_nodes(whole[:13], cell())] == ["plc"]
    assert find_nodes(whole[:12], cell()) == []


@pytest.mark.parametrize(
    "rule,warning",
    [
        ("from: tag:robt", "2:28: no node holds the tag robt yet. Did you mean robot?"),
        (f"from: node:{UNKNOWN}", f"2:28: the node {UNKNOWN} is not a member now"),
        (
            "from: subnet:fd01::/120",
            "2:28: no gateway speaks for a part of fd01::/120 yet. Did you mean fd00::/120?",
        ),
    ],
)
def test_what_may_be_made_later_is_only_warned_of(rule: str, warning: str) -> None:
    found = parse(f"version: 1\nrules: [{{allow: any, {rule}, to: any}}]", cell())
    assert list(map(str, found.warnings)) == [warning]
    assert len(found.policy.rules) == 1


def test_a_subnet_that_overlaps_a_declared_one_is_known() -> None:
    rules = "[{allow: any, from: [subnet:fd00::/16, 'subnet:fd00::8/125'], to: any}]"
    assert parse(f"version: 1\nrules: {rules}", cell()).warnings == ()


def test_one_name_is_warned_of_once() -> None:
    rules = "[{allow: any, from: tag:x, to: tag:x}, {deny: any, from: tag:x, to: tag:y}]"
    found = parse(f"version: 1\nrules: {rules}", cell())
    assert [(it.line, it.column) for it in found.warnings] == [(2, 28), (2, 76)]


def test_a_rule_that_is_there_twice_is_warned_of() -> None:
    found = parse(RULE + "- {allow: [any, tcp], from: [any, tag:robot], to: any}", cell())
    assert list(map(str, found.warnings)) == ["4:3: this rule says what the one in line 3 says"]
    assert len(found.policy.rules) == 1


def test_a_terraform_acl_is_one_rule() -> None:
    rule = acl_rule("robot", "plc", Action.DENY)
    assert rule == one_rule("deny: any, from: tag:robot, to: tag:plc")
    with pytest.raises(InputError, match=r"PLC cannot be a tag.*tags\.form"):
        acl_rule("robot", "PLC", Action.ALLOW)
