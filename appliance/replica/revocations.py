"""Revocations: the entry that takes roles from a key, if this node may write one that has effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from appliance.core.errors import error
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS
from appliance.replica.ancestry import Meta
from appliance.replica.approvals import approver_scope
from appliance.replica.batch import Entry
from appliance.replica.engine import Engine
from appliance.replica.entries import RevokeEntry, make
from appliance.replica.marks import STRONG, Mark, Standing, covers
from appliance.trust.grants import Role


class Target(NamedTuple):
    """From whom roles are taken, and which; none named: all."""

    node: bytes
    roles: tuple[Role, ...] = ()


def revocation(engine: Engine, own: bytes, target: Target, reason: str, now_ms: int) -> Entry:
    """Takes roles from a node on behalf of this one; what the node wrote up to now keeps its effect.

    Raises `replica.not_found` for who holds nothing, and `grant.role` where this node may not.
    """
    held = [mark for mark in engine.authority.grants.get(target.node, ()) if mark.standing is Standing.IN]
    if not held:
        raise error("replica.not_found", what=f"grant of {NodeId(target.node)}")
    if target.node != own:
        _demand(engine, own, held, now_ms)
    cut = _cut(engine, target.node)
    return make(
        RevokeEntry(
            target=target.node,
            roles=tuple(sorted(set(target.roles))),
            cut_seq=cut.seq if cut else 0,
            cut_head=cut.hash if cut else None,
            reason=reason[: LIMITS.text_bytes],
        )
    )


def is_bound(engine: Engine, node: bytes) -> bool:
    """True if a node holds anything that no revocation in force takes away."""
    revocations = [mark for mark in engine.authority.revocations.get(node, ()) if mark.standing is Standing.IN]
    return any(
        mark.standing is Standing.IN and all(engine.authority.left_by(revocation, mark) for revocation in revocations)
        for mark in engine.authority.grants.get(node, ())
    )


def _demand(engine: Engine, own: bytes, held: Sequence[Mark], now_ms: int) -> None:
    """An owner takes all, an admin what is not an owner's to take, an approver certificates within its scope."""
    strong = any(mark.grant is not None and not STRONG.isdisjoint(mark.grant.roles) for mark in held)
    need = Role.OWNER if strong else Role.ADMIN
    if engine.holds(own, need, now_ms):
        return
    certified = [mark.tags for mark in held if mark.tags is not None]
    scope = approver_scope(engine, own, now_ms)
    if len(certified) < len(held) or scope is None or not covers(scope, frozenset().union(*certified)):
        raise error("grant.role", role=need.value)


def _cut(engine: Engine, target: bytes) -> Meta | None:
    """The last batch of the target that counts: its head, or where its log is frozen the one before the fork."""
    head = engine.authority.live_head(target)
    fork = engine.authority.fork_seq(target)
    if head is None or fork is None or not engine.authority.is_frozen(target):
        return head
    before = engine.view.at_seq(target, fork - 1)
    return engine.intake.lookup(before[0]) if before else None
