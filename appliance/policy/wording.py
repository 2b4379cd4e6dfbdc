"""Selectors, services, rules and the ends of flows in words, for people; never parsed back.

Nodes are called by their names where a directory knows them. How a policy file is written is another module's matter.
"""

from __future__ import annotations

from appliance.core.ids import NodeId
from appliance.core.prefix import address_text
from appliance.policy.directory import Directory, Place
from appliance.policy.filter import ServiceRange
from appliance.policy.model import MAX_PORT, NUMBERS, WITH_PORTS, NodeSelector, PolicyTest, Rule, Selector, Subject
from appliance.policy.moments import moment_text
from appliance.policy.partition import LAST_PROTOCOL

_NAMES = {number: protocol.value for protocol, number in NUMBERS.items()}
_PORTED = {NUMBERS[protocol] for protocol in WITH_PORTS}


def selector_text(selector: Selector, directory: Directory) -> str:
    """`tag:plc`, `node:robot-7`, `subnet:fd00::/64`, `any`, `self`."""
    if isinstance(selector, NodeSelector):
        return f"node:{node_name(selector.node, directory)}"
    return str(selector)


def rule_text(rule: Rule, directory: Directory) -> str:
    """`allow tag:robot, tag:hmi -> tag:plc: tcp/502; until 2026-03-01T12:00:00Z; note`."""
    sources, targets = (
        ", ".join(selector_text(selector, directory) for selector in side) for side in (rule.sources, rule.targets)
    )
    return f"{rule.action} {sources} -> {targets}: {terms_text(rule)}"


def terms_text(rule: Rule) -> str:
    """What a rule says besides its ends: services, expiry and note."""
    until = f"until {moment_text(rule.until_ms)}" if rule.until_ms is not None else ""
    return "; ".join(filter(None, (", ".join(map(str, rule.services)), until, rule.note)))


def expectation_text(test: PolicyTest, directory: Directory) -> str:
    """`deny tag:robot -> node:plc-1: tcp/22`."""
    ends = f"{_subject_text(test.source, directory)} -> {_subject_text(test.target, directory)}"
    return f"{test.expect} {ends}: {test.service}" + (f"; {test.note}" if test.note else "")


def _subject_text(subject: Subject, directory: Directory) -> str:
    if subject.host is not None:
        return address_text(subject.host)
    if subject.node is not None:
        return f"node:{node_name(subject.node, directory)}"
    return ", ".join(f"tag:{tag}" for tag in sorted(subject.tags)) or "a node without tags"


def range_text(served: ServiceRange) -> str:
    """`tcp/80-90`, `icmpv6`, `protocol 47`, `any`."""
    first, last, port_first, port_last = served
    if first != last:
        return "any" if (first, last) == (0, LAST_PROTOCOL) else f"protocols {first}-{last}"
    name = _NAMES.get(first, f"protocol {first}")
    if (port_first, port_last) == (0, MAX_PORT):
        return name
    return f"{name}/{port_first}" + (f"-{port_last}" if port_last != port_first else "")


def flow_service(protocol: int, port: int) -> str:
    """What a flow is about: `tcp/502`, `icmpv6`, `protocol 47`."""
    ports = (port, port) if protocol in _PORTED else (0, MAX_PORT)
    return range_text(ServiceRange(protocol, protocol, *ports))


def place_text(place: Place | None, address: bytes, directory: Directory) -> str:
    """An end of a flow: `robot-7 (tags cell-3, robot)`, `fd00::5 (behind gateway-1)`, or a stranger's address."""
    if place is None:
        return address_text(address)
    name = node_name(place.node, directory)
    if place.subject.host is not None:
        return f"{address_text(address)} (behind {name})"
    tags = sorted(place.subject.tags)
    return f"{name} (tags {', '.join(tags)})" if tags else f"{name} (no tags)"


def node_name(node: bytes, directory: Directory) -> str:
    """A node's name, or its id where it has none here."""
    member = directory.members.get(node)
    return member.name if member is not None and member.name else str(NodeId(node))
