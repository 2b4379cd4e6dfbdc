"""Operations of admission: what gateways and approvers ask of a replica, turned into entries of one batch.

Each is refused before anything is written if this replica knows that it could have no effect; the receipt still says
what became of it. Whoever enrols a node has checked the token's secret and the session before: nothing here sees them.
"""

from __future__ import annotations

import secrets
from typing import Final

import msgspec

from appliance.core.clock import moment_text
from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId, TokenId, node_id
from appliance.core.limits import LIMITS
from appliance.replica.admission_fold import check_enrolment
from appliance.replica.admission_queries import admission_of, certificate_blob, enrolled
from appliance.replica.admission_replay import IMPOSSIBLE, Admission, Fact
from appliance.replica.admission_states import Event, State, after
from appliance.replica.approvals import approver_scope, approving, certifiable, end_ms
from appliance.replica.batch import Entry, Sign
from appliance.replica.engine import Engine
from appliance.replica.entries import (
    Action,
    CertifyEntry,
    DecideEntry,
    EnrolEntry,
    RetireEntry,
    TokenEntry,
    make,
)
from appliance.replica.marks import Key, covers
from appliance.replica.reports import Receipt
from appliance.replica.revocations import Target, is_bound, revocation
from appliance.replica.rows import CertificateRow, TokenRow
from appliance.replica.service import Replica
from appliance.replica.token_settlement import SPENT, end_of
from appliance.trust.certificates import NodeCertificate, peek_certificate, sign_certificate
from appliance.trust.enrolment import enrolment_id, open_request, peek_request
from appliance.trust.grants import Role
from appliance.trust.tokens import (
    SECRET_BYTES,
    Binding,
    Endpoint,
    Level,
    Token,
    format_token,
    lock_of,
    open_token,
    peek_token,
    sign_token,
    token_id,
)

ASKED: Final = "admission.asked"
_LAST: Final[Key] = (1 << 63, b"", 0)  # behind all that there is


class TokenAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What a token is to say. It ends when the grant that it rests on ends, if that comes first."""

    endpoints: tuple[Endpoint, ...]
    lifetime_ms: int
    starts_in_ms: int = 0
    tags: tuple[str, ...] = ()
    level: Level = "none"
    uses: int = 1
    binding: Binding | None = None
    redeemer: bytes | None = None
    note: str = ""


class ApproveAsk(msgspec.Struct, frozen=True, kw_only=True):
    """How a node is certified: with its token's tags and until the approver's own grant ends, unless this says other.

    `rule` names the rule by which it is approved; empty: a person did.
    """

    tags: tuple[str, ...] | None = None
    lifetime_ms: int | None = None
    rule: str = ""


class AdmissionOperations:
    """The operations of one replica, by its own node. `sign` is the node key's."""

    def __init__(self, replica: Replica, sign: Sign) -> None:
        self._replica = replica
        self._sign = sign

    # -- tokens

    async def create_token(self, ask: TokenAsk) -> tuple[Receipt, str]:
        """Make and publish a token; returns its text, which is nowhere else. Raises `grant.role` or `token.*`."""
        secret = secrets.token_bytes(SECRET_BYTES)
        made: list[bytes] = []

        def build(engine: Engine, now_ms: int) -> list[Entry]:
            made.append(self._token(engine, ask, secret, now_ms))
            return [make(TokenEntry(made[0], _short(ask.note)))]

        receipt = await self._replica.edit(build)
        return receipt, format_token(made[0], secret)

    async def retire_token(self, token: bytes, reason: str) -> Receipt:
        """End a token. Raises `token.void`, `token.retired`, `token.revoked`, `grant.role` or `admission.scope`."""
        return await self._replica.edit(lambda engine, now_ms: [self._retire(engine, token, reason, now_ms)])

    # -- enrolment

    async def enrol(self, token: bytes, request: bytes) -> Receipt | None:
        """Write down that a node asked with this token, both as signed; None if it did so before with this token.

        Raises `token.*`, `request.*`, `admission.*`, or `grant.role` where this node is no member.
        """
        try:
            return await self._replica.edit(lambda engine, now_ms: [self._enrol(engine, token, request, now_ms)])
        except X0tError as err:
            if err.key != ASKED:
                raise
            return None

    # -- decisions

    async def approve(self, node: bytes, ask: ApproveAsk | None = None) -> Receipt:
        """Certify a node with the keys that it asked with. Raises `admission.*`, `certificate.*` or `grant.role`."""
        return await self._replica.edit(
            lambda engine, now_ms: [self._approve(engine, node, ask or ApproveAsk(), now_ms)]
        )

    async def renew(self, node: bytes, ask: ApproveAsk | None = None) -> Receipt:
        """Certify a node again as it is certified. Raises as `approve` does."""
        return await self._replica.edit(lambda engine, now_ms: [self._renew(engine, node, ask or ApproveAsk(), now_ms)])

    async def reject(self, node: bytes, reason: str, rule: str = "") -> Receipt:
        """Refuse a node that asked. It may ask again with another token."""
        return await self._decide_on(node, Action.REJECT, reason, rule)

    async def suspend(self, node: bytes, reason: str, rule: str = "") -> Receipt:
        """Keep a node out of the network until it is resumed."""
        return await self._decide_on(node, Action.SUSPEND, reason, rule)

    async def resume(self, node: bytes, reason: str, rule: str = "") -> Receipt:
        """Undo a suspension, whoever or whatever made it, or a rejection."""
        return await self._decide_on(node, Action.RESUME, reason, rule)

    async def revoke_member(self, node: bytes, reason: str) -> Receipt:
        """Take a node's certificates away; it may be approved again without a new token."""
        return await self._replica.edit(lambda engine, now_ms: [self._revoke(engine, node, reason, now_ms)])

    async def evict(self, node: bytes, reason: str, rule: str = "") -> Receipt:
        """Take all away from a node; it may ask again with a new token."""
        return await self._put_out(node, Action.EVICT, reason, rule)

    async def ban(self, node: bytes, reason: str, rule: str = "") -> Receipt:
        """Take all away from a node, known or not, and let it ask no more."""
        return await self._put_out(node, Action.BAN, reason, rule)

    async def unban(self, node: bytes, reason: str, rule: str = "") -> Receipt:
        """Let a node ask again, with a new token."""
        return await self._decide_on(node, Action.UNBAN, reason, rule)

    async def _decide_on(self, node: bytes, action: Action, reason: str, rule: str) -> Receipt:
        entry = DecideEntry(node, action, _short(reason), _short(rule))
        return await self._replica.edit(lambda engine, now_ms: [self._decide(engine, entry, now_ms)])

    async def _put_out(self, node: bytes, action: Action, reason: str, rule: str) -> Receipt:
        entry = DecideEntry(node, action, _short(reason), _short(rule))

        def build(engine: Engine, now_ms: int) -> list[Entry]:
            decided = [self._decide(engine, entry, now_ms)]
            if not is_bound(engine, node):
                return decided
            return [revocation(engine, self._replica.node, Target(node), reason, now_ms), *decided]

        return await self._replica.edit(build)

    # -- on the writer's thread

    def _token(self, engine: Engine, ask: TokenAsk, secret: bytes, now_ms: int) -> bytes:
        start_ms = now_ms + ask.starts_in_ms
        tags = tuple(sorted(set(ask.tags)))
        mark = approving(engine, self._replica.node, tags, start_ms)
        token = Token(
            mesh=engine.identity.mesh,
            issuer=self._replica.node,
            grant=mark.grant_id,
            lock=lock_of(secret),
            endpoints=ask.endpoints,
            tags=tags,
            level=ask.level,
            uses=ask.uses,
            binding=ask.binding,
            redeemer=ask.redeemer,
            not_before_ms=start_ms,
            not_after_ms=min(start_ms + ask.lifetime_ms, end_ms(mark)),
        )
        return sign_token(token, self._sign, engine.limits)

    def _retire(self, engine: Engine, token: bytes, reason: str, now_ms: int) -> Entry:
        row = next(iter(engine.view.select(TokenRow, "token", token)), None)
        if row is None:
            raise error("token.void", token=TokenId(token))
        end = end_of(engine.view, engine.authority, row)
        if end is not None:
            raise error(end[1], token=TokenId(token))
        if not covers(self._scope(engine, now_ms), frozenset(row.tags)):
            raise error("admission.scope")
        return make(RetireEntry(token, _short(reason)))

    def _enrol(self, engine: Engine, blob: bytes, request_blob: bytes, now_ms: int) -> Entry:
        limits, verify = engine.limits, self._replica.verify
        token, request = peek_token(blob, limits), peek_request(request_blob, limits)
        identity, node = token_id(blob), node_id(request.node_key).raw
        if not self._replica.holds(Role.MEMBER):
            raise error("grant.role", role=Role.MEMBER.value)
        row = next(iter(engine.view.select(TokenRow, "token", identity)), None)
        key = engine.authority.key_of(token.issuer)
        if row is None or key is None:
            raise error("admission.unknown", token=TokenId(identity))
        check_enrolment(token, identity, request, self._replica.node)
        open_token(blob, verify, key, limits)
        open_request(request_blob, verify, limits)
        enrolment = enrolment_id(identity, node)
        admission = admission_of(engine, node)
        if any(fact.token is not None and fact.enrolment == enrolment for fact, _ in admission.course):
            raise error(ASKED, node=NodeId(node))
        _check_use(engine, row, now_ms)
        event = Event.ENROL if token.level == "none" else Event.ASK
        _demand(admission, self._fact(event, enrolment=enrolment))
        return make(EnrolEntry(blob, request_blob))

    def _approve(self, engine: Engine, node: bytes, ask: ApproveAsk, now_ms: int) -> Entry:
        admission = admission_of(engine, node)
        asked = enrolled(engine, node)
        if asked is None or admission.enrolment is None:
            raise error(IMPOSSIBLE, state=admission.state.shown)
        request = peek_request(asked.request, engine.limits)
        tags = admission.tags if ask.tags is None else ask.tags
        return self._certify(engine, admission, certifiable(request, tags, asked.row.level), ask, now_ms)

    def _renew(self, engine: Engine, node: bytes, ask: ApproveAsk, now_ms: int) -> Entry:
        admission = admission_of(engine, node)
        held = admission.certificate
        row = None if held is None else engine.view.get(CertificateRow, *held.key[1:])
        if not isinstance(row, CertificateRow):
            raise error(IMPOSSIBLE, state=admission.state.shown)
        certificate = peek_certificate(certificate_blob(engine, row), engine.limits)
        if ask.tags is not None:
            certificate = msgspec.structs.replace(certificate, tags=ask.tags)
        return self._certify(engine, admission, certificate, ask, now_ms)

    def _certify(
        self, engine: Engine, admission: Admission, draft: NodeCertificate, ask: ApproveAsk, now_ms: int
    ) -> Entry:
        """A certificate of ours like this draft, for the enrolment under which the node stands."""
        tags = tuple(sorted(set(draft.tags)))
        enrolment = admission.enrolment.enrolment if admission.enrolment is not None else None
        _demand(admission, self._fact(Event.CERTIFY, enrolment=enrolment))
        mark = approving(engine, self._replica.node, tags, now_ms)
        start_ms = mark.grant.not_before_ms if mark.grant is not None else now_ms
        ends_ms = end_ms(mark) if ask.lifetime_ms is None else min(now_ms + ask.lifetime_ms, end_ms(mark))
        certificate = msgspec.structs.replace(
            draft,
            mesh=engine.identity.mesh,
            issuer=self._replica.node,
            tags=tags,
            not_before_ms=max(start_ms, now_ms - engine.limits.clock_ahead_ms),
            not_after_ms=ends_ms,
            parent=mark.grant_id,
            enrolment=enrolment,
            nonce=secrets.token_bytes(16),
        )
        return make(CertifyEntry(sign_certificate(certificate, self._sign, engine.limits), _short(ask.rule)))

    def _decide(self, engine: Engine, entry: DecideEntry, now_ms: int) -> Entry:
        scope = self._scope(engine, now_ms)
        marks = engine.authority.grants.get(entry.node, ())
        if entry.action not in (Action.RESUME, Action.UNBAN) and any(
            mark.tags is None and engine.authority.gives(mark, now_ms) for mark in marks
        ):
            raise error("admission.granted", node=NodeId(entry.node))
        admission, event = admission_of(engine, entry.node), Event(entry.action.value)
        _demand(admission, self._fact(event, scope=scope))
        if after(admission.state, event) is admission.state:
            raise error(IMPOSSIBLE, state=admission.state.shown)
        return make(entry)

    def _revoke(self, engine: Engine, node: bytes, reason: str, now_ms: int) -> Entry:
        admission = admission_of(engine, node)
        if admission.state not in (State.APPROVED, State.SUSPENDED):
            raise error(IMPOSSIBLE, state=admission.state.shown)
        return revocation(engine, self._replica.node, Target(node), reason, now_ms)

    def _scope(self, engine: Engine, now_ms: int) -> frozenset[str]:
        scope = approver_scope(engine, self._replica.node, now_ms)
        if scope is None:
            raise error("grant.role", role=Role.APPROVER.value)
        return scope

    def _fact(self, event: Event, *, scope: frozenset[str] | None = None, enrolment: bytes | None = None) -> Fact:
        return Fact(key=_LAST, event=event, kind="", actor=self._replica.node, scope=scope, enrolment=enrolment)


def _demand(admission: Admission, fact: Fact) -> None:
    """Raise `admission.*` if this would have no effect now."""
    fault = admission.fault(fact)
    if fault:
        raise error(fault, state=admission.state.shown)


def _check_use(engine: Engine, row: TokenRow, now_ms: int) -> None:
    """Raise `token.*` unless the token carries one node more."""
    if now_ms < row.not_before_ms:
        raise error("token.early", start=moment_text(row.not_before_ms), now=moment_text(now_ms))
    if now_ms > row.not_after_ms:
        raise error("token.expired", end=moment_text(row.not_after_ms), now=moment_text(now_ms))
    end = end_of(engine.view, engine.authority, row)
    if end is not None:
        raise error(end[1])
    if engine.view.enrolled(row.token) >= row.uses:
        raise error(SPENT)


def _short(text: str) -> str:
    """As much of what people write as an entry takes."""
    return text[: LIMITS.text_bytes]
