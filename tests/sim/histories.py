"""Histories of a mesh in which anybody may be hostile, written from a tape of bytes.

Each choice takes the next byte of the tape, so a run is its tape: a shorter tape is a shorter history, and a smaller
byte a plainer choice. Whoever writes has whatever past it likes to admit to: all, nothing, or some of what there is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch
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
from appliance.trust.grants import Role, peek_grant
from tests.sim.oracle import Oracle
from tests.sim.world import FAR_MS, START_MS, Member, Mesh, Replica

NAMES = ("anna", "bert", "cleo", "dora", "emil")
ROLES: tuple[tuple[Role, ...], ...] = (
    (Role.OWNER,),
    (Role.ADMIN,),
    (Role.MEMBER,),
    (Role.ADMIN, Role.OPERATOR),
    (Role.OPERATOR,),
)
STEP_MS = 1000

T = TypeVar("T")


class Tape:
    """Choices, one byte each; past its end always the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_over(self) -> bool:
        return self._at >= len(self._data)

    def number(self, below: int) -> int:
        if self.is_over:
            return 0
        self._at += 1
        return self._data[self._at - 1] % below

    def one_of(self, options: Sequence[T]) -> T:
        return options[self.number(len(options))]


class History:
    """Writes until the tape is over. `batches` is all that was written, admitted or not."""

    def __init__(self, tape: bytes, limits: Limits = LIMITS) -> None:
        self.mesh = Mesh(limits=limits)
        self.batches: list[SignedBatch] = []
        self.all_seeing: Replica = self.mesh.replica()
        self._tape = Tape(tape)
        self._members = [self.mesh.member(name) for name in NAMES]
        self._grants: dict[bytes, list[bytes]] = {member.id: [] for member in self._members}
        self._logs: dict[bytes, list[SignedBatch]] = {member.id: [] for member in self._members}
        self._step = 0
        self._found()
        while not self._tape.is_over:
            self._step += 1
            self._write()

    def oracle(self) -> Oracle:
        mesh = self.mesh
        return Oracle(mesh.id, mesh.authority_key, mesh.verify, self.batches, mesh.limits)

    # -- steps

    def _found(self) -> None:
        anna, bert, cleo, dora, emil = self._members
        root = self._keep(self.mesh.grant(None, anna, Role.OWNER, delegate=3))
        self._publish(anna, GrantEntry(root), AnnounceEntry("anna", (), ""))
        owners = [self._keep(self.mesh.grant(anna, who, Role.OWNER, delegate=2, parent=root)) for who in (bert, cleo)]
        self._publish(anna, GrantEntry(owners[0]))
        self._publish(
            bert, GrantEntry(self._keep(self.mesh.grant(bert, dora, Role.ADMIN, parent=owners[0], delegate=1)))
        )
        self._publish(anna, GrantEntry(owners[1]))
        self._publish(cleo, GrantEntry(self._keep(self.mesh.grant(cleo, emil, Role.MEMBER, parent=owners[1]))))

    def _keep(self, blob: bytes) -> bytes:
        self._grants[peek_grant(blob).subject].append(blob)
        return blob

    def _write(self) -> None:
        kinds: tuple[Callable[[Member], EntryBody | None], ...] = (
            self._announce,
            self._revoke,
            self._grant,
            self._revoke,
            self._grant,
            self._change,
            self._thaw,
            self._checkpoint,
            self._root,
            self._again,
        )
        author = self._tape.one_of(self._members)
        bodies = [self._tape.one_of(kinds)(author)]
        if self._tape.number(6) == 5:
            bodies.append(self._tape.one_of(kinds)(author))
        found = [body for body in bodies if body is not None]
        if found:
            self._publish(author, *found)

    def _publish(self, author: Member, *bodies: EntryBody) -> None:
        log = self._logs[author.id]
        prev: SignedBatch | None = log[-1] if log else None
        if log and self._tape.number(8) == 7:  # fork
            prev = self._tape.one_of([*log, None])
        at_ms = self._tape.one_of((self._step * STEP_MS, 0, self._step * STEP_MS, 2 * self._step * STEP_MS))
        batch = self.mesh.write(author, *bodies, after=self._parents(author), prev=prev, at_ms=at_ms)
        self.batches.append(batch)
        if self.all_seeing.take(batch).admitted:
            log.append(batch)

    def _parents(self, author: Member) -> list[SignedBatch]:
        others = [log[-1] for log in self._logs.values() if log and log is not self._logs[author.id]]
        everything = [batch for log in self._logs.values() for batch in log]
        how = self._tape.number(4)
        if how == 1 and self._logs[author.id]:
            return []
        if how == 2 and others:
            return [self._tape.one_of(others)]
        if how == 3 and everything:
            return [self._tape.one_of(everything)]
        return others

    # -- entries

    def _announce(self, author: Member) -> EntryBody:
        return AnnounceEntry(author.name, (f"10.0.0.{self._step % 250}:1",), "")

    def _grant(self, author: Member) -> EntryBody | None:
        own = self._grants[author.id]
        if not own:
            return None
        parent = self._tape.one_of(own)
        held = peek_grant(parent)
        times = (held.not_before_ms, held.not_after_ms)
        if self._tape.number(6) == 5:
            times = (START_MS, START_MS + self._step * STEP_MS + 1500)
        blob = self.mesh.grant(
            author,
            self._tape.one_of(self._members),
            *self._tape.one_of(ROLES),
            parent=parent,
            delegate=max(0, held.delegate - 1) if self._tape.number(4) else held.delegate,
            scope=self._tape.one_of(((), (), ("robot",), ("gate", "robot"))),
            times=times,
        )
        return GrantEntry(self._keep(blob))

    def _root(self, author: Member) -> EntryBody:
        subject = self._tape.one_of(self._members)
        since = START_MS + self._tape.one_of((0, self._step * STEP_MS, 3 * self._step * STEP_MS))
        delegate = self._tape.number(4)
        return GrantEntry(
            self._keep(
                self.mesh.grant(None, subject, *self._tape.one_of(ROLES), delegate=delegate, times=(since, FAR_MS))
            )
        )

    def _again(self, author: Member) -> EntryBody | None:
        blobs = self._grants[self._tape.one_of(self._members).id]
        return GrantEntry(self._tape.one_of(blobs)) if blobs else None

    def _revoke(self, author: Member) -> EntryBody:
        target = self._tape.one_of(self._members)
        log = self._logs[target.id]
        roles = self._tape.one_of(((), (), (Role.ADMIN,), (Role.MEMBER, Role.OPERATOR)))
        cut = self._tape.one_of([log[-1], *log, None]) if log else None
        if cut is None:
            return RevokeEntry(target.id, roles, 0, None, "")
        wrong = self._tape.number(16) == 15
        return RevokeEntry(target.id, roles, cut.batch.seq + wrong, cut.hash, "")

    def _thaw(self, author: Member) -> EntryBody | None:
        frozen = self.all_seeing.engine.authority.forked_authors()
        if not frozen:
            return None
        target = self._tape.one_of(frozen)
        return ThawEntry(target, self._tape.one_of(self._logs[target][::-1]).hash, "")

    def _change(self, author: Member) -> EntryBody | None:
        key = f"{NodeId(self._tape.one_of(self._members).id)}/tag/{self._tape.one_of(('robot', 'gate', 'crane'))}"
        documents = self.all_seeing.engine.documents
        held = documents.values(NODES, key)
        try:
            chunk = documents.edit(NODES, {} if held else {key: True}, [key] if held else [], author.id, self._step)
        except X0tError:
            return None
        return ChangeEntry(*NODES, chunk)

    def _checkpoint(self, author: Member) -> EntryBody | None:
        log = self._logs[author.id]
        if not log:
            return None
        oracle, last = self.oracle(), log[-1]
        horizon = max(1, last.batch.hlc - self._tape.one_of((0, 1, 2000 << 16, 5000 << 16)))
        past = frozenset([*oracle.past[last.hash], last.hash])
        covered = sorted(oracle.covered_by(past, horizon), key=lambda h: (oracle.admitted[h].batch.hlc, h))
        digest = hashlib.sha256(b"".join(covered)).digest()
        if self._tape.number(16) == 15:
            digest = bytes(32)
        return CheckpointEntry(1 + self._tape.number(2), horizon, len(covered), digest)
