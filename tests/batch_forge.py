"""What a hostile member knows, and the sound batches from which its hostile ones are made (tests/batch_mutations.py).

A forge knows a mesh, the members that turned hostile with their keys, and what the replica under attack has accepted.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from appliance.core.ids import NodeId
from appliance.replica.batch import SignedBatch
from appliance.replica.document_kinds import NODES
from appliance.replica.entries import (
    Action,
    AnnounceEntry,
    ChangeEntry,
    CheckpointEntry,
    DecideEntry,
    EntryBody,
    GrantEntry,
    RevokeEntry,
    SecretEntry,
    ThawEntry,
    make,
)
from appliance.replica.epochs import covered_digest
from appliance.trust.grants import Role
from tests.attach_rig import attach
from tests.sim.admission_scribe import AdmissionScribe, Drawer
from tests.sim.tape import Tape
from tests.sim.world import Member, Mesh, Replica

Fields = list[object]


class Forge:
    """Draws sound batches of hostile members, with entries that mostly have effect where the member may."""

    def __init__(self, mesh: Mesh, hostile: list[Member], grants: dict[bytes, bytes], target: Replica) -> None:
        self.mesh = mesh
        self.hostile = hostile
        self.grants = grants  # signed, by subject
        self.target = target
        self.accepted: list[SignedBatch] = list(mesh.batches.values())
        self.heads = {member.id: member.head for member in hostile}
        self.chunks: list[bytes] = []
        self.drawer = Drawer()

    def took(self, signed: SignedBatch) -> None:
        """The target has accepted this batch."""
        self.accepted.append(signed)
        batch = signed.batch
        head = self.heads.get(batch.author)
        if batch.author in self.heads and batch.prev == (head.hash if head else None):
            self.heads[batch.author] = signed

    # -- sound batches

    def fields(self, rng: random.Random, member: Member, entries: list[list[object]] | None = None) -> Fields:
        """The payload of a batch that follows all rules, somewhere in the past or at the end."""
        head = self.heads[member.id]
        start = self.accepted[4:] if rng.random() < 0.3 else self.accepted[-20:]
        parents = {self.accepted[4].hash: self.accepted[4]}
        parents |= {batch.hash: batch for batch in rng.sample(start, min(len(start), rng.randrange(4)))}
        if head is not None:
            parents.pop(head.hash, None)
        past = [batch.batch.hlc for batch in (*parents.values(), *([head] if head else []))]
        if entries is None:
            entries = [self.entry(rng, member) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        hlc = max(past) + rng.choice([1, 1 << 16, rng.randrange(1, 1 << 24)])
        if rng.random() < 0.3 or any(kind == "change" for kind, _ in entries):
            hlc = max(hlc, self.target.engine.max_hlc + 1)
        seq, prev = (head.batch.seq + 1, head.hash) if head else (1, None)
        return [1, self.mesh.id, "control", member.id, seq, prev, sorted(parents), hlc, entries]

    def entry(self, rng: random.Random, member: Member) -> list[object]:
        """A sound entry of any kind: whether it has effect is another matter."""
        return list(make(rng.choice(BODIES)(self, rng, member)))

    def announce(self, rng: random.Random, member: Member) -> EntryBody:
        return AnnounceEntry(f"robot {rng.randrange(9)}", ("10.0.0.1:7700",), "x0t 1")

    def change(self, rng: random.Random, member: Member) -> EntryBody:
        if self.chunks and rng.random() < 0.2:
            return ChangeEntry(*NODES, rng.choice(self.chunks))
        key = f"{NodeId(rng.choice(self.hostile).id)}/tag/{rng.choice(['red', 'blue', 'green'])}"
        documents = self.target.engine.documents
        held = documents.values(NODES, key)
        chunk = documents.edit(NODES, {} if held else {key: True}, list(held), member.id, rng.randrange(99))
        self.chunks.append(chunk)
        return ChangeEntry(*NODES, chunk)

    def attach(self, rng: random.Random, member: Member) -> EntryBody:
        signer, owner = (rng.choice([member, member, *self.hostile]) for _ in range(2))
        return attach(self.mesh.id, signer.id, owner.name, *rng.sample(["tls://10.0.0.1:1", "quic://[fd00::1]:9"], 1))

    def secret(self, rng: random.Random, member: Member) -> EntryBody:
        return SecretEntry(rng.randint(1, 3), rng.randbytes(32))

    def grant(self, rng: random.Random, member: Member) -> EntryBody:
        subject = rng.choice([*self.hostile, self.mesh.member(f"new {rng.randrange(20)}")])
        role, delegate = rng.choice(list(Role)), rng.choice([0, 0, 1, 5])
        blob = self.mesh.grant(member, subject, role, parent=self.grants[member.id], delegate=delegate)
        return GrantEntry(rng.choice([blob, blob, *self.grants.values()]))

    def revoke(self, rng: random.Random, member: Member) -> EntryBody:
        cut = rng.choice(self.accepted)
        roles = tuple(sorted(rng.sample(list(Role), rng.randrange(3))))
        if rng.random() < 0.3:
            return RevokeEntry(cut.batch.author, roles, 0, None, "")
        return RevokeEntry(cut.batch.author, roles, cut.batch.seq, cut.hash, "why")

    def thaw(self, rng: random.Random, member: Member) -> EntryBody:
        keep = rng.choice(self.accepted)
        return ThawEntry(keep.batch.author, keep.hash, "")

    def admission(self, rng: random.Random, member: Member) -> EntryBody:
        """Tokens, enrolments, decisions and certificates, sound or not, by whoever it is."""
        seed = rng.randbytes(24)
        people = [*self.hostile, self.mesh.member(f"new {rng.randrange(20)}")]
        grants = {subject: [blob] for subject, blob in self.grants.items()}
        scribe = AdmissionScribe(self.mesh, people, grants, self.drawer, Tape(seed))
        return scribe.entry(member) or DecideEntry(member.id, rng.choice(list(Action)), "", "")

    def checkpoint(self, rng: random.Random, member: Member) -> EntryBody:
        horizon = rng.choice(self.accepted).batch.hlc
        if rng.random() < 0.7:
            return CheckpointEntry(1, horizon, rng.randrange(9), rng.randbytes(32))
        covered = self.target.engine.epochs().up_to(horizon)
        return CheckpointEntry(1, horizon, len(covered), covered_digest(covered.values()))


BODIES: list[Callable[[Forge, random.Random, Member], EntryBody]] = [
    Forge.announce,
    Forge.announce,
    Forge.change,
    Forge.change,
    Forge.change,
    Forge.attach,
    Forge.secret,
    Forge.grant,
    Forge.grant,
    Forge.revoke,
    Forge.revoke,
    Forge.thaw,
    Forge.checkpoint,
    Forge.admission,
    Forge.admission,
    Forge.admission,
]
