"""Routes of tokens: made, listed, shown without their secret, and withdrawn."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final, Literal

from aiohttp import web

from appliance.core import admission_records as records
from appliance.core.errors import error
from appliance.core.ids import BatchHash, NodeId, TokenId
from appliance.core.records import Receipt
from appliance.daemon.control import show
from appliance.daemon.control.find import find_node, find_token
from appliance.daemon.control.reply import read, reply
from appliance.daemon.mesh import FollowedMesh
from appliance.daemon.node import Node, moment
from appliance.daemon.target import parse_target
from appliance.replica.admission_operations import TokenAsk
from appliance.replica.admission_queries import TokenView
from appliance.replica.rows import NodeRow
from appliance.trust.tokens import (
    CODE_BYTES,
    Binding,
    Endpoint,
    Pointer,
    Ticket,
    format_pointer,
    parse_token,
    peek_token,
    token_id,
)

_KINDS: Final[dict[str, Literal["ek", "key", "serial"]]] = {"ek": "ek", "key": "key", "serial": "serial"}


class TokenRoutes:
    """/v1/tokens."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make a token; its text is in this answer and nowhere else."""
        ask, mesh = await read(request, records.TokenAsk), self._node.mesh
        if ask.short and mesh.codes is None:
            raise error("admission.closed")
        endpoints = await self._endpoints(ask.gateways)
        made, text = await mesh.admission.create_token(
            TokenAsk(
                endpoints=endpoints,
                lifetime_ms=ask.lifetime_ms,
                tags=ask.tags,
                level=ask.level,
                uses=ask.uses,
                binding=_binding(ask.device),
                redeemer=await find_node(mesh, ask.redeemer) if ask.redeemer else None,
                note=ask.note,
            )
        )
        if mesh.desk is not None:
            await mesh.desk.refresh()  # who is given the token may come at once
        ticket = parse_token(text)
        identity = str(TokenId(token_id(ticket.blob)))
        record = records.TokenMade(
            token=identity,
            text=text,
            short=await self._short(mesh, ticket, text) if ask.short else "",
            not_after=moment(ticket.token.not_after_ms),
            batch=str(BatchHash(made.hash)),
        )
        return reply(record, 201, f"/v1/tokens/{identity}")

    async def list(self, _request: web.Request) -> web.StreamResponse:
        """All tokens, the newest first."""
        queries, now_ms = self._node.mesh.admission_queries, self._node.mesh.replica.now_ms()
        whole = [await queries.token(view.row.token) for view in await queries.tokens()]
        return reply([_token(*found, now_ms) for found in whole if found is not None])

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One token."""
        mesh = self._node.mesh
        identity = await find_token(mesh, request.match_info["token"])
        found = await mesh.admission_queries.token(identity)
        if found is None:
            raise error("replica.not_found", what=str(TokenId(identity)))
        return reply(_token(*found, mesh.replica.now_ms()))

    async def retire(self, request: web.Request) -> web.StreamResponse:
        """End a token."""
        ask, mesh = await read(request, records.ReasonAsk), self._node.mesh
        identity = await find_token(mesh, request.match_info["token"])
        made: Receipt = show.receipt(await mesh.admission.retire_token(identity, ask.reason))
        return reply(made)

    async def _endpoints(self, gateways: Sequence[str]) -> tuple[Endpoint, ...]:
        """Where the gateways are; none named: this node. Raises `token.gateway` for one that does not say where."""
        mesh = self._node.mesh
        if not gateways:
            own = self._node.config.node.endpoints
            if not own:
                raise error("token.gateway", node=str(self._node.key.id))
            return (Endpoint(own[0].lower(), self._node.key.id.raw),)
        return tuple([await self._endpoint(mesh, text) for text in gateways])

    async def _endpoint(self, mesh: FollowedMesh, text: str) -> Endpoint:
        node, at, address = text.rpartition("@")
        if at:
            return Endpoint(str(parse_target(address).address).lower(), await find_node(mesh, node))
        found = await find_node(mesh, text)
        row = await mesh.replica.run(lambda engine: engine.view.get(NodeRow, found))
        if not isinstance(row, NodeRow) or not row.endpoints:
            raise error("token.gateway", node=str(NodeId(found)))
        return Endpoint(row.endpoints[0].lower(), found)

    async def _short(self, mesh: FollowedMesh, ticket: Ticket, text: str) -> str:
        """A short form that this node exchanges for the token."""
        own = self._node.key.id.raw
        address = next((end.address for end in ticket.token.endpoints if end.node == own), None)
        if mesh.codes is None or address is None:
            raise error("admission.gateway", node=str(self._node.key.id))
        code = secrets.token_bytes(CODE_BYTES)
        await asyncio.to_thread(mesh.codes.keep, code, token_id(ticket.blob), text)
        return format_pointer(Pointer(ticket.token.mesh, own, address, code))


def _binding(text: str) -> Binding | None:
    """`ek:`, `key:` or `serial:` and 64 hex digits. Raises `token.device`."""
    if not text:
        return None
    name, _, digits = text.partition(":")
    kind = _KINDS.get(name)
    try:
        digest = bytes.fromhex(digits)
    except ValueError as err:
        raise error("token.device", text=text) from err
    if kind is None or len(digest) != 32:
        raise error("token.device", text=text)
    return Binding(kind, digest)


def _token(view: TokenView, blob: bytes, now_ms: int) -> records.Token:
    row, token = view.row, peek_token(blob)
    bound = token.binding
    state = view.state(now_ms)
    return records.Token(
        token=str(TokenId(row.token)),
        issuer=str(NodeId(row.issuer)),
        state=state,
        uses=row.uses,
        used=len(view.carried),
        tags=row.tags,
        level=row.level,
        device="" if bound is None else f"{bound.kind}:{bound.digest.hex()}",
        gateways=tuple(f"{NodeId(end.node)}@{end.address}" for end in token.endpoints),
        redeemer="" if row.redeemer is None else str(NodeId(row.redeemer)),
        not_before=moment(row.not_before_ms),
        not_after=moment(row.not_after_ms),
        note=row.note,
        nodes=show.names(view.carried),
        explanation=show.explain(view.ended),
    )
