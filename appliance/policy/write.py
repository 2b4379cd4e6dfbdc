"""From a policy back to the text of a file, as a person would have written it. `parse` reads the very same policy.

A group stands for its tags where a rule has all of them, a service's name for its ports; a node has its name where that
names one node alone. The order is fixed, so two texts of one policy are equal. The YAML is of the kind in
which every reader finds the same texts: what could be doubtful is quoted, as in JSON.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from appliance.core.ids import NodeId
from appliance.core.prefix import address_text
from appliance.policy.canonical_rule import canonical_services
from appliance.policy.directory import Directory
from appliance.policy.model import (
    Action,
    NodeSelector,
    Policy,
    PolicyTest,
    Rule,
    Selector,
    Service,
    Subject,
    TagSelector,
)
from appliance.policy.moments import moment_text
from appliance.policy.names import NodeNames
from appliance.policy.selectors import UNTAGGED

Text: TypeAlias = str | list[str]
Item: TypeAlias = dict[str, Text]
Whole: TypeAlias = "dict[str, int | Item | list[Item]]"

HEAD = "# Who may talk to whom. What no rule allows is denied, and deny beats allow; the order means nothing.\n"
_WIDTH = 120  # columns; a longer list has a line for each item
_WORD = r"[^\W_](?:[\w./()+-]|:(?=[\w/:]))*"  # of YAML's plain scalars those without any doubt
_PLAIN_WORD = re.compile(_WORD)
_PLAIN_LINE = re.compile(rf"{_WORD}(?:[,;]? \(?{_WORD})*")
_READ_OTHERWISE = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})  # types of YAML 1.1


def write(policy: Policy, directory: Directory) -> str:
    """The policy as YAML."""
    return HEAD + "".join(f"{line}\n" for line in _lines(_Writer(policy, directory).whole()))


def to_json(policy: Policy, directory: Directory) -> str:
    """The policy as JSON, with the same content and order."""
    return msgspec.json.format(msgspec.json.encode(_Writer(policy, directory).whole()), indent=2).decode() + "\n"


class _Writer:
    def __init__(self, policy: Policy, directory: Directory) -> None:
        self._policy = policy
        counted = Counter(member.name for member in directory.members.values())
        names = NodeNames(directory)
        self._tags = {member.node: member.tags for member in directory.members.values()}
        self._named = {
            member.node: member.name
            for member in directory.members.values()
            if counted[member.name] == 1 and member.name and names.find(member.name) == [member]
        }

    def whole(self) -> Whole:
        """The document; sections that hold nothing are left out."""
        policy = self._policy
        parts: Whole = {"version": 1}
        if policy.groups:
            parts["groups"] = {name: list(tags) for name, tags in sorted(policy.groups.items())}
        if policy.services:
            parts["services"] = {name: _one_or_list(map(str, found)) for name, found in sorted(policy.services.items())}
        if policy.rules:
            parts["rules"] = sorted((self._rule(rule) for rule in policy.rules.values()), key=_order)
        if policy.tests:
            parts["tests"] = sorted(self._tests(policy.tests.values()), key=_order)
        return parts

    def _rule(self, rule: Rule) -> Item:
        item: Item = {
            rule.action.value: self._services(rule.services),
            "from": self._selectors(rule.sources),
            "to": self._selectors(rule.targets),
        }
        if rule.until_ms is not None:
            item["until"] = moment_text(rule.until_ms)
        return item | ({"note": rule.note} if rule.note else {})

    def _tests(self, tests: Iterable[PolicyTest]) -> Iterator[Item]:
        """Tests that differ in their services alone are one item, unless their ranges would become one range."""
        alike: dict[tuple[Subject, Subject, Action, str], list[Service]] = {}
        for test in tests:
            alike.setdefault((test.source, test.target, test.expect, test.note), []).append(test.service)
        for (source, target, expect, note), services in alike.items():
            whole = tuple(sorted(services))
            for found in [whole] if canonical_services(whole) == whole else [(service,) for service in whole]:
                ends: Item = {"from": self._subject(source), "to": self._subject(target)}
                yield {expect.value: self._services(found)} | ends | ({"note": note} if note else {})

    def _selectors(self, selectors: Iterable[Selector]) -> Text:
        tags = {selector.name for selector in selectors if isinstance(selector, TagSelector)}
        groups = [name for name, members in sorted(self._policy.groups.items()) if members and tags.issuperset(members)]
        named = {tag for name in groups for tag in self._policy.groups[name]}
        plain = [
            self._selector(selector)
            for selector in selectors
            if not (isinstance(selector, TagSelector) and selector.name in named)
        ]
        return _one_or_list([*(f"group:{name}" for name in groups), *plain])

    def _selector(self, selector: Selector) -> str:
        return f"node:{self._node(selector.node)}" if isinstance(selector, NodeSelector) else str(selector)

    def _services(self, services: tuple[Service, ...]) -> Text:
        known = self._policy.services
        names = [name for name, found in sorted(known.items()) if found and set(services).issuperset(found)]
        named = {service for name in names for service in known[name]}
        return _one_or_list([*names, *(str(service) for service in services if service not in named)])

    def _subject(self, subject: Subject) -> Text:
        if subject.host is not None:
            return f"host:{address_text(subject.host)}"
        tags = [f"tag:{tag}" for tag in sorted(subject.tags)] or [UNTAGGED]
        if subject.node is None:
            return _one_or_list(tags)
        node = f"node:{self._node(subject.node)}"
        return node if self._tags.get(subject.node, frozenset()) == subject.tags else [node, *tags]

    def _node(self, node: bytes) -> str:
        return self._named.get(node) or str(NodeId(node))


def _one_or_list(texts: Iterable[str]) -> Text:
    found = list(texts)
    return found[0] if len(found) == 1 else found


def _order(item: Item) -> tuple[list[str], list[str], list[str]]:
    """Allow before deny, then by the ends."""
    verdict, *_ = item
    lists = [[text] if isinstance(text, str) else text for text in (item["from"], item["to"], item[verdict])]
    return [verdict, *lists[0]], lists[1], [*lists[2], *map(str, item.values())]


def _lines(whole: Whole) -> Iterator[str]:
    """The lines of the YAML: sections in blocks, what belongs to one item or name beneath one another."""
    for section, content in whole.items():
        if isinstance(content, int):
            yield f"{section}: {content}"
            continue
        yield ""
        yield f"{section}:"
        for item in content if isinstance(content, list) else [content]:
            lead = "  - " if isinstance(content, list) else "  "
            for key, text in item.items():
                yield from _entry(lead, key, text)
                lead = " " * len(lead)


def _entry(lead: str, key: str, text: Text) -> Iterator[str]:
    lead += _scalar(key, _PLAIN_WORD) + ":"
    if isinstance(text, str):
        yield f"{lead} {_scalar(text, _PLAIN_LINE)}"
        return
    items = [_scalar(item, _PLAIN_WORD) for item in text]
    line = f"{lead} [{', '.join(items)}]"
    if len(line) <= _WIDTH:
        yield line
        return
    yield lead
    indent = " " * (len(lead) - len(lead.lstrip(" -")) + 2)
    for item in items:
        yield f"{indent}- {item}"


def _scalar(text: str, plain: re.Pattern[str]) -> str:
    """Plain, or quoted as in JSON, which YAML reads alike; what cannot be printed was refused before."""
    if plain.fullmatch(text) is not None and text.lower() not in _READ_OTHERWISE:
        return text
    return msgspec.json.encode(text).decode()
