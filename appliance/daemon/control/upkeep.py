"""Routes of long work: verify, rebuild, export, import, archive; and checkpoints."""

from __future__ import annotations

from aiohttp import web

from appliance.core.errors import error
from appliance.daemon.node import Node


class UpkeepRoutes:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def verify(self, request: web.Request) -> web.StreamResponse:
        raise error("replica.no_mesh")

    rebuild = export = import_ = archive = checkpoint = verify
