"""Scribe: what a member may write who keeps to no rule, worked out from a tape of bytes and from what it knows.

Whoever writes has whatever past it likes to admit to: all, nothing, or some of what there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.replica.batch import SignedBatch
from appliance.replica.change_codec import Scalar
from appliance.replica.document_kinds import NODES, POLICY, Name
from appliance.replica.engine import Engine
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
from appliance.replica.intake import dependencies
from appliance.trust.grants import Role, peek_grant
from tests.attach_rig import attach
from tests.sim.admission_scribe import AdmissionScribe, Drawer
from tests.sim.policies import POOL
from tests.sim.tape import Tape
from tests.sim.world import FAR_MS, START_MS, Member, Mesh

ROLES: tuple[tuple[Role, ...], ...] = (
    (Role.OWNER,),
    (Role.ADMIN,),
    (Role.MEMBER,),
    (Role.ADMIN, Role.OPERATOR),
    (Role.OPERATOR,),
    (Role.APPROVER,),
)
STEP_MS = 1000
Logs = dict[bytes, list[SignedBatch]]


@dataclass
class Scribe:
    """Writes for any of the members, who trust it with their keys. `logs` is what there is, in order of arrival."""

    mesh: Mesh
    members: Sequence[Member]
    grants: dict[bytes, list[bytes]]  # by subject
    logs: Logs
    engine: Engine
    tape: Tape
    step: int = 0
    drawer: Drawer = field(default_factory=Drawer)
    forks: int = 8  # one batch of so many forks its log
    doors: int = 6  # chances of an entry of admission, beside the sixteen of others

    def batch(self, author: Member, *, at_ms: int | None = None) -> SignedBatch | None:
        """The next batch of the tape; None if the choice makes no sense here."""
        self.step += 1
        kinds: tuple[Callable[[Member], EntryBody | None], ...] = (
            self._announce,
            self._revoke,
            self._grant,
            self._revoke,
            self._root,
            self._change,
            self._thaw,
            self._revoke,
            self._checkpoint,
            self._grant,
            self._announce,
            self._again,
            self._attach,
            self._policy,
            self._subnet,
            self._secret,
            *(self._admission,) * self.doors,
        )
        bodies = [self.tape.one_of(kinds)(author)]
        if self.tape.number(6) == 5:
            bodies.append(self.tape.one_of(kinds)(author))
        found = [body for body in bodies if body is not None]
        return self.sign(author, *found, at_ms=at_ms) if found else None

    def sign(self, author: Member, *bodies: EntryBody, at_ms: int | None = None) -> SignedBatch:
        """These entries, on a past and a date of the tape's choice."""
        log = self._log(author)
        prev: SignedBatch | None = log[-1] if log else None
        if log and self.tape.number(self.forks) == self.forks - 1:
            prev = self.tape.one_of([*log, None])
        now_ms = self.step * STEP_MS if at_ms is None else at_ms
        date_ms = self.tape.one_of((now_ms, 0, now_ms, 2 * now_ms if at_ms is None else now_ms + 200_000))
        return self.mesh.write(author, *bodies, after=self._parents(author), prev=prev, at_ms=date_ms)

    def keep(self, blob: bytes) -> bytes:
        """Remember a grant, for what may rest on it."""
        self.grants.setdefault(peek_grant(blob).subject, []).append(blob)
        return blob

    # -- what there is

    def _log(self, author: Member) -> list[SignedBatch]:
        return self.logs.get(author.id, [])

    def _parents(self, author: Member) -> list[SignedBatch]:
        others = [log[-1] for name, log in self.logs.items() if log and name != author.id]
        everything = [batch for log in self.logs.values() for batch in log]
        how = self.tape.number(4)
        if how == 1 and self._log(author):
            return []
        if how == 2 and others:
            return [self.tape.one_of(others)]
        if how == 3 and everything:
            return [self.tape.one_of(everything)]
        return others

    # -- entries

    def _announce(self, author: Member) -> EntryBody:
        return AnnounceEntry(author.name, (f"10.0.0.{self.step % 250}:1",), "")

    def _grant(self, author: Member) -> EntryBody | None:
        own = self.grants.get(author.id)
        if not own:
            return None
        parent = self.tape.one_of(own)
        held = peek_grant(parent)
        times = (held.not_before_ms, held.not_after_ms)
        if self.tape.number(6) == 5:
            times = (START_MS, START_MS + self.step * STEP_MS + 1500)
        blob = self.mesh.grant(
            author,
            self.tape.one_of(self.members),
            *self.tape.one_of(ROLES),
            parent=parent,
            delegate=max(0, held.delegate - 1) if self.tape.number(4) else held.delegate,
            scope=self.tape.one_of(((), (), ("robot",), ("gate", "robot"))),
            times=times,
        )
        return GrantEntry(self.keep(blob))

    def _root(self, author: Member) -> EntryBody:
        """A new grant of the authority, as if a person had gone to the vault."""
        subject = self.tape.one_of(self.members)
        times = (START_MS + self.tape.one_of((0, self.step * STEP_MS, 3 * self.step * STEP_MS)), FAR_MS)
        delegate = self.tape.number(4)
        return GrantEntry(
            self.keep(self.mesh.grant(None, subject, *self.tape.one_of(ROLES), delegate=delegate, times=times))
        )

    def _again(self, author: Member) -> EntryBody | None:
        blobs = self.grants.get(self.tape.one_of(self.members).id)
        return GrantEntry(self.tape.one_of(blobs)) if blobs else None

    def _revoke(self, author: Member) -> EntryBody:
        target = self.tape.one_of(self.members)
        log = self._log(target)
        roles = self.tape.one_of(((), (), (Role.ADMIN,), (Role.MEMBER, Role.OPERATOR)))
        cut = self.tape.one_of([log[-1], *log, None]) if log else None
        if cut is None:
            return RevokeEntry(target.id, roles, 0, None, "")
        wrong = self.tape.number(16) == 15
        return RevokeEntry(target.id, roles, cut.batch.seq + wrong, cut.hash, "")

    def _thaw(self, author: Member) -> EntryBody | None:
        frozen = [name for name in self.engine.authority.forked_authors() if self.logs.get(name)]
        if not frozen:
            return None
        target = self.tape.one_of(frozen)
        return ThawEntry(target, self.tape.one_of(self.logs[target][::-1]).hash, "")

    def _attach(self, author: Member) -> EntryBody:
        """Its own key, a key of somebody else with or without a proof, or its own once more with another address."""
        owner = self.tape.one_of((author, author, *self.members))
        signer = self.tape.one_of((author, author, owner))
        uris = self.tape.one_of(((), (f"tls://10.0.0.{self.step % 250}:1",)))
        return attach(self.mesh.id, signer.id, owner.name, *uris)

    def _admission(self, author: Member) -> EntryBody | None:
        return AdmissionScribe(self.mesh, self.members, self.grants, self.drawer, self.tape).entry(author)

    def _secret(self, author: Member) -> EntryBody:
        return SecretEntry(1 + self.tape.number(3), hashlib.sha256(self.step.to_bytes(4)).digest())

    def _change(self, author: Member) -> EntryBody | None:
        key = f"{NodeId(self.tape.one_of(self.members).id)}/tag/{self.tape.one_of(('robot', 'gate', 'crane'))}"
        return self._turn(author, NODES, key, value=True)

    def _subnet(self, author: Member) -> EntryBody | None:
        prefix = self.tape.one_of(("fd00:1::/64", "fd00:2::/64", "fd00:1::/48", "200::/7"))
        return self._turn(author, NODES, f"{NodeId(self.tape.one_of(self.members).id)}/subnet/{prefix}", value=True)

    def _policy(self, author: Member) -> EntryBody | None:
        return self._turn(author, POLICY, *self.tape.one_of(POOL))

    def _turn(self, author: Member, name: Name, key: str, value: Scalar) -> EntryBody | None:
        """A key of a document goes if it is there, and comes if it is not."""
        documents = self.engine.documents
        held = documents.holds(name, key)
        try:
            chunk = documents.edit(name, {} if held else {key: value}, [key] if held else [], author.id, self.step)
        except X0tError:
            return None
        return ChangeEntry(*name, chunk)

    def _checkpoint(self, author: Member) -> EntryBody | None:
        """Of what lies before the author's last batch, so that it is in the past however this one is written."""
        log = self._log(author)
        if not log:
            return None
        past = self._past_of(log[-1])
        horizon = max(1, log[-1].batch.hlc - self.tape.one_of((0, 1, 2000 << 16, 5000 << 16)))
        late = self.engine.authority.late
        closed = {
            digest
            for digest, (_, checkpoints) in late.items()
            if any(mark.meta.hash in past and mark.void is None for mark in checkpoints)
        }
        covered = sorted(
            (batch.batch.hlc, digest)
            for digest, batch in past.items()
            if batch.batch.hlc <= horizon and digest not in closed
        )
        digest = hashlib.sha256(b"".join(name for _, name in covered)).digest()
        if self.tape.number(16) == 15:
            digest = bytes(32)
        return CheckpointEntry(1 + self.tape.number(2), horizon, len(covered), digest)

    def _past_of(self, last: SignedBatch) -> dict[bytes, SignedBatch]:
        past: dict[bytes, SignedBatch] = {}
        stack = [last.hash]
        while stack:
            digest = stack.pop()
            if digest not in past:
                past[digest] = self.mesh.batches[digest]
                stack.extend(dependencies(past[digest].batch, self.mesh.limits))
        return past
