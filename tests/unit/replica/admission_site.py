"""A small mesh that admits nodes: who may approve, which gateways there are, and who comes to the door."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appliance.replica.admission_queries import Step, course
from appliance.replica.batch import SignedBatch
from appliance.replica.entries import (
    Action,
    CertifyEntry,
    DecideEntry,
    EnrolEntry,
    GrantEntry,
    RetireEntry,
    RevokeEntry,
    TokenEntry,
)
from appliance.replica.rows import AdmissionRow
from appliance.trust.grants import Role
from appliance.trust.tokens import token_id
from tests.sim import papers
from tests.sim.world import FAR_MS, START_MS, Member, Mesh, Replica

ROBOT = ("robot",)


@dataclass
class Door:
    """Anna owns the mesh. Bert approves anything, cleo what is tagged robot. Gate and port are gateways."""

    mesh: Mesh
    anna: Member
    bert: Member
    cleo: Member
    gate: Member
    port: Member
    rolf: Member  # nobody yet, as rita
    rita: Member
    start: list[SignedBatch]
    grants: dict[str, bytes]
    number: int = 0

    def replica(self) -> Replica:
        """Everything, in the order in which it was written."""
        replica = self.mesh.replica()
        replica.take(*self.mesh.batches.values())
        return replica

    def settled(self) -> Replica:
        """As `replica`, once it is sure that the reverse order of arrival and a view made anew say the same."""
        forwards, backwards = self.replica(), self.mesh.replica()
        backwards.take(*reversed(self.mesh.batches.values()))
        assert forwards.dump() == backwards.dump()
        grown = list(forwards.view.dump_all())
        forwards.rebuild()
        assert list(forwards.view.dump_all()) == grown
        return forwards

    def write(
        self, author: Member, *bodies: object, after: Iterable[SignedBatch] | None = None, **more: object
    ) -> SignedBatch:
        """As an honest member would that has seen the start, or what is named."""
        parents = [self.start[-1]] if after is None else after
        return self.mesh.write(author, *bodies, after=parents, **more)  # type: ignore[arg-type]

    def token(self, issuer: Member | None = None, **says: object) -> tuple[bytes, SignedBatch]:
        """A token for both gateways, and the batch that publishes it."""
        who = issuer or self.bert
        self.number += 1
        gateways = (self.gate, self.port)
        blob = papers.token(self.mesh, who, self.grants[who.name], gateways, number=self.number, **says)  # type: ignore[arg-type]
        return blob, self.write(who, TokenEntry(blob, ""))

    def enrol(self, gateway: Member, node: Member, token: bytes, *after: SignedBatch, **more: object) -> SignedBatch:
        """A gateway takes a node's request."""
        return self.write(
            gateway,
            EnrolEntry(token, papers.request(self.mesh, node, token)),
            after=[self.start[-1], *after],
            **more,
        )

    def certify(  # an approval names all of these
        self,
        approver: Member,
        node: Member,
        token: bytes | None,
        *after: SignedBatch,
        tags: Sequence[str] = (),
        times: tuple[int, int] = (START_MS, FAR_MS),
        **more: object,
    ) -> SignedBatch:
        """An approver certifies a node for the enrolment with this token."""
        self.number += 1
        blob = papers.certificate(
            self.mesh,
            approver,
            self.grants[approver.name],
            node,
            enrolment=None if token is None else papers.enrolment(token, node),
            tags=tags,
            times=times,
            number=self.number,
        )
        return self.write(approver, CertifyEntry(blob, ""), after=[self.start[-1], *after], **more)

    def decide(
        self, approver: Member, node: Member, action: Action, *after: SignedBatch, **more: object
    ) -> SignedBatch:
        """A decision alone, without the revocation that mostly comes with eviction and ban."""
        return self.write(
            approver, DecideEntry(node.id, action, action.value, ""), after=[self.start[-1], *after], **more
        )

    def retire(self, approver: Member, token: bytes, *after: SignedBatch, **more: object) -> SignedBatch:
        return self.write(approver, RetireEntry(token_id(token), ""), after=[self.start[-1], *after], **more)

    def revoke(
        self, by: Member, target: Member, *after: SignedBatch, cut: SignedBatch | None = None, **more: object
    ) -> SignedBatch:
        seq, head = (0, None) if cut is None else (cut.batch.seq, cut.hash)
        return self.write(by, RevokeEntry(target.id, (), seq, head, ""), after=[self.start[-1], *after], **more)


def open_door() -> Door:
    """The founding of the mesh."""
    mesh = Mesh()
    names = ("anna", "bert", "cleo", "gate", "port", "rolf", "rita")
    anna, bert, cleo, gate, port, rolf, rita = (mesh.member(name) for name in names)
    root = mesh.grant(None, anna, Role.OWNER, delegate=3)
    grants = {
        "anna": root,
        "bert": mesh.grant(anna, bert, Role.APPROVER, parent=root),
        "cleo": mesh.grant(anna, cleo, Role.APPROVER, parent=root, scope=("robot",)),
        "gate": mesh.grant(anna, gate, Role.MEMBER, parent=root),
        "port": mesh.grant(anna, port, Role.MEMBER, parent=root),
    }
    start = [mesh.write(anna, GrantEntry(root))]
    others = [GrantEntry(grants[name]) for name in ("bert", "cleo", "gate", "port")]
    start.append(mesh.write(anna, *others, at_ms=10))
    return Door(mesh, anna, bert, cleo, gate, port, rolf, rita, start, grants)


def admitted(door: Door) -> tuple[bytes, SignedBatch, SignedBatch]:
    """Rolf becomes a member: the token, the enrolment, the certificate."""
    token, published = door.token(tags=ROBOT)
    asked = door.enrol(door.gate, door.rolf, token, published, at_ms=100)
    return token, asked, door.certify(door.bert, door.rolf, token, asked, tags=ROBOT, at_ms=200)


def row_of(replica: Replica, node: Member) -> AdmissionRow:
    row = replica.view.get(AdmissionRow, node.id)
    assert isinstance(row, AdmissionRow), "nobody has said anything of this node"
    return row


def state(replica: Replica, node: Member) -> str:
    """How a node stands, and whether it is a member by that."""
    found = replica.view.get(AdmissionRow, node.id)
    shown = found.state if isinstance(found, AdmissionRow) else "unknown"
    member = replica.engine.holds(node.id, Role.MEMBER, START_MS + 1000)
    assert member == (shown == "approved")
    return shown


def steps(replica: Replica, node: Member) -> list[str]:
    """What happened to a node: each event, with the state that it left, or why it had no effect."""
    return [_told(step) for step in course(replica.engine, node.id)]


def _told(step: Step) -> str:
    return f"{step.event.value}: {step.fault or step.state}"
