"""From the text of a policy file to a policy: names resolved, rules canonical, every mistake told with its place.

    version: 1
    groups: {machines: [robot, plc]}
    services: {modbus: tcp/502}
    rules:
      - allow: [modbus, icmpv6]
        from: group:machines
        to: tag:gateway
        until: 2026-12-01T00:00:00Z
    tests:
      - {from: tag:robot, to: tag:gateway, allow: tcp/502}

What is not known to the directory is an error for a node, and a warning for a tag or a subnet: policies are often
written before the tags are given. docs/policy.md has the form for people.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.policy import bounds
from appliance.policy.canonical_rule import ANY, canonical, canonical_services, fault, service_fault
from appliance.policy.directory import Directory
from appliance.policy.model import (
    EMPTY,
    Action,
    Policy,
    PolicyTest,
    Protocol,
    Rule,
    RuleId,
    SelfSelector,
    Service,
    TagSelector,
    content_id,
    encode_test,
)
from appliance.policy.moments import parse_moment
from appliance.policy.names import NAME, like_service, parse_service
from appliance.policy.selectors import Ends
from appliance.policy.text import Field, Mapping, Node, Problem, Problems, Scalar, Sequence, read

VERSION = "1"
_SECTIONS = ("version", "groups", "services", "rules", "tests")
_RULE = ("allow", "deny", "from", "to", "note", "until")
_TEST = ("allow", "deny", "from", "to", "note")


class Parsed(msgspec.Struct, frozen=True):
    """A policy, and what is doubtful about its text."""

    policy: Policy
    warnings: tuple[Problem, ...] = ()


def parse(text: str, directory: Directory, limits: Limits = LIMITS) -> Parsed:
    """Read a policy. Raises `policy.text` with all mistakes, `policy.size`, or `policy.bounds`."""
    problems = Problems()
    reader = _Reader(directory, limits, problems)
    policy = reader.policy(read(text, limits))
    problems.check()
    bounds.check(policy, limits)
    return Parsed(policy, reader.ends.warnings())


def acl_rule(source_tag: str, target_tag: str, action: Action) -> Rule:
    """The rule of a Terraform user's `x0t_acl_policy`: one tag to another, every service. Raises `tags.form`."""
    for tag in (source_tag, target_tag):
        if NAME.fullmatch(tag) is None:
            raise error("tags.form", tag=tag)
    ends = (TagSelector(source_tag),), (TagSelector(target_tag),)
    return Rule(action=action, sources=ends[0], targets=ends[1], services=(ANY,))


class _Reader:
    def __init__(self, directory: Directory, limits: Limits, problems: Problems) -> None:
        self._limits = limits
        self._problems = problems
        self.ends = Ends(directory, limits, problems)
        self._groups: dict[str, tuple[str, ...]] = {}
        self._services: dict[str, tuple[Service, ...]] = {}

    def policy(self, tree: Node) -> Policy:
        """The whole document. Groups and services are read first, wherever they stand."""
        parts = self._fields(tree, _SECTIONS, "a policy")
        if parts is None:
            return EMPTY
        self._version(tree, parts.get("version"))
        for field in self._named(parts.get("groups"), "machines: [robot, plc]"):
            tags = self._groups[field.key.text] = self.ends.tags(field.value)
            self._bound(field.value, len(tags), self._limits.policy_selectors, "tags; a group")
        for field in self._named(parts.get("services"), "modbus: tcp/502"):
            services = self._services[field.key.text] = self._service_list(field.value, {})
            self._bound(field.value, len(services), self._limits.policy_services, "ranges of ports; a service")
        self.ends.groups = self._groups
        rules = self._rules(parts.get("rules"))
        tests = [test for item in self._list(parts.get("tests"), "tests") for test in self._tests(item)]
        self._bound(parts.get("tests"), len(tests), self._limits.policy_tests, "tests; a policy")
        return Policy(
            rules=rules,
            tests={content_id(encode_test(test)): test for test in tests},
            groups=self._groups,
            services=self._services,
        )

    def _version(self, tree: Node, found: Node | None) -> None:
        if not isinstance(found, Scalar) or found.text != VERSION:
            self._problems.add(found or tree, f"expected `version: {VERSION}`, the only version of the form so far")

    # -- rules and tests

    def _rules(self, node: Node | None) -> dict[RuleId, Rule]:
        found: dict[RuleId, Rule] = {}
        lines: dict[RuleId, int] = {}
        for item in self._list(node, "rules"):
            rule = self._rule(item)
            if rule is None:
                continue
            name = rule.id
            if name in found:
                self.ends.doubt(item, f"this rule says what the one in line {lines[name]} says")
            found.setdefault(name, rule)
            lines.setdefault(name, item.line)
        self._bound(node, len(found), self._limits.policy_rules, "rules; a policy")
        return found

    def _rule(self, item: Node) -> Rule | None:
        parts = self._fields(item, _RULE, "a rule")
        if parts is None:
            return None
        verdicts = self._verdicts(item, parts)
        if len(verdicts) > 1:
            self._problems.add(item, "a rule allows or denies; write two rules")
        if not verdicts or not self._has_ends(item, parts):
            return None
        action, services = verdicts[0]
        rule = Rule(
            action=action,
            sources=self.ends.selectors(parts["from"]),
            targets=self.ends.selectors(parts["to"]),
            services=services,
            note=self._note(parts.get("note")),
            until_ms=self._until(parts.get("until")),
        )
        if not (rule.sources and rule.targets and rule.services):
            return None  # said already, where it stands
        rule = canonical(rule) if SelfSelector() not in rule.sources else rule
        reason = fault(rule, self._limits)
        if reason:
            self._problems.add(item, reason)
        return None if reason else rule

    def _tests(self, item: Node) -> Iterator[PolicyTest]:
        parts = self._fields(item, _TEST, "a test")
        if parts is None:
            return
        verdicts = self._verdicts(item, parts)
        if not self._has_ends(item, parts):
            return
        source, target = self.ends.subject(parts["from"]), self.ends.subject(parts["to"])
        note = self._note(parts.get("note"))
        if source is not None and target is not None:
            for action, services in verdicts:
                for service in services:
                    yield PolicyTest(source=source, target=target, service=service, expect=action, note=note)

    def _verdicts(self, item: Node, parts: dict[str, Node]) -> list[tuple[Action, tuple[Service, ...]]]:
        found = [
            (action, self._service_list(parts[action.value], self._services))
            for action in Action
            if action.value in parts
        ]
        if not found:
            self._problems.add(item, "expected `allow:` or `deny:` with the services, such as `allow: tcp/443`")
        return found

    def _has_ends(self, item: Node, parts: dict[str, Node]) -> bool:
        missing = [name for name in ("from", "to") if name not in parts]
        for name in missing:
            self._problems.add(item, f"expected `{name}:`, such as `{name}: tag:robot`")
        return not missing

    def _note(self, node: Node | None) -> str:
        if node is None:
            return ""
        if not isinstance(node, Scalar):
            self._problems.add(node, "a note is a text")
            return ""
        lines = node.text.splitlines()
        note = node.text if len(lines) < 2 and node.text.isprintable() else " ".join(map(str.strip, lines))
        if len(note.encode()) > self._limits.text_bytes or not note.isprintable():
            self._problems.add(node, f"a note is printable text of at most {self._limits.text_bytes} bytes")
            return ""
        return "" if node.is_null else note

    def _until(self, node: Node | None) -> int | None:
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return None
        text = node.text if isinstance(node, Scalar) else ""
        moment = parse_moment(text)
        if moment is None:
            whole = next((it for it in (f"{text}T00:00:00Z", f"{text}Z") if parse_moment(it) is not None), "")
            meant = f". Did you mean {whole}?" if whole else ""
            self._problems.add(node, f"expected a moment with a zone, such as 2026-12-01T00:00:00Z (RFC 3339){meant}")
        return moment

    # -- services

    def _service_list(self, node: Node, named: dict[str, tuple[Service, ...]]) -> tuple[Service, ...]:
        found: list[Service] = []
        for item in self._texts(node, "a service, such as tcp/443, or a list of them"):
            if item.text in named:
                found += named[item.text]
                continue
            service = parse_service(item.text)
            if service is None:
                self._no_service(item, named)
            elif reason := service_fault(service):
                self._problems.add(item, reason)
            else:
                found.append(service)
        return canonical_services(found)

    def _no_service(self, item: Scalar, named: Iterable[str]) -> None:
        said = f"{item.text} is no service: write tcp/443, udp/5000-5010, sctp, icmpv6, any or a name of `services:`."
        if meant := like_service(item.text):
            self._problems.add(item, f"{said} Did you mean {meant}?")
        else:
            self._problems.add(item, said, item.text, (*named, *(protocol.value for protocol in Protocol)))

    # -- shapes

    def _fields(self, node: Node, known: tuple[str, ...], what: str) -> dict[str, Node] | None:
        """The values of a mapping by key; None for what is none."""
        if not isinstance(node, Mapping):
            self._problems.add(node, f"expected {what} with the keys {', '.join(known)}")
            return None
        for field in node.fields:
            if field.key.text not in known:
                text = f"{what} has no key {field.key.text}; there are {', '.join(known)}."
                self._problems.add(field.key, text, field.key.text, known)
        return {field.key.text: field.value for field in node.fields if field.key.text in known}

    def _named(self, node: Node | None, example: str) -> Iterator[Field]:
        """The fields of a mapping of names. Protocols, and `any`, are no names."""
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return
        if not isinstance(node, Mapping):
            self._problems.add(node, f"expected names and what they stand for, such as {example}")
            return
        self._bound(node, len(node.fields), self._limits.policy_names, "names; a policy")
        for field in node.fields:
            if NAME.fullmatch(field.key.text) is None:
                self._problems.add(field.key, "a name has lower-case letters, digits and hyphens, at most 63")
            elif parse_service(field.key.text) is not None:
                self._problems.add(field.key, f"{field.key.text} is a protocol; choose another name")
            else:
                yield field

    def _list(self, node: Node | None, what: str) -> tuple[Node, ...]:
        if node is None or (isinstance(node, Scalar) and node.is_null):
            return ()
        if not isinstance(node, Sequence):
            self._problems.add(node, f"expected a list of {what}")
            return ()
        return node.items

    def _texts(self, node: Node, expected: str) -> Iterator[Scalar]:
        items = node.items if isinstance(node, Sequence) else (node,)
        if not items:
            self._problems.add(node, f"expected {expected}")
        for item in items:
            if isinstance(item, Scalar) and item.text:
                yield item
            else:
                self._problems.add(item, f"expected {expected}")

    def _bound(self, node: Node | None, count: int, limit: int, what: str) -> None:
        if node is not None and count > limit:
            self._problems.add(node, f"there are {count} {what} has at most {limit}")
