"""Admissions: how each node stands, derived anew after a fold for the nodes and tokens that it touched.

Rows and marks that have effect go in, in whatever order they arrived; what comes out follows from the set of them. So
nothing here is journalled, and replicas that hold the same batches say the same of every node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from appliance.replica.admission_fold import Touched
from appliance.replica.admission_replay import Admission, Fact, replay
from appliance.replica.admission_states import Event, State
from appliance.replica.authority import Authority
from appliance.replica.marks import Mark
from appliance.replica.rows import (
    AdmissionRow,
    CertificateRow,
    DecisionRow,
    EnrolmentRow,
    IdleRow,
    RevocationRow,
    SurplusRow,
    TokenRow,
)
from appliance.replica.standings import IN
from appliance.replica.stores import View
from appliance.replica.token_settlement import firsts, key_of, surplus
from appliance.trust.enrolment import enrolment_id
from appliance.trust.grants import Role

TAKEN = "admission.revoked"


class Admissions:
    """Derives the rows of admission. Writes within the transaction of the fold."""

    def __init__(self, view: View, authority: Authority) -> None:
        self._view = view
        self._authority = authority

    def load(self) -> None:
        """Tell the authority whom the view holds approved."""
        for row in self._view.rows(AdmissionRow):
            if isinstance(row, AdmissionRow):
                self._admit(row.node, row)

    def settle(self, touched: Touched) -> list[IdleRow]:
        """Bring the rows up to date; returns the entries about these nodes that changed nothing."""
        nodes = set(touched.nodes)
        issued = (row.token for issuer in touched.issuers for row in self._view.select(TokenRow, "issuer", issuer))
        for token in sorted(touched.tokens.union(issued)):
            nodes |= self._settle_token(token)
        idle: list[IdleRow] = []
        for node in sorted(nodes):
            idle += self._settle_node(node)
        return idle

    def _settle_token(self, token: bytes) -> set[bytes]:
        """Nodes for which it changed whether the token carries them."""
        before = set(self._view.select(SurplusRow, "token", token))
        now = set(surplus(self._view, self._authority, token))
        changed = {row.node for row in before ^ now}
        if changed:
            self._view.replace(SurplusRow, [(row.token, row.node) for row in before], now)
        return changed

    def _settle_node(self, node: bytes) -> list[IdleRow]:
        admission = replay(facts(self._view, self._authority, node))
        row = _row(node, admission)
        self._view.replace(AdmissionRow, [(node,)], [] if row is None else [row])
        self._admit(node, row)
        before = self._view.select(IdleRow, "node", node)
        now = list(self._idle(node, admission))
        if before != now:
            self._view.replace(IdleRow, [(idle.batch, idle.entry) for idle in before], now)
        return now

    def _admit(self, node: bytes, row: AdmissionRow | None) -> None:
        admitted = self._authority.admitted
        if row is not None and row.state == State.APPROVED and row.certificate_batch is not None:
            admitted[node] = (row.certificate_batch, row.certificate_entry or 0)
        else:
            admitted.pop(node, None)

    def _idle(self, node: bytes, admission: Admission) -> Iterator[IdleRow]:
        """Of revocations none: they bear on more than the state."""
        for fact, fault in admission.course:
            if fault and fact.event is not Event.REVOKE:
                hlc, batch, entry = fact.key
                indexed = self._view.lookup(batch)
                seq = 0 if indexed is None else indexed.meta.seq
                yield IdleRow(batch, entry, node, fact.actor, seq, hlc, fact.kind, fault)


def facts(view: View, authority: Authority, node: bytes) -> list[Fact]:
    """All that happened to a node and has effect by itself."""
    return [
        *_enrolments(view, node),
        *_decisions(view, node),
        *_certificates(view, authority, node),
        *_revocations(view, authority, node),
    ]


def _enrolments(view: View, node: bytes) -> Iterator[Fact]:
    for row in firsts(view.select(EnrolmentRow, "node", node)):
        left_out = view.get(SurplusRow, row.token, node)
        event = Event.ENROL if row.level == "none" else Event.ASK
        yield Fact(
            key=key_of(row),
            event=event if left_out is None else Event.EXCEED,
            kind="enrol",
            actor=row.gateway,
            reason=left_out.reason if isinstance(left_out, SurplusRow) else "",
            winner=left_out.winner if isinstance(left_out, SurplusRow) else None,
            token=row.token,
            enrolment=enrolment_id(row.token, node),
            tags=row.tags,
            level=row.level,
        )


def _decisions(view: View, node: bytes) -> Iterator[Fact]:
    for row in view.select(DecisionRow, "node", node):
        yield Fact(
            key=(row.hlc, row.batch, row.entry),
            event=Event(row.action),
            kind="decide",
            actor=row.author,
            note=row.note,
            rule=row.rule,
            scope=frozenset(row.scope),
        )


def _certificates(view: View, authority: Authority, node: bytes) -> Iterator[Fact]:
    """A revocation that comes later in the fold takes a certificate away in its turn, one that came before at once."""
    revocations = _takers(authority, node)
    for mark in authority.grants.get(node, ()):
        row = view.get(CertificateRow, mark.meta.hash, mark.index) if mark.tags is not None else None
        if not isinstance(row, CertificateRow) or mark.standing is not IN:
            continue
        earlier = (revocation for revocation in revocations if revocation.key < mark.key)
        taken = any(Role.MEMBER not in authority.left_by(revocation, mark) for revocation in earlier)
        yield Fact(
            key=mark.key,
            event=Event.CERTIFY,
            kind="certify",
            actor=row.issuer,
            rule=row.rule,
            enrolment=row.enrolment,
            tags=row.tags,
            level=row.level,
            fault=TAKEN if taken else "",
        )


def _revocations(view: View, authority: Authority, node: bytes) -> Iterator[Fact]:
    for mark in _takers(authority, node):
        row = view.get(RevocationRow, mark.meta.hash, mark.index)
        yield Fact(
            key=mark.key,
            event=Event.REVOKE,
            kind="revoke",
            actor=mark.meta.author,
            note=row.note if isinstance(row, RevocationRow) else "",
            scope=mark.scope if mark.narrow else None,
        )


def _takers(authority: Authority, node: bytes) -> list[Mark]:
    """Revocations in force that take node certificates."""
    marks: Iterable[Mark] = authority.revocations.get(node, ())
    return [mark for mark in marks if mark.standing is IN and (not mark.taken or Role.MEMBER in mark.taken)]


def _row(node: bytes, admission: Admission) -> AdmissionRow | None:
    entered, enrolment, certificate = admission.entered, admission.enrolment, admission.certificate
    if entered is None:
        return None
    return AdmissionRow(
        node=node,
        state=admission.state.shown,
        since_hlc=entered.key[0],
        reason=entered.reason,
        note=entered.note,
        rule=entered.rule,
        actor=entered.actor,
        token=None if enrolment is None else enrolment.token,
        enrolment=None if enrolment is None else enrolment.enrolment,
        tags=admission.tags,
        level=admission.level,
        certificate_batch=None if certificate is None else certificate.key[1],
        certificate_entry=None if certificate is None else certificate.key[2],
        winner=entered.winner,
    )
