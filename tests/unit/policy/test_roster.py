"""Roster: who has a place on the network, and how claims that do not go together are settled."""

from __future__ import annotations

from itertools import permutations

import pytest

from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix, parse_address
from appliance.core.yggdrasil import node_address, node_subnet
from appliance.policy.directory import Member, Place, Subnet
from appliance.policy.model import Subject
from appliance.policy.roster import Code, Neighbour, Roster, roster_of
from appliance.replica.reports import NetworkView, NodeView
from appliance.replica.rows import AttachmentRow
from tests.attach_rig import public

A, B, C = (bytes([number]) * 32 for number in (1, 2, 3))


def node(
    raw: bytes, name: str = "", *, tags: tuple[str, ...] = (), subnets: tuple[str, ...] = (), frozen: bool = False
) -> NodeView:
    return NodeView(raw, name, ("member",), tags, (), "", frozen, subnets)


def stranger(raw: bytes, *, frozen: bool = False) -> NodeView:
    return NodeView(raw, "", (), (), (), "", frozen)


def row(raw: bytes, key: str, hlc: int = 1, *uris: str, relay: int = 0) -> AttachmentRow:
    return AttachmentRow(node=raw, key=public(key), uris=uris, relay=relay, hlc=hlc, batch=raw)


def roster(members: list[NodeView], rows: list[AttachmentRow]) -> Roster:
    return roster_of(NetworkView(tuple(members), tuple(rows), None))


def places(found: Roster) -> list[bytes]:
    return sorted(found.directory.members)


def test_a_member_that_attached_its_key_has_the_address_of_the_key() -> None:
    found = roster([node(A, "gate", tags=("gate", "line-1"))], [row(A, "a", 7, "tls://h:1", relay=1)])
    address = node_address(public("a"))
    assert dict(found.directory.members) == {
        A: Member(node=A, name="gate", address=address, tags=frozenset({"gate", "line-1"}))
    }
    assert found.neighbours == (
        Neighbour(node=A, name="gate", key=public("a"), address=address, uris=("tls://h:1",), relay=True, since=(7, A)),
    )
    assert found.issues == ()


def test_a_node_without_a_name_is_known_by_its_id() -> None:
    assert roster([node(A)], [row(A, "a")]).neighbours[0].name == NodeId(A).short


@pytest.mark.parametrize(
    "member, rows, code",
    [
        (stranger(A), [row(A, "a")], None),
        (node(A), [], None),
        (node(A), [row(B, "a")], None),
        (node(A, frozen=True), [row(A, "a")], Code.FROZEN),
        (stranger(A, frozen=True), [row(A, "a")], None),
    ],
    ids=["no member", "no key", "somebody else's key", "a forked log", "a forked log of no member"],
)
def test_nobody_else_has_a_place(member: NodeView, rows: list[AttachmentRow], code: Code | None) -> None:
    found = roster([member], rows)
    assert (places(found), found.neighbours) == ([], ())
    assert [issue.code for issue in found.issues] == ([code] if code else [])


def test_the_keys_to_have_links_with_are_those_of_all_others() -> None:
    found = roster([node(A), node(B), stranger(C)], [row(A, "a"), row(B, "b"), row(C, "c")])
    assert found.allowed_keys(A) == {public("b")}
    assert found.allowed_keys(C) == {public("a"), public("b")}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_several_that_claim_one_address_the_first_to_attach_has_it(order: tuple[int, ...]) -> None:
    members = [node(A), node(B, subnets=("fd00::/64",)), node(C, subnets=("fd01::/64",))]
    rows = [row(A, "shared", 3), row(B, "shared", 2), row(C, "own", 1)]
    found = roster([members[number] for number in order], [rows[number] for number in order])
    assert places(found) == [B, C]
    assert found.allowed_keys(C) == {public("shared")}
    (issue,) = found.issues
    assert (issue.code, issue.nodes) == (Code.DUPLICATE, (B, A))
    assert [subnet.gateway for subnet in found.directory.subnets] == [B, C]


def test_attachments_at_the_same_moment_are_settled_by_their_batches() -> None:
    found = roster([node(A), node(B)], [row(B, "shared", 1), row(A, "shared", 1)])
    assert places(found) == [A]


# -- subnets


def test_the_hosts_behind_a_gateway_are_found_by_the_longest_prefix() -> None:
    members = [node(A, subnets=("fd00::/32",)), node(B, subnets=("fd00:0:1::/48",))]
    found = roster(members, [row(A, "a"), row(B, "b")])
    near, far = parse_address("fd00:0:2::1"), parse_address("fd00:0:1::1")
    assert found.directory.place(near) == Place(node=A, subject=Subject(host=near))
    assert found.directory.place(far) == Place(node=B, subject=Subject(host=far))
    assert found.issues == ()


def test_one_prefix_behind_two_gateways_belongs_to_the_lower_id() -> None:
    members = [node(B, subnets=("fd00::/64",)), node(A, subnets=("fd00::/64",))]
    found = roster(members, [row(A, "a"), row(B, "b")])
    assert found.directory.subnets == (Subnet(prefix=Prefix.parse("fd00::/64"), gateway=A),)
    (issue,) = found.issues
    assert (issue.code, issue.nodes) == (Code.SHARED, (A, B))


def test_a_part_of_the_mesh_is_behind_the_node_to_which_it_is_routed_and_no_other() -> None:
    own = str(node_subnet(public("a")))
    found = roster([node(A, subnets=(own,)), node(B, subnets=(own,))], [row(A, "a"), row(B, "b")])
    assert found.directory.subnets == (Subnet(prefix=Prefix.parse(own), gateway=A),)
    (issue,) = found.issues
    assert (issue.code, issue.nodes) == (Code.FOREIGN, (B,))


def test_what_is_behind_a_node_without_a_place_is_nowhere() -> None:
    found = roster([node(A, subnets=("fd00::/64",), frozen=True), node(B)], [row(A, "a"), row(B, "b")])
    assert found.directory.subnets == ()
    assert found.directory.place(parse_address("fd00::1")) is None
