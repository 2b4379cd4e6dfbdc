"""A small mesh that the tests of authority share: who is who, and what they have written so far."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from appliance.core.ids import NodeId
from appliance.replica.batch import SignedBatch
from appliance.replica.document_kinds import NODES
from appliance.replica.entries import AnnounceEntry, ChangeEntry, CheckpointEntry, GrantEntry, RevokeEntry
from appliance.trust.grants import Role
from tests.sim.world import Member, Mesh, Replica

HELLO = AnnounceEntry("hello", (), "")


class Site(NamedTuple):
    """A mesh with a founder (owner by the authority), two owners that it made, an admin and a member."""

    mesh: Mesh
    anna: Member  # the founder
    bert: Member  # the older of two owners
    cleo: Member  # the younger
    dora: Member  # an admin, made by bert
    emil: Member  # a member, made by cleo
    start: list[SignedBatch]
    grants: dict[str, bytes]

    @property
    def last(self) -> SignedBatch:
        return self.start[-1]

    def replica(self) -> Replica:
        replica = self.mesh.replica()
        replica.take(*self.mesh.batches.values())
        return replica

    def reason(self, batch: SignedBatch, entry: int = 0) -> str | None:
        """Why an entry has no effect, by a replica that got all batches last things first."""
        backwards = self.mesh.replica()
        backwards.take(*reversed(self.mesh.batches.values()))
        forwards = self.replica()
        assert forwards.dump() == backwards.dump()
        return forwards.reason(batch, entry)

    def write(self, author: Member, *bodies: object, after: object = None, **named: object) -> SignedBatch:
        """As an honest member would that has seen the start, and what is named."""
        parents = [self.last] if after is None else after
        return self.mesh.write(author, *bodies, after=parents, **named)  # type: ignore[arg-type]

    def change(self, author: Member, node: Member, tag: str) -> ChangeEntry:
        replica = self.replica()
        key = f"{NodeId(node.id)}/tag/{tag}"
        return ChangeEntry(*NODES, replica.engine.documents.edit(NODES, {key: True}, [], author.id, 0))


def build_site() -> Site:
    """Anna founds; she makes bert, then cleo an owner; he makes dora an admin, she makes emil a member."""
    mesh = Mesh()
    anna, bert, cleo, dora, emil = (mesh.member(name) for name in ("anna", "bert", "cleo", "dora", "emil"))
    root = mesh.grant(None, anna, Role.OWNER, delegate=3)
    grants = {
        "anna": root,
        "bert": mesh.grant(anna, bert, Role.OWNER, delegate=2, parent=root),
        "cleo": mesh.grant(anna, cleo, Role.OWNER, delegate=2, parent=root),
    }
    start = [mesh.write(anna, GrantEntry(root))]
    start.append(mesh.write(anna, GrantEntry(grants["bert"]), at_ms=10))
    start.append(mesh.write(anna, GrantEntry(grants["cleo"]), at_ms=20))
    grants["dora"] = mesh.grant(bert, dora, Role.ADMIN, delegate=1, parent=grants["bert"])
    start.append(mesh.write(bert, GrantEntry(grants["dora"]), after=start[-1:]))
    grants["emil"] = mesh.grant(cleo, emil, Role.MEMBER, parent=grants["cleo"])
    start.append(mesh.write(cleo, GrantEntry(grants["emil"]), after=start[-1:]))
    return Site(mesh, anna, bert, cleo, dora, emil, start, grants)


def cut(batch: SignedBatch) -> tuple[int, bytes]:
    return (batch.batch.seq, batch.hash)


def revoke(target: Member, at: SignedBatch | None = None, *roles: Role) -> RevokeEntry:
    """Of all roles, unless some are named; what lies beyond the batch `at` loses its effect."""
    seq, head = (0, None) if at is None else cut(at)
    return RevokeEntry(target.id, tuple(sorted(roles)), seq, head, "")


def fork(site: Site, author: Member) -> tuple[SignedBatch, SignedBatch]:
    """Two batches on the same predecessor."""
    before = author.head
    left = site.write(author, HELLO, at_ms=1000)
    right = site.write(author, AnnounceEntry("clone", (), ""), prev=before, at_ms=1001)
    return left, right


def checkpoint(site: Site, past: SignedBatch, epoch: int = 1, horizon: int | None = None) -> CheckpointEntry:
    """What covers everything in the past of a batch, and the batch, up to a horizon."""
    up_to = past.batch.hlc if horizon is None else horizon
    known, stack = {}, [past.hash]
    while stack:
        digest = stack.pop()
        if digest not in known:
            known[digest] = site.mesh.batches[digest]
            stack.extend(known[digest].batch.dependencies())
    covered = sorted((b.batch.hlc, b.hash) for b in known.values() if b.batch.hlc <= up_to)
    digest = hashlib.sha256(b"".join(name for _, name in covered)).digest()
    return CheckpointEntry(epoch, up_to, len(covered), digest)
