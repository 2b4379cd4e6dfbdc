"""Node certificates: an approver's word that the holder of a key is a member, with its other keys, name and tags.

A COSE_Sign1 under the label `x0t/node-cert/1`. It is the approval itself: for authority it stands like a grant of
`member` to the subject's key, resting on the approver's own grant. Another one for the same key renews it. Pure: time
and limits are arguments. This module never says whether a certificate is in force: the fold knows.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from appliance.core.domains import Domain
from appliance.core.errors import error
from appliance.core.ids import CertificateId, node_id
from appliance.core.limits import LIMITS, Limits
from appliance.core.names import is_name, is_tag_set
from appliance.trust.grants import Grant, Role, excess
from appliance.trust.signed import CurveKey, Form, Hash, KemKey, Ms, Nonce, Sign, SigningKey, Verify, record_id
from appliance.trust.tokens import Level

VERSION: Final = 1


class NodeCertificate(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """What a node certificate says. The constructor checks nothing: `sign_certificate` and `peek_certificate` do."""

    version: Literal[1] = VERSION
    mesh: Hash
    issuer: Hash  # node id of the approver, who signs
    subject: Hash  # node id
    subject_key: SigningKey
    kem_key: KemKey
    mesh_key: CurveKey  # Ed25519: makes the node's address on the mesh
    tunnel_key: CurveKey  # X25519
    name: str  # for people
    tags: tuple[str, ...]  # sorted, unique
    level: Level
    not_before_ms: Ms  # inclusive
    not_after_ms: Ms  # inclusive
    parent: Hash  # id of the approver's grant
    enrolment: Hash | None  # what was approved; None for a node that did not ask with a token
    nonce: Nonce


def certificate_id(blob: bytes) -> bytes:
    """The id of a signed node certificate."""
    return record_id(blob)


def encode_certificate(certificate: NodeCertificate) -> bytes:
    """The payload of a node certificate: the only encoding that `peek_certificate` accepts."""
    return _FORM.encode(certificate)


def sign_certificate(certificate: NodeCertificate, sign: Sign, limits: Limits = LIMITS) -> bytes:
    """The signed node certificate; `certificate.malformed` for one that nobody would accept."""
    return _FORM.sign(certificate, sign, limits)


def peek_certificate(blob: bytes, limits: Limits = LIMITS) -> NodeCertificate:
    """What a signed node certificate says, before anybody has verified it; `certificate.malformed`."""
    return _FORM.peek(blob, limits)


def open_certificate(blob: bytes, verify: Verify, issuer_key: bytes, limits: Limits = LIMITS) -> NodeCertificate:
    """The certificate if that key signed it; else `certificate.malformed`, `.issuer` or `.signature`."""
    certificate, signed = _FORM.read(blob, limits)
    if node_id(issuer_key).raw != certificate.issuer:
        raise error("certificate.issuer", certificate=_name(certificate))
    if not _FORM.is_signed_by(issuer_key, signed, verify):
        raise error("certificate.signature", certificate=_name(certificate))
    return certificate


def certifies(certificate: NodeCertificate, parent: Grant) -> None:
    """Raise unless *parent* lets its subject give *certificate*: `certificate.mesh`, `.issuer` or `.widens`.

    One without tags is for the whole mesh, so an approver of some tags cannot give it. It needs no level of delegation:
    what it gives cannot be given on. Whether `certificate.parent` is the id of *parent* is for the caller to check.
    """
    if certificate.mesh != parent.mesh:
        raise error("certificate.mesh", certificate=_name(certificate))
    if certificate.issuer != parent.subject:
        raise error("certificate.issuer", certificate=_name(certificate))
    what = excess(parent, (Role.APPROVER,), certificate.tags, certificate.not_before_ms, certificate.not_after_ms)
    if what is not None:
        raise error("certificate.widens", what=what)


def as_grant(certificate: NodeCertificate) -> Grant:
    """What the certificate gives, as a grant: `member`, which concerns the node itself and so has no scope.

    Nobody signs this grant; its id is the certificate's.
    """
    return Grant(
        mesh=certificate.mesh,
        issuer=certificate.issuer,
        subject=certificate.subject,
        subject_key=certificate.subject_key,
        roles=(Role.MEMBER,),
        scope=(),
        delegate=0,
        not_before_ms=certificate.not_before_ms,
        not_after_ms=certificate.not_after_ms,
        parent=certificate.parent,
        nonce=certificate.nonce,
    )


def _fault(certificate: NodeCertificate, limits: Limits) -> str | None:
    """What the types cannot say."""
    if certificate.subject != node_id(certificate.subject_key).raw:
        return "the subject is not the id of its key"
    if not is_name(certificate.name):
        return "the name is not of 1 to 64 characters that can be printed"
    if not is_tag_set(certificate.tags, limits.tags_per_node):
        return "the tags are not a sorted set of tags"
    if certificate.not_before_ms > certificate.not_after_ms:
        return "it ends before it begins"
    return None


def _name(certificate: NodeCertificate) -> str:
    return str(CertificateId(hashlib.sha256(encode_certificate(certificate)).digest()))


_FORM: Final = Form(NodeCertificate, Domain.NODE_CERT, "certificate.malformed", _fault)
