"""Admission entries during the fold: each is judged by its batch's past alone, and becomes a row or has no effect.

How they work together (which enrolment a token carries, how a node stands) is settled afterwards, by `admissions`; here
is noted whom that concerns.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from appliance.core.clock import hlc_ms, moment_text
from appliance.core.errors import error
from appliance.core.ids import NodeId, node_id
from appliance.core.limits import LIMITS, Limits
from appliance.replica.ancestry import Meta
from appliance.replica.authority import Authority
from appliance.replica.batch import Verify
from appliance.replica.entries import CertifyEntry, DecideEntry, EnrolEntry, RetireEntry, TokenEntry
from appliance.replica.marks import Mark
from appliance.replica.rows import CertificateRow, DecisionRow, EnrolmentRow, RetirementRow, TokenRow
from appliance.replica.stores import State
from appliance.trust.certificates import peek_certificate
from appliance.trust.enrolment import Request, open_request, peek_request
from appliance.trust.grants import Role
from appliance.trust.tokens import Token, invites, open_token, peek_token, token_id


class Touched(NamedTuple):
    """Whose admission may have changed."""

    nodes: set[bytes]
    tokens: set[bytes]
    issuers: set[bytes]  # of tokens


class AdmissionFold:
    """Gives admission entries their effect. `verify` is a provider's."""

    def __init__(
        self, mesh: bytes, authority: Authority, state: State, verify: Verify, limits: Limits = LIMITS
    ) -> None:
        self._mesh = mesh
        self._authority = authority
        self._state = state
        self._verify = verify
        self._limits = limits
        self._touched = Touched(set(), set(), set())

    def touched(self) -> Touched:
        """Whom the entries since the last call concern, whether they had effect or not."""
        touched, self._touched = self._touched, Touched(set(), set(), set())
        return touched

    def take(self, meta: Meta, index: int, entry: TokenEntry | RetireEntry | EnrolEntry | DecideEntry) -> str | None:
        """Make a row of an entry; returns why it has no effect. Raises `token.*`, `request.*` or `admission.*`."""
        match entry:
            case TokenEntry():
                return self._token(meta, index, entry)
            case RetireEntry():
                return self._retire(meta, index, entry)
            case EnrolEntry():
                return self._enrol(meta, index, entry)
            case DecideEntry():
                return self._decide(meta, index, entry)

    def certified(self, mark: Mark, entry: CertifyEntry, reason: str) -> None:
        """Publish a node certificate, in force or not; of a forged one there is nothing to publish."""
        if mark.grant is None:
            return
        certificate = peek_certificate(entry.certificate, self._limits)
        self._touched.nodes.add(certificate.subject)
        self._state.put(
            CertificateRow(
                batch=mark.meta.hash,
                entry=mark.index,
                certificate=mark.grant_id,
                subject=certificate.subject,
                issuer=certificate.issuer,
                parent=certificate.parent,
                enrolment=certificate.enrolment,
                mesh_key=certificate.mesh_key,
                tunnel_key=certificate.tunnel_key,
                name=certificate.name,
                tags=certificate.tags,
                level=certificate.level,
                not_before_ms=certificate.not_before_ms,
                not_after_ms=certificate.not_after_ms,
                rule=entry.rule,
                hlc=mark.meta.hlc,
                reason=reason,
            )
        )

    def revoked(self, target: bytes) -> None:
        """Take note that a revocation concerns this key, and the tokens that it made."""
        self._touched.nodes.add(target)
        self._touched.issuers.add(target)

    def _token(self, meta: Meta, index: int, entry: TokenEntry) -> str | None:
        """Publish a token of the author's own."""
        token, identity = peek_token(entry.token, self._limits), token_id(entry.token)
        self._touched.tokens.add(identity)
        if token.issuer != meta.author:
            raise error("token.issuer")
        reason = self._authority.verdict(meta, Role.APPROVER, frozenset(token.tags), by=token.grant)
        if reason is not None:
            return reason
        self._open(meta, entry.token, token)
        self._state.put(
            TokenRow(
                batch=meta.hash,
                entry=index,
                token=identity,
                issuer=token.issuer,
                grant_id=token.grant,
                tags=token.tags,
                level=token.level,
                uses=token.uses,
                redeemer=token.redeemer,
                not_before_ms=token.not_before_ms,
                not_after_ms=token.not_after_ms,
                note=entry.note,
                hlc=meta.hlc,
            )
        )
        return None

    def _retire(self, meta: Meta, index: int, entry: RetireEntry) -> str | None:
        """End a token, if its tags lie within the author's scope."""
        self._touched.tokens.add(entry.token)
        reason, scope = self._authority.reach(meta, Role.APPROVER)
        if reason is None:
            self._state.put(
                RetirementRow(
                    batch=meta.hash,
                    entry=index,
                    token=entry.token,
                    author=meta.author,
                    scope=tuple(sorted(scope)),
                    note=entry.reason,
                    hlc=meta.hlc,
                )
            )
        return reason

    def _enrol(self, meta: Meta, index: int, entry: EnrolEntry) -> str | None:
        """Take note that a node asked."""
        token, request = peek_token(entry.token, self._limits), peek_request(entry.request, self._limits)
        identity, node = token_id(entry.token), node_id(request.node_key).raw
        self._touched.tokens.add(identity)
        self._touched.nodes.add(node)
        reason = self._authority.verdict(meta, Role.MEMBER)
        if reason is not None:
            return reason
        check_enrolment(token, identity, request, meta.author)
        self._check_time(meta, token)
        self._open(meta, entry.token, token)
        open_request(entry.request, self._verify, self._limits)
        self._state.put(
            EnrolmentRow(
                batch=meta.hash,
                entry=index,
                token=identity,
                node=node,
                gateway=meta.author,
                issuer=token.issuer,
                grant_id=token.grant,
                tags=token.tags,
                level=token.level,
                uses=token.uses,
                name=request.name,
                hlc=meta.hlc,
            )
        )
        return None

    def _decide(self, meta: Meta, index: int, entry: DecideEntry) -> str | None:
        """Take note of a decision; whether its node is within the author's scope is settled afterwards."""
        self._touched.nodes.add(entry.node)
        reason, scope = self._authority.reach(meta, Role.APPROVER)
        if reason is None:
            self._state.put(
                DecisionRow(
                    batch=meta.hash,
                    entry=index,
                    node=entry.node,
                    action=entry.action.value,
                    author=meta.author,
                    scope=tuple(sorted(scope)),
                    note=entry.reason,
                    rule=entry.rule,
                    hlc=meta.hlc,
                )
            )
        return reason

    def _open(self, meta: Meta, blob: bytes, token: Token) -> None:
        """Raise `token.*` unless a grant in the batch's past let the issuer make the token, and the issuer did."""
        if token.mesh != self._mesh:
            raise error("token.mesh")
        for mark in self._authority.grants.get(token.issuer, ()):
            if mark.grant is None or mark.tags is not None or mark.grant_id != token.grant:
                continue
            if self._authority.precedes(mark, meta) and self._authority.in_time(mark, meta):
                invites(token, mark.grant)
                open_token(blob, self._verify, mark.grant.subject_key, self._limits)
                return
        raise error("token.issuer")

    @staticmethod
    def _check_time(meta: Meta, token: Token) -> None:
        now_ms = hlc_ms(meta.hlc)
        if now_ms < token.not_before_ms:
            raise error("token.early", start=moment_text(token.not_before_ms), now=moment_text(now_ms))
        if now_ms > token.not_after_ms:
            raise error("token.expired", end=moment_text(token.not_after_ms), now=moment_text(now_ms))


def check_enrolment(token: Token, identity: bytes, request: Request, gateway: bytes) -> None:
    """Raise `admission.*` unless this gateway may take this request with this token; signatures and time aside."""
    if request.mesh != token.mesh:
        raise error("admission.mesh")
    if request.token != identity:
        raise error("admission.token")
    if gateway not in ({token.redeemer} if token.redeemer is not None else {end.node for end in token.endpoints}):
        raise error("admission.gateway", node=NodeId(gateway))
    bound = token.binding
    if bound is not None and bound.kind == "key" and hashlib.sha256(request.node_key).digest() != bound.digest:
        raise error("admission.device")
