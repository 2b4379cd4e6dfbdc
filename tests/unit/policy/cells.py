"""A factory cell that the tests of policy speak about: PLC, HMI, two robots, and a gateway with hosts behind it."""

from __future__ import annotations

from collections.abc import Sequence

from appliance.core.prefix import Prefix, parse_address
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.evaluate import Flow
from appliance.policy.model import (
    Action,
    AnySelector,
    NodeSelector,
    Policy,
    Protocol,
    Rule,
    Selector,
    SelfSelector,
    Service,
    SubnetSelector,
    TagSelector,
)

NOW_MS = 1_800_000_000_000
NAMES = ("gateway", "hmi", "plc", "robot-1", "robot-2")
NODES = {name: bytes([number]) * 32 for number, name in enumerate(NAMES, start=1)}
ADDRESSES = {name: parse_address(f"200::{number}") for number, name in enumerate(NAMES, start=1)}
TAGS = {
    "gateway": {"gateway"},
    "hmi": {"hmi", "cell-3"},
    "plc": {"plc", "cell-3"},
    "robot-1": {"robot", "cell-3"},
    "robot-2": {"robot", "cell-4"},
}
MODBUS = Service(Protocol.TCP, 502, 502)


def cell(tags: dict[str, set[str]] | None = None, without: Sequence[str] = ()) -> Directory:
    """The directory; other tags for some nodes, and some nodes missing."""
    held = {**TAGS, **(tags or {})}
    members = [
        Member(node=NODES[name], name=name, address=ADDRESSES[name], tags=frozenset(held[name]))
        for name in NAMES
        if name not in without
    ]
    return Directory(members, [Subnet(prefix=Prefix.parse("fd00::/120"), gateway=NODES["gateway"])])


def selector(text: str) -> Selector:
    """`any`, `self`, `tag:plc`, `node:plc`, `subnet:fd00::/120`."""
    kind, _, name = text.partition(":")
    match kind:
        case "any":
            return AnySelector()
        case "self":
            return SelfSelector()
        case "tag":
            return TagSelector(name)
        case "node":
            return NodeSelector(NODES[name])
        case _:
            return SubnetSelector(Prefix.parse(name))


def allow(sources: str, targets: str, *services: Service, until_ms: int | None = None, note: str = "") -> Rule:
    """A rule from texts with blanks between selectors; tcp/502 where no service is named."""
    return Rule(
        action=Action.ALLOW,
        sources=tuple(map(selector, sources.split())),
        targets=tuple(map(selector, targets.split())),
        services=services or (MODBUS,),
        until_ms=until_ms,
        note=note,
    )


def deny(sources: str, targets: str, *services: Service, until_ms: int | None = None) -> Rule:
    """The same, as a denial."""
    made = allow(sources, targets, *services, until_ms=until_ms)
    return Rule(
        action=Action.DENY, sources=made.sources, targets=made.targets, services=made.services, until_ms=until_ms
    )


def policy(*rules: Rule) -> Policy:
    """A policy of these rules."""
    return Policy(rules={rule.id: rule for rule in rules})


def flow(source: str, target: str, port: int = 502, protocol: int = 6) -> Flow:
    """A flow between names of nodes, or addresses."""
    ends = [ADDRESSES[name] if name in ADDRESSES else parse_address(name) for name in (source, target)]
    return Flow(source=ends[0], target=ends[1], protocol=protocol, port=port)
