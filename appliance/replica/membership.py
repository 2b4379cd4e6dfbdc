"""Membership: what the mesh knows of its nodes, put together from grants, certificates, announcements and settings.

The functions take an engine and run on the writer's thread; `Queries` brings them there. They read and never write.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import lru_cache
from itertools import groupby

import msgspec

from appliance.core.ids import NodeId
from appliance.replica.admission_states import State
from appliance.replica.document_kinds import NODES
from appliance.replica.engine import Engine
from appliance.replica.reports import NetworkView, NodeView
from appliance.replica.rows import AdmissionRow, AttachmentRow, CertificateRow, NodeRow, RevocationRow, SecretRow
from appliance.trust.grants import Role

_REMEMBERED = 16_384  # ids whose text was read: it takes 20 us, and the documents name the same ones again and again


class Settings(msgspec.Struct, frozen=True):
    """What admins set for one node."""

    name: str = ""
    tags: tuple[str, ...] = ()  # sorted
    subnets: tuple[str, ...] = ()  # sorted as text


def settings(engine: Engine) -> dict[bytes, Settings]:
    """What admins set, by node. Linear in the keys of the document."""
    by_node = groupby(engine.view.values_of(NODES), key=lambda pair: pair[0].partition("/")[0])  # keys come in order
    return {_raw_id(node): _settings(pairs) for node, pairs in by_node}


def _settings(pairs: Iterable[tuple[str, str]]) -> Settings:
    name, items = "", dict[str, list[str]]()
    for key, value in pairs:
        _, field, *item = key.split("/", 2)
        if item:
            items.setdefault(field, []).append(item[0])
        else:
            name = msgspec.json.decode(value, type=str)
    return Settings(name, tuple(items.get("tag", ())), tuple(items.get("subnet", ())))


@lru_cache(_REMEMBERED)
def _raw_id(text: str) -> bytes:
    return NodeId.parse(text).raw


def names(engine: Engine) -> dict[bytes, str]:
    """Names that an admin gave, by node."""
    return {node: held.name for node, held in settings(engine).items() if held.name}


def nodes(engine: Engine) -> list[NodeRow]:
    """What members said of themselves, by id."""
    return [row for row in engine.view.rows(NodeRow) if isinstance(row, NodeRow)]


def admission_rows(engine: Engine) -> dict[bytes, AdmissionRow]:
    """How nodes stand that asked to be admitted, by node."""
    return {row.node: row for row in engine.view.rows(AdmissionRow) if isinstance(row, AdmissionRow)}


def certificate(engine: Engine, row: AdmissionRow) -> CertificateRow | None:
    """The certificate of a node that counts, or will once the node is not suspended."""
    if row.certificate_batch is None:
        return None
    found = engine.view.get(CertificateRow, row.certificate_batch, row.certificate_entry)
    return found if isinstance(found, CertificateRow) else None


def certified_tags(engine: Engine, node: bytes) -> tuple[str, ...]:
    """The tags that a node has by its certificate, where no admin gave it any."""
    row = engine.view.get(AdmissionRow, node)
    return row.tags if isinstance(row, AdmissionRow) and row.certificate_batch is not None else ()


def members(engine: Engine, now_ms: int) -> list[NodeView]:
    """Every node that the mesh knows, by id; of those that asked to be admitted, those that were certified once.

    A name that an admin gave goes before the node's own, and that before the one in its certificate. Tags that an admin
    gave take the place of all that are in its certificate.
    """
    said = {row.node: row for row in nodes(engine)}
    held = settings(engine)
    admitted = admission_rows(engine)
    authority = engine.authority
    found: list[NodeView] = []
    for node in sorted(said.keys() | held.keys() | authority.grants.keys()):
        row, by_admin, admission = said.get(node), held.get(node, Settings()), admitted.get(node)
        roles = [authority.gives(grant, now_ms) for grant in authority.grants.get(node, ())]
        certified = admission is not None and admission.certificate_batch is not None
        found.append(
            NodeView(
                node=node,
                name=by_admin.name or (row.name if row else "") or _certified_name(engine, admission),
                roles=tuple(sorted(role.value for role in frozenset().union(*roles))),
                tags=by_admin.tags or (admission.tags if admission and certified else ()),
                endpoints=row.endpoints if row else (),
                software=row.software if row else "",
                frozen=authority.is_frozen(node),
                subnets=by_admin.subnets,
                state=admission.state if admission else "",
            )
        )
    return found


def _certified_name(engine: Engine, admission: AdmissionRow | None) -> str:
    held = certificate(engine, admission) if admission is not None else None
    return held.name if held is not None else ""


def attachments(engine: Engine) -> list[AttachmentRow]:
    """The latest attachment of each node that ever published one, by id; whether it is a member now is not asked."""
    return [row for row in engine.view.rows(AttachmentRow) if isinstance(row, AttachmentRow)]


def secret(engine: Engine) -> SecretRow | None:
    """The secret of the greatest epoch; of several of one epoch that of the lowest batch hash."""
    current: SecretRow | None = None
    for row in engine.view.rows(SecretRow):
        if isinstance(row, SecretRow) and (current is None or row.epoch > current.epoch):
            current = row
    return current


def _informed(engine: Engine, trusted: Set[bytes], current: SecretRow | None) -> frozenset[bytes]:
    """Nodes that are no members now and may know the current secret: not revoked or put out before it was made."""
    if current is None:
        return frozenset()
    made = engine.view.lookup(current.batch)
    revocations = [row for row in engine.view.rows(RevocationRow) if isinstance(row, RevocationRow) and not row.reason]
    put_out = (row for row in admission_rows(engine).values() if row.state != State.APPROVED)
    before = {row.node for row in put_out if made is not None and row.since_hlc < made.meta.hlc}
    for row in revocations:
        told = engine.view.lookup(row.batch)
        if made is not None and told is not None and told.meta.position < made.meta.position:
            before.add(row.target)
    return frozenset(engine.authority.grants.keys() - trusted - before)


def network(engine: Engine, now_ms: int) -> NetworkView:
    """All that the network of a node follows from, as of one moment."""
    known, current = tuple(members(engine, now_ms)), secret(engine)
    trusted = {view.node for view in known if Role.MEMBER.value in view.roles}
    return NetworkView(
        members=known,
        attachments=tuple(attachments(engine)),
        secret=current,
        former=_informed(engine, trusted, current),
    )
