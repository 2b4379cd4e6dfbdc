"""The mapping file: which tags the devices of users and groups hold here, and what takes the place of addresses.

    members: staff                        # optional: a tag that every user's devices hold
    users:
      eve@example.com: [fitters, eve]     # one tag or several; all her devices hold all of them
    groups:
      group:fitters: fitters
    tags:
      tag:Line_1: line-1                  # only for those whose name cannot be kept
    hosts:                                # by name, address or prefix
      10.20.0.0/24: fd00:20::/120         # of the same size: every address moves along
      historian: node:historian           # by name or id
      100.64.0.9: tag:gateway

It lists all users of the tailnet: who is not in it holds none of its tags.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix
from appliance.policy.directory import Directory
from appliance.policy.model import AnySelector, NodeSelector, Selector, SubnetSelector, TagSelector
from appliance.policy.names import find_nodes
from appliance.policy.tailscale.names import is_tag, meant
from appliance.policy.tailscale.report import NoEqualError, Placed
from appliance.policy.tailscale.tree import Field, fields, is_empty, items, plain
from appliance.policy.text import Node, Scalar, read

MEMBERS: Final = "members"
_SECTIONS: Final = (MEMBERS, "users", "groups", "tags", "hosts")
_T = TypeVar("_T")
_TAG_ADVICE: Final = "A tag is 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end: line-1."


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """Tags by user, group and tag of the file; selectors by host, address and prefix of the file."""

    members: tuple[str, ...] = ()
    users: dict[str, tuple[str, ...]] = {}
    groups: dict[str, tuple[str, ...]] = {}
    tags: dict[str, tuple[str, ...]] = {}
    hosts: dict[str, tuple[Selector, ...]] = {}


EMPTY: Final = Mapping()


def read_mapping(text: str, directory: Directory) -> Mapping:
    """A mapping file in YAML. Entries without a value count as missing.

    Raises `tailscale.mapping`, and the reader's errors for what is no YAML.
    """
    root = read(text)
    try:
        found = {field.name: field for field in fields(root, "the file")} if not is_empty(root) else {}
    except NoEqualError as fault:
        raise _at(root, fault) from fault
    for name, field in found.items():
        if name not in _SECTIONS:
            raise _at(field, NoEqualError(name, "is no section", meant(name, _SECTIONS, "Take it out.")))
    return Mapping(
        members=_each(found[MEMBERS].value, MEMBERS, _tag) if MEMBERS in found else (),
        users=_section(found.get("users"), _tag),
        groups=_section(found.get("groups"), _tag),
        tags=_section(found.get("tags"), _tag),
        hosts=_section(found.get("hosts"), lambda text: _host(text, directory)),
    )


def _section(field: Field | None, make: Callable[[str], _T]) -> dict[str, tuple[_T, ...]]:
    if field is None or is_empty(field.value):
        return {}
    try:
        entries = list(fields(field.value, field.name))
    except NoEqualError as fault:
        raise _at(field, fault) from fault
    return {entry.name: _each(entry.value, entry.name, make) for entry in entries if not is_empty(entry.value)}


def _each(node: Node, name: str, make: Callable[[str], _T]) -> tuple[_T, ...]:
    """One value or a list of them."""
    try:
        values = [node] if isinstance(node, Scalar) else items(node, name)
    except NoEqualError as fault:
        raise _at(node, fault) from fault
    result: list[_T] = []
    for value in values:
        try:
            result.append(make(plain(value, name).text))
        except NoEqualError as fault:
            raise _at(value, fault) from fault
    return tuple(result)


def _tag(text: str) -> str:
    name = text.removeprefix("tag:")
    if not is_tag(name):
        raise NoEqualError(text, "cannot be a tag", _TAG_ADVICE)
    return name


def _host(text: str, directory: Directory) -> Selector:
    """`any`, `tag:...`, `node:...` or an IPv6 prefix or address; a node's own address means the node."""
    if text == "any":
        return AnySelector()
    if text.startswith("tag:"):
        return TagSelector(_tag(text))
    if text.startswith("node:"):
        return NodeSelector(_node(text.removeprefix("node:"), directory))
    try:
        prefix = Prefix.parse(text)
    except X0tError as err:
        raise NoEqualError(text, "is no IPv6 prefix or address, tag:NAME, node:NAME or any", err.hint) from err
    member = directory.by_address.get(prefix.address) if prefix.first == prefix.last else None
    return NodeSelector(member.node) if member else SubnetSelector(prefix)


def _node(text: str, directory: Directory) -> bytes:
    named = find_nodes(text, directory)
    if len(named) == 1:
        return named[0].node
    if named:
        raise NoEqualError(text, "is the name of several nodes", "Name it by its id, as `x0t node list` shows it.")
    try:
        return NodeId.parse(text).raw
    except X0tError as err:
        known = [member.name for member in directory.members.values()]
        advice = meant(text, known, "Name a node as `x0t node list` shows it, or by its id.")
        raise NoEqualError(text, "is the name or the id of no node of the mesh", advice) from err


def _at(place: Placed, fault: NoEqualError) -> X0tError:
    return error(
        "tailscale.mapping", line=place.line, column=place.column, name=fault.name, why=fault.why, advice=fault.advice
    )
