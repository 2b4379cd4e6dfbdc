"""Approvals: what lets a node approve, and what of a node certificate follows from a request."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from appliance.core.errors import error
from appliance.core.ids import node_id
from appliance.replica.engine import Engine
from appliance.replica.marks import Mark
from appliance.trust.certificates import NodeCertificate
from appliance.trust.enrolment import Request
from appliance.trust.grants import Role, excess
from appliance.trust.tokens import Level


def approver_scope(engine: Engine, node: bytes, now_ms: int) -> frozenset[str] | None:
    """Tags over which a node is an approver now (none: over the whole mesh); None if it is no approver."""
    marks = engine.authority.grants.get(node, ())
    able = [mark for mark in marks if mark.grant and Role.APPROVER in engine.authority.gives(mark, now_ms)]
    scopes = [frozenset(mark.grant.scope) for mark in able if mark.grant]
    if not scopes:
        return None
    return frozenset() if frozenset() in scopes else frozenset().union(*scopes)


def approving(engine: Engine, own: bytes, tags: Sequence[str], at_ms: int) -> Mark:
    """The grant that makes this node an approver over these tags now: the longest, then the nearest to the authority.

    Raises `grant.role` where it is no approver, and `certificate.widens` where it is none over these tags.
    """
    marks = engine.authority.grants.get(own, ())
    held = [mark for mark in marks if mark.grant and Role.APPROVER in engine.authority.gives(mark, at_ms)]
    if not held:
        raise error("grant.role", role=Role.APPROVER.value)
    faults = {mark: excess(mark.grant, (Role.APPROVER,), tags, at_ms, at_ms) for mark in held if mark.grant}
    able = [mark for mark, fault in faults.items() if fault is None]
    if not able:
        raise error("certificate.widens", what=faults[held[0]])
    return min(able, key=lambda mark: (-end_ms(mark), mark.depth, mark.key))


def end_ms(mark: Mark) -> int:
    """The last moment of a grant, in ms since the Unix epoch."""
    return mark.grant.not_after_ms if mark.grant is not None else 0


def certifiable(request: Request, tags: Sequence[str], level: str) -> NodeCertificate:
    """A draft of a certificate with the keys and the name of a request; the rest is for who signs it."""
    return NodeCertificate(
        mesh=request.mesh,
        issuer=b"",
        subject=node_id(request.node_key).raw,
        subject_key=request.node_key,
        kem_key=request.kem_key,
        mesh_key=request.mesh_key,
        tunnel_key=request.tunnel_key,
        name=request.name,
        tags=tuple(tags),
        level=msgspec.convert(level, Level),
        not_before_ms=0,
        not_after_ms=0,
        parent=b"",
        enrolment=None,
        nonce=b"",
    )
