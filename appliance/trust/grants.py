"""Grants: roles bound to a key by the mesh authority, or by a holder that may delegate.

A grant is a COSE_Sign1 under the label `x0t/grant/1`; its id is the hash of its payload, because ML-DSA
signatures are randomised. A chain runs from a leaf to a grant of the authority, and no step widens: roles,
scope, time and levels left only shrink. Pure: time and limits are arguments. This module never says whether
a grant was revoked, nor whether its issuer had the role at the time: the fold knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from appliance.core.domains import Domain
from appliance.core.errors import error
from appliance.core.ids import GrantId, mesh_id, node_id
from appliance.core.limits import LIMITS, Limits
from appliance.core.names import is_sorted_set
from appliance.trust.signed import Form, Hash, Ms, Nonce, Sign, SigningKey, Verify, record_id

VERSION: Final = 1


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
    mesh: Hash
    issuer: Hash  # node id of who signs; the mesh id when it is the authority
    subject: Hash  # node id of who receives
    subject_key: SigningKey
    roles: tuple[Role, ...]  # at least one, sorted, unique
    scope: tuple[str, ...]  # tags, sorted, unique; () is the whole mesh
    delegate: Annotated[int, msgspec.Meta(ge=0, le=255)]  # further levels below the subject; 0: none
    not_before_ms: Ms  # inclusive
    not_after_ms: Ms  # inclusive
    parent: Hash | None  # id of the issuer's own grant; None when the issuer is the authority
    nonce: Nonce


def grant_id(blob: bytes) -> bytes:
    """The id of a signed grant."""
    return record_id(blob)


def encode_grant(grant: Grant) -> bytes:
    """The payload of a grant: the only encoding that `peek_grant` accepts."""
    return _FORM.encode(grant)


def sign_grant(grant: Grant, sign: Sign, limits: Limits = LIMITS) -> bytes:
    """The signed grant; `grant.malformed` for one that nobody would accept."""
    return _FORM.sign(grant, sign, limits)


def peek_grant(blob: bytes, limits: Limits = LIMITS) -> Grant:
    """What a signed grant says, before anybody has verified it; `grant.malformed`."""
    return _FORM.peek(blob, limits)


def open_grant(blob: bytes, verify: Verify, issuer_key: bytes, limits: Limits = LIMITS) -> Grant:
    """The grant if that key signed it; else `grant.malformed`, `grant.issuer` or `grant.signature`."""
    grant, signed = _FORM.read(blob, limits)
    owner = mesh_id(issuer_key) if grant.parent is None else node_id(issuer_key)
    if owner.raw != grant.issuer:
        raise error("grant.issuer", grant=_name(grant))
    if not _FORM.is_signed_by(issuer_key, signed, verify):
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
    what = excess(parent, child.roles, child.scope, child.not_before_ms, child.not_after_ms)
    if what is None and child.delegate >= parent.delegate:
        what = f"{child.delegate + 1} levels of {parent.delegate}"
    if what is not None:
        raise error("grant.widens", what=what)


def excess(
    grant: Grant, roles: Sequence[Role], scope: Sequence[str], not_before_ms: int, not_after_ms: int
) -> str | None:
    """What of these the grant does not cover, in words; None if it covers them all. No scope is the whole mesh."""
    missing = sorted(set(roles) - implied_roles(grant.roles))
    if missing:
        return f"the role {missing[0]}"
    if grant.scope and (not scope or not set(scope) <= set(grant.scope)):
        return "a scope outside the issuer's"
    if not_before_ms < grant.not_before_ms or not_after_ms > grant.not_after_ms:
        return "a time outside the issuer's"
    return None


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


def _fault(grant: Grant, limits: Limits) -> str | None:
    """What the types cannot say."""
    if grant.subject != node_id(grant.subject_key).raw:
        return "the subject is not the id of its key"
    if (grant.parent is None) != (grant.issuer == grant.mesh):
        return "the authority's grants, and only those, have no parent"
    if not 1 <= len(grant.roles) <= limits.grant_roles or not is_sorted_set(grant.roles):
        return "the roles are not a sorted set of one or more"
    if len(grant.scope) > limits.tags_per_node or not is_sorted_set(grant.scope):
        return "the scope is not a sorted set of tags"
    if not all(1 <= len(tag.encode()) <= limits.text_bytes for tag in grant.scope):
        return f"a tag is empty or longer than {limits.text_bytes} bytes"
    if grant.not_before_ms > grant.not_after_ms:
        return "it ends before it begins"
    return None


def _name(grant: Grant) -> str:
    return str(GrantId(hashlib.sha256(encode_grant(grant)).digest()))


_FORM: Final = Form(Grant, Domain.GRANT, "grant.malformed", _fault)
