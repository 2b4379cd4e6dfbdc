"""Routes of the links to peers."""

from __future__ import annotations

from aiohttp import web

from appliance.core.ids import NodeId
from appliance.core.records import Link, LinkAsk, Links
from appliance.daemon.control.reply import read, reply
from appliance.daemon.node import Node, moment


class LinkRoutes:
    """/v1/links."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def show(self, _request: web.Request) -> web.StreamResponse:
        """All links, up or wanted."""
        return reply(self._links())

    async def cut(self, request: web.Request) -> web.StreamResponse:
        """Close links and keep them closed."""
        await self._node.mesh.links.cut(_one(await read(request, LinkAsk)))
        return reply(self._links())

    async def restore(self, request: web.Request) -> web.StreamResponse:
        """Allow links again."""
        self._node.mesh.links.restore(_one(await read(request, LinkAsk)))
        return reply(self._links())

    def _links(self) -> Links:
        links = self._node.mesh.links
        found = [
            Link(
                node=str(node),
                address=str(up.address or ""),
                direction="out" if up.dialled else "in",
                state="up",
                since=moment(up.since_ms),
                note="",
            )
            for node, up in links.up().items()
        ]
        found += [
            Link(
                node=str(dialling.node or ""),
                address=str(dialling.target.address),
                direction="out",
                state=dialling.state,
                since="",
                note=dialling.note,
            )
            for dialling in links.dialling()
            if dialling.node not in links.up()
        ]
        return Links(cut=links.is_cut, links=tuple(found))


def _one(ask: LinkAsk) -> NodeId | None:
    return NodeId.parse(ask.node) if ask.node else None
