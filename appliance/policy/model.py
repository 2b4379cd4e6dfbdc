"""The policy as data: selectors, services, rules, tests. Names of groups and services are resolved before this.

A policy is a set. Rules have no order and no priority: what is allowed is the union of the allow rules minus the union
of the deny rules, and nothing else. A rule is known by its content, so the same rule written on two islands is one rule
and sets merge without conflict. This module judges nothing: `evaluate` has the semantics.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TypeAlias

import msgspec

from appliance.core import canonical
from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix

MAX_PORT = 65_535
RULE_ID_BYTES = 16

RuleId: TypeAlias = bytes  # 16 bytes: the beginning of the SHA-256 of the canonical form


class Action(StrEnum):
    """What a rule does with the flows that it matches. Deny beats allow."""

    ALLOW = "allow"
    DENY = "deny"


class Protocol(StrEnum):
    """What a service runs on. `any` is every protocol, also those that have no name here."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"
    ICMPV6 = "icmpv6"
    ANY = "any"


NUMBERS: dict[Protocol, int] = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132, Protocol.ICMPV6: 58}  # IANA
WITH_PORTS = frozenset({Protocol.TCP, Protocol.UDP, Protocol.SCTP})


class AnySelector(msgspec.Struct, frozen=True, order=True, tag="any", array_like=True):
    """Every node of the mesh and every host behind one."""

    def __str__(self) -> str:
        return "any"


class SelfSelector(msgspec.Struct, frozen=True, order=True, tag="self", array_like=True):
    """As a target: whatever the same source selector matches, so that `[tag:cell-1, tag:cell-2]` to `self` lets each
    cell talk within itself."""

    def __str__(self) -> str:
        return "self"


class TagSelector(msgspec.Struct, frozen=True, order=True, tag="tag", array_like=True):
    """The nodes that hold a tag. Hosts behind them are not meant."""

    name: str

    def __str__(self) -> str:
        return f"tag:{self.name}"


class NodeSelector(msgspec.Struct, frozen=True, order=True, tag="node", array_like=True):
    """One node, by its id (32 bytes). Hosts behind it are not meant."""

    node: bytes

    def __str__(self) -> str:
        return f"node:{NodeId(self.node)}"


class SubnetSelector(msgspec.Struct, frozen=True, order=True, tag="subnet", array_like=True):
    """The hosts behind gateways whose address lies in a prefix."""

    prefix: Prefix

    def __str__(self) -> str:
        return f"subnet:{self.prefix}"


Selector: TypeAlias = AnySelector | SelfSelector | TagSelector | NodeSelector | SubnetSelector


class Service(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A protocol and a range of destination ports, both ends included. Without ports the range is whole."""

    protocol: Protocol
    first: int = 0
    last: int = MAX_PORT

    def __str__(self) -> str:
        if (self.first, self.last) == (0, MAX_PORT):
            return self.protocol.value
        return f"{self.protocol.value}/{self.first}" + (f"-{self.last}" if self.last != self.first else "")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule in canonical form: selectors and services sorted, each once, ranges of a protocol merged."""

    action: Action
    sources: tuple[Selector, ...]
    targets: tuple[Selector, ...]
    services: tuple[Service, ...]
    note: str = ""
    until_ms: int | None = None  # no effect from this moment on, ms since the Unix epoch

    @property
    def id(self) -> RuleId:
        """The name of the rule: its content."""
        return content_id(encode_rule(self))

    def active(self, now_ms: int) -> bool:
        """True before the rule expires."""
        return self.until_ms is None or now_ms < self.until_ms

    def pieces(self) -> tuple[tuple[tuple[Selector, ...], tuple[Selector, ...]], ...]:
        """The rule as pairs of source and target selectors; `self` makes one pair of each source selector."""
        plain = tuple(target for target in self.targets if not isinstance(target, SelfSelector))
        paired = [((source,), (source,)) for source in self.sources] if len(plain) < len(self.targets) else []
        return ((self.sources, plain), *paired) if plain else tuple(paired)


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a flow as a policy sees it: a node (id and tags), or a host behind a gateway (its address).

    A test may speak of a node that does not exist: no id, and the tags that it would have.
    """

    node: bytes | None = None
    tags: frozenset[str] = frozenset()
    host: bytes | None = None  # 16 bytes; None for a node


class PolicyTest(msgspec.Struct, frozen=True, kw_only=True):
    """What the author expects of the policy; a policy that does not do it is refused."""

    source: Subject
    target: Subject
    service: Service  # one protocol; of a range every port must have the verdict
    expect: Action
    note: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A whole policy. Rules and tests are kept by their id; groups and services are the vocabulary that people used."""

    rules: dict[RuleId, Rule] = {}
    tests: dict[bytes, PolicyTest] = {}
    groups: dict[str, tuple[str, ...]] = {}  # name -> tags, sorted
    services: dict[str, tuple[Service, ...]] = {}  # name -> services, sorted


EMPTY = Policy()


def content_id(encoded: bytes) -> bytes:
    """The id of a rule or a test, from its canonical bytes."""
    return hashlib.sha256(encoded).digest()[:RULE_ID_BYTES]


def encode_rule(rule: Rule) -> bytes:
    """The canonical bytes of a rule: deterministic CBOR of its fields, without those that are empty."""
    return canonical.encode(_fields(rule))


def encode_test(test: PolicyTest) -> bytes:
    """The canonical bytes of a test; tags are sorted."""
    return canonical.encode(_fields(test))


def _fields(record: Rule | PolicyTest) -> dict[str, canonical.Encodable]:
    fields = msgspec.to_builtins(record, builtin_types=(bytes,), order="deterministic")
    return {key: value for key, value in fields.items() if value not in ("", None)}
