"""The joiner's side of an enrolment: it checks the mesh, the token and the gateway before it says anything of itself.

Sans-IO, one object for each session: what the gateway says comes in as bytes, what is to be said goes out as bytes, and
what was learnt stands in the attributes. Every session begins anew, so that a joiner that was cut off, or killed, goes
on where the mesh knows it to be. It never believes that it is a member: its replica will know. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from appliance.admission.messages import (
    Ask,
    Fetch,
    FromGateway,
    Hello,
    News,
    Offer,
    Refusal,
    Ticket,
    decode_from_gateway,
    encode,
)
from appliance.core.errors import ERRORS, IntegrityError, X0tError, error
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS, Limits
from appliance.trust import tokens
from appliance.trust.certificates import NodeCertificate, certifies, open_certificate
from appliance.trust.descriptor import Descriptor, open_descriptor
from appliance.trust.enrolment import Request, bind, peek_request
from appliance.trust.grants import check_chain, grant_id
from appliance.trust.signed import Verify
from appliance.trust.tokens import Pointer, Token


class Applicant(Protocol):
    """Who asks: makes the signed request, and knows how nothing else."""

    def request(self, token: Token, token_id: bytes, binding: bytes) -> bytes:
        """A request for this token, bound to this session."""
        ...


class Means(msgspec.Struct, frozen=True):
    """What a session needs to judge by."""

    verify: Verify
    now_ms: Callable[[], int]
    limits: Limits = LIMITS
    is_known: bool = False  # a gateway took the request before: the token's time has done its work


class Joiner:
    """One session with one gateway."""

    def __init__(
        self, credential: tokens.Ticket | Pointer, applicant: Applicant, exporter: bytes, means: Means
    ) -> None:
        """*exporter* is that of the connection (RFC 9266), whose other end was pinned to a node of the token."""
        self.ticket = credential if isinstance(credential, tokens.Ticket) else None
        self.descriptor: Descriptor | None = None
        self.descriptor_blob = b""
        self.news: News | None = None
        self.certificate: NodeCertificate | None = None
        self._pointer = credential if isinstance(credential, Pointer) else None
        self._applicant = applicant
        self._exporter = exporter
        self._means = means
        self._request: Request | None = None

    def begin(self) -> bytes:
        """The first message."""
        if self.ticket is not None:
            return self._hello(self.ticket)
        assert self._pointer is not None
        return encode(Fetch(self._pointer.code))

    def take(self, data: bytes) -> bytes | None:
        """What to answer; None if there is only to wait. Raises what makes this gateway one to leave."""
        match decode_from_gateway(data):
            case Ticket(text) if self.ticket is None:
                self.ticket = self._fetched(text)
                return self._hello(self.ticket)
            case Offer() as offer if self.ticket is not None and self.descriptor is None:
                return self._answer(self.ticket, offer)
            case News() as news if self._request is not None:
                self.certificate = self._certified(news) if news.state == "approved" else None
                self.news = news
                return None
            case Refusal(key, detail):
                raise refused(key, detail)
            case other:
                raise error("admission.order", message=_name(other), stage=self._stage())

    def _hello(self, ticket: tokens.Ticket) -> bytes:
        return encode(Hello(tokens.token_id(ticket.blob)))

    def _fetched(self, text: str) -> tokens.Ticket:
        """The token that a code stood for, if it is of the mesh that the short form named."""
        ticket = tokens.parse_token(text)
        pointer = self._pointer
        assert pointer is not None
        if ticket.token.mesh != pointer.mesh or pointer.node not in {end.node for end in ticket.token.endpoints}:
            raise error("admission.pointer", node=NodeId(pointer.node))
        return ticket

    def _answer(self, ticket: tokens.Ticket, offer: Offer) -> bytes:
        """The request, once the mesh is the token's and who made the token may invite. Else nothing is said."""
        verify, limits = self._means.verify, self._means.limits
        descriptor = open_descriptor(offer.descriptor, verify)
        if descriptor.mesh != ticket.token.mesh:
            raise error("admission.mesh")
        tokens.check_token(ticket, offer.chain, descriptor.authority_key, verify, self._moment(ticket.token))
        blob = self._applicant.request(ticket.token, tokens.token_id(ticket.blob), bind(self._exporter))
        self.descriptor, self.descriptor_blob = descriptor, offer.descriptor
        self._request = peek_request(blob, limits)
        return encode(Ask(blob, ticket.secret))

    def _moment(self, token: Token) -> int:
        """When the token is looked at: now, or while it still counted."""
        now_ms = self._means.now_ms()
        return max(token.not_before_ms, min(now_ms, token.not_after_ms)) if self._means.is_known else now_ms

    def _certified(self, news: News) -> NodeCertificate:
        """The certificate, if it is by an approver of this mesh and of the keys that were asked for."""
        assert self.descriptor is not None
        assert self._request is not None
        verify = self._means.verify
        approver = check_chain(news.chain, self.descriptor.mesh, self.descriptor.authority_key, verify)
        certificate = open_certificate(news.certificate, verify, approver.subject_key)
        certifies(certificate, approver)
        if certificate.parent != grant_id(news.chain[0]) or _keys(certificate) != _asked(self._request):
            raise error("admission.certificate")
        return certificate

    def _stage(self) -> str:
        if self.ticket is None:
            return "fetched"
        return "greeted" if self._request is None else "asked"


def refused(key: str, detail: dict[str, str]) -> X0tError:
    """The error for what a gateway said: under its own key only where the key is of this conversation.

    A gateway must not be able to make us raise whatever it likes, and no alarm of ours at all.
    """
    spec = ERRORS.get(key)
    is_ours = key.partition(".")[0] in {"admission", "request", "token"}
    if spec is None or not is_ours or spec.family is IntegrityError:
        return error("admission.refused", reason=key)
    return error(key, **detail)


def _keys(certificate: NodeCertificate) -> tuple[bytes, ...]:
    return (certificate.subject_key, certificate.kem_key, certificate.mesh_key, certificate.tunnel_key)


def _asked(request: Request) -> tuple[bytes, ...]:
    return (request.node_key, request.kem_key, request.mesh_key, request.tunnel_key)


def _name(message: FromGateway) -> str:
    return type(message).__name__.lower()
