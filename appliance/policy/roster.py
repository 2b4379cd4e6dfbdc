"""Roster: who is on the mesh network now, out of the folded state. It decides who has an address, and nothing else.

A place on the network is for nodes that hold the role member, whose key of the network is proven, and whose log is not
frozen. A log freezes when its key was used by two machines, and the key of the network lies on the same disk: which of
the two answers at its address nobody can tell, so both stay out until an owner decides. What is not plain is settled by
the same rule on every replica and told as an issue. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix, address_text
from appliance.core.yggdrasil import SUBNETS, node_address, node_subnet
from appliance.policy.directory import Directory, Member, Subnet
from appliance.replica.reports import NetworkView, NodeView
from appliance.replica.rows import AttachmentRow
from appliance.trust.grants import Role


class Code(StrEnum):
    """What a person should look at."""

    DUPLICATE = "roster.duplicate"  # several nodes claim one address
    FROZEN = "roster.frozen"  # a member has no place, because its log is forked
    FOREIGN = "roster.subnet_foreign"  # a part of the mesh's own range behind a node to which it is not routed
    SHARED = "roster.subnet_shared"  # one prefix behind several gateways


class RosterIssue(msgspec.Struct, frozen=True):
    """One of them: the nodes that it concerns, first the one that has what they claim, and a sentence about it."""

    code: Code
    nodes: tuple[bytes, ...]
    sentence: str


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A member as the underlay knows it."""

    node: bytes
    name: str
    key: bytes  # of the network, Ed25519
    address: bytes
    uris: tuple[str, ...]
    relay: bool
    since: tuple[int, bytes]  # place in the fold of what it said last


class Roster(msgspec.Struct, frozen=True):
    """Everybody who is on the network, by node id; this node itself too, if it is."""

    directory: Directory
    neighbours: tuple[Neighbour, ...]
    issues: tuple[RosterIssue, ...]

    def allowed_keys(self, own: bytes) -> frozenset[bytes]:
        """Keys of all but one node, with which it may have links."""
        return frozenset(neighbour.key for neighbour in self.neighbours if neighbour.node != own)


def roster_of(network: NetworkView) -> Roster:
    """Who has a place. Linear but for sorting."""
    issues: list[RosterIssue] = []
    attached = {row.node: row for row in network.attachments}
    trusted = [view for view in network.members if Role.MEMBER.value in view.roles and view.node in attached]
    issues += [_frozen(view) for view in trusted if view.frozen]
    claims = [_neighbour(view, attached[view.node]) for view in trusted if not view.frozen]
    neighbours = _one_each(claims, issues)
    views = {view.node: view for view in trusted}
    members = [
        Member(node=it.node, name=it.name, address=it.address, tags=frozenset(views[it.node].tags)) for it in neighbours
    ]
    return Roster(Directory(members, _subnets(neighbours, views, issues)), tuple(neighbours), tuple(issues))


def _neighbour(view: NodeView, row: AttachmentRow) -> Neighbour:
    return Neighbour(
        node=view.node,
        name=view.name or NodeId(view.node).short,
        key=row.key,
        address=node_address(row.key),
        uris=row.uris,
        relay=bool(row.relay),
        since=(row.hlc, row.batch),
    )


def _one_each(claims: Sequence[Neighbour], issues: list[RosterIssue]) -> list[Neighbour]:
    """For each address the node whose attachment is the earliest, in order of node ids."""
    found: dict[bytes, Neighbour] = {}
    losers: dict[bytes, list[bytes]] = {}
    for claim in sorted(claims, key=lambda claim: claim.since):
        if found.setdefault(claim.address, claim) is not claim:
            losers.setdefault(claim.address, []).append(claim.node)
    for address, nodes in sorted(losers.items()):
        sentence = f"{len(nodes) + 1} nodes claim {address_text(address)}; who attached first has it"
        issues.append(RosterIssue(Code.DUPLICATE, (found[address].node, *nodes), sentence))
    return sorted(found.values(), key=lambda claim: claim.node)


def _subnets(
    neighbours: Iterable[Neighbour], views: Mapping[bytes, NodeView], issues: list[RosterIssue]
) -> list[Subnet]:
    """Each prefix behind one gateway, the one with the lowest id. Of nested prefixes the longest decides later on."""
    gateways: dict[Prefix, list[bytes]] = {}
    for neighbour in neighbours:
        own = node_subnet(neighbour.key)
        for text in views[neighbour.node].subnets:
            prefix = Prefix.parse(text)
            if SUBNETS.covers(prefix) and not own.covers(prefix):
                sentence = f"{prefix} is not routed to this node, whose own block is {own}"
                issues.append(RosterIssue(Code.FOREIGN, (neighbour.node,), sentence))
            else:
                gateways.setdefault(prefix, []).append(neighbour.node)
    for prefix, nodes in sorted(gateways.items()):
        if len(nodes) > 1:
            sentence = f"{prefix} is behind {len(nodes)} gateways; the one with the lowest id has it"
            issues.append(RosterIssue(Code.SHARED, tuple(nodes), sentence))
    return [Subnet(prefix=prefix, gateway=nodes[0]) for prefix, nodes in sorted(gateways.items())]


def _frozen(view: NodeView) -> RosterIssue:
    return RosterIssue(
        Code.FROZEN, (view.node,), "its log is forked, so two machines use its key; an owner must decide"
    )
