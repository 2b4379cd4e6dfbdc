"""Routes of grants, revocations, decisions on forks, nodes and their tags."""

from __future__ import annotations

from aiohttp import web

from appliance.core.errors import error
from appliance.core.ids import BatchHash, NodeId
from appliance.core.records import GrantAsk, NameAsk, Node, RevokeAsk, TagsAsk, ThawAsk
from appliance.daemon.control import show
from appliance.daemon.control.reply import read, reply
from appliance.daemon.node import Node as DaemonNode
from appliance.replica import operations
from appliance.replica.rows import NodeRow
from appliance.trust.grants import Role
from appliance.trust.keys import parse_public_key


class RoleRoutes:
    """/v1/grants, /v1/revocations, /v1/thaws and /v1/nodes."""

    def __init__(self, node: DaemonNode) -> None:
        self._node = node

    async def grants(self, _request: web.Request) -> web.StreamResponse:
        """All grants, in force or not."""
        rows = await self._node.mesh.queries.grants()
        return reply([show.grant(row) for row in rows])

    async def grant(self, request: web.Request) -> web.StreamResponse:
        """Bind roles to a key."""
        ask = await read(request, GrantAsk)
        made = await self._node.mesh.operations.grant(
            operations.GrantAsk(
                subject_key=self._key(ask),
                roles=roles_of(ask.roles),
                scope=ask.scope,
                delegate=ask.delegate,
                lifetime_ms=ask.lifetime_ms,
            )
        )
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")

    def _key(self, ask: GrantAsk) -> bytes:
        if ask.public_key:
            return parse_public_key(ask.public_key)
        node = NodeId.parse(ask.node)
        key = self._node.mesh.replica.member_key(node.raw)
        if key is None:
            raise error("replica.not_found", what=f"public key of {node}")
        return key

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Take roles from a node."""
        ask = await read(request, RevokeAsk)
        made = await self._node.mesh.operations.revoke(NodeId.parse(ask.node).raw, roles_of(ask.roles), ask.reason)
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")

    async def thaw(self, request: web.Request) -> web.StreamResponse:
        """Decide which branch of a forked log counts."""
        ask = await read(request, ThawAsk)
        made = await self._node.mesh.operations.thaw(
            NodeId.parse(ask.node).raw, BatchHash.parse(ask.keep).raw, ask.reason
        )
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")

    async def nodes(self, _request: web.Request) -> web.StreamResponse:
        """The nodes that the mesh knows, by id."""
        mesh = self._node.mesh
        tags = await mesh.queries.tags()
        said = {row.node: row for row in await mesh.nodes()}
        roles: dict[bytes, set[str]] = {}
        for grant in await mesh.queries.grants():
            roles.setdefault(grant.subject, set()).update(grant.roles if not grant.reason else ())
        known = sorted(tags.keys() | said.keys() | roles.keys())
        return reply([self._shown(node, said.get(node), roles, tags) for node in known])

    def _shown(
        self, node: bytes, said: NodeRow | None, roles: dict[bytes, set[str]], tags: dict[bytes, tuple[str, ...]]
    ) -> Node:
        return Node(
            node=str(NodeId(node)),
            name=said.name if said else "",
            roles=tuple(sorted(roles.get(node, ()))),
            tags=tags.get(node, ()),
            endpoints=said.endpoints if said else (),
            software=said.software if said else "",
            member=self._node.mesh.replica.permitted(node),
        )

    async def tags(self, request: web.Request) -> web.StreamResponse:
        """Give tags to a node or take them away."""
        ask = await read(request, TagsAsk)
        node = NodeId.parse(request.match_info["node"])
        made = await self._node.mesh.operations.set_tags(node.raw, ask.add, ask.remove)
        return reply(show.receipt(made))

    async def name(self, request: web.Request) -> web.StreamResponse:
        """Name a node."""
        ask = await read(request, NameAsk)
        node = NodeId.parse(request.match_info["node"])
        return reply(show.receipt(await self._node.mesh.operations.set_name(node.raw, ask.name)))


def roles_of(texts: tuple[str, ...]) -> tuple[Role, ...]:
    """Roles by name. Raises `control.request`, which lists them."""
    known = {role.value: role for role in Role}
    for text in texts:
        if text not in known:
            raise error("control.request", reason=f"there is no role {text}; roles are {', '.join(sorted(known))}")
    return tuple(known[text] for text in texts)
