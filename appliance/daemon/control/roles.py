"""Routes of grants, revocations, decisions on forks, nodes and their tags."""

from __future__ import annotations

from aiohttp import web

from appliance.core.errors import error
from appliance.core.ids import BatchHash
from appliance.core.network_records import SubnetsAsk
from appliance.core.records import GrantAsk, NameAsk, RevokeAsk, TagsAsk, ThawAsk
from appliance.daemon.control import show
from appliance.daemon.control.find import find_node
from appliance.daemon.control.reply import read, reply
from appliance.daemon.node import Node
from appliance.replica import operations
from appliance.trust.grants import Role
from appliance.trust.keys import parse_public_key


class RoleRoutes:
    """/v1/grants, /v1/revocations, /v1/thaws and /v1/nodes."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def grants(self, _request: web.Request) -> web.StreamResponse:
        """All grants, in force or not."""
        rows = await self._node.mesh.queries.grants()
        return reply([show.grant(row) for row in rows])

    async def grant(self, request: web.Request) -> web.StreamResponse:
        """Bind roles to a key."""
        ask = await read(request, GrantAsk)
        roles = roles_of(ask.roles)
        made = await self._node.mesh.operations.grant(
            operations.GrantAsk(
                subject_key=await self._key(ask),
                roles=roles,
                scope=ask.scope,
                delegate=ask.delegate,
                lifetime_ms=ask.lifetime_ms,
            )
        )
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")

    async def _key(self, ask: GrantAsk) -> bytes:
        if ask.public_key:
            return parse_public_key(ask.public_key)
        key = self._node.mesh.replica.member_key(await self._find(ask.node))
        if key is None:
            raise error("replica.not_found", what=f"public key of {ask.node}")
        return key

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Take roles from a node."""
        ask = await read(request, RevokeAsk)
        made = await self._node.mesh.operations.revoke(await self._find(ask.node), roles_of(ask.roles), ask.reason)
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")

    async def thaw(self, request: web.Request) -> web.StreamResponse:
        """Decide which branch of a forked log counts."""
        ask = await read(request, ThawAsk)
        made = await self._node.mesh.operations.thaw(
            await self._find(ask.node), BatchHash.parse(ask.keep).raw, ask.reason
        )
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")

    async def nodes(self, _request: web.Request) -> web.StreamResponse:
        """The nodes that the mesh knows, by id."""
        return reply([show.node(view) for view in await self._node.mesh.queries.members()])

    async def _find(self, text: str) -> bytes:
        return await find_node(self._node.mesh, text)

    async def tags(self, request: web.Request) -> web.StreamResponse:
        """Give tags to a node or take them away."""
        ask = await read(request, TagsAsk)
        node = await self._find(request.match_info["node"])
        made = await self._node.mesh.operations.set_tags(node, ask.add, ask.remove)
        return reply(show.receipt(made))

    async def subnets(self, request: web.Request) -> web.StreamResponse:
        """Change the subnets behind a node."""
        ask = await read(request, SubnetsAsk)
        node = await self._find(request.match_info["node"])
        made = await self._node.mesh.operations.set_subnets(node, ask.add, ask.remove)
        return reply(show.receipt(made))

    async def name(self, request: web.Request) -> web.StreamResponse:
        """Name a node."""
        ask = await read(request, NameAsk)
        node = await self._find(request.match_info["node"])
        return reply(show.receipt(await self._node.mesh.operations.set_name(node, ask.name)))


def roles_of(texts: tuple[str, ...]) -> tuple[Role, ...]:
    """Roles by name. Raises `control.request`, which lists them."""
    known = {role.value: role for role in Role}
    for text in texts:
        if text not in known:
            raise error("control.request", reason=f"there is no role {text}; roles are {', '.join(sorted(known))}")
    return tuple(known[text] for text in texts)
