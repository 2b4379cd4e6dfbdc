"""Kinds of documents: who may change which, what a key of one looks like, and how far a key reaches.

A schema is as much a part of the format as a batch is: replicas that differ in it would fold to different rows. So a
release that adds a kind, or lets a document hold more than before, empties the view (storage/migrations.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

import msgspec

from appliance.core.errors import InputError, X0tError, error
from appliance.core.names import NAME_CHARS, TAG
from appliance.core.prefix import Prefix
from appliance.core.yggdrasil import RANGE, SUBNETS
from appliance.replica.change_codec import Op
from appliance.trust.grants import Role

Name = tuple[str, int]  # document, epoch
NODES: Final[Name] = ("nodes", 0)  # <node>/name, <node>/tag/<tag>, <node>/subnet/<prefix>
POLICY: Final[Name] = ("policy", 0)  # rule/<id>, test/<id>, group/<name>, service/<name>, part/<id>

_SHOWN_CHARS = 96  # of a key, in an error
_NODE_SUBNET_BITS = 64  # of the block that Yggdrasil routes to one node
_NODE_KEY = re.compile(
    rf"node1[02-9ac-hj-np-z]{{58}}/(?:(?P<name>name)|tag/(?P<tag>{TAG.pattern})|subnet/(?P<subnet>[^/]+/[0-9]+))"
)
_POLICY_KEY = re.compile(
    rf"(?:rule|test)/(?P<content>[0-9a-f]{{32}})|(?:group|service)/(?:{TAG.pattern})|(?P<part>part/[0-9a-f]{{16}})"
)
_FORBIDDEN = tuple(Prefix.parse(text) for text in ("::/8", "fe80::/10", "ff00::/8"))  # ::1 and mapped IPv4 are in ::/8


class DocumentKind(msgspec.Struct, frozen=True):
    """Who may change a document, and the scope (tags) of a key; None where it belongs to the whole mesh."""

    need: Role
    scope: Callable[[Op], frozenset[str] | None]


def check_subnet(text: str) -> Prefix:
    """A prefix that may be behind a node, in its canonical text. Raises `subnet.form`.

    Of the range of the mesh that is a part of the /64 of one node; whether it is that node's, its key tells.
    """
    try:
        prefix = Prefix.parse(text)
    except InputError as err:
        raise error("subnet.form", prefix=text, reason="it is no IPv6 prefix") from err
    if str(prefix) != text:
        raise error("subnet.form", prefix=text, reason=f"it is written {prefix}")
    if prefix.length >= _NODE_SUBNET_BITS and SUBNETS.covers(prefix):
        return prefix
    if any(block.covers(prefix) or prefix.covers(block) for block in (*_FORBIDDEN, RANGE)):
        raise error("subnet.form", prefix=text, reason="it holds addresses of the mesh, of one link or of nobody")
    return prefix


def _nodes_scope(op: Op) -> frozenset[str] | None:
    match = _NODE_KEY.fullmatch(op.key)
    if match is None:
        raise _misfit(NODES, op, "it is no node's name, tag or subnet")
    if match["subnet"]:
        _subnet(op, match["subnet"])
    fits = isinstance(op.value, str) and 1 <= len(op.value) <= NAME_CHARS if match["name"] else op.value is True
    if not op.delete and not fits:
        raise _misfit(NODES, op, "a tag or subnet is true, a name is a text of 1 to 64 characters")
    return frozenset({match["tag"]}) if match["tag"] else None


def _subnet(op: Op, text: str) -> None:
    try:
        check_subnet(text)
    except InputError as err:
        raise _misfit(NODES, op, err.detail["reason"]) from err


def _policy_scope(op: Op) -> None:
    match = _POLICY_KEY.fullmatch(op.key)
    if match is None:
        raise _misfit(POLICY, op, "it is no rule, test, group, service or part")
    if op.delete:
        return
    if match["part"]:
        if op.value is not True:
            raise _misfit(POLICY, op, "a part is true")
    elif not isinstance(op.value, bytes) or not op.value:
        raise _misfit(POLICY, op, "its value is not bytes")
    elif match["content"] and not hashlib.sha256(op.value).hexdigest().startswith(match["content"]):
        raise _misfit(POLICY, op, "it is not named by its content")


def _misfit(name: Name, op: Op, reason: str) -> X0tError:
    return error("document.schema", document=name[0], name=op.key[:_SHOWN_CHARS], reason=reason)


DOCUMENTS: Final[dict[Name, DocumentKind]] = {
    NODES: DocumentKind(Role.ADMIN, _nodes_scope),
    POLICY: DocumentKind(Role.ADMIN, _policy_scope),
}
