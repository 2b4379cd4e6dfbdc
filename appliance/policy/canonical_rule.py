"""The canonical form of a rule: what is said twice is said once, and equal rules are equal bytes.

Parser and document both come through here: a rule that was not brought into this form has no place in a policy.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.policy.model import (
    MAX_PORT,
    WITH_PORTS,
    AnySelector,
    Protocol,
    Rule,
    Selector,
    SelfSelector,
    Service,
)

ANY = Service(Protocol.ANY)


def canonical_selectors(selectors: Iterable[Selector]) -> tuple[Selector, ...]:
    """Sorted, each once; `any` stands for all."""
    unique = set(selectors)
    if AnySelector() in unique:
        return (AnySelector(),)
    return tuple(sorted(unique, key=lambda selector: (type(selector).__name__, str(selector))))


def canonical_services(services: Iterable[Service]) -> tuple[Service, ...]:
    """Sorted by protocol and port; ranges of one protocol that overlap or touch are one; `any` stands for all."""
    merged: list[Service] = []
    for service in sorted(services):
        if service.protocol is Protocol.ANY:
            return (ANY,)
        last = merged[-1] if merged else None
        if last is not None and last.protocol is service.protocol and service.first <= last.last + 1:
            merged[-1] = Service(last.protocol, last.first, max(last.last, service.last))
        else:
            merged.append(service)
    return tuple(merged)


def canonical(rule: Rule) -> Rule:
    """The rule in canonical form."""
    return Rule(
        action=rule.action,
        sources=canonical_selectors(rule.sources),
        targets=canonical_selectors(rule.targets),
        services=canonical_services(rule.services),
        note=rule.note,
        until_ms=rule.until_ms,
    )


def fault(rule: Rule, limits: Limits = LIMITS) -> str:
    """Why this cannot be a rule; empty if it can."""
    if not (rule.sources and rule.targets and rule.services):
        return "a rule needs sources, targets and services"
    if SelfSelector() in rule.sources:
        return "`self` is a target and never a source"
    if SelfSelector() in rule.targets and AnySelector() in rule.sources:
        return "`self` pairs each source with itself, and `any` is not one source but all"
    if max(len(rule.sources), len(rule.targets)) > limits.policy_selectors:
        return f"a side has at most {limits.policy_selectors} selectors; use a tag that they share"
    if len(rule.services) > limits.policy_services:
        return f"a rule has at most {limits.policy_services} ranges of ports; use several rules"
    if len(rule.note.encode()) > limits.text_bytes:
        return f"a note has at most {limits.text_bytes} bytes"
    return next((reason for service in rule.services if (reason := service_fault(service))), "")


def service_fault(service: Service) -> str:
    """Why this cannot be a service; empty if it can."""
    if not 0 <= service.first <= service.last <= MAX_PORT:
        return f"ports run from 0 to {MAX_PORT}, the lower one first"
    if service.protocol not in WITH_PORTS and (service.first, service.last) != (0, MAX_PORT):
        return f"{service.protocol} has no ports"
    return ""


def checked(rule: Rule, limits: Limits = LIMITS) -> Rule:
    """The rule, if it is one in canonical form. Raises `policy.document`."""
    reason = fault(rule, limits) or ("" if canonical(rule) == rule else "it is not in canonical form")
    if reason:
        raise error("policy.document", key=f"rule/{rule.id.hex()}", reason=reason)
    return rule
