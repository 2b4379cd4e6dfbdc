"""What people do at an honest node: the same as `operations`, without asking first whether it is allowed."""

from __future__ import annotations

import random

from appliance.core.clock import hlc_pack
from appliance.core.ids import NodeId
from appliance.replica.documents import NODES
from appliance.replica.entries import (
    AnnounceEntry,
    ChangeEntry,
    CheckpointEntry,
    EntryBody,
    GrantEntry,
    RevokeEntry,
    ThawEntry,
)
from appliance.replica.epochs import covered_digest
from appliance.replica.marks import Standing
from appliance.trust.grants import Role
from tests.sim.node import Node
from tests.sim.world import Member

KINDS = ("announce", "tag", "tag", "grant", "revoke", "revoke", "thaw", "checkpoint")
MINUTE_MS = 60_000


def honest_entry(
    node: Node, members: list[Member], grants: dict[bytes, list[bytes]], rng: random.Random, now_ms: int
) -> EntryBody | None:
    """Something to write, by all that the node knows; None if there is nothing of the kind."""
    other = rng.choice(members)
    match rng.choice(KINDS):
        case "announce":
            return AnnounceEntry(node.name, (f"10.0.0.{rng.randrange(250)}:7443",), "")
        case "tag":
            return _tag(node, other, rng.choice(("robot", "gate", "crane")), now_ms)
        case "grant":
            return _grant(node, other, grants, rng)
        case "revoke":
            head = node.engine.authority.live_head(other.id)
            if other is node.member:
                return None
            return RevokeEntry(other.id, (), head.seq if head else 0, head.hash if head else None, "")
        case "thaw":
            frozen = [name for name in node.engine.authority.forked_authors() if name != node.member.id]
            author = rng.choice(frozen) if frozen else None
            return None if author is None else ThawEntry(author, rng.choice(node.logs[author]).hash, "")
        case _:
            return _checkpoint(node, now_ms)


def _tag(node: Node, other: Member, name: str, now_ms: int) -> EntryBody:
    key = f"{NodeId(other.id)}/tag/{name}"
    held = key in node.engine.documents.values(NODES, key)
    puts, deletes = ({}, [key]) if held else ({key: True}, [])
    return ChangeEntry(*NODES, node.engine.documents.edit(NODES, puts, deletes, node.member.id, now_ms // 1000))


def _grant(node: Node, other: Member, grants: dict[bytes, list[bytes]], rng: random.Random) -> EntryBody | None:
    own = {mark.grant_id: mark for mark in node.engine.authority.grants.get(node.member.id, ())}
    able = [mark for mark in own.values() if mark.standing is Standing.IN and mark.grant and mark.grant.delegate]
    blobs = grants.get(node.member.id, [])
    if not able or not blobs or able[0].grant is None:
        return None
    role = rng.choice((Role.MEMBER, Role.MEMBER, Role.ADMIN))
    blob = node.mesh.grant(node.member, other, role, parent=blobs[0])
    grants.setdefault(other.id, []).append(blob)
    return GrantEntry(blob)


def _checkpoint(node: Node, now_ms: int) -> EntryBody | None:
    horizon = hlc_pack(now_ms - MINUTE_MS // 4, 0)
    covered = node.engine.epochs().up_to(horizon)
    if not covered:
        return None
    digest = covered_digest(covered.values())
    return CheckpointEntry(node.engine.authority.epoch() + 1, horizon, len(covered), digest)
