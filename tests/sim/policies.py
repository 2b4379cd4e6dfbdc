"""Pieces of a policy for simulated meshes: keys of the document and their values, some of which do not go together."""

from __future__ import annotations

from appliance.policy.model import (
    Action,
    PolicyTest,
    Protocol,
    Rule,
    Service,
    Subject,
    TagSelector,
    content_id,
    encode_rule,
    encode_test,
)
from appliance.replica.change_codec import Scalar

ROBOT, GATE, MODBUS = TagSelector("robot"), TagSelector("gate"), (Service(Protocol.TCP, 502, 502),)
TO_GATE = Rule(action=Action.ALLOW, sources=(ROBOT,), targets=(GATE,), services=MODBUS)
NOT_TO_GATE = Rule(action=Action.DENY, sources=(ROBOT,), targets=(GATE,), services=MODBUS)
TO_ROBOT = Rule(action=Action.ALLOW, sources=(GATE,), targets=(ROBOT,), services=MODBUS)


def expected(action: Action) -> PolicyTest:
    """Whether robots should reach gates."""
    robot, gate = (Subject(tags=frozenset({tag})) for tag in ("robot", "gate"))
    return PolicyTest(source=robot, target=gate, service=MODBUS[0], expect=action)


def rule_item(rule: Rule) -> tuple[str, bytes]:
    """Key and value of a rule in the document."""
    encoded = encode_rule(rule)
    return f"rule/{content_id(encoded).hex()}", encoded


def test_item(test: PolicyTest) -> tuple[str, bytes]:
    """Key and value of a test in the document."""
    encoded = encode_test(test)
    return f"test/{content_id(encoded).hex()}", encoded


POOL: tuple[tuple[str, Scalar], ...] = (
    rule_item(TO_GATE),
    rule_item(NOT_TO_GATE),
    rule_item(TO_ROBOT),
    test_item(expected(Action.ALLOW)),
    test_item(expected(Action.DENY)),
    ("part/0123456789abcdef", True),
    (rule_item(TO_GATE)[0], b"another content"),  # refused everywhere
)
