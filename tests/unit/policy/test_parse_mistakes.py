"""Each mistake in the text of a policy: its place, what was expected, and the nearest known name."""

from __future__ import annotations

import pytest

from appliance.core.errors import InputError
from appliance.core.limits import Limits
from appliance.policy.parse import parse
from tests.unit.policy.cells import cell


def problems(text: str, limits: Limits | None = None) -> list[str]:
    """All problems of a text, with their places."""
    with pytest.raises(InputError) as found:
        parse(text, cell(), limits or Limits())
    detail = found.value.detail
    also = [detail[key] for key in detail if key.startswith("also_")]
    assert int(detail["count"]) == 1 + len(also)
    return [detail["problem"], *also]


RULE = "version: 1\nrules:\n- {allow: any, from: any, to: any}\n"
FORMS = "any, self, tag:NAME, group:NAME, node:NAME, subnet:PREFIX"
TEST_FORMS = "tag:NAME, a list of tags, node:NAME, host:ADDRESS, untagged"
SERVICE = "write tcp/443, udp/5000-5010, sctp, icmpv6, any or a name of `services:`."
WRONG = [
    (
        RULE + "- {allow: any, from: any, to: self}",
        ["4:3: `self` pairs each source with itself, and `any` is not one source but all"],
    ),
    (RULE + "- {allow: [[tcp]], from: any, to: any}", ["4:12: expected a service, such as tcp/443, or a list of them"]),
    ("version: 1\ntests: [a]", ["2:9: expected a test with the keys allow, deny, from, to, note"]),
    (
        "version: 1\ntests: [{allow: any, from: [], to: [untagged, 'tag:X']}]",
        [
            f"2:28: expected at least one of {TEST_FORMS}",
            "2:47: X is no tag: lower-case letters, digits and hyphens, at most 63",
        ],
    ),
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
