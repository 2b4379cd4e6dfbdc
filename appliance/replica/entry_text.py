"""Entries as JSON text for people: field names instead of positions, identifiers in their checked text form.

For showing only. Nothing parses it back, and what cannot be read is shown as hex. Secrets are shown by nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from appliance.core import canonical
from appliance.core.clock import hlc_text
from appliance.core.errors import X0tError
from appliance.core.ids import (
    BatchHash,
    CertificateId,
    ChangeHash,
    EnrolmentId,
    GrantId,
    MeshId,
    NodeId,
    TokenId,
    node_id,
)
from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address
from appliance.replica.change_codec import decode_change
from appliance.replica.entries import (
    AnnounceEntry,
    AttachEntry,
    CertifyEntry,
    ChangeEntry,
    CheckpointEntry,
    DecideEntry,
    EnrolEntry,
    EntryBody,
    GrantEntry,
    RetireEntry,
    RevokeEntry,
    SecretEntry,
    ThawEntry,
    TokenEntry,
    parse,
)
from appliance.trust.certificates import certificate_id, peek_certificate
from appliance.trust.enrolment import enrolment_id, peek_request
from appliance.trust.grants import grant_id, peek_grant
from appliance.trust.tokens import peek_token, token_id

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


def _known(entry: EntryBody) -> Mapping[str, Json]:  # noqa: PLR0911  # one for each kind
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
        case TokenEntry() | RetireEntry() | EnrolEntry() | DecideEntry() | CertifyEntry():
            return _of_admission(entry)
        case CheckpointEntry():
            return {
                "epoch": entry.epoch,
                "horizon": hlc_text(entry.horizon),
                "batches": entry.count,
                "digest": entry.digest.hex(),
            }


def _of_admission(
    entry: TokenEntry | RetireEntry | EnrolEntry | DecideEntry | CertifyEntry,
) -> Mapping[str, Json]:
    match entry:
        case TokenEntry():
            return _token(entry)
        case RetireEntry():
            return {"token": str(TokenId(entry.token)), "reason": entry.reason}
        case EnrolEntry():
            return _enrolment(entry)
        case DecideEntry():
            return {
                "node": str(NodeId(entry.node)),
                "action": entry.action.value,
                "reason": entry.reason,
                "rule": entry.rule,
            }
        case CertifyEntry():
            return _certificate(entry)


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


def _token(entry: TokenEntry) -> Mapping[str, Json]:
    token = peek_token(entry.token)
    return {
        "token": str(TokenId(token_id(entry.token))),
        "issuer": str(NodeId(token.issuer)),
        "grant": str(GrantId(token.grant)),
        "gateways": [f"{NodeId(end.node)}@{end.address}" for end in token.endpoints],
        "redeemer": str(NodeId(token.redeemer)) if token.redeemer else None,
        "tags": list(token.tags),
        "level": token.level,
        "uses": token.uses,
        "binding": f"{token.binding.kind}:{token.binding.digest.hex()}" if token.binding else None,
        "not_before_ms": token.not_before_ms,
        "not_after_ms": token.not_after_ms,
        "note": entry.note,
    }


def _enrolment(entry: EnrolEntry) -> Mapping[str, Json]:
    token, request = token_id(entry.token), peek_request(entry.request)
    node = node_id(request.node_key)
    return {
        "enrolment": str(EnrolmentId(enrolment_id(token, node.raw))),
        "token": str(TokenId(token)),
        "node": str(node),
        "name": request.name,
        "address": address_text(node_address(request.mesh_key)),
        "mesh_key": request.mesh_key.hex(),
        "tunnel_key": request.tunnel_key.hex(),
        "created_ms": request.created_ms,
    }


def _certificate(entry: CertifyEntry) -> Mapping[str, Json]:
    held = peek_certificate(entry.certificate)
    return {
        "certificate": str(CertificateId(certificate_id(entry.certificate))),
        "issuer": str(NodeId(held.issuer)),
        "subject": str(NodeId(held.subject)),
        "name": held.name,
        "tags": list(held.tags),
        "level": held.level,
        "address": address_text(node_address(held.mesh_key)),
        "mesh_key": held.mesh_key.hex(),
        "tunnel_key": held.tunnel_key.hex(),
        "not_before_ms": held.not_before_ms,
        "not_after_ms": held.not_after_ms,
        "grant": str(GrantId(held.parent)),
        "enrolment": str(EnrolmentId(held.enrolment)) if held.enrolment else None,
        "rule": entry.rule,
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
