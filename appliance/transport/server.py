"""The HTTP server behind the gate: routes, and streams over WebSockets, for peers that were let in already.

It knows one kind of peer and what one of those may send. A stream that goes wrong is closed with the key of the error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
from aiohttp import web

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.transport.channel import PqChannel
from appliance.transport.peers import PeerIdentity
from appliance.transport.stream import Allowance, WebSocketStream, Wire

_HANDLERS_S: Final = 0.25  # for handlers to end once their streams are closed, and again once cancelled

Serve = Callable[[WebSocketStream, str], Awaitable[None]]  # (stream, host of the peer); its return closes the stream


class Bounds(msgspec.Struct, frozen=True):
    """What one connection of a peer may use."""

    head_s: float  # seconds for the head of a request, the first one too
    message_bytes: int
    frames: int | None = None  # at once, and one a second after that; None: as many as the peer likes


class Server:
    """Serves one kind of peers. Add routes before `start`."""

    def __init__(self, limits: Limits, bounds: Bounds) -> None:
        self._limits = limits
        self._bounds = bounds
        self._app = web.Application()
        self._app.on_shutdown.append(self._leave_streams)
        self._runner = web.AppRunner(
            self._app, access_log=None, shutdown_timeout=_HANDLERS_S, keepalive_timeout=bounds.head_s
        )
        self._streams: set[WebSocketStream] = set()

    def mount(self, path: str, serve: Serve) -> None:
        """Serve streams at *path*."""

        async def answer(request: web.Request) -> web.StreamResponse:
            return await self._answer(request, serve)

        self._app.router.add_get(path, answer)

    def add_routes(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Serve further HTTP routes."""
        self._app.add_routes(routes)

    async def start(self) -> None:
        """Be ready for connections."""
        await self._runner.setup()

    async def stop(self) -> None:
        """Say goodbye on every stream and end the handlers."""
        await self._runner.cleanup()

    def connection(self) -> asyncio.Protocol:
        """What serves one connection."""
        if self._runner.server is None:
            raise ConnectionAbortedError("the listener stops")
        return self._runner.server()

    async def _answer(self, request: web.Request, serve: Serve) -> web.StreamResponse:
        channel, peer = _ends(request)
        frames = self._bounds.frames
        allowance = None if frames is None else Allowance(frames, asyncio.get_running_loop().time)
        socket = web.WebSocketResponse(
            timeout=self._limits.refusal_s,
            heartbeat=self._limits.heartbeat_s,
            autoping=allowance is None,
            compress=False,
            max_msg_size=self._bounds.message_bytes + 1,  # aiohttp refuses what reaches the number
        )
        try:
            await socket.prepare(request)
        except ConnectionError as err:
            raise web.HTTPServiceUnavailable from err  # the peer left at once; aiohttp finds nobody to tell
        wire = Wire(socket, peer, channel.get_channel_binding(), _nothing_to_release, allowance)
        stream = WebSocketStream(wire, self._limits, self._bounds.message_bytes)
        self._streams.add(stream)
        try:
            await serve(stream, str((request.get_extra_info("peername") or "?")[0]))
        except X0tError as err:
            await stream.close(err.key)
        finally:
            self._streams.discard(stream)
            await stream.close()
        return socket

    async def _leave_streams(self, _: web.Application) -> None:
        await asyncio.gather(*(stream.leave() for stream in list(self._streams)))


def peer_of(request: web.BaseRequest) -> PeerIdentity:
    """Who sent *request*; for the handlers of further routes."""
    return _ends(request)[1]


def _ends(request: web.BaseRequest) -> tuple[PqChannel, PeerIdentity]:
    """The connection that a request came by, and who is at its other end."""
    channel = request.get_extra_info("ssl_object")
    if not isinstance(channel, PqChannel) or channel.peer is None:
        raise error("stream.cut", reason="the peer left")
    return channel, channel.peer


async def _nothing_to_release() -> None:
    """The HTTP server closes its connections itself."""
