"""Queries about admission: how nodes stand and what led there, tokens and what became of them, and the signed records.

They read and never write. The functions take an engine and run on the writer's thread; `AdmissionQueries` brings them
there. Signed records come out of the log, byte for byte as they were published.
"""

from __future__ import annotations

import msgspec

from appliance.core.errors import error
from appliance.core.ids import GrantId
from appliance.replica.admission_replay import Admission, replay
from appliance.replica.admission_states import Event, State
from appliance.replica.admissions import facts
from appliance.replica.batch import short
from appliance.replica.engine import Engine
from appliance.replica.entries import CertifyEntry, EnrolEntry, EntryBody, GrantEntry, TokenEntry, parse
from appliance.replica.marks import Key, Mark
from appliance.replica.membership import admission_rows, certificate
from appliance.replica.rows import (
    AdmissionRow,
    CertificateRow,
    EnrolmentRow,
    SurplusRow,
    TokenRow,
)
from appliance.replica.service import Replica
from appliance.replica.standings import IN
from appliance.replica.token_settlement import end_of, firsts

EXPIRED = "expired"


class AdmissionView(msgspec.Struct, frozen=True):
    """How a node stands now. `state` is that of the row, or `expired` for an approved node whose certificate ended."""

    row: AdmissionRow
    state: str
    name: str  # in its certificate, or else that it gave itself when it asked
    certificate: CertificateRow | None  # that counts, or will once the node is not suspended


class Step(msgspec.Struct, frozen=True):
    """One thing that happened to a node. `fault` is an error key where it had no effect, else empty."""

    hlc: int
    batch: bytes
    entry: int
    event: Event
    state: str  # in which it left the node, as it is shown
    actor: bytes
    note: str
    rule: str
    reason: str  # of an enrolment that its token does not carry: an error key
    fault: str


class TokenView(msgspec.Struct, frozen=True):
    """A token and what became of it."""

    row: TokenRow
    carried: tuple[bytes, ...]  # nodes that it carries, in the order that counts
    surplus: tuple[SurplusRow, ...]  # nodes that it does not
    ended: str  # `token.retired`, `token.revoked`, or empty

    def state(self, now_ms: int) -> str:
        """`retired`, `revoked`, `spent`, `expired`, `early` or `open`."""
        if self.ended:
            return self.ended.removeprefix("token.")
        if len(self.carried) >= self.row.uses:
            return "spent"
        if now_ms > self.row.not_after_ms:
            return EXPIRED
        return "open" if now_ms >= self.row.not_before_ms else "early"


class Enrolled(msgspec.Struct, frozen=True):
    """What a node asked with: the enrolment that counts, and its signed records."""

    row: EnrolmentRow
    token: bytes
    request: bytes


def admission_of(engine: Engine, node: bytes) -> Admission:
    """How a node stands, with all that led there."""
    return replay(facts(engine.view, engine.authority, node))


def admission(engine: Engine, node: bytes, now_ms: int) -> AdmissionView | None:
    """How a node stands; None if nobody has said anything of it."""
    row = engine.view.get(AdmissionRow, node)
    return _view(engine, row, now_ms) if isinstance(row, AdmissionRow) else None


def admissions(engine: Engine, now_ms: int) -> list[AdmissionView]:
    """How all nodes stand, by id."""
    return [_view(engine, row, now_ms) for row in admission_rows(engine).values()]


def course(engine: Engine, node: bytes) -> list[Step]:
    """What happened to a node, in the order that counts."""
    found: list[Step] = []
    so_far = Admission()
    for fact, fault in admission_of(engine, node).course:
        so_far.take(fact)
        hlc, batch, entry = fact.key
        found.append(
            Step(
                hlc=hlc,
                batch=batch,
                entry=entry,
                event=fact.event,
                state=so_far.state.shown,
                actor=fact.actor,
                note=fact.note,
                rule=fact.rule,
                reason=fact.reason,
                fault=fault,
            )
        )
    return found


def tokens(engine: Engine) -> list[TokenView]:
    """All tokens whose publication has effect, the newest first; one that was published twice is there once."""
    rows = {row.token: row for row in engine.view.rows(TokenRow) if isinstance(row, TokenRow)}
    return [_token(engine, row) for row in sorted(rows.values(), key=lambda row: (row.hlc, row.batch), reverse=True)]


def token(engine: Engine, identity: bytes) -> tuple[TokenView, bytes] | None:
    """A token with its signed form."""
    row = next(iter(engine.view.select(TokenRow, "token", identity)), None)
    if row is None:
        return None
    body = _entry(engine, row.batch, row.entry)
    assert isinstance(body, TokenEntry)
    return _token(engine, row), body.token


def enrolled(engine: Engine, node: bytes) -> Enrolled | None:
    """What a node asked with, by the enrolment under which it stands."""
    asked = admission_of(engine, node).enrolment
    if asked is None:
        return None
    row = engine.view.get(EnrolmentRow, *asked.key[1:])
    body = _entry(engine, *asked.key[1:])
    assert isinstance(row, EnrolmentRow)
    assert isinstance(body, EnrolEntry)
    return Enrolled(row, body.token, body.request)


def request_with(engine: Engine, identity: bytes, node: bytes) -> bytes | None:
    """The first request of a node with one token, signed; None if it never asked with it."""
    rows = firsts([row for row in engine.view.select(EnrolmentRow, "node", node) if row.token == identity])
    body = _entry(engine, rows[0].batch, rows[0].entry) if rows else None
    return body.request if isinstance(body, EnrolEntry) else None


def certificate_blob(engine: Engine, row: CertificateRow) -> bytes:
    """A node certificate, signed."""
    body = _entry(engine, row.batch, row.entry)
    assert isinstance(body, CertifyEntry)
    return body.certificate


def chain(engine: Engine, holder: bytes, grant_id: bytes) -> tuple[bytes, ...]:
    """The signed grants from this one of a holder up to the authority, leaf first. Raises `replica.not_found`."""
    held = (mark for mark in engine.authority.grants.get(holder, ()) if mark.grant_id == grant_id)
    mark = min(held, key=_worth, default=None)
    if mark is None:
        raise error("replica.not_found", what=f"grant {GrantId(grant_id)}")
    blobs: list[bytes] = []
    while mark is not None:
        body = _entry(engine, mark.meta.hash, mark.index)
        assert isinstance(body, GrantEntry)
        blobs.append(body.grant)
        mark = min(mark.supports, key=_worth, default=None)
    return tuple(blobs)


def _worth(mark: Mark) -> tuple[bool, Key]:
    """One in force first, then the first in the fold."""
    return (mark.standing is not IN, mark.key)


def _view(engine: Engine, row: AdmissionRow, now_ms: int) -> AdmissionView:
    held = certificate(engine, row)
    over = held is not None and now_ms > held.not_after_ms and row.state == State.APPROVED
    return AdmissionView(
        row=row,
        state=EXPIRED if over else row.state,
        name=held.name if held is not None else _asked_name(engine, row),
        certificate=held,
    )


def _asked_name(engine: Engine, row: AdmissionRow) -> str:
    asked = engine.view.select(EnrolmentRow, "node", row.node)
    return next((enrolment.name for enrolment in firsts(asked) if enrolment.token == row.token), "")


def _token(engine: Engine, row: TokenRow) -> TokenView:
    surplus = engine.view.select(SurplusRow, "token", row.token)
    out = {left.node for left in surplus}
    asked = firsts(engine.view.select(EnrolmentRow, "token", row.token))
    end = end_of(engine.view, engine.authority, row)
    return TokenView(
        row=row,
        carried=tuple(enrolment.node for enrolment in asked if enrolment.node not in out),
        surplus=tuple(surplus),
        ended=end[1] if end is not None else "",
    )


def _entry(engine: Engine, batch: bytes, entry: int) -> EntryBody:
    """An entry out of the log. Raises `replica.corrupt` where the view does not fit the log."""
    indexed = engine.view.lookup(batch)
    body = None if indexed is None else parse(*engine.read(indexed.arrival).batch.entries[entry], engine.limits)
    if body is None:
        raise error("replica.corrupt", what="view", reason=f"an entry of batch {short(batch)} is not in the log")
    return body


class AdmissionQueries:
    """The queries of one replica, awaited on the event loop."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def admission(self, node: bytes) -> AdmissionView | None:
        """How a node stands; None if nobody has said anything of it."""
        return await self._replica.run(lambda engine: admission(engine, node, self._replica.now_ms()))

    async def admissions(self) -> list[AdmissionView]:
        """How all nodes stand."""
        return await self._replica.run(lambda engine: admissions(engine, self._replica.now_ms()))

    async def course(self, node: bytes) -> list[Step]:
        """What happened to a node."""
        return await self._replica.run(lambda engine: course(engine, node))

    async def tokens(self) -> list[TokenView]:
        """All tokens, the newest first."""
        return await self._replica.run(tokens)

    async def token(self, identity: bytes) -> tuple[TokenView, bytes] | None:
        """A token with its signed form."""
        return await self._replica.run(lambda engine: token(engine, identity))

    async def enrolled(self, node: bytes) -> Enrolled | None:
        """What a node asked with."""
        return await self._replica.run(lambda engine: enrolled(engine, node))

    async def request_with(self, identity: bytes, node: bytes) -> bytes | None:
        """The first request of a node with one token, signed."""
        return await self._replica.run(lambda engine: request_with(engine, identity, node))

    async def certificate_blob(self, row: CertificateRow) -> bytes:
        """A node certificate, signed."""
        return await self._replica.run(lambda engine: certificate_blob(engine, row))

    async def chain(self, holder: bytes, grant_id: bytes) -> tuple[bytes, ...]:
        """The signed grants from this one of a holder up to the authority, leaf first."""
        return await self._replica.run(lambda engine: chain(engine, holder, grant_id))
