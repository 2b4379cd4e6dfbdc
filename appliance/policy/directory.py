"""Who is who on the mesh now: members with their addresses and tags, and the subnets behind them. Pure data.

It is made from the folded state and holds only nodes that may be trusted at this moment; what is not in it has no
rights. An address belongs to at most one node; of nested subnets the longest decides whose host an address is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from appliance.core.prefix import Prefix
from appliance.policy.model import Subject


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node that may be trusted."""

    node: bytes  # its id, 32 bytes
    name: str
    address: bytes  # on the mesh, 16 bytes
    tags: frozenset[str] = frozenset()


class Subnet(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A prefix behind a gateway."""

    prefix: Prefix
    gateway: bytes  # node id
    name: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an address is: the node that speaks for it, and what policy sees of it."""

    node: bytes  # the node itself, or the gateway before the host
    subject: Subject


class Directory:
    """An immutable snapshot. `members` by node id; of two members with one address the lower id has it."""

    def __init__(self, members: Iterable[Member] = (), subnets: Iterable[Subnet] = ()) -> None:
        ordered = sorted(members, key=lambda member: member.node)
        self.members: Final[Mapping[bytes, Member]] = {member.node: member for member in ordered}
        self.by_address: Final[Mapping[bytes, Member]] = {member.address: member for member in reversed(ordered)}
        self.subnets: Final[tuple[Subnet, ...]] = tuple(
            sorted((subnet for subnet in subnets if subnet.gateway in self.members), key=_longest_first)
        )

    def place(self, address: bytes) -> Place | None:
        """Who is at an address; None for a stranger. Linear in the number of subnets."""
        member = self.by_address.get(address)
        if member is not None:
            return Place(node=member.node, subject=Subject(node=member.node, tags=member.tags))
        for subnet in self.subnets:
            if address in subnet.prefix:
                return Place(node=subnet.gateway, subject=Subject(host=address))
        return None


def _longest_first(subnet: Subnet) -> tuple[int, Prefix, bytes]:
    return -subnet.prefix.length, subnet.prefix, subnet.gateway
