"""Histories of a mesh in which anybody may be hostile, each written from a tape (tests/sim/scribe.py)."""

from __future__ import annotations

from appliance.core.limits import LIMITS, Limits
from appliance.replica.batch import SignedBatch
from appliance.replica.entries import AnnounceEntry, EntryBody, GrantEntry, TokenEntry
from appliance.trust.grants import Role
from tests.sim import papers
from tests.sim.oracle import Oracle
from tests.sim.scribe import Logs, Scribe
from tests.sim.tape import Tape
from tests.sim.world import FAR_MS, START_MS, Member, Mesh, Replica

NAMES = ("anna", "bert", "cleo", "dora", "emil", "fay", "gus")  # the last two come as strangers


class History:
    """Writes until the tape is over. `batches` is all that was written, admitted or not."""

    def __init__(self, tape: bytes, limits: Limits = LIMITS) -> None:
        self.mesh = Mesh(limits=limits)
        self.batches: list[SignedBatch] = []
        self.all_seeing: Replica = self.mesh.replica()
        self._members = [self.mesh.member(name) for name in NAMES]
        self._choices = Tape(tape)
        logs: Logs = {member.id: [] for member in self._members}
        self._scribe = Scribe(self.mesh, self._members, {}, logs, self.all_seeing.engine, self._choices)
        self._begin(self._members)
        while not self._choices.is_over:
            self._next()

    def _begin(self, members: list[Member]) -> None:
        ways = (self._found, self._found_by_authority, self._found_late, self._found_with_approvers)
        ways[self._choices.number(4)](members)

    def _next(self) -> None:
        batch = self._scribe.batch(self._choices.one_of(self._members))
        if batch is not None:
            self._publish(batch)

    def oracle(self) -> Oracle:
        mesh = self.mesh
        return Oracle(mesh.id, mesh.authority_key, mesh.verify, self.batches, mesh.limits)

    def _found(self, members: list[Member]) -> None:
        """Anna is the founder, bert and cleo are owners, dora is an admin, emil a member."""
        anna, bert, cleo, dora, emil, *_ = members
        root = self._give(None, anna, anna, Role.OWNER, delegate=3)
        by_anna = self._give(anna, anna, bert, Role.OWNER, parent=root, delegate=2)
        self._give(bert, bert, dora, Role.ADMIN, parent=by_anna, delegate=1)
        by_anna = self._give(anna, anna, cleo, Role.OWNER, parent=root, delegate=2)
        self._give(cleo, cleo, emil, Role.MEMBER, parent=by_anna, delegate=0)

    def _found_by_authority(self, members: list[Member]) -> None:
        """Everybody opens a log with a grant of the authority: owners of several dates, and an admin."""
        for number, member in enumerate(members[:5]):
            role = Role.ADMIN if number == 3 else Role.OWNER
            dates = (START_MS + (number * 3 % 5) * 1000, FAR_MS)
            blob = self._scribe.keep(self.mesh.grant(None, member, role, delegate=2, times=dates))
            self._publish(self.mesh.write(member, GrantEntry(blob), at_ms=5000 * (number % 2)))

    def _found_late(self, members: list[Member]) -> None:
        """Anna makes an admin, and owners of whom the admin has not heard."""
        anna, bert, cleo, dora, emil, *_ = members
        root = self._give(None, anna, anna, Role.OWNER, delegate=3)
        self._give(anna, anna, dora, Role.ADMIN, parent=root, delegate=1)
        self._publish(self.mesh.write(dora, AnnounceEntry("dora", (), ""), after=[self.batches[-1]]))
        for member in (bert, cleo, emil):
            self._give(anna, anna, member, Role.OWNER, parent=root, delegate=1)

    def _found_with_approvers(self, members: list[Member]) -> None:
        """Anna makes an owner, an approver, one of robots only, and a gateway; and each approver a token."""
        anna, bert, cleo, dora, emil, *_ = members
        self._scribe.doors = 40
        root = self._give(None, anna, anna, Role.OWNER, delegate=3)
        self._give(anna, anna, bert, Role.OWNER, parent=root, delegate=2)
        for approver, scope in ((cleo, ()), (dora, ("robot",))):
            blob = self._scribe.keep(self.mesh.grant(anna, approver, Role.APPROVER, parent=root, scope=scope))
            self._publish(self._scribe.sign(anna, GrantEntry(blob), at_ms=0))
            number = self._scribe.drawer.next()
            token = papers.token(self.mesh, approver, blob, (anna, bert, emil), tags=("robot",), uses=2, number=number)
            self._scribe.drawer.tokens.append(token)
            self._publish(self._scribe.sign(approver, TokenEntry(token, ""), at_ms=0))
        self._give(anna, anna, emil, Role.MEMBER, parent=root, delegate=0)

    def _give(  # noqa: PLR0913  # what a grant says
        self,
        issuer: Member | None,
        author: Member,
        subject: Member,
        role: Role,
        *,
        delegate: int,
        parent: bytes | None = None,
    ) -> bytes:
        blob = self._scribe.keep(self.mesh.grant(issuer, subject, role, parent=parent, delegate=delegate))
        hello: list[EntryBody] = [AnnounceEntry(author.name, (), "")] if issuer is None else []
        self._publish(self._scribe.sign(author, GrantEntry(blob), *hello, at_ms=0))
        return blob

    def _publish(self, batch: SignedBatch) -> None:
        self.batches.append(batch)
        if self.all_seeing.take(batch).admitted:
            self._scribe.logs[batch.batch.author].append(batch)
