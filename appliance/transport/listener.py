"""Takes connections: handshake, verdict and room first, then aiohttp serves the routes that the caller gave.

No request of a peer is read before the peer is known and let in; every refusal is counted under its key and,
where TLS got that far, said to the peer. Strangers never use up the places of members: handshakes under way
have a bound of their own, and the oldest of the most crowded host makes room for the newest. It never learns what
a stream carries.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Protocol

from aiohttp import web

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.transport.certificates import Credentials
from appliance.transport.channel import PqChannel, TlsFailure
from appliance.transport.gate import Gate
from appliance.transport.peers import PeerIdentity, Permitted, Verdict
from appliance.transport.stream import Stream, WebSocketStream

_BACKLOG: Final = 128  # connections that the kernel holds until the loop takes them
_HANDLERS_S: Final = 0.25  # for handlers to end once their streams are closed, and again once cancelled
_TLS_ONLY: Final = b"HTTP/1.1 400 Bad Request\r\nX0t-Refusal: tls.plain\r\nConnection: close\r\n\r\n"

Contain = Callable[[str, Awaitable[None]], Awaitable[None]]  # (what, work): a fault of ours is raised as an X0tError


class StreamHandler(Protocol):
    """Serves the streams of one route. Its return closes the stream; an `X0tError` is told to the peer."""

    async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
        """Live as long as the stream."""
        ...


async def uncontained(_what: str, work: Awaitable[None]) -> None:
    """Lets a fault end the listener: for tests, where it must be seen."""
    await work


def peer_of(request: web.BaseRequest) -> PeerIdentity:
    """Who sent *request*; for the handlers of further routes."""
    channel = request.get_extra_info("ssl_object")
    if not isinstance(channel, PqChannel) or channel.peer is None:
        raise error("stream.cut", reason="the peer left")
    return channel.peer


class Listener:
    """One TCP port. Mount and add routes before `start`; `refusals` counts by error key for ever.

    `contain` bounds what a stranger may make fail in us: one handshake, and not the listener.
    """

    def __init__(
        self, credentials: Credentials, permitted: Permitted, limits: Limits, contain: Contain = uncontained
    ) -> None:
        self.refusals: Final[Counter[str]] = Counter()
        self._credentials = credentials
        self._permitted = permitted
        self._limits = limits
        self._contain = contain
        self._verdict = Verdict(permitted, credentials.now_ms)
        self._app = web.Application()
        self._app.on_shutdown.append(self._leave_streams)
        self._runner = web.AppRunner(
            self._app,
            access_log=None,
            shutdown_timeout=_HANDLERS_S,
            keepalive_timeout=limits.heartbeat_s,  # for the head of a request, the first one too
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._server: asyncio.Server | None = None
        self._newcomers: dict[asyncio.Task[None], str] = {}  # in order of arrival, with the host of each
        self._admitted: dict[Gate, PeerIdentity] = {}
        self._streams: set[WebSocketStream] = set()

    # ---- what the caller does

    def mount(self, path: str, handler: StreamHandler) -> None:
        """Serve streams at *path*."""

        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._serve_stream(request, handler)

        self._app.router.add_get(path, serve)

    def add_routes(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Serve further HTTP routes to admitted peers; `peer_of` tells their handlers who asks."""
        self._app.add_routes(routes)

    async def start(self, tasks: asyncio.TaskGroup, host: str, port: int) -> int:
        """Listen, with handshakes as tasks of *tasks*; returns the port (for 0). OSError if it is taken."""
        await self._runner.setup()
        self._tasks = tasks
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Arrival(self._arrive), host, port, backlog=_BACKLOG)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Say goodbye on every stream, end every connection, within two seconds. Harmless when repeated."""
        self._tasks = None
        if self._server is not None:
            self._server.close()
        newcomers = list(self._newcomers)
        for task in newcomers:
            task.cancel()
        await asyncio.gather(*newcomers, return_exceptions=True)
        await self._runner.cleanup()
        remaining = list(self._admitted)
        for gate in remaining:
            gate.abort()
        for gate in remaining:
            await gate.lost.wait()
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    async def run(self, host: str, port: int, bound: Callable[[int], None] | None = None) -> None:
        """Listen until cancelled; *bound* is told the port."""
        async with asyncio.TaskGroup() as tasks:
            try:
                actual = await self.start(tasks, host, port)
                if bound is not None:
                    bound(actual)
                await asyncio.Event().wait()
            finally:
                await self.stop()

    def recheck(self) -> None:
        """End the connections of peers that are not permitted any more; call it after a revocation."""
        for gate, peer in list(self._admitted.items()):
            if not self._permitted(peer.node_id):
                self.refusals["tls.peer_unknown"] += 1
                gate.abort()

    def connections(self) -> Counter[bytes]:
        """How many connections each admitted node has."""
        return Counter(peer.node_id for peer in self._admitted.values())

    # ---- from a connection to an admitted peer

    def _arrive(self, raw: asyncio.Transport) -> None:
        if self._tasks is None:
            raw.abort()
            return
        if len(self._newcomers) >= self._limits.half_open:
            self._make_room()
        host = str(raw.get_extra_info("peername", ("?",))[0])
        task = self._tasks.create_task(self._receive(raw, host))
        self._newcomers[task] = host
        task.add_done_callback(lambda done: self._newcomers.pop(done, None))

    def _make_room(self) -> None:
        crowd = Counter(self._newcomers.values()).most_common(1)[0][0]
        oldest = next(task for task, host in self._newcomers.items() if host == crowd)
        del self._newcomers[oldest]
        self.refusals["tls.half_open"] += 1
        oldest.cancel()

    async def _receive(self, raw: asyncio.Transport, host: str) -> None:
        try:
            await self._contain(f"the handshake with {host}", self._welcome(raw))
        except X0tError as fault:
            self.refusals[fault.key] += 1

    async def _welcome(self, raw: asyncio.Transport) -> None:
        gate = Gate(raw, self._forget)
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                transport, channel = await self._shake_hands(raw, gate)
            refusal = self._judge(channel)
            if refusal is None and channel.peer is not None and not gate.lost.is_set():
                gate.admit(transport, self._http())
                self._admitted[gate] = channel.peer
                return
            if refusal is not None:
                self.refusals[refusal.key] += 1
                await gate.refuse(transport, refusal, self._limits.refusal_s)
        except TlsFailure as failure:
            self.refusals[failure.refusal.key] += 1
        except TimeoutError:
            self.refusals["tls.handshake_timeout"] += 1
        except OSError:
            self.refusals["tls.handshake"] += 1
        finally:
            if gate not in self._admitted:
                gate.abort()

    async def _shake_hands(self, raw: asyncio.Transport, gate: Gate) -> tuple[asyncio.Transport, PqChannel]:
        loop = asyncio.get_running_loop()
        failures: list[TlsFailure] = []

        def failed(failure: TlsFailure) -> None:
            failures.append(failure)
            loop.call_soon(_hang_up, raw, failure)  # soon: after asyncio has sent the alert

        transport = await loop.start_tls(
            raw,
            gate,
            self._credentials.context(self._verdict, failed),
            server_side=True,
            ssl_handshake_timeout=self._limits.handshake_s + 1,  # ours comes first
            ssl_shutdown_timeout=self._limits.refusal_s,
        )
        if failures:
            raise failures[0]
        channel = None if transport is None else transport.get_extra_info("ssl_object")
        if transport is None or not isinstance(channel, PqChannel):
            raise ConnectionResetError("the peer left in the handshake")
        return transport, channel

    def _judge(self, channel: PqChannel) -> X0tError | None:
        if channel.refusal is not None or channel.peer is None:
            return channel.refusal
        if len(self._admitted) >= self._limits.connections:
            return error("tls.busy", limit=self._limits.connections)
        if self.connections()[channel.peer.node_id] >= self._limits.connections_per_peer:
            return error("tls.busy_peer", peer=channel.peer, limit=self._limits.connections_per_peer)
        return None

    def _http(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:
            raise ConnectionAbortedError("the listener stops")
        return server()

    def _forget(self, gate: Gate) -> None:
        self._admitted.pop(gate, None)

    # ---- streams

    async def _serve_stream(self, request: web.Request, handler: StreamHandler) -> web.StreamResponse:
        peer = peer_of(request)
        socket = web.WebSocketResponse(
            timeout=self._limits.refusal_s,
            heartbeat=self._limits.heartbeat_s,
            compress=False,
            max_msg_size=self._limits.sync_frame_bytes + 1,  # aiohttp refuses what reaches the number
        )
        try:
            await socket.prepare(request)
        except ConnectionError as err:
            raise web.HTTPServiceUnavailable from err  # the peer left at once; aiohttp finds nobody to tell
        stream = WebSocketStream(socket, peer, self._limits, _nothing_to_release)
        self._streams.add(stream)
        try:
            await handler.handle(peer, stream)
        except X0tError as err:
            await stream.close(err.key)
        finally:
            self._streams.discard(stream)
            await stream.close()
        return socket

    async def _leave_streams(self, _: web.Application) -> None:
        await asyncio.gather(*(stream.leave() for stream in list(self._streams)))


class _Arrival(asyncio.Protocol):
    """Holds a fresh connection still until TLS takes it over."""

    def __init__(self, arrive: Callable[[asyncio.Transport], None]) -> None:
        self._arrive = arrive

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):  # TCP always has one
            transport.pause_reading()
            self._arrive(transport)


def _hang_up(raw: asyncio.Transport, failure: TlsFailure) -> None:
    if failure.refusal.key == "tls.plain":
        raw.write(_TLS_ONLY)  # whoever came with plain HTTP can read this
    raw.abort()


async def _nothing_to_release() -> None:
    """The HTTP server closes its connections itself."""
