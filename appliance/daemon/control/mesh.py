"""Routes of the mesh and of this node's key."""

from __future__ import annotations

import base64
import binascii

from aiohttp import web

from appliance.core.errors import error
from appliance.core.records import Key, MeshCreate, MeshJoin
from appliance.daemon.control import show
from appliance.daemon.control.reply import read, reply
from appliance.daemon.node import Node
from appliance.daemon.target import parse_target
from appliance.trust.keys import format_public_key


class MeshRoutes:
    """/v1/mesh and /v1/key."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def show(self, _request: web.Request) -> web.StreamResponse:
        """The mesh with its descriptor."""
        return reply(await self._node.mesh_record())

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Found a mesh."""
        ask = await read(request, MeshCreate)
        return reply(await self._node.create(ask.name), 201, "/v1/mesh")

    async def join(self, request: web.Request) -> web.StreamResponse:
        """Follow a mesh by its descriptor."""
        ask = await read(request, MeshJoin)
        try:
            blob = base64.b64decode(ask.descriptor, validate=True)
        except (binascii.Error, ValueError) as err:
            raise error("mesh.descriptor", reason="it is not base64") from err
        return reply(await self._node.join(blob, [parse_target(peer) for peer in ask.peers]), 201, "/v1/mesh")

    async def rotate(self, _request: web.Request) -> web.StreamResponse:
        """Give the mesh its next secret."""
        return reply(show.receipt(await self._node.mesh.operations.rotate_secret()), 201, "/v1/mesh")

    async def key(self, _request: web.Request) -> web.StreamResponse:
        """This node's identity."""
        key = self._node.key
        return reply(Key(node=str(key.id), public_key=format_public_key(key.public_key), kept="file"))
