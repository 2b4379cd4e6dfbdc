"""The written semantics: which flows a policy allows. Everything else in this package must agree with this page.

A flow is allowed if at least one active allow rule matches it and no active deny rule does. Rules have no order. A
rule matches if, in one of its pieces, a source selector matches the source and a target selector the target, and one
of its services matches protocol and port. An address that nobody speaks for has no rights. What is judged is the
packet that opens a conversation; its replies, and errors about it, share the verdict. This module knows no
addresses' owners but the directory's, no clock and no kernel.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from appliance.policy.directory import Directory
from appliance.policy.model import (
    NUMBERS,
    WITH_PORTS,
    Action,
    AnySelector,
    NodeSelector,
    Policy,
    Protocol,
    Rule,
    RuleId,
    Selector,
    SelfSelector,
    Service,
    Subject,
    SubnetSelector,
    TagSelector,
)


class Flow(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The packet that opens a conversation: addresses of 16 bytes, IANA protocol number, destination port.

    The port is 0 for a protocol without ports.
    """

    source: bytes
    target: bytes
    protocol: int
    port: int = 0


class Reason(StrEnum):
    """Why a flow is allowed or not. The verdict is `allowed` for the first alone."""

    ALLOWED = "allowed"
    DENIED = "denied"  # a deny rule matches
    NO_RULE = "no_rule"  # nothing matches
    STRANGER_SOURCE = "stranger_source"  # nobody in the directory speaks for the address
    STRANGER_TARGET = "stranger_target"


class Verdict(msgspec.Struct, frozen=True):
    """The judgement of one flow, and every active rule that matches it, sorted by id."""

    reason: Reason
    allows: tuple[RuleId, ...] = ()
    denies: tuple[RuleId, ...] = ()

    @property
    def allowed(self) -> bool:
        """True if the flow may pass."""
        return self.reason is Reason.ALLOWED


def evaluate(policy: Policy, directory: Directory, flow: Flow, now_ms: int) -> Verdict:
    """The verdict on a flow between two addresses."""
    source, target = directory.place(flow.source), directory.place(flow.target)
    if source is None:
        return Verdict(Reason.STRANGER_SOURCE)
    if target is None:
        return Verdict(Reason.STRANGER_TARGET)
    return judge(policy, source.subject, target.subject, flow.protocol, flow.port, now_ms)


def judge(  # noqa: PLR0913, PLR0917 - a flow between subjects is these four, the policy and the moment
    policy: Policy, source: Subject, target: Subject, protocol: int, port: int, now_ms: int
) -> Verdict:
    """The verdict on a flow between two subjects, also such as no directory holds."""
    matching = {
        name: rule.action
        for name, rule in policy.rules.items()
        if rule.active(now_ms) and joins(rule, source, target) and serves(rule, protocol, port)
    }
    allows = tuple(sorted(name for name, action in matching.items() if action is Action.ALLOW))
    denies = tuple(sorted(name for name, action in matching.items() if action is Action.DENY))
    if denies:
        return Verdict(Reason.DENIED, allows, denies)
    return Verdict(Reason.ALLOWED if allows else Reason.NO_RULE, allows)


def joins(rule: Rule, source: Subject, target: Subject) -> bool:
    """True if the rule speaks about flows from the source to the target, whatever the service."""
    return any(
        any(selects(selector, source) for selector in sources)
        and any(selects(selector, target) for selector in targets)
        for sources, targets in rule.pieces()
    )


def serves(rule: Rule, protocol: int, port: int) -> bool:
    """True if one of the rule's services is this protocol and port."""
    return any(covers(service, protocol, port) for service in rule.services)


def selects(selector: Selector, subject: Subject) -> bool:
    """True if the selector means the subject."""
    match selector:
        case AnySelector():
            return True
        case TagSelector(name):
            return subject.host is None and name in subject.tags
        case NodeSelector(node):
            return subject.host is None and subject.node == node
        case SubnetSelector(prefix):
            return subject.host is not None and subject.host in prefix
        case SelfSelector():
            raise ValueError("self has no meaning of its own: Rule.pieces() resolves it")


def covers(service: Service, protocol: int, port: int) -> bool:
    """True if the service is this protocol and port. Protocols without ports have no port to compare."""
    if service.protocol is Protocol.ANY:
        return True
    if protocol != NUMBERS[service.protocol]:
        return False
    return service.protocol not in WITH_PORTS or service.first <= port <= service.last
