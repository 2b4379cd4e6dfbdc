"""Grants: roles bound to a key by the mesh authority, or by a holder that may delegate.

A grant is a COSE_Sign1 under the label `x0t/grant/1`; its id is the hash of its payload, because ML-DSA
signatures are randomised. A chain runs from a leaf to a grant of the authority, and no step widens: roles,
scope, time and levels left only shrink. Pure: time and limits are arguments. This module never says whether
a grant was revoked, nor whether its issuer had the role at the time: the fold knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Literal

import msgspec

from appliance.core import canonical, cose
from appliance.core.domains import Domain
from appliance.core.errors import X0tError, error
from appliance.core.ids import GrantId, mesh_id, node_id
from appliance.core.limits import LIMITS, Limits

Sign = Callable[[bytes, bytes], bytes]  # (message, context) -> signature
Verify = Callable[[bytes, bytes, bytes, bytes], bool]  # (public key, message, signature, context)
VERSION: Final = 1
FOREVER_MS: Final = (1 << 47) - 1  # the last millisecond that an HLC can hold: int64 less 16 bits of counter

_Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # SHA-256
_PublicKey = Annotated[bytes, msgspec.Meta(min_length=1952, max_length=1952)]  # FIPS 204, table 2
_Nonce = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Ms = Annotated[int, msgspec.Meta(ge=0, le=FOREVER_MS)]


class Role(StrEnum):
    """What a key may do. Every role implies `member`: writing facts about oneself."""

    ADMIN = "admin"
    APPROVER = "approver"
    AUDITOR = "auditor"
    BILLING = "billing"
    MEMBER = "member"
    OPERATOR = "operator"
    OWNER = "owner"  # implies every other role


class Grant(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """What a grant says. The constructor checks nothing: `sign_grant` and `peek_grant` do."""

    version: Literal[1] = VERSION
    mesh: _Hash
    issuer: _Hash  # node id of who signs; the mesh id when it is the authority
    subject: _Hash  # node id of who receives
    subject_key: _PublicKey
    roles: tuple[Role, ...]  # at least one, sorted, unique
    scope: tuple[str, ...]  # tags, sorted, unique; () is the whole mesh
    delegate: Annotated[int, msgspec.Meta(ge=0, le=255)]  # further levels below the subject; 0: none
    not_before_ms: _Ms  # Unix time, inclusive
    not_after_ms: _Ms  # Unix time, inclusive
    parent: _Hash | None  # id of the issuer's own grant; None when the issuer is the authority
    nonce: _Nonce


def grant_id(blob: bytes) -> bytes:
    """The id of a signed grant: SHA-256 of its payload, so that signing again changes nothing."""
    return hashlib.sha256(cose.open1(blob).payload).digest()


def encode_grant(grant: Grant) -> bytes:
    """The payload of a grant: the only encoding that `peek_grant` accepts."""
    return canonical.encode(msgspec.to_builtins(grant, builtin_types=(bytes,)))


def sign_grant(grant: Grant, sign: Sign, limits: Limits = LIMITS) -> bytes:
    """The signed grant; `grant.malformed` for one that nobody would accept."""
    payload = encode_grant(grant)
    _parse(payload, limits)
    return cose.sign1(payload, Domain.GRANT, sign)


def peek_grant(blob: bytes, limits: Limits = LIMITS) -> Grant:
    """What a signed grant says, before anybody has verified it; `grant.malformed`."""
    return _open(blob, limits)[0]


def open_grant(blob: bytes, verify: Verify, issuer_key: bytes, limits: Limits = LIMITS) -> Grant:
    """The grant if that key signed it; else `grant.malformed`, `grant.issuer` or `grant.signature`."""
    grant, signed = _open(blob, limits)
    owner = mesh_id(issuer_key) if grant.parent is None else node_id(issuer_key)
    if owner.raw != grant.issuer:
        raise error("grant.issuer", grant=_name(grant))
    message = cose.to_be_signed(signed.payload)
    if not verify(issuer_key, message, signed.signature, Domain.GRANT.encode()):
        raise error("grant.signature", grant=_name(grant))
    return grant


def narrows(child: Grant, parent: Grant) -> None:
    """Raise unless *parent* lets its subject give *child*: `grant.mesh`, `grant.issuer`, `grant.widens`.

    Whether `child.parent` is the id of *parent* is for the caller to check, for the id is of the signed form.
    """
    if child.mesh != parent.mesh:
        raise error("grant.mesh", grant=_name(child))
    if child.issuer != parent.subject:
        raise error("grant.issuer", grant=_name(child))
    excess = sorted(set(child.roles) - implied_roles(parent.roles))
    if excess:
        raise error("grant.widens", what=f"the role {excess[0]}")
    if parent.scope and (not child.scope or not set(child.scope) <= set(parent.scope)):
        raise error("grant.widens", what="a scope outside the issuer's")
    if child.delegate >= parent.delegate:
        raise error("grant.widens", what=f"{child.delegate + 1} levels of {parent.delegate}")
    if child.not_before_ms < parent.not_before_ms or child.not_after_ms > parent.not_after_ms:
        raise error("grant.widens", what="a time outside the issuer's")


def check_chain(
    chain: Sequence[bytes], mesh: bytes, authority_key: bytes, verify: Verify, limits: Limits = LIMITS
) -> Grant:
    """The leaf of a chain (leaf first, `limits.grant_depth` at most), checked offline up to the authority.

    The leaf's times lie inside those of the chain, so `active_at` of the leaf speaks for all of it. A log publishes
    each grant in a batch of its issuer and is judged by the fold; this is for who holds a chain and no log, such as the
    verifier of a token. Both accept the same chains, as a law in tests/properties says.
    """
    if not chain:
        raise error("grant.malformed", reason="the chain is empty")
    if len(chain) > limits.grant_depth:
        raise error("grant.depth", limit=limits.grant_depth)
    grant = open_grant(chain[-1], verify, authority_key, limits)
    if grant.mesh != mesh or grant.issuer != mesh:
        raise error("grant.mesh", grant=_name(grant))
    for upper, blob in zip(reversed(chain), reversed(chain[:-1]), strict=False):
        child = open_grant(blob, verify, grant.subject_key, limits)
        if child.parent != grant_id(upper):
            raise error("grant.issuer", grant=_name(child))
        narrows(child, grant)
        grant = child
    return grant


def implied_roles(roles: Sequence[Role]) -> frozenset[Role]:
    """The roles with those that they imply: all for an owner, and `member` with any."""
    if Role.OWNER in roles:
        return frozenset(Role)
    return frozenset({*roles, Role.MEMBER}) if roles else frozenset()


def active_at(grant: Grant, now_ms: int) -> bool:
    """Whether that time is within the grant's."""
    return grant.not_before_ms <= now_ms <= grant.not_after_ms


def _open(blob: bytes, limits: Limits) -> tuple[Grant, cose.Signed]:
    if len(blob) > limits.entry_bytes:
        raise error("grant.malformed", reason=f"it is longer than {limits.entry_bytes} bytes")
    try:
        signed = cose.open1(blob)
    except X0tError as err:
        raise error("grant.malformed", reason=err.message) from err
    return _parse(signed.payload, limits), signed


def _parse(payload: bytes, limits: Limits) -> Grant:
    try:
        fields = canonical.decode(payload, limits=limits)
        grant = msgspec.convert(fields, Grant, builtin_types=(bytes,))  # else it takes base64 text for bytes
    except (X0tError, msgspec.ValidationError) as err:
        raise error("grant.malformed", reason=err) from err
    fault = _fault(grant, limits)
    if fault:
        raise error("grant.malformed", reason=fault)
    return grant


def _fault(grant: Grant, limits: Limits) -> str | None:
    """What the types cannot say."""
    if grant.subject != node_id(grant.subject_key).raw:
        return "the subject is not the id of its key"
    if (grant.parent is None) != (grant.issuer == grant.mesh):
        return "the authority's grants, and only those, have no parent"
    if not 1 <= len(grant.roles) <= limits.grant_roles or not _strictly_sorted(grant.roles):
        return "the roles are not a sorted set of one or more"
    if len(grant.scope) > limits.tags_per_node or not _strictly_sorted(grant.scope):
        return "the scope is not a sorted set of tags"
    if not all(1 <= len(tag.encode()) <= limits.text_bytes for tag in grant.scope):
        return f"a tag is empty or longer than {limits.text_bytes} bytes"
    if grant.not_before_ms > grant.not_after_ms:
        return "it ends before it begins"
    return None


def _strictly_sorted(texts: Sequence[str]) -> bool:
    return all(a < b for a, b in pairwise(texts))


def _name(grant: Grant) -> str:
    return str(GrantId(hashlib.sha256(encode_grant(grant)).digest()))
