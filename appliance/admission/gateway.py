"""The gateway's side of an enrolment: which message may come when, and whether a request may be written down.

Sans-IO: messages come in as bytes, what is known of the mesh as arguments, and what is to be said goes out as bytes. It
never decides who becomes a member: it checks that the asker holds the token, the key and this very session, and leaves
what the token allows, and whether it still does, to the replica. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import Final

import msgspec

from appliance.admission.messages import Ask, Fetch, FromJoiner, Hello, decode_from_joiner
from appliance.core.errors import error
from appliance.core.ids import NodeId, TokenId, node_id
from appliance.core.limits import LIMITS, Limits
from appliance.core.units import format_duration_ms
from appliance.trust.enrolment import Request, bind, open_request
from appliance.trust.signed import Verify
from appliance.trust.tokens import lock_of, peek_token, token_id

_CODE_LABEL: Final = b"x0t/token-code/1"


class Stage(Enum):
    """How far a conversation is."""

    BEGUN = "begun"
    FETCHED = "fetched"
    OFFERED = "offered"
    ASKED = "asked"


# What a joiner may say in each stage, and where that leads.
_COURSE: Final[dict[tuple[Stage, type[FromJoiner]], Stage]] = {
    (Stage.BEGUN, Fetch): Stage.FETCHED,
    (Stage.BEGUN, Hello): Stage.OFFERED,
    (Stage.FETCHED, Hello): Stage.OFFERED,
    (Stage.OFFERED, Ask): Stage.ASKED,
}


class Conversation:
    """Keeps the order of one conversation."""

    def __init__(self) -> None:
        self.stage = Stage.BEGUN

    def take(self, data: bytes) -> FromJoiner:
        """The next message of the joiner. Raises `admission.message` or `admission.order`."""
        message = decode_from_joiner(data)
        after = _COURSE.get((self.stage, type(message)))
        if after is None:
            raise error("admission.order", message=type(message).__name__.lower(), stage=self.stage.value)
        self.stage = after
        return message


class Session(msgspec.Struct, frozen=True):
    """Where a request arrived: in which mesh, from whom, and the exporter of the connection."""

    mesh: bytes
    peer: bytes  # node id that TLS has proved
    exporter: bytes  # RFC 9266
    now_ms: int


def code_hash(code: bytes) -> bytes:
    """By which a code is looked up, so that no comparison of ours tells how much of a guess was right."""
    return hashlib.sha256(_CODE_LABEL + code).digest()


def judge(ask: Ask, token_blob: bytes, session: Session, verify: Verify, limits: Limits = LIMITS) -> Request:
    """The request if its asker holds the token's secret and the keys that it names, and asks in this very session.

    Raises `admission.*`, or `request.*` for one that no node would sign. What it costs to find out grows from check to
    check, so that who has no secret makes us verify nothing.
    """
    token = peek_token(token_blob, limits)
    if not hmac.compare_digest(lock_of(ask.secret), token.lock):
        raise error("admission.secret", token=TokenId(token_id(token_blob)))
    request = open_request(ask.request, verify)
    if request.mesh != session.mesh or token.mesh != session.mesh:
        raise error("admission.mesh")
    if request.token != token_id(token_blob):
        raise error("admission.token")
    if node_id(request.node_key).raw != session.peer:
        raise error("admission.peer", peer=NodeId(session.peer))
    if request.binding != bind(session.exporter):
        raise error("admission.binding")
    _check_clock(request, session, limits)
    return request


def same_keys(request: Request, earlier: Request) -> bool:
    """True if both name the same keys: what may differ between two requests of one node with one token is the rest."""
    return _keys(request) == _keys(earlier)


def _keys(request: Request) -> tuple[bytes, ...]:
    return (request.node_key, request.kem_key, request.mesh_key, request.tunnel_key)


def _check_clock(request: Request, session: Session, limits: Limits) -> None:
    ahead_ms = request.created_ms - session.now_ms
    if abs(ahead_ms) > limits.clock_ahead_ms:
        raise error(
            "admission.clock",
            off=format_duration_ms(abs(ahead_ms) // 1000 * 1000),
            way="ahead of" if ahead_ms > 0 else "behind",
            limit=format_duration_ms(limits.clock_ahead_ms),
        )
