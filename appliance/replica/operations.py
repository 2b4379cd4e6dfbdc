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
from appliance.core.names import is_name, is_tag
from appliance.replica.batch import Entry, Sign
from appliance.replica.change_codec import Scalar
from appliance.replica.document_kinds import DOCUMENTS, NODES, Name, check_subnet
from appliance.replica.engine import Engine
from appliance.replica.entries import (
    SECRET_BYTES,
    AnnounceEntry,
    AttachEntry,
    ChangeEntry,
    CheckpointEntry,
    GrantEntry,
    SecretEntry,
    ThawEntry,
    make,
    parse,
)
from appliance.replica.epochs import covered_digest
from appliance.replica.marks import Mark, Standing
from appliance.replica.membership import certified_tags, secret
from appliance.replica.reports import Receipt
from appliance.replica.revocations import Target, revocation
from appliance.replica.rows import AttachmentRow
from appliance.replica.service import Replica
from appliance.trust.attachment import verify_attachment
from appliance.trust.grants import Grant, Role, active_at, implied_roles, sign_grant


class GrantAsk(msgspec.Struct, frozen=True):
    """Bind roles to a key; without `lifetime_ms` the grant ends when the issuer's own does."""

    subject_key: bytes
    roles: tuple[Role, ...]
    scope: tuple[str, ...] = ()
    delegate: int = 0
    lifetime_ms: int | None = None


class DocumentEdit(msgspec.Struct, frozen=True):
    """What to change in a document, as one change and so within its bounds."""

    name: Name
    puts: Mapping[str, Scalar] = {}
    deletes: tuple[str, ...] = ()  # what is gone already is passed over
    after: bytes | None = None  # only if this is the last change with effect; empty: only if there is none yet
    holding: str = ""  # only while this key is there


class Operations:
    """The operations of one replica, by its own node. `sign` is the node key's."""

    def __init__(self, replica: Replica, sign: Sign) -> None:
        self._replica = replica
        self._sign = sign

    async def found(self, root_grant: bytes, name: str) -> Receipt:
        """Open the mesh: publish the authority's grant to this node, say who it is, and give the mesh its secret."""
        hello = AnnounceEntry(name=name, endpoints=(), software="")
        return await self._replica.append([make(GrantEntry(root_grant)), make(hello), _secret(1)])

    async def announce(self, name: str, endpoints: Sequence[str], software: str) -> Receipt:
        """Say what this node is called, where it is reached and what it runs."""
        self._demand(Role.MEMBER)
        return await self._replica.append([make(AnnounceEntry(name, tuple(endpoints), software))])

    async def attach(self, entry: AttachEntry) -> Receipt:
        """Bind a Yggdrasil key to this node. Raises `attach.proof`, `attach.unchanged`, or `entry.malformed`."""
        self._demand(Role.MEMBER)
        kind, body = make(entry)
        parse(kind, body)
        if not verify_attachment(self._replica.mesh, self._replica.node, entry.key, entry.proof):
            raise error("attach.proof")
        return await self._replica.edit(lambda engine, _now_ms: [(kind, self._attach(engine, entry, body))])

    async def rotate_secret(self) -> Receipt:
        """Give the mesh its next secret. Members that do not hear of it stay on the old one until they do."""
        self._demand(Role.ADMIN)
        return await self._replica.edit(lambda engine, _now_ms: [_next_secret(engine)])

    async def grant(self, ask: GrantAsk) -> Receipt:
        """Give roles to a key. Raises `grant.role` or `grant.widens` if this node may not, or `tags.form`."""
        _demand_tags(ask.scope)
        return await self._replica.edit(lambda engine, now_ms: [self._grant(engine, ask, now_ms)])

    async def revoke(self, target: bytes, roles: Sequence[Role], reason: str) -> Receipt:
        """Take roles (none named: all) from a node; what it wrote up to now keeps its effect."""
        return await self._replica.edit(
            lambda engine, now_ms: [
                revocation(engine, self._replica.node, Target(target, tuple(roles)), reason, now_ms)
            ]
        )

    async def set_tags(self, node: bytes, add: Sequence[str], remove: Sequence[str]) -> Receipt:
        """Change the tags of a node. Raises `tags.form` for what cannot be a tag."""
        _demand_tags([*add, *remove])
        self._demand(Role.ADMIN)
        return await self._replica.edit(lambda engine, now_ms: [self._tags(engine, node, add, remove, now_ms)])

    async def set_name(self, node: bytes, name: str) -> Receipt:
        """Give a node the name by which people know it; empty takes it away. Raises `tags.name`."""
        if name and not is_name(name):
            raise error("tags.name", name=name)
        self._demand(Role.ADMIN)
        return await self._replica.edit(lambda engine, now_ms: [self._name(engine, node, name, now_ms)])

    async def set_subnets(self, node: bytes, add: Sequence[str], remove: Sequence[str]) -> Receipt:
        """Change which prefixes are behind a node. Raises `subnet.form`, `subnet.limit`, `subnet.unchanged`."""
        for text in add:
            check_subnet(text)
        self._demand(Role.ADMIN)
        return await self._replica.edit(lambda engine, now_ms: [self._subnets(engine, node, add, remove, now_ms)])

    async def edit_document(self, edit: DocumentEdit) -> Receipt:
        """Change a document. Raises `document.changed`, `document.unchanged`, `document.schema`, `change.bounds`."""
        self._demand(DOCUMENTS[edit.name].need)
        return await self._replica.edit(lambda engine, now_ms: [self._edit(engine, edit, now_ms)])

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

    def _tags(self, engine: Engine, node: bytes, add: Sequence[str], remove: Sequence[str], now_ms: int) -> Entry:
        """Tags of its certificate count only while an admin gave the node none: so they are written down with ours."""
        prefix = f"{NodeId(node)}/tag/"
        held = engine.documents.values(NODES, prefix)
        certified = {prefix + tag for tag in certified_tags(engine, node)}
        now = held.keys() or certified
        wanted = (now | {prefix + tag for tag in add}) - {prefix + tag for tag in remove}
        if wanted == now:
            raise error("tags.unchanged", node=str(NodeId(node)))
        if certified and not wanted:
            raise error("tags.certificate", node=str(NodeId(node)))
        if len(wanted) > engine.limits.tags_per_node:
            raise error("tags.limit", limit=engine.limits.tags_per_node)
        puts = dict.fromkeys(sorted(wanted - held.keys()), True)
        deletes = sorted(held.keys() - wanted)
        return self._change(engine, NODES, puts, deletes, now_ms)

    def _subnets(self, engine: Engine, node: bytes, add: Sequence[str], remove: Sequence[str], now_ms: int) -> Entry:
        prefix = f"{NodeId(node)}/subnet/"
        held = engine.documents.values(NODES, prefix)
        puts = {prefix + subnet: True for subnet in add if prefix + subnet not in held}
        deletes = [prefix + subnet for subnet in dict.fromkeys(remove) if prefix + subnet in held]
        if not puts and not deletes:
            raise error("subnet.unchanged", node=str(NodeId(node)))
        if len(held) + len(puts) - len(deletes) > engine.limits.subnets_per_node:
            raise error("subnet.limit", limit=engine.limits.subnets_per_node)
        return self._change(engine, NODES, puts, deletes, now_ms)

    def _name(self, engine: Engine, node: bytes, name: str, now_ms: int) -> Entry:
        key = f"{NodeId(node)}/name"
        held = engine.documents.values(NODES, key).get(key)
        if (held or "") == name:
            raise error("tags.unchanged", node=str(NodeId(node)))
        return self._change(engine, NODES, {key: name} if name else {}, [] if name else [key], now_ms)

    def _edit(self, engine: Engine, edit: DocumentEdit, now_ms: int) -> Entry:
        if edit.after is not None:
            rows = engine.view.changes_of(edit.name)
            if edit.after != (rows[-1].change if rows else b""):
                raise error("document.changed", document=edit.name[0])
        if edit.holding and not engine.documents.holds(edit.name, edit.holding):
            raise error("document.changed", document=edit.name[0])
        deletes = [key for key in edit.deletes if engine.documents.holds(edit.name, key)]
        if not edit.puts and not deletes:
            raise error("document.unchanged", document=edit.name[0])
        return self._change(engine, edit.name, edit.puts, deletes, now_ms)

    def _change(
        self, engine: Engine, name: Name, puts: Mapping[str, Scalar], deletes: Sequence[str], now_ms: int
    ) -> Entry:
        chunk = engine.documents.edit(name, puts, deletes, self._replica.node, now_ms // 1000)
        body = ChangeEntry(document=name[0], epoch=name[1], chunk=chunk)
        engine.documents.scope(name, engine.documents.decode(body))
        return make(body)

    def _attach(self, engine: Engine, entry: AttachEntry, body: bytes) -> bytes:
        held = engine.view.get(AttachmentRow, self._replica.node)
        wanted = (entry.key, entry.uris, int(entry.relay))
        if isinstance(held, AttachmentRow) and (held.key, held.uris, held.relay) == wanted:
            raise error("attach.unchanged")
        return body

    def _demand(self, need: Role) -> None:
        if not self._replica.holds(need):
            raise error("grant.role", role=need.value)


def _demand_tags(texts: Sequence[str]) -> None:
    for text in texts:
        if not is_tag(text):
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


def _next_secret(engine: Engine) -> Entry:
    current = secret(engine)
    return _secret(current.epoch + 1 if current else 1)


def _secret(epoch: int) -> Entry:
    return make(SecretEntry(epoch, secrets.token_bytes(SECRET_BYTES)))


def _held(mark: Mark) -> Grant:
    if mark.grant is None:
        raise error("grant.malformed", reason="the mark is no grant")
    return mark.grant


def _allows(held: Grant, ask: GrantAsk) -> bool:
    scoped = not held.scope or (bool(ask.scope) and set(ask.scope) <= set(held.scope))
    return set(ask.roles) <= implied_roles(held.roles) and ask.delegate < held.delegate and scoped
