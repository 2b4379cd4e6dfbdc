"""Operations: what people ask of a replica, turned into entries of one batch.

Each is refused before anything is written if this replica knows that it could have no effect; the receipt still says
what became of it, because another replica may know better. Nothing here touches the network or the disk itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import msgspec

from appliance.core.clock import hlc_pack
from appliance.core.errors import error
from appliance.core.ids import NodeId, node_id
from appliance.replica.ancestry import Meta
from appliance.replica.batch import Entry, Sign
from appliance.replica.change_codec import Scalar
from appliance.replica.documents import NAME_CHARS, NODES, TAG
from appliance.replica.engine import Engine
from appliance.replica.entries import (
    AnnounceEntry,
    ChangeEntry,
    CheckpointEntry,
    GrantEntry,
    RevokeEntry,
    ThawEntry,
    make,
)
from appliance.replica.epochs import covered_digest
from appliance.replica.marks import STRONG, Mark, Standing
from appliance.replica.reports import Receipt
from appliance.replica.service import Replica
from appliance.trust.grants import Grant, Role, active_at, implied_roles, sign_grant


class GrantAsk(msgspec.Struct, frozen=True):
    """Bind roles to a key; without `lifetime_ms` the grant ends when the issuer's own does."""

    subject_key: bytes
    roles: tuple[Role, ...]
    scope: tuple[str, ...] = ()
    delegate: int = 0
    lifetime_ms: int | None = None


class Operations:
    """The operations of one replica, by its own node. `sign` is the node key's."""

    def __init__(self, replica: Replica, sign: Sign) -> None:
        self._replica = replica
        self._sign = sign

    async def found(self, root_grant: bytes, name: str) -> Receipt:
        """Open the mesh: publish the authority's grant to this node and say who it is."""
        entries = [make(GrantEntry(root_grant)), make(AnnounceEntry(name=name, endpoints=(), software=""))]
        return await self._replica.append(entries)

    async def announce(self, name: str, endpoints: Sequence[str], software: str) -> Receipt:
        """Say what this node is called, where it is reached and what it runs."""
        self._demand(Role.MEMBER)
        return await self._replica.append([make(AnnounceEntry(name, tuple(endpoints), software))])

    async def grant(self, ask: GrantAsk) -> Receipt:
        """Give roles to a key. Raises `grant.role` or `grant.widens` if this node may not, or `tags.form`."""
        _demand_tags(ask.scope)
        return await self._replica.edit(lambda engine, now_ms: [self._grant(engine, ask, now_ms)])

    async def revoke(self, target: bytes, roles: Sequence[Role], reason: str) -> Receipt:
        """Take roles (none named: all) from a node; what it wrote up to now keeps its effect."""
        return await self._replica.edit(lambda engine, _now_ms: [self._revoke(engine, target, roles, reason)])

    async def set_tags(self, node: bytes, add: Sequence[str], remove: Sequence[str]) -> Receipt:
        """Change the tags of a node. Raises `tags.form` for what cannot be a tag."""
        _demand_tags([*add, *remove])
        self._demand(Role.ADMIN)
        return await self._replica.edit(lambda engine, now_ms: [self._tags(engine, node, add, remove, now_ms)])

    async def set_name(self, node: bytes, name: str) -> Receipt:
        """Give a node the name by which people know it; empty takes it away. Raises `tags.name`."""
        if len(name) > NAME_CHARS or not name.isprintable():
            raise error("tags.name", name=name)
        self._demand(Role.ADMIN)
        return await self._replica.edit(lambda engine, now_ms: [self._name(engine, node, name, now_ms)])

    async def thaw(self, author: bytes, keep: bytes, reason: str) -> Receipt:
        """Decide on a forked log: the branch that holds the batch `keep` counts again."""
        self._demand(Role.OWNER)
        return await self._replica.append([make(ThawEntry(author, keep, reason[:256]))])

    async def checkpoint(self, older_than_ms: int) -> Receipt:
        """Close the epoch: batches older than this that are not here by now never take effect."""
        self._demand(Role.OWNER)
        return await self._replica.edit(lambda engine, now_ms: [_checkpoint(engine, now_ms - max(1, older_than_ms))])

    # -- on the writer's thread

    def _grant(self, engine: Engine, ask: GrantAsk, now_ms: int) -> Entry:
        subject = node_id(ask.subject_key).raw
        parent = self._issuing(engine, ask, now_ms)
        held = _held(parent)
        ends_ms = held.not_after_ms if ask.lifetime_ms is None else min(held.not_after_ms, now_ms + ask.lifetime_ms)
        grant = Grant(
            version=1,
            mesh=engine.identity.mesh,
            issuer=self._replica.node,
            subject=subject,
            subject_key=ask.subject_key,
            roles=tuple(sorted(set(ask.roles))),
            scope=tuple(sorted(set(ask.scope))),
            delegate=ask.delegate,
            not_before_ms=max(held.not_before_ms, now_ms - engine.limits.clock_ahead_ms),
            not_after_ms=ends_ms,
            parent=parent.grant_id,
            nonce=secrets.token_bytes(16),
        )
        return make(GrantEntry(sign_grant(grant, self._sign, engine.limits)))

    def _issuing(self, engine: Engine, ask: GrantAsk, now_ms: int) -> Mark:
        """The grant of ours that allows this one: the nearest to the authority, then the longest."""
        own = [
            mark
            for mark in engine.authority.grants.get(self._replica.node, ())
            if mark.standing is Standing.IN and active_at(_held(mark), now_ms)
        ]
        able = [mark for mark in own if _allows(_held(mark), ask) and mark.depth + 1 < engine.limits.grant_depth]
        if not able:
            wanted = ", ".join(sorted(role.value for role in ask.roles))
            raise error("grant.widens", what=f"{wanted} from this node's own grants") if own else error("grant.role")
        return min(able, key=lambda mark: (mark.depth, -_held(mark).not_after_ms, mark.key))

    def _revoke(self, engine: Engine, target: bytes, roles: Sequence[Role], reason: str) -> Entry:
        held = [mark for mark in engine.authority.grants.get(target, ()) if mark.standing is Standing.IN]
        if not held:
            raise error("replica.not_found", what=f"grant of {NodeId(target)}")
        strong = any(not STRONG.isdisjoint(_held(mark).roles) for mark in held)
        if target != self._replica.node:
            self._demand(Role.OWNER if strong else Role.ADMIN)
        cut = self._cut(engine, target)
        return make(
            RevokeEntry(
                target=target,
                roles=tuple(sorted(set(roles))),
                cut_seq=cut.seq if cut else 0,
                cut_head=cut.hash if cut else None,
                reason=reason[:256],
            )
        )

    @staticmethod
    def _cut(engine: Engine, target: bytes) -> Meta | None:
        """The last batch of the target that counts: its head, or where its log is frozen the one before the fork."""
        head = engine.authority.live_head(target)
        fork = engine.authority.fork_seq(target)
        if head is None or fork is None or not engine.authority.is_frozen(target):
            return head
        before = engine.view.at_seq(target, fork - 1)
        return engine.intake.lookup(before[0]) if before else None

    def _tags(self, engine: Engine, node: bytes, add: Sequence[str], remove: Sequence[str], now_ms: int) -> Entry:
        prefix = f"{NodeId(node)}/tag/"
        held = engine.documents.values(NODES, prefix)
        puts = {prefix + tag: True for tag in add if held.get(prefix + tag) is not True}
        deletes = [prefix + tag for tag in remove if prefix + tag in held]
        if not puts and not deletes:
            raise error("tags.unchanged", node=str(NodeId(node)))
        if len(held) + len(puts) - len(deletes) > engine.limits.tags_per_node:
            raise error("tags.limit", limit=engine.limits.tags_per_node)
        return self._change(engine, puts, deletes, now_ms)

    def _name(self, engine: Engine, node: bytes, name: str, now_ms: int) -> Entry:
        key = f"{NodeId(node)}/name"
        held = engine.documents.values(NODES, key).get(key)
        if (held or "") == name:
            raise error("tags.unchanged", node=str(NodeId(node)))
        return self._change(engine, {key: name} if name else {}, [] if name else [key], now_ms)

    def _change(self, engine: Engine, puts: Mapping[str, Scalar], deletes: Sequence[str], now_ms: int) -> Entry:
        chunk = engine.documents.edit(NODES, puts, deletes, self._replica.node, now_ms // 1000)
        body = ChangeEntry(document=NODES[0], epoch=NODES[1], chunk=chunk)
        engine.documents.scope(NODES, engine.documents.decode(body))
        return make(body)

    def _demand(self, need: Role) -> None:
        if not self._replica.holds(need):
            raise error("grant.role", role=need.value)


def _demand_tags(texts: Sequence[str]) -> None:
    for text in texts:
        if TAG.fullmatch(text) is None:
            raise error("tags.form", tag=text)


def _checkpoint(engine: Engine, horizon_ms: int) -> Entry:
    horizon = hlc_pack(max(horizon_ms, 0), 0)
    covered = engine.epochs().up_to(horizon)
    if not covered:
        raise error("checkpoint.empty")
    return make(
        CheckpointEntry(
            epoch=engine.authority.epoch() + 1,
            horizon=horizon,
            count=len(covered),
            digest=covered_digest(covered.values()),
        )
    )


def _held(mark: Mark) -> Grant:
    if mark.grant is None:
        raise error("grant.malformed", reason="the mark is no grant")
    return mark.grant


def _allows(held: Grant, ask: GrantAsk) -> bool:
    scoped = not held.scope or (bool(ask.scope) and set(ask.scope) <= set(held.scope))
    return set(ask.roles) <= implied_roles(held.roles) and ask.delegate < held.delegate and scoped
