"""Oracle of admission: what the entries of admission do, worked out the slow way from the words of ADR 16.

It goes through all batches in fold order for each node and each token, and restates the table of states. It shares no
code with the replica but for the formats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from appliance.core.errors import X0tError
from appliance.core.ids import node_id
from appliance.replica.batch import SignedBatch
from appliance.replica.entries import (
    CertifyEntry,
    DecideEntry,
    EnrolEntry,
    EntryBody,
    RetireEntry,
    RevokeEntry,
    TokenEntry,
)
from appliance.trust.enrolment import enrolment_id, open_request, peek_request
from appliance.trust.grants import Grant, Role
from appliance.trust.tokens import Token, open_token, peek_token, token_id

if TYPE_CHECKING:
    from tests.sim.oracle import Claim, Oracle

Place = tuple[int, bytes, int]
AdmissionBody = TokenEntry | RetireEntry | EnrolEntry | DecideEntry

ENDS = "revoke revoked evict evicted ban banned"
ASKS = "enrol pending ask requested exceed held"
COURSE = {
    "unknown": f"{ASKS} certify approved orphan suspended ban banned",
    "requested": f"{ENDS} reject rejected",
    "pending": f"{ENDS} certify approved reject rejected suspend held",
    "approved": f"{ENDS} certify approved suspend suspended",
    "rejected": f"{ASKS} reject rejected resume pending ban banned",
    "held": f"{ENDS} enrol pending ask requested certify suspended reject rejected suspend held resume pending",
    "suspended": f"{ENDS} certify suspended suspend suspended resume approved",
    "revoked": f"{ENDS} {ASKS} certify approved",
    "evicted": f"{ASKS} revoke evicted evict evicted ban banned",
    "banned": "revoke banned evict banned ban banned unban evicted",
}


class Standing(NamedTuple):
    """How a node stands: compared with its row."""

    state: str
    since: int
    reason: str
    actor: bytes
    enrolment: bytes | None
    tags: tuple[str, ...]
    certificate: tuple[bytes, int] | None
    winner: bytes | None


class Event(NamedTuple):
    """Something that happened to a node, where no later fact of another node or token can change it."""

    place: Place
    kind: str
    actor: bytes
    reason: str = ""
    winner: bytes | None = None
    scope: frozenset[str] | None = None
    enrolment: bytes | None = None
    tags: tuple[str, ...] = ()
    fault: str = ""


class AdmissionOracle:
    """What follows from a history, by node and token: `standings`, `surplus`, and `idle` entries with their reason."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._order = sorted(oracle.admitted.values(), key=lambda batch: (batch.batch.hlc, batch.hash))
        self._effective = list(self._entries())
        self.surplus: dict[tuple[bytes, bytes], tuple[str, bytes | None]] = {}
        self.idle: dict[tuple[bytes, int], str] = {}
        self.standings: dict[bytes, Standing] = {}
        tokens = {token_id(body.token) for _, _, body in self._effective if isinstance(body, EnrolEntry)}
        for token in tokens:
            self._settle_token(token)
        for node in self._nodes():
            self._settle_node(node)

    def _entries(self) -> Iterator[tuple[Place, SignedBatch, EntryBody | str]]:
        for batch in self._order:
            for index in range(len(batch.batch.entries)):
                if self._oracle.effects[batch.hash, index] is None:
                    yield (batch.batch.hlc, batch.hash, index), batch, self._oracle.body(batch, index)

    def _nodes(self) -> set[bytes]:
        found: set[bytes] = set()
        for place, _, body in self._effective:
            match body:
                case EnrolEntry():
                    found.add(_node(body))
                case DecideEntry():
                    found.add(body.node)
                case RevokeEntry():
                    found.add(body.target)
                case CertifyEntry():
                    grant = self._claim(place).grant
                    assert grant is not None
                    found.add(grant.subject)
                case _:
                    pass
        return found

    def _claim(self, place: Place) -> Claim:
        return next(claim for claim in self._oracle.claims if claim.key == place)

    # -- tokens

    def _settle_token(self, identity: bytes) -> None:
        asked: dict[bytes, Place] = {}
        for place, _, body in self._effective:
            if isinstance(body, EnrolEntry) and token_id(body.token) == identity:
                asked.setdefault(_node(body), place)
        published = [
            peek_token(body.token)
            for _, _, body in self._effective
            if isinstance(body, TokenEntry) and token_id(body.token) == identity
        ]
        ends = [*self._retirements(identity, published), *self._losses(published)]
        end = min(ends, default=((1 << 64, b"", 0), ""))
        carried: list[bytes] = []
        for node, place in asked.items():
            if not published:
                self.surplus[identity, node] = ("token.void", None)
            elif place > end[0]:
                self.surplus[identity, node] = (end[1], None)
            elif len(carried) >= published[0].uses:
                self.surplus[identity, node] = ("token.spent", carried[-1])
            else:
                carried.append(node)

    def _retirements(self, identity: bytes, published: list[Token]) -> Iterator[tuple[Place, str]]:
        for place, batch, body in self._effective:
            meant = isinstance(body, RetireEntry) and body.token == identity and bool(published)
            if meant and _reaches(approver_scope(self._oracle, batch)[1], published[0].tags):
                yield place, "token.retired"

    def _losses(self, published: list[Token]) -> Iterator[tuple[Place, str]]:
        for token in published[:1]:
            held = [c for c in self._oracle.grants_to(token.issuer) if c.grant_id == token.grant and c.state == "in"]
            for claim in self._revocations(token.issuer):
                if not any(Role.APPROVER in self._left(claim, grant) for grant in held):
                    yield claim.key, "token.revoked"

    def _revocations(self, target: bytes) -> list[Claim]:
        """Those in force."""
        every = [claim for claim in self._oracle.claims if isinstance(claim.body, RevokeEntry) and claim.state == "in"]
        return [claim for claim in every if isinstance(claim.body, RevokeEntry) and claim.body.target == target]

    def _left(self, revocation: Claim, grant: Claim) -> set[Role]:
        assert grant.grant is not None
        assert isinstance(revocation.body, RevokeEntry)
        if self._oracle.knows(grant, revocation):
            return set(Role) if Role.OWNER in grant.grant.roles else {*grant.grant.roles, Role.MEMBER}
        return self._oracle.left(grant, revocation, revocation.body)

    # -- nodes

    def _settle_node(self, node: bytes) -> None:
        state, entered = "unknown", None
        enrolment: Event | None = None
        certificate: Event | None = None
        tags: tuple[str, ...] = ()
        for event in sorted(self._events(node)):
            if event.kind == "certify" and state == "unknown" and event.enrolment is not None and not event.fault:
                event = event._replace(kind="orphan", reason="admission.enrolment")
            words = COURSE[state].split()
            after = dict(zip(words[::2], words[1::2], strict=True)).get(event.kind)
            fault = event.fault or ("" if after else "admission.state")
            if not fault and event.scope is not None and not _reaches(event.scope, tags):
                fault = "admission.scope"
            if not fault and event.kind == "certify" and event.enrolment != (enrolment and enrolment.enrolment):
                fault = "admission.enrolment"
            if fault or after is None:
                if event.kind != "revoke":
                    self.idle[event.place[1:]] = fault
                continue
            if _shown(after) != _shown(state):
                entered = event
            if event.kind in {"enrol", "ask", "exceed"}:
                enrolment, certificate, tags = event, None, event.tags
            elif event.kind in {"certify", "orphan"}:
                certificate, tags = event, event.tags
            elif after in {"rejected", "revoked", "evicted", "banned"}:
                certificate = None
            state = after
        if entered is not None:
            self.standings[node] = Standing(
                state=_shown(state),
                since=entered.place[0],
                reason=entered.reason,
                actor=entered.actor,
                enrolment=enrolment and enrolment.enrolment,
                tags=tags,
                certificate=certificate and certificate.place[1:],
                winner=entered.winner,
            )

    def _events(self, node: bytes) -> Iterator[Event]:
        seen: set[bytes] = set()
        for place, batch, body in self._effective:
            author = batch.batch.author
            match body:
                case EnrolEntry() if _node(body) == node and token_id(body.token) not in seen:
                    seen.add(token_id(body.token))
                    yield self._enrolment(place, author, node, body)
                case DecideEntry() if body.node == node:
                    yield Event(place, body.action.value, author, scope=approver_scope(self._oracle, batch)[1])
                case CertifyEntry():
                    claim = self._claim(place)
                    if claim.grant and claim.grant.subject == node:
                        yield self._certificate(place, claim, node)
                case RevokeEntry() if body.target == node and (not body.roles or Role.MEMBER in body.roles):
                    claim = self._claim(place)
                    yield Event(place, "revoke", author, scope=claim.scope if Role.APPROVER in claim.needs else None)
                case _:
                    pass

    def _enrolment(self, place: Place, author: bytes, node: bytes, body: EnrolEntry) -> Event:
        token, identity = peek_token(body.token), token_id(body.token)
        reason, winner = self.surplus.get((identity, node), ("", None))
        kind = "exceed" if reason else "enrol" if token.level == "none" else "ask"
        mine = enrolment_id(identity, node)
        return Event(place, kind, author, reason=reason, winner=winner, enrolment=mine, tags=token.tags)

    def _certificate(self, place: Place, claim: Claim, node: bytes) -> Event:
        said = claim.certificate
        assert said is not None
        earlier = [other for other in self._revocations(node) if other.key < place]
        taken = any(Role.MEMBER not in self._left(other, claim) for other in earlier)
        fault = "admission.revoked" if taken else ""
        return Event(place, "certify", said.issuer, enrolment=said.enrolment, tags=said.tags, fault=fault)


# ---- one entry by itself


def entry_fault(oracle: Oracle, batch: SignedBatch, body: AdmissionBody) -> str | None:
    """Why an entry of admission has no effect by itself, or None."""
    try:
        match body:
            case TokenEntry():
                token = peek_token(body.token, oracle.limits)
                if token.issuer != batch.batch.author:
                    return "token.issuer"
                fault = oracle.verdict(batch, Role.APPROVER, frozenset(token.tags), by=token.grant)
                return fault or _token_fault(oracle, batch, body.token, token)
            case EnrolEntry():
                return _enrolment_fault(oracle, batch, body)
            case _:
                return approver_scope(oracle, batch)[0]
    except X0tError as err:
        return err.key


def approver_scope(oracle: Oracle, batch: SignedBatch) -> tuple[str | None, frozenset[str]]:
    """Why the author is no approver here, or else over which tags it is one (none: over the whole mesh)."""
    held = [c.grant for c in oracle.grants_to(batch.batch.author) if c.grant]
    scopes = {frozenset(grant.scope) for grant in held if {Role.OWNER, Role.APPROVER} & set(grant.roles)}
    said = {scope: oracle.verdict(batch, Role.APPROVER, scope) for scope in scopes or {frozenset[str]()}}
    good = [scope for scope, fault in said.items() if fault is None]
    if good:
        return None, frozenset() if frozenset() in good else frozenset().union(*good)
    order = ("late", "frozen", "revoked", "expired", "role")
    return min((fault for fault in said.values() if fault), key=order.index), frozenset()


def _enrolment_fault(oracle: Oracle, batch: SignedBatch, body: EnrolEntry) -> str | None:
    token, request = peek_token(body.token, oracle.limits), peek_request(body.request, oracle.limits)
    gateways = {end.node for end in token.endpoints} if token.redeemer is None else {token.redeemer}
    bound, at_ms = token.binding, batch.batch.hlc >> 16
    elsewhere = bound and bound.kind == "key" and bound.digest != hashlib.sha256(request.node_key).digest()
    faults = (
        (oracle.verdict(batch, Role.MEMBER, frozenset()) or "", True),
        ("admission.mesh", request.mesh != token.mesh),
        ("admission.token", request.token != token_id(body.token)),
        ("admission.gateway", batch.batch.author not in gateways),
        ("admission.device", elsewhere),
        ("token.early", at_ms < token.not_before_ms),
        ("token.expired", at_ms > token.not_after_ms),
    )
    fault = next((key for key, holds in faults if key and holds), None)
    fault = fault or _token_fault(oracle, batch, body.token, token)
    if fault is None:
        open_request(body.request, oracle.verify, oracle.limits)
    return fault


def _token_fault(oracle: Oracle, batch: SignedBatch, blob: bytes, token: Token) -> str | None:
    if token.mesh != oracle.mesh:
        return "token.mesh"
    held = [
        c.grant
        for c in oracle.grants_to(token.issuer)
        if c.grant and c.grant_id == token.grant and oracle.is_before(c, batch) and valid_at(c.grant, batch)
    ]
    if not held:
        return "token.issuer"
    if not invited(held[0], token.tags, token.not_before_ms, token.not_after_ms):
        return "token.widens"
    open_token(blob, oracle.verify, held[0].subject_key, oracle.limits)
    return None


def valid_at(grant: Grant, batch: SignedBatch) -> bool:
    """Whether a batch was written in the time of a grant, by its own clock."""
    return grant.not_before_ms <= batch.batch.hlc >> 16 <= grant.not_after_ms


def invited(parent: Grant | None, tags: Iterable[str], start_ms: int, end_ms: int) -> bool:
    """Whether a grant lets its holder admit to these tags in this time."""
    return (
        parent is not None
        and bool({Role.OWNER, Role.APPROVER} & set(parent.roles))
        and _reaches(frozenset(parent.scope), tags)
        and parent.not_before_ms <= start_ms
        and end_ms <= parent.not_after_ms
    )


def _reaches(scope: frozenset[str], tags: Iterable[str]) -> bool:
    return not scope or (bool(set(tags)) and set(tags) <= scope)


def _shown(state: str) -> str:
    return "suspended" if state == "held" else state


def _node(body: EnrolEntry) -> bytes:
    return node_id(peek_request(body.request).node_key).raw
