"""Takes connections: handshake, verdict and room first, then aiohttp serves the routes that the caller gave.

No request of a peer is read before the peer is known and let in; every refusal is counted under its key and,
where TLS got that far, said to the peer. Strangers never use up the places of members: handshakes under way
have a bound of their own, and the oldest of the most crowded host makes room for the newest. One route may be open to
guests, who are no members: a guest that asks for anything else is refused like every stranger, before its request is
read, and whom it is served to is a server of its own that knows no other route (see `guests`). It never learns what a
stream carries.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple, Protocol

from aiohttp import web

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.transport.certificates import Credentials
from appliance.transport.channel import PqChannel, TlsFailure
from appliance.transport.gate import Gate
from appliance.transport.guests import Guest, GuestHandler, Guests
from appliance.transport.peers import PeerIdentity, Permitted, Verdict
from appliance.transport.server import Bounds, Server
from appliance.transport.stream import Stream, WebSocketStream

_BACKLOG: Final = 128  # connections that the kernel holds until the loop takes them
_TLS_ONLY: Final = b"HTTP/1.1 400 Bad Request\r\nX0t-Refusal: tls.plain\r\nConnection: close\r\n\r\n"

Contain = Callable[[str, Awaitable[None]], Awaitable[None]]  # (what, work): a fault of ours is raised as an X0tError


class Door(NamedTuple):
    """The route that is open to guests."""

    line: bytes  # how a request for it begins
    welcome: Permitted  # says whether a node may come as a guest now


class StreamHandler(Protocol):
    """Serves the streams of one route. Its return closes the stream; an `X0tError` is told to the peer."""

    async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
        """Live as long as the stream."""
        ...


async def uncontained(_what: str, work: Awaitable[None]) -> None:
    """Lets a fault end the listener: for tests, where it must be seen."""
    await work


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
        self._verdict = Verdict(self._may_speak, credentials.now_ms)
        self._members = Server(limits, Bounds(limits.heartbeat_s, limits.sync_frame_bytes))
        self._visitors = Server(limits, Bounds(limits.guest_s, limits.guest_message_bytes, limits.guest_frames))
        self._door: Door | None = None
        self._guests = Guests(limits, self.refusals)
        self._tasks: asyncio.TaskGroup | None = None
        self._server: asyncio.Server | None = None
        self._newcomers: dict[asyncio.Task[None], str] = {}  # in order of arrival, with the host of each
        self._admitted: dict[Gate, PeerIdentity] = {}

    # ---- what the caller does

    def mount(self, path: str, handler: StreamHandler) -> None:
        """Serve streams at *path*."""

        async def serve(stream: WebSocketStream, _host: str) -> None:
            await handler.handle(stream.peer, stream)

        self._members.mount(path, serve)

    def open_to_guests(self, path: str, handler: GuestHandler, welcome: Permitted) -> None:
        """Serve streams at *path* to guests, while *welcome* says so of them, and to members as well. Once only."""

        async def serve(stream: WebSocketStream, host: str) -> None:
            await handler.receive(self._guests.find(stream.peer) or Guest(stream.peer, host), stream)

        self._members.mount(path, serve)
        self._visitors.mount(path, serve)
        self._door = Door(f"GET {path} HTTP/1.1\r\n".encode("ascii"), welcome)

    def add_routes(self, routes: Iterable[web.AbstractRouteDef]) -> None:
        """Serve further HTTP routes to admitted peers; `server.peer_of` tells their handlers who asks."""
        self._members.add_routes(routes)

    async def start(self, tasks: asyncio.TaskGroup, host: str, port: int) -> int:
        """Listen, with handshakes as tasks of *tasks*; returns the port (for 0). OSError if it is taken."""
        await self._members.start()
        await self._visitors.start()
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
        await asyncio.gather(self._members.stop(), self._visitors.stop())
        remaining = [*self._admitted, *(gate for gate, _ in self._guests)]
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
        self._guests.keep(self._may_speak)

    def connections(self) -> Counter[bytes]:
        """How many connections each admitted node has; guests have none of these places."""
        return Counter(peer.node_id for peer in self._admitted.values())

    def guests(self) -> int:
        """How many guests are here."""
        return len(self._guests)

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
            await self._contain(f"the handshake with {host}", self._welcome(raw, host))
        except X0tError as fault:
            self.refusals[fault.key] += 1

    async def _welcome(self, raw: asyncio.Transport, host: str) -> None:
        gate = Gate(raw, self._forget)
        is_inside = False
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                transport, channel = await self._shake_hands(raw, gate)
            refusal = self._judge(channel)
            if refusal is None and channel.peer is not None:
                refusal = await self._let_in(gate, transport, Guest(channel.peer, host))
                is_inside = refusal is None
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
            if not is_inside:
                gate.abort()

    async def _let_in(self, gate: Gate, transport: asyncio.Transport, peer: Guest) -> X0tError | None:
        """Give a member or a guest its server; else why not."""
        if self._permitted(peer.peer.node_id):
            if not gate.lost.is_set():
                gate.admit(transport, self._members.connection())
                self._admitted[gate] = peer.peer
            return None
        door = self._door
        if door is None or not await gate.opens_with(door.line, self._limits.handshake_s):
            return error("tls.peer_unknown", peer=peer.peer)
        if not gate.lost.is_set():
            gate.admit(transport, self._visitors.connection())
            self._guests.admit(gate, peer)
        return None

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

    def _may_speak(self, node: bytes) -> bool:
        return self._permitted(node) or (self._door is not None and self._door.welcome(node))

    def _judge(self, channel: PqChannel) -> X0tError | None:
        if channel.refusal is not None or channel.peer is None:
            return channel.refusal
        if not self._permitted(channel.peer.node_id):
            return None  # a guest, for whom other places are kept
        if len(self._admitted) >= self._limits.connections:
            return error("tls.busy", limit=self._limits.connections)
        if self.connections()[channel.peer.node_id] >= self._limits.connections_per_peer:
            return error("tls.busy_peer", peer=channel.peer, limit=self._limits.connections_per_peer)
        return None

    def _forget(self, gate: Gate) -> None:
        self._admitted.pop(gate, None)
        self._guests.forget(gate)


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
