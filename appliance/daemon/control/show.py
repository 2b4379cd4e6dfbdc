"""From the replica's records with raw ids to the records of the control API with text ids. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.core import records
from appliance.core.clock import hlc_text
from appliance.core.errors import ERRORS
from appliance.core.ids import BatchHash, GrantId, NodeId
from appliance.daemon.node import moment
from appliance.replica import reports
from appliance.replica.fold import REASONS
from appliance.replica.rows import GrantRow, NoEffectRow


def receipt(made: reports.Receipt) -> records.Receipt:
    """A batch of our own."""
    return records.Receipt(
        batch=str(BatchHash(made.hash)),
        seq=made.seq,
        time=hlc_text(made.hlc),
        effects=tuple(effect.reason or "" for effect in made.effects),
    )


def line(row: reports.LogLine) -> records.Batch:
    """A line of the log."""
    return records.Batch(
        batch=str(BatchHash(row.hash)),
        author=str(NodeId(row.author)),
        seq=row.seq,
        time=hlc_text(row.hlc),
        kinds=row.kinds,
        size_bytes=row.bytes,
    )


def detail(view: reports.BatchView) -> records.BatchDetail:
    """A batch, whole."""
    return records.BatchDetail(
        line=line(view.line),
        prev=str(BatchHash(view.prev)) if view.prev else "",
        parents=tuple(str(BatchHash(parent)) for parent in view.parents),
        entries=tuple(records.Entry(kind=e.kind, body=e.body, effect=e.reason or "") for e in view.entries),
    )


def no_effect(row: NoEffectRow) -> records.NoEffect:
    """An entry without effect."""
    return records.NoEffect(
        batch=str(BatchHash(row.batch)),
        entry=row.entry,
        author=str(NodeId(row.author)),
        seq=row.seq,
        time=hlc_text(row.hlc),
        kind=row.kind,
        reason=row.reason,
        explanation=explain(row.reason),
    )


def conflict(view: reports.ConflictView) -> records.Conflict:
    """What does not agree."""
    return records.Conflict(
        kind=view.kind, subject=view.subject, winner=view.winner, losers=view.losers, reason=view.reason
    )


def grant(row: GrantRow) -> records.Grant:
    """Roles bound to a key; an issuer that is no node is the mesh authority."""
    return records.Grant(
        grant=str(GrantId(row.grant_id)),
        node=str(NodeId(row.subject)),
        issuer="authority" if row.depth == 1 else str(NodeId(row.issuer)),
        roles=row.roles,
        scope=row.scope,
        delegate=row.delegate,
        not_before=moment(row.not_before_ms),
        not_after=moment(row.not_after_ms),
        effect=row.reason,
    )


def node(view: reports.NodeView) -> records.Node:
    """A node that the mesh knows."""
    return records.Node(
        node=str(NodeId(view.node)),
        name=view.name,
        roles=view.roles,
        tags=view.tags,
        endpoints=view.endpoints,
        software=view.software,
        member=bool(view.roles),
        frozen=view.frozen,
    )


def verified(result: reports.Verified) -> records.Verified:
    """The outcome of a check."""
    return records.Verified(
        batches=result.batches, archived=result.archived, digest=result.digest.hex(), faults=result.faults
    )


def rebuilt(result: reports.Rebuilt) -> records.Rebuilt:
    """The outcome of a rebuild."""
    return records.Rebuilt(batches=result.batches, before=result.before.hex(), after=result.after.hex())


def moved(result: reports.Moved) -> records.Moved:
    """Batches that went to a file."""
    return records.Moved(path=result.path, batches=result.batches, size_bytes=result.size_bytes, removed=result.removed)


def imported(result: reports.Imported) -> records.Imported:
    """Batches that came from a file."""
    return records.Imported(
        path=result.path,
        batches=result.batches,
        new=result.new,
        waiting=result.waiting,
        refused=result.refused,
    )


def explain(reason: str) -> str:
    """A reason in words: one of the fold's, or that of an error."""
    if reason in REASONS:
        return REASONS[reason]
    return ERRORS[reason].message if reason in ERRORS else ""


def names(nodes: Iterable[bytes]) -> tuple[str, ...]:
    """Node ids as text."""
    return tuple(str(NodeId(node)) for node in nodes)
