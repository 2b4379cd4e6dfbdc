"""Why a record of a policy document cannot be: what its types alone do not say.

Rules have more to them, which `canonical_rule` knows. This module reads no document and repairs nothing.
"""

from __future__ import annotations

from appliance.core.ids import ID_BYTES
from appliance.core.limits import Limits
from appliance.core.prefix import ADDRESS_BITS, ADDRESS_BYTES, Prefix
from appliance.policy.canonical_rule import canonical_services, service_fault
from appliance.policy.model import (
    NodeSelector,
    PolicyTest,
    Rule,
    Selector,
    Service,
    Subject,
    SubnetSelector,
    TagSelector,
)
from appliance.policy.names import NAME, parse_service

LAST_MOMENT_MS = 253_402_300_799_999  # the end of the year 9999, the last that RFC 3339 can write


def rule_fault(rule: Rule) -> str:
    """Why the parts of this rule mean nothing; empty if they do."""
    if rule.until_ms is not None and not 0 <= rule.until_ms <= LAST_MOMENT_MS:
        return "a rule ends between the years 1970 and 9999"
    if not rule.note.isprintable():
        return "a note is one line of printable text"
    return next((reason for selector in (*rule.sources, *rule.targets) if (reason := _selector_fault(selector))), "")


def expectation_fault(test: PolicyTest, limits: Limits) -> str:
    """Why this cannot be a test; empty if it can."""
    if not test.note.isprintable() or len(test.note.encode()) > limits.text_bytes:
        return f"a note is one line of printable text of at most {limits.text_bytes} bytes"
    return _subject_fault(test.source) or _subject_fault(test.target) or service_fault(test.service)


def group_fault(name: str, tags: tuple[str, ...]) -> str:
    """Why this cannot be a group; empty if it can."""
    if NAME.fullmatch(name) is None:
        return "it has no proper name"
    if not tags or tags != tuple(sorted(set(tags))):
        return "a group has tags, sorted and each once"
    return "" if all(map(NAME.fullmatch, tags)) else "a group has only tags"


def named_fault(name: str, services: tuple[Service, ...]) -> str:
    """Why this cannot be a named service; empty if it can."""
    if NAME.fullmatch(name) is None or parse_service(name) is not None:
        return "it has no proper name"
    reason = next((reason for service in services if (reason := service_fault(service))), "")
    if reason or (services and services == canonical_services(services)):
        return reason
    return "it has services, sorted and their ranges merged"


def _selector_fault(selector: Selector) -> str:
    match selector:
        case TagSelector(name) if NAME.fullmatch(name) is None:
            return "a selector names no tag"
        case NodeSelector(node) if len(node) != ID_BYTES:
            return "a selector names no node"
        case SubnetSelector(prefix) if not _is_prefix(prefix):
            return "a selector names no IPv6 prefix"
        case _:
            return ""


def _is_prefix(prefix: Prefix) -> bool:
    if len(prefix.address) != ADDRESS_BYTES or not 0 <= prefix.length <= ADDRESS_BITS:
        return False
    return int.from_bytes(prefix.address, "big") & ((1 << ADDRESS_BITS - prefix.length) - 1) == 0


def _subject_fault(subject: Subject) -> str:
    if subject.host is not None:
        alone = subject.node is None and not subject.tags
        return "" if alone and len(subject.host) == ADDRESS_BYTES else "a host is one IPv6 address and nothing else"
    if subject.node is not None and len(subject.node) != ID_BYTES:
        return "an end of a test names no node"
    return "" if all(map(NAME.fullmatch, subject.tags)) else "an end of a test has only tags"
