"""What people do at an honest node: the same as `operations`, without asking first whether it is allowed."""

from __future__ import annotations

import random

from appliance.core.clock import hlc_pack
from appliance.core.ids import NodeId
from appliance.replica.change_codec import Scalar
from appliance.replica.document_kinds import NODES, POLICY, Name
from appliance.replica.entries import (
    AnnounceEntry,
    ChangeEntry,
    CheckpointEntry,
    EntryBody,
    GrantEntry,
    RevokeEntry,
    SecretEntry,
    ThawEntry,
)
from appliance.replica.epochs import covered_digest
from appliance.replica.marks import Standing
from appliance.trust.grants import Role
from tests.attach_rig import attach
from tests.sim.node import Node
from tests.sim.policies import POOL
from tests.sim.world import Member

KINDS = (
    "announce",
    "tag",
    "tag",
    "grant",
    "revoke",
    "revoke",
    "thaw",
    "checkpoint",
    "attach",
    "policy",
    "subnet",
    "secret",
)
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
            tag = rng.choice(("robot", "gate", "crane"))
            return _turn(node, NODES, f"{NodeId(other.id)}/tag/{tag}", value=True, now_ms=now_ms)
        case "subnet":
            return _turn(node, NODES, f"{NodeId(other.id)}/subnet/fd00:1::/64", value=True, now_ms=now_ms)
        case "policy":
            return _turn(node, POLICY, *rng.choice(POOL), now_ms=now_ms)
        case "attach":
            return attach(node.mesh.id, node.member.id, node.name, f"tls://10.0.0.{rng.randrange(250)}:1")
        case "secret":
            return SecretEntry(rng.randrange(1, 4), rng.randbytes(32))
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


def _turn(node: Node, name: Name, key: str, value: Scalar, now_ms: int) -> EntryBody:
    """A key of a document goes if it is there, and comes if it is not."""
    documents = node.engine.documents
    puts, deletes = ({}, [key]) if documents.holds(name, key) else ({key: value}, [])
    return ChangeEntry(*name, documents.edit(name, puts, deletes, node.member.id, now_ms // 1000))


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
