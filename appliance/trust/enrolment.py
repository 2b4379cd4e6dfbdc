"""Requests: what a node signs that asks to be admitted with a token.

A COSE_Sign1 under the label `x0t/enrol/1` by the node's own key, which it carries. It proves that who wrote it had that
key and the mesh key, and that it was written for one token and one TLS session: replayed on another connection, or
relayed by somebody in the middle, it is bound to the wrong one. Pure. This module never sees the token's secret and
never says who is admitted.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

import msgspec

from appliance.core.domains import Domain
from appliance.core.errors import error
from appliance.core.ids import node_id
from appliance.core.limits import LIMITS, Limits
from appliance.core.names import is_name
from appliance.trust.attachment import PROOF_BYTES, verify_attachment
from appliance.trust.signed import CurveKey, Form, Hash, KemKey, Ms, Sign, SigningKey, Verify, record_id

VERSION: Final = 1
_BINDING_LABEL: Final = b"x0t/enrol-binding/1"
_ENROLMENT_LABEL: Final = b"x0t/enrolment/1"


class Request(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """What a request says. The constructor checks nothing: `sign_request` and `peek_request` do."""

    version: Literal[1] = VERSION
    mesh: Hash
    token: Hash  # id of the token that it asks with
    node_key: SigningKey
    kem_key: KemKey
    mesh_key: CurveKey  # Ed25519: makes the node's address on the mesh
    mesh_proof: Annotated[bytes, msgspec.Meta(min_length=PROOF_BYTES, max_length=PROOF_BYTES)]  # see `attachment`
    tunnel_key: CurveKey  # X25519
    name: str  # that the node gives itself
    created_ms: Ms  # by the clock of the node
    binding: Hash  # of the TLS session: see `bind`


def bind(exporter: bytes) -> bytes:
    """What binds a request to the TLS session with this exporter value (RFC 9266)."""
    return hashlib.sha256(_BINDING_LABEL + exporter).digest()


def enrolment_id(token: bytes, node: bytes) -> bytes:
    """The id of an enrolment: the same for every request of one node with one token, so that asking again is one."""
    return hashlib.sha256(_ENROLMENT_LABEL + token + node).digest()


def request_id(blob: bytes) -> bytes:
    """The id of a signed request."""
    return record_id(blob)


def encode_request(request: Request) -> bytes:
    """The payload of a request: the only encoding that `peek_request` accepts."""
    return _FORM.encode(request)


def sign_request(request: Request, sign: Sign, limits: Limits = LIMITS) -> bytes:
    """The signed request; `request.malformed` for one that nobody would accept."""
    return _FORM.sign(request, sign, limits)


def peek_request(blob: bytes, limits: Limits = LIMITS) -> Request:
    """What a signed request says, before anybody has verified it; `request.malformed`."""
    return _FORM.peek(blob, limits)


def open_request(blob: bytes, verify: Verify, limits: Limits = LIMITS) -> Request:
    """The request if its keys signed it; else `request.malformed`, `request.signature` or `request.proof`."""
    request, signed = _FORM.read(blob, limits)
    node = node_id(request.node_key)
    if not _FORM.is_signed_by(request.node_key, signed, verify):
        raise error("request.signature", node=node)
    if not verify_attachment(request.mesh, node.raw, request.mesh_key, request.mesh_proof):
        raise error("request.proof", node=node)
    return request


def _fault(request: Request, _: Limits) -> str | None:
    """What the types cannot say."""
    return None if is_name(request.name) else "the name is not of 1 to 64 characters that can be printed"


_FORM: Final = Form(Request, Domain.ENROL, "request.malformed", _fault)
