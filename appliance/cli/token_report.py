"""What a token says, in words for people and as a record for programs. It never tells the secret. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from appliance.cli.qr import symbol_count
from appliance.core.clock import moment_text
from appliance.core.ids import GrantId, MeshId, NodeId, TokenId
from appliance.trust.tokens import (
    Binding,
    Endpoint,
    Pointer,
    Ticket,
    Token,
    format_pointer,
    format_token,
    token_id,
)

UNCHECKED: Final = "not checked: that takes the issuer's key (--issuer KEYFILE)"
_DEVICES: Final = {
    "ek": "the TPM whose endorsement key has the SHA-256 {}",
    "key": "the node whose public key has the SHA-256 {}",
    "serial": "the device whose serial number has the SHA-256 {}",
}
_UNITS: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))


class TokenReport(msgspec.Struct, frozen=True, tag_field="kind", tag="token"):
    """A token."""

    token: str
    mesh: str
    issuer: str
    grant: str
    gateways: tuple[str, ...]  # nodeid@host:port
    redeemer: str  # empty: each of the gateways
    tags: tuple[str, ...]
    level: str
    uses: int
    binding: str  # empty: any device
    not_before: str
    not_after: str
    standing: str  # in words, by the clock of this machine
    signature: str  # in words
    size: int  # bytes of the signed part
    chars: int  # of the text
    symbols: int  # QR codes that the text takes


class PointerReport(msgspec.Struct, frozen=True, tag_field="kind", tag="short"):
    """The short form of a token."""

    mesh: str
    gateway: str  # nodeid@host:port
    chars: int
    symbols: int


Row = tuple[str, str | int | tuple[str, ...]]


def report_token(ticket: Ticket, now_ms: int, signature: str) -> TokenReport:
    """What a token says; *signature*: what is known of its signature."""
    token, text = ticket.token, format_token(ticket.blob, ticket.secret)
    return TokenReport(
        token=str(TokenId(token_id(ticket.blob))),
        mesh=str(MeshId(token.mesh)),
        issuer=str(NodeId(token.issuer)),
        grant=str(GrantId(token.grant)),
        gateways=tuple(map(_gateway, token.endpoints)),
        redeemer="" if token.redeemer is None else str(NodeId(token.redeemer)),
        tags=token.tags,
        level=token.level,
        uses=token.uses,
        binding="" if token.binding is None else _device(token.binding),
        not_before=moment_text(token.not_before_ms),
        not_after=moment_text(token.not_after_ms),
        standing=_standing(token, now_ms),
        signature=signature,
        size=len(ticket.blob),
        chars=len(text),
        symbols=symbol_count(text),
    )


def report_pointer(pointer: Pointer) -> PointerReport:
    """What a short form says."""
    text = format_pointer(pointer)
    gateway = _gateway(Endpoint(pointer.address, pointer.node))
    return PointerReport(str(MeshId(pointer.mesh)), gateway, len(text), symbol_count(text))


def token_rows(report: TokenReport, mesh_name: str) -> list[Row]:
    """The lines for people."""
    return [
        ("token", report.token),
        ("mesh", _named(report.mesh, mesh_name)),
        ("issuer", report.issuer),
        ("by the grant", report.grant),
        *[("gateway", gateway) for gateway in report.gateways],
        ("redeemed by", report.redeemer or "any of the gateways"),
        ("tags", report.tags),
        ("attestation", report.level),
        ("uses", report.uses),
        ("for", report.binding or "any device"),
        ("from", report.not_before),
        ("until", report.not_after),
        ("now", report.standing),
        ("signature", report.signature),
        ("size", f"{report.size:,} bytes signed, {report.chars:,} characters, {report.symbols} QR codes"),
    ]


def pointer_rows(report: PointerReport, mesh_name: str) -> list[Row]:
    """The lines for people."""
    return [
        ("short form", "the gateway exchanges it for the token"),
        ("mesh", _named(report.mesh, mesh_name)),
        ("gateway", report.gateway),
        ("size", f"{report.chars:,} characters, one QR code"),
    ]


def _named(mesh: str, name: str) -> str:
    return f"{mesh}, which is {name}" if name else mesh


def _gateway(endpoint: Endpoint) -> str:
    return f"{NodeId(endpoint.node)}@{endpoint.address}"


def _device(binding: Binding) -> str:
    return _DEVICES[binding.kind].format(binding.digest.hex())


def _standing(token: Token, now_ms: int) -> str:
    if now_ms < token.not_before_ms:
        return f"it begins in {_about(token.not_before_ms - now_ms)}"
    if now_ms > token.not_after_ms:
        return f"it ended {_about(now_ms - token.not_after_ms)} ago"
    return f"in its time, for another {_about(token.not_after_ms - now_ms)}"


def _about(span_ms: int) -> str:
    """A span in its two largest units, rounded down: 1d 3h."""
    parts: list[str] = []
    for unit, unit_ms in _UNITS:
        count, span_ms = divmod(span_ms, unit_ms)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "a moment"
