"""Names that people type: nodes by name or id, services by protocol and ports."""

from __future__ import annotations

import re
from collections.abc import Iterator

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.names import TAG
from appliance.policy.directory import Directory, Member
from appliance.policy.model import Protocol, Service

NAME = TAG  # of a group or a service: the form of a tag
_ID_BEGINS = f"{NodeId.HRP}1"
SHORT_CHARS = len(_ID_BEGINS) + 8  # of an id that name it: 40 bits, too many for a key made to resemble another

_PROTOCOLS = frozenset(protocol.value for protocol in Protocol)
_OTHER_FORMS = (
    (re.compile(r"([0-9]+(?:-[0-9]+)?)[/:]([a-z]+)"), r"\2/\1"),  # 443/tcp
    (re.compile(r"([a-z0-9]+)[:=]([0-9]+(?:-[0-9]+)?)"), r"\1/\2"),  # tcp:443
    (re.compile(r"([0-9]+(?:-[0-9]+)?)"), r"tcp/\1"),
    (re.compile(r"([a-z0-9]+)/(?:\*|any|all)"), r"\1"),
    (re.compile(r"icmp|ipv6-icmp|ping"), "icmpv6"),
    (re.compile(r"\*|all"), "any"),
    (re.compile(r"(.+)"), r"\1"),  # TCP/443
)
_SERVICE = re.compile(r"([a-z0-9]+)(?:/([0-9]{1,5})(?:-([0-9]{1,5}))?)?")


def parse_service(text: str) -> Service | None:
    """`tcp/443`, `udp/5000-5010`, `sctp`, `icmpv6`, `any`; None for another text. The ports may still be none."""
    match = _SERVICE.fullmatch(text)
    if match is None or match[1] not in _PROTOCOLS:
        return None
    if match[2] is None:
        return Service(Protocol(match[1]))
    return Service(Protocol(match[1]), int(match[2]), int(match[3] or match[2]))


def like_service(text: str) -> str:
    """The service that somebody may have meant who writes as other programs do; empty if there is none."""
    for form, meant in _OTHER_FORMS:
        match = form.fullmatch(text.lower())
        if match is not None and parse_service(written := match.expand(meant)) is not None:
            return written
    return ""


class NodeNames:
    """Finds members of one directory by what people call them; what was asked before is remembered."""

    def __init__(self, directory: Directory) -> None:
        self._members = directory.members
        self._named: dict[str, list[Member]] = {}
        self._found: dict[str, list[Member]] = {}
        for member in directory.members.values():
            self._named.setdefault(member.name, []).append(member)

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def find(self, text: str) -> list[Member]:
        """The members that a text names: by name, by id, or by the beginning of an id."""
        if text not in self._found:
            self._found[text] = self._find(text)
        return self._found[text]

    def _find(self, text: str) -> list[Member]:
        try:
            member = self._members.get(NodeId.parse(text).raw)
            return [] if member is None else [member]
        except X0tError:
            pass
        named = self._named.get(text, [])
        if named or len(text) < SHORT_CHARS or not is_id_begun(text):
            return named
        return [member for member in self._members.values() if str(NodeId(member.node)).startswith(text)]


def is_id_begun(text: str) -> bool:
    """True for what looks like an id of a node, or the beginning of one."""
    return text.startswith(_ID_BEGINS)


def find_nodes(text: str, directory: Directory) -> list[Member]:
    """The members that a text names, for a single question."""
    return NodeNames(directory).find(text)
