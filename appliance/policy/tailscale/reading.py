"""Reads a policy file: from a tree of HuJSON to records, and names what of it does not bear on flows.

It judges the form of entries only: what they mean is decided later. Fields whose name begins with # are comments of
some editors. A field that nobody knows is refused, because it may be one that limits a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias, TypeVar

from appliance.policy.tailscale import sections
from appliance.policy.tailscale.file import Access, Definition, Entry, PolicyFile, Text, Trial
from appliance.policy.tailscale.names import is_user, meant
from appliance.policy.tailscale.report import NoEqualError, Report
from appliance.policy.tailscale.tree import Field, fields, is_empty, is_off, items, string
from appliance.policy.text import Node

_T = TypeVar("_T")
_Found: TypeAlias = dict[str, Field]  # by lower-case name
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\]((?:/\d+)?(?::.*)?)")


def records(root: Node, report: Report) -> PolicyFile:
    """The file as records. What has another form than it must have is refused in the report."""
    with report.refusing(root):
        return _Reading(report).file(root)
    return PolicyFile()


class _Reading:
    def __init__(self, report: Report) -> None:
        self._report = report

    def file(self, root: Node) -> PolicyFile:
        found = self._fields(root, "the file", sections.FLOWS | set(sections.OTHERS) | {sections.DEFAULT_POSTURE})
        for name, field in found.items():
            self._outside(name, field)
        accesses = [
            *self._entries(found.get("acls"), "acls", self._acl),
            *self._entries(found.get("grants"), "grants", self._grant),
        ]
        return PolicyFile(
            groups=self._definitions(found.get("groups"), "group:"),
            hosts=self._definitions(found.get("hosts"), ""),
            ipsets=self._definitions(found.get("ipsets"), "ipset:"),
            tags=self._definitions(found.get("tagowners"), "tag:"),
            accesses=tuple(accesses),
            trials=tuple(self._entries(found.get("tests"), "tests", self._test)),
            silent="acls" not in found and "grants" not in found,
        )

    def _outside(self, name: str, field: Field) -> None:
        if name in sections.OTHERS and not is_off(field.value):
            self._report.leave(field, field.name, *sections.OTHERS[name])
        elif name == "tagowners" and not is_empty(field.value):
            self._report.leave(field, field.name, *sections.TAG_OWNERS)
        elif name == sections.DEFAULT_POSTURE and not is_empty(field.value):
            self._report.refuse(field, NoEqualError(field.name, *sections.POSTURE))

    def _definitions(self, field: Field | None, prefix: str) -> dict[str, Definition]:
        result: dict[str, Definition] = {}
        if field is None or is_empty(field.value):
            return result
        with self._report.refusing(field):
            for entry in fields(field.value, field.name):
                with self._report.refusing(entry):
                    if not entry.name.startswith(prefix) or (not prefix and "@" in entry.name):
                        must = f"does not begin with {prefix}" if prefix else "has an @, which makes it a user"
                        raise NoEqualError(entry.name, must, "Correct the name.")
                    named = f"{field.name}: {entry.name}"
                    members = self._texts(entry.value, named) if prefix else (string(entry.value, named),)
                    if prefix == "group:":
                        members = tuple(self._users(members))
                    name = Text(entry.name, entry.line, entry.column)
                    result[entry.name] = Definition(name, members)
        return result

    def _users(self, members: Iterable[Text]) -> Iterator[Text]:
        for member in members:
            if is_user(member.text):
                yield member
            else:
                fault = NoEqualError(member.text, "is no user, and a group lists users", "Name its users one by one.")
                self._report.refuse(member, fault)

    def _entries(self, field: Field | None, section: str, make: Callable[[str, Node], _T]) -> Iterator[_T]:
        if field is None or is_empty(field.value):
            return
        nodes: Iterable[Node] = ()
        with self._report.refusing(field):
            nodes = items(field.value, section)
        for number, node in enumerate(nodes):
            with self._report.refusing(node):
                yield make(f"{section}[{number}]", node)

    def _acl(self, name: str, node: Node) -> Access:
        found = self._fields(node, name, sections.ACL_FIELDS)
        action = string(found["action"].value, name) if "action" in found else None
        if action is None or action.text != "accept":
            what = "no action" if action is None else f"the action {action.text}"
            raise NoEqualError(name, f"has {what}: Tailscale knows accept alone", 'Write "action": "accept".')
        self._posture(name, found)
        protocol = found.get("proto")
        return Access(
            name=name,
            line=node.line,
            column=node.column,
            protocol=None if protocol is None or is_empty(protocol.value) else string(protocol.value, f"{name}: proto"),
            sources=self._sources(found, name, "src", "users"),
            targets=self._with_ports(found, name, "dst", "ports"),
        )

    def _grant(self, name: str, node: Node) -> Access:
        found = self._fields(node, name, sections.GRANT_FIELDS)
        self._posture(name, found)
        if "via" in found and not is_empty(found["via"].value):
            self._report.refuse(found["via"], NoEqualError(f"{name}: via", *sections.VIA))
        if "app" in found and not is_empty(found["app"].value):
            for capability in fields(found["app"].value, f"{name}: app"):
                self._report.leave(capability, f"{name}: {capability.name}", *sections.CAPABILITIES)
        elif "ip" not in found:
            raise NoEqualError(name, "has neither ip nor app", "Say in ip what it allows.")
        return Access(
            name=name,
            line=node.line,
            column=node.column,
            ip=self._texts(found["ip"].value, f"{name}: ip") if "ip" in found else (),
            sources=self._sources(found, name, "src"),
            targets=self._sources(found, name, "dst"),
        )

    def _test(self, name: str, node: Node) -> Trial:
        found = self._fields(node, name, sections.TEST_FIELDS)
        if "srcpostureattrs" in found and not is_empty(found["srcpostureattrs"].value):
            at = found["srcpostureattrs"]
            self._report.leave(at, f"{name}: {at.name}", *sections.TEST_POSTURE)
        source = found.get("src") or found.get("user")
        if source is None or is_empty(source.value):
            raise NoEqualError(name, "has no source", "Say in src who begins the connection.")
        protocol = found.get("proto")
        accept = self._with_ports(found, name, "accept", "allow", needed=False)
        deny = self._with_ports(found, name, "deny", needed=False)
        if not accept and not deny:
            raise NoEqualError(name, "expects nothing", "Say in accept or deny what must be so.")
        return Trial(
            name=name,
            line=node.line,
            column=node.column,
            source=_entry(string(source.value, f"{name}: src")),
            protocol=None if protocol is None or is_empty(protocol.value) else string(protocol.value, f"{name}: proto"),
            accept=accept,
            deny=deny,
        )

    def _posture(self, name: str, found: _Found) -> None:
        if "srcposture" in found and not is_empty(found["srcposture"].value):
            at = found["srcposture"]
            self._report.refuse(at, NoEqualError(f"{name}: {at.name}", *sections.POSTURE))

    def _fields(self, node: Node, name: str, known: Collection[str]) -> dict[str, Field]:
        result: dict[str, Field] = {}
        for field in fields(node, name):
            folded = field.name.lower()
            with self._report.refusing(field):
                if folded.startswith("#"):
                    continue
                if folded not in known:
                    near = meant(folded, known, "Take it out.")
                    raise NoEqualError(field.name, f"is no field of {name} that anybody knows", near)
                if folded in result:
                    raise NoEqualError(field.name, f"is in {name} twice", "Keep one.")
                result[folded] = field
        return result

    def _texts(self, node: Node, name: str) -> tuple[Text, ...]:
        return () if is_empty(node) else tuple(string(item, name) for item in items(node, name))

    def _list(self, found: _Found, name: str, keys: tuple[str, ...], *, needed: bool = True) -> Iterator[Text]:
        present = [found[key] for key in keys if key in found]
        if len(present) > 1:
            raise NoEqualError(name, f"has both {' and '.join(keys)}", f"Keep {keys[0]}.")
        if not present and needed:
            raise NoEqualError(name, f"has no {keys[0]}", "A rule needs both ends.")
        for field in present:
            yield from self._texts(field.value, f"{name}: {field.name}")

    def _sources(self, found: _Found, name: str, *keys: str) -> tuple[Entry, ...]:
        return tuple(_entry(text) for text in self._list(found, name, keys))

    def _with_ports(self, found: _Found, name: str, *keys: str, needed: bool = True) -> tuple[Entry, ...]:
        result: list[Entry] = []
        for text in self._list(found, name, keys, needed=needed):
            with self._report.refusing(text):
                result.append(_split(text))
        return tuple(result)


def _entry(text: Text) -> Entry:
    bare = _BRACKETED.fullmatch(text.text)
    host = text.text if bare is None else bare[1] + bare[2]
    return Entry(text=text.text, host=host, line=text.line, column=text.column)


def _split(text: Text) -> Entry:
    """A destination and its ports: what follows the last colon. Brackets are for IPv6 addresses."""
    bare = _BRACKETED.fullmatch(text.text)
    host, colon, ports = (text.text if bare is None else bare[1] + bare[2]).rpartition(":")
    if not colon or not host or not ports:
        raise NoEqualError(text.text, "has no ports", "Write host:port, host:80,443 or host:*.")
    return Entry(text=text.text, host=host, ports=ports, line=text.line, column=text.column)
