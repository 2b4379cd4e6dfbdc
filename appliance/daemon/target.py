"""Target: whom to dial, as it is written in settings, on the command line and in announcements.

One parser for all of them, so that what one place takes another never refuses. It resolves no name.
"""

from __future__ import annotations

import msgspec

from appliance.core.errors import error
from appliance.core.ids import NodeId
from appliance.transport.address import Address


class Target(msgspec.Struct, frozen=True):
    """Somebody to dial. Without a node id, any member that answers there will do."""

    address: Address
    node: NodeId | None = None

    def __str__(self) -> str:
        return f"{self.node}@{self.address}" if self.node else str(self.address)


def parse_target(text: str) -> Target:
    """`host:port`, `[v6]:port`, or either after `nodeid@`. Raises `mesh.peer` or `id.text`."""
    node, at, address = text.rpartition("@")
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise error("mesh.peer", text=text)
    if not _is_host(host) or not _is_port(port):
        raise error("mesh.peer", text=text)
    return Target(Address(host, int(port)), NodeId.parse(node) if at else None)


def _is_host(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(char.isspace() for char in text)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65_536
