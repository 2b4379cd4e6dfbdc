"""Takes a tree of text apart into objects, lists and strings; what has another form is refused by name."""

from __future__ import annotations

from typing import Final, NamedTuple

from appliance.policy.tailscale.file import Text
from appliance.policy.tailscale.report import NoEqualError
from appliance.policy.text import Mapping, Node, Scalar, Sequence

_NOTHING: Final = {"", "~", "null"}  # how YAML and JSON write that there is no value


class Field(NamedTuple):
    """A field of an object: its name, where that stands, and its value."""

    name: str
    line: int
    column: int
    value: Node


def fields(node: Node, name: str) -> list[Field]:
    """The fields of an object."""
    if not isinstance(node, Mapping):
        raise NoEqualError(name, "is no object", "Write names and values between { and }.")
    return [Field(field.key.text, field.key.line, field.key.column, field.value) for field in node.fields]


def items(node: Node, name: str) -> tuple[Node, ...]:
    """The items of a list."""
    if not isinstance(node, Sequence):
        raise NoEqualError(name, "is no list", "Write it between [ and ].")
    return node.items


def string(node: Node, name: str) -> Text:
    """A string of JSON: quoted, so that a number and a truth value are none."""
    if not isinstance(node, Scalar) or not node.quoted:
        raise NoEqualError(name, "is no text", "Write it in quotes.")
    return Text(node.text, node.line, node.column)


def plain(node: Node, name: str) -> Text:
    """A scalar of YAML, with quotes or without."""
    if not isinstance(node, Scalar):
        raise NoEqualError(name, "is no text", "Write one value, or a list of them.")
    return Text(node.text, node.line, node.column)


def is_empty(node: Node) -> bool:
    """True for null, the empty text, the empty list and the empty object."""
    match node:
        case Scalar(text, quoted=quoted):
            return not text if quoted else text in _NOTHING
        case Sequence(items):
            return not items
        case Mapping(fields):
            return not fields


def is_off(node: Node) -> bool:
    """True for a switch that is off: false, or empty."""
    return is_empty(node) or (isinstance(node, Scalar) and not node.quoted and node.text == "false")
