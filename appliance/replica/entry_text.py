"""Entries as JSON text for people: field names instead of positions, identifiers in their checked text form.

For showing only. Nothing parses it back, and what cannot be read is shown as hex. Secrets are shown by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from appliance.core import canonical
from appliance.core.clock import hlc_text
from appliance.core.errors import X0tError
from appliance.core.ids import BatchHash, ChangeHash, GrantId, MeshId, NodeId
from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address
from appliance.replica.change_codec import decode_change
from appliance.replica.entries import (
    AnnounceEntry,
    AttachEntry,
    ChangeEntry,
    CheckpointEntry,
    EntryBody,
    GrantEntry,
    RevokeEntry,
    SecretEntry,
    ThawEntry,
    parse,
)
from appliance.trust.grants import grant_id, peek_grant

_MASKED = "***"

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]


def entry_json(kind: str, body: bytes) -> str:
    """One entry's body as a line of JSON."""
    try:
        entry = parse(kind, body)
        shown = _plain(canonical.decode(body)) if entry is None else _known(entry)
    except X0tError:
        shown = {"unreadable": _MASKED if kind == "secret" else body[:64].hex() + ("..." if len(body) > 64 else "")}
    return msgspec.json.encode(shown).decode()


def _known(entry: EntryBody) -> Mapping[str, Json]:
    match entry:
        case GrantEntry():
            return _grant(entry)
        case RevokeEntry():
            return {
                "target": str(NodeId(entry.target)),
                "roles": [role.value for role in entry.roles] or "all",
                "cut_seq": entry.cut_seq,
                "cut": str(BatchHash(entry.cut_head)) if entry.cut_head else None,
                "reason": entry.reason,
            }
        case ThawEntry():
            return {
                "author": str(NodeId(entry.author)),
                "keep": str(BatchHash(entry.keep)),
                "reason": entry.reason,
            }
        case AnnounceEntry():
            return {"name": entry.name, "endpoints": list(entry.endpoints), "software": entry.software}
        case AttachEntry():
            return {
                "key": entry.key.hex(),
                "address": address_text(node_address(entry.key)),
                "uris": list(entry.uris),
                "relay": entry.relay,
            }
        case SecretEntry():
            return {"epoch": entry.epoch, "secret": _MASKED}
        case ChangeEntry():
            return _change(entry)
        case CheckpointEntry():
            return {
                "epoch": entry.epoch,
                "horizon": hlc_text(entry.horizon),
                "batches": entry.count,
                "digest": entry.digest.hex(),
            }


def _grant(entry: GrantEntry) -> Mapping[str, Json]:
    grant = peek_grant(entry.grant)
    by_authority = grant.issuer == grant.mesh
    return {
        "grant": str(GrantId(grant_id(entry.grant))),
        "issuer": str(MeshId(grant.issuer) if by_authority else NodeId(grant.issuer)),
        "subject": str(NodeId(grant.subject)),
        "roles": [role.value for role in grant.roles],
        "scope": list(grant.scope) or "mesh",
        "delegate": grant.delegate,
        "not_before_ms": grant.not_before_ms,
        "not_after_ms": grant.not_after_ms,
        "parent": str(GrantId(grant.parent)) if grant.parent else None,
    }


def _change(entry: ChangeEntry) -> Mapping[str, Json]:
    change = decode_change(entry.chunk)
    return {
        "document": entry.document,
        "epoch": entry.epoch,
        "change": str(ChangeHash(change.hash)),
        "set": {op.key: _plain(op.value) for op in change.ops if not op.delete},
        "delete": [op.key for op in change.ops if op.delete],
    }


def _plain(value: object) -> Json:
    """Any decoded value, with bytes as hex."""
    match value:
        case None | bool() | int() | str():
            return value
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {key if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in value.items()}
        case _:
            return value.hex() if isinstance(value, bytes) else str(value)
