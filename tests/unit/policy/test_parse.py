"""From text to policy: what is understood, and each mistake with its place, what was expected and the nearest name."""

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


def problems(text: str, limits: Limits | None = None) -> list[str]:
    """All problems of a text, with their places."""
    with pytest.raises(InputError) as found:
        parse(text, cell(), limits or Limits())
    detail = found.value.detail
    also = [detail[key] for key in detail if key.startswith("also_")]
    assert int(detail["count"]) == 1 + len(also)
    return [detail["problem"], *also]


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
FORMS = "any, self, tag:NAME, group:NAME, node:NAME, subnet:PREFIX"
TEST_FORMS = "tag:NAME, a list of tags, node:NAME, host:ADDRESS, untagged"
SERVICE = "write tcp/443, udp/5000-5010, sctp, icmpv6, any or a name of `services:`."
WRONG = [
    ("[]", ["1:1: expected a policy with the keys version, groups, services, rules, tests"]),
    ("a", ["1:1: expected a policy with the keys version, groups, services, rules, tests"]),
    ("{}", ["1:1: expected `version: 1`, the only version of the form so far"]),
    ("version: 2", ["1:10: expected `version: 1`, the only version of the form so far"]),
    ("version: [1]", ["1:10: expected `version: 1`, the only version of the form so far"]),
    (
        "version: 1\nrule: []",
        ["2:1: a policy has no key rule; there are version, groups, services, rules, tests. Did you mean rules?"],
    ),
    ("version: 1\nrules: {}", ["2:8: expected a list of rules"]),
    ("version: 1\ntests: x", ["2:8: expected a list of tests"]),
    ("version: 1\ngroups: [a]", ["2:9: expected names and what they stand for, such as machines: [robot, plc]"]),
    ("version: 1\nservices: a", ["2:11: expected names and what they stand for, such as modbus: tcp/502"]),
    ("version: 1\ngroups: {A: plc}", ["2:10: a name has lower-case letters, digits and hyphens, at most 63"]),
    ("version: 1\nservices: {any: tcp}", ["2:12: any is a protocol; choose another name"]),
    ("version: 1\ngroups: {a: []}", ["2:13: expected a tag, or a list of tags"]),
    (
        "version: 1\ngroups: {a: [PLC, [x]]}",
        [
            "2:14: PLC is no tag: lower-case letters, digits and hyphens, at most 63",
            "2:19: expected a tag, or a list of tags",
        ],
    ),
    (
        "version: 1\nrules: [a, {}]",
        [
            "2:9: expected a rule with the keys allow, deny, from, to, note, until",
            "2:12: expected `allow:` or `deny:` with the services, such as `allow: tcp/443`",
        ],
    ),
    (
        "version: 1\ntests: [{}]",
        [
            "2:9: expected `allow:` or `deny:` with the services, such as `allow: tcp/443`",
            "2:9: expected `from:`, such as `from: tag:robot`",
            "2:9: expected `to:`, such as `to: tag:robot`",
        ],
    ),
    (
        "version: 1\nrules:\n- allow: any\n  form: any\n  to: any",
        [
            "3:3: expected `from:`, such as `from: tag:robot`",
            "4:3: a rule has no key form; there are allow, deny, from, to, note, until. Did you mean from?",
        ],
    ),
    (
        "version: 1\nrules: [{allow: any, deny: any, from: any, to: any}]",
        ["2:9: a rule allows or denies; write two rules"],
    ),
    (
        "version: 1\ntests: [{allow: any, from: untagged, to: untagged, until: x}]",
        [
            "2:52: a test has no key until; there are allow, deny, from, to, note.",
        ],
    ),
    (
        RULE + "- {allow: [], from: [], to: []}",
        [
            "4:11: expected a service, such as tcp/443, or a list of them",
            f"4:21: expected at least one of {FORMS}",
            f"4:29: expected at least one of {FORMS}",
        ],
    ),
    (
        RULE + "- {allow: any, from: [[any]], to: {a: [b]}}",
        [
            f"4:23: expected at least one of {FORMS}",
            f"4:35: expected at least one of {FORMS}",
        ],
    ),
    (
        RULE + "- {allow: any, from: [tag: robot], to: any}",
        [
            "4:23: a space after the colon makes a mapping: write tag:robot",
        ],
    ),
    (
        RULE + "- {allow: any, from: robot, to: plc}",
        [
            f"4:22: robot is no selector: there are {FORMS}. Did you mean tag:robot?",
            f"4:33: plc is no selector: there are {FORMS}. Did you mean tag:plc?",
        ],
    ),
    (
        RULE + "- {allow: any, from: robot-1, to: tags:plc}",
        [
            f"4:22: robot-1 is no selector: there are {FORMS}. Did you mean node:robot-1?",
            f"4:35: tags:plc is no selector: there are {FORMS}. Did you mean tag:plc?",
        ],
    ),
    (
        RULE + "- {allow: any, from: tag, to: 'self:'}",
        [
            f"4:22: tag is no selector: there are {FORMS}. Did you mean tag:plc?",
            f"4:31: self: is no selector: there are {FORMS}. Did you mean self?",
        ],
    ),
    (RULE + "- {allow: any, from: self, to: any}", ["4:3: `self` is a target and never a source"]),
    (
        RULE + "- {allow: any, from: group:x, to: node:robot-3}",
        [
            "4:22: there is no group x.",
            "4:35: there is no node robot-3. Did you mean robot-2?",
        ],
    ),
    (
        "version: 1\ngroups: {machines: plc}\nrules: [{allow: any, from: group:machins, to: any}]",
        [
            "3:28: there is no group machins. Did you mean machines?",
        ],
    ),
    (
        RULE + "- {allow: any, from: tag:Robot, to: 'tag:'}",
        [
            "4:22: Robot is no tag: lower-case letters, digits and hyphens, at most 63",
            "4:37:  is no tag: lower-case letters, digits and hyphens, at most 63",
        ],
    ),
    (
        RULE + "- {allow: any, from: subnet:10.0.0.0/8, to: 'subnet:fd00::1/64'}",
        [
            "4:22: 10.0.0.0/8 is no IPv6 prefix such as fd00:1::/64.",
            "4:45: fd00::1/64 is no IPv6 prefix such as fd00:1::/64. Did you mean fd00::/64?",
        ],
    ),
    (
        RULE + "- {allow: [tcp:443, 443/tcp, TCP/443, icmp, '*', 80, tcp/*], from: any, to: any}",
        [
            f"4:12: tcp:443 is no service: {SERVICE} Did you mean tcp/443?",
            f"4:21: 443/tcp is no service: {SERVICE} Did you mean tcp/443?",
            f"4:30: TCP/443 is no service: {SERVICE} Did you mean tcp/443?",
            f"4:39: icmp is no service: {SERVICE} Did you mean icmpv6?",
            f"4:45: * is no service: {SERVICE} Did you mean any?",
            f"4:50: 80 is no service: {SERVICE} Did you mean tcp/80?",
            f"4:54: tcp/* is no service: {SERVICE} Did you mean tcp?",
        ],
    ),
    (
        "version: 1\nservices: {modbus: tcp/502}\nrules: [{allow: [modbs, http], from: any, to: any}]",
        [
            f"3:18: modbs is no service: {SERVICE} Did you mean modbus?",
            f"3:25: http is no service: {SERVICE}",
        ],
    ),
    (
        RULE + "- {allow: [tcp/70000, udp/9-3, icmpv6/8, any/1], from: any, to: any}",
        [
            "4:12: ports run from 0 to 65535, the lower one first",
            "4:23: ports run from 0 to 65535, the lower one first",
            "4:32: icmpv6 has no ports",
            "4:42: any has no ports",
        ],
    ),
    (
        RULE + "- {allow: any, from: any, to: any, until: 2026-12-01}",
        [
            "4:43: expected a moment with a zone, such as 2026-12-01T00:00:00Z (RFC 3339). "
            "Did you mean 2026-12-01T00:00:00Z?",
        ],
    ),
    (
        RULE + "- {allow: any, from: any, to: any, until: [soon]}",
        [
            "4:43: expected a moment with a zone, such as 2026-12-01T00:00:00Z (RFC 3339)",
        ],
    ),
    (
        RULE + '- {allow: any, from: any, to: any, note: "a\\eb"}',
        ["4:42: a note is printable text of at most 256 bytes"],
    ),
    (RULE + "- {allow: any, from: any, to: any, note: [a]}", ["4:42: a note is a text"]),
    (
        "version: 1\ntests: [{allow: any, from: any, to: [tag:plc, 'host:fd00::1']}]",
        [
            f"2:28: any is no end of a test: there are {TEST_FORMS}",
            f"2:47: host:fd00::1 is no end of a test: there are {TEST_FORMS}",
        ],
    ),
    (
        RULE + "- {allow: any, from: node:node1qvps, to: 'subnet:fd00::1/-1'}",
        [
            "4:22: no node's id begins with node1qvps, or more of it is needed",
            "4:42: fd00::1/-1 is no IPv6 prefix such as fd00:1::/64.",
        ],
    ),
    (
        "version: 1\ntests: [{allow: any, from: 'node:robt-1', to: host:x}]",
        [
            "2:28: there is no node robt-1. Did you mean robot-1?",
            "2:47: x is no IPv6 address such as fd00:1::5",
        ],
    ),
]


@pytest.mark.parametrize("text,told", WRONG)
def test_every_mistake_is_told_with_its_place_and_what_was_expected(text: str, told: list[str]) -> None:
    assert problems(text) == told


def test_all_mistakes_of_a_document_are_told_in_the_order_of_their_places() -> None:
    text = """version: 3
rules:
  - allow: web
    from: tag:robot
    too: any
groups: {Machines: robot}
"""
    assert [problem.partition(": ")[0] for problem in problems(text)] == ["1:10", "3:5", "3:12", "5:5", "6:10"]


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


LIMIT_ROWS = [
    (
        Limits(policy_rules=1),
        RULE + "- {deny: any, from: any, to: any}",
        "3:1: there are 2 rules; a policy has at most 1",
    ),
    (
        Limits(policy_tests=1),
        "version: 1\ntests: [{allow: [tcp, udp], from: untagged, to: untagged}]",
        "2:8: there are 2 tests; a policy has at most 1",
    ),
    (Limits(policy_names=1), "version: 1\ngroups: {a: plc, b: plc}", "2:9: there are 2 names; a policy has at most 1"),
    (
        Limits(policy_selectors=1),
        "version: 1\ngroups: {a: [plc, robot]}",
        "2:13: there are 2 tags; a group has at most 1",
    ),
    (
        Limits(policy_services=1),
        "version: 1\nservices: {a: [tcp/1, tcp/3]}",
        "2:15: there are 2 ranges of ports; a service has at most 1",
    ),
    (
        Limits(policy_selectors=1),
        RULE + "- {deny: any, from: any, to: [tag:plc, tag:robot]}",
        "4:3: a side has at most 1 selectors; use a tag that they share",
    ),
    (
        Limits(policy_services=1),
        RULE + "- {deny: [tcp/1, tcp/3], from: any, to: any}",
        "4:3: a rule has at most 1 ranges of ports; use several rules",
    ),
    (
        Limits(text_bytes=3),
        "version: 1\nrules: [{allow: any, from: any, to: any, note: éé}]",
        "2:48: a note is printable text of at most 3 bytes",
    ),
    (
        Limits(tags_per_node=1),
        "version: 1\ntests: [{allow: any, from: [tag:plc, tag:hmi], to: untagged}]",
        "2:28: a node has at most 1 tags",
    ),
]


@pytest.mark.parametrize("limits,text,told", LIMIT_ROWS)
def test_every_limit_is_kept_and_named(limits: Limits, text: str, told: str) -> None:
    assert problems(text, limits) == [told]


def test_a_terraform_acl_is_one_rule() -> None:
    rule = acl_rule("robot", "plc", Action.DENY)
    assert rule == one_rule("deny: any, from: tag:robot, to: tag:plc")
    with pytest.raises(InputError, match=r"PLC cannot be a tag.*tags\.form"):
        acl_rule("robot", "PLC", Action.ALLOW)
