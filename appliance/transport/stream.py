"""A stream of whole messages to and from a known peer: a WebSocket (RFC 6455) over PQ TLS, never compressed.

It carries bytes and never looks into them. The end of a stream is said by a close frame; a connection that
ends without one was cut, and `receive` says so. What must not be lost is acknowledged by the protocol above.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

from aiohttp import ClientWebSocketResponse, WebSocketError, WSCloseCode, WSMsgType
from aiohttp.web import WebSocketResponse

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.transport.peers import PeerIdentity

SYNC_PATH: Final = "/x0t/sync/1"
REFUSAL_HEADER: Final = "X0t-Refusal"  # an error key, in the HTTP answer to a peer that may not come in
CLOSED_FOR_A_REASON: Final = 4000  # RFC 6455 section 7.4.2: 4000 to 4999 are private
_REASON_BYTES: Final = 123  # section 5.5: a control frame holds 125 bytes, two of them the code
_WELL = (WSCloseCode.OK, WSCloseCode.GOING_AWAY)

WebSocket = ClientWebSocketResponse[bool] | WebSocketResponse[bool]


class Stream(Protocol):
    """What the owner of a stream may do, who closes it in any case. One task receives, any may send or close.

    `receive` must be waited for most of the time: it also answers the peer's pings, and a peer that gets no
    answer for half of `Limits.heartbeat_s` goes away.
    """

    @property
    def peer(self) -> PeerIdentity:
        """Who is at the other end."""
        ...

    async def send(self, message: bytes) -> None:
        """Hand over one message; returns when the peer is not more than some 600 KiB behind.

        `stream.cut` when the connection is gone, `stream.message_size` for a message over the limit.
        """
        ...

    async def receive(self) -> bytes | None:
        """The next message; None after a proper end.

        Raises `stream.cut`, `stream.closed_by_peer` (with the peer's reason), `stream.message_size` or
        `stream.message_kind`.
        """
        ...

    async def close(self, reason: str = "") -> None:
        """End the stream within two seconds; the peer is told *reason* (an error key). May be repeated."""
        ...


class BoundStream(Stream, Protocol):
    """A stream that knows the connection below it."""

    @property
    def binding(self) -> bytes:
        """RFC 9266: 32 bytes that only the two ends of this connection know."""
        ...


class Allowance:
    """How many frames a peer may send: so many at once, and one a second after that."""

    def __init__(self, burst: int, now_s: Callable[[], float]) -> None:
        self._burst = burst
        self._left = float(burst)
        self._now_s = now_s
        self._at_s = now_s()

    def take(self) -> bool:
        """Count one; False if there is none left."""
        now_s = self._now_s()
        self._left = min(self._burst, self._left + now_s - self._at_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Wire(NamedTuple):
    """What a stream runs on."""

    socket: WebSocket  # with `autoping` off where there is an allowance: pings count, too
    peer: PeerIdentity
    binding: bytes
    release: Callable[[], Awaitable[None]]  # lets go of the connection below
    allowance: Allowance | None = None


class WebSocketStream:
    """`BoundStream` over a WebSocket of aiohttp, from either side."""

    def __init__(self, wire: Wire, limits: Limits, message_bytes: int) -> None:
        self._wire = wire
        self._socket = wire.socket
        self._limits = limits
        self._message_bytes = message_bytes
        self._is_ended = False

    @property
    def peer(self) -> PeerIdentity:
        """See `Stream`."""
        return self._wire.peer

    @property
    def binding(self) -> bytes:
        """See `BoundStream`."""
        return self._wire.binding

    async def send(self, message: bytes) -> None:
        """See `Stream`."""
        if len(message) > self._message_bytes:
            raise error("stream.message_size", limit=self._message_bytes)
        try:
            await self._socket.send_bytes(message)
        except ConnectionError as err:
            raise error("stream.cut", reason="it is closed") from err

    async def receive(self) -> bytes | None:
        """See `Stream`."""
        if self._has_ended():
            return None
        while True:
            message = await self._socket.receive()
            await self._count()
            match message.type:
                case WSMsgType.PING:  # one that aiohttp left to us, because it counts
                    await self._pong(message.data)
                case WSMsgType.PONG:
                    continue
                case WSMsgType.BINARY:
                    return bytes(message.data)
                case WSMsgType.CLOSE:
                    self._is_ended = True
                    if message.data in _WELL and not message.extra:
                        return None
                    raise error("stream.closed_by_peer", reason=message.extra or f"code {message.data}")
                case WSMsgType.CLOSING | WSMsgType.CLOSED if self._has_ended():  # by our own close()
                    return None
                case WSMsgType.TEXT:
                    await self.close("stream.message_kind")
                    raise error("stream.message_kind")
                case _:
                    self._is_ended = True
                    raise self._why_cut(message.data)

    async def _pong(self, data: bytes) -> None:
        try:
            await self._socket.pong(data)
        except ConnectionError as err:
            raise error("stream.cut", reason="it is closed") from err

    async def _count(self) -> None:
        """One frame more. Raises `stream.flood`."""
        if self._wire.allowance is not None and not self._wire.allowance.take():
            await self.close("stream.flood")
            raise error("stream.flood")

    async def close(self, reason: str = "") -> None:
        """See `Stream`."""
        self._is_ended = True
        code = CLOSED_FOR_A_REASON if reason else WSCloseCode.OK
        await self._part(code, reason.encode()[:_REASON_BYTES])

    async def leave(self) -> None:
        """Close because this node stops."""
        self._is_ended = True
        await self._part(WSCloseCode.GOING_AWAY, b"")

    async def _part(self, code: int, reason: bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.refusal_s):
                await self._socket.close(code=code, message=reason)
        except TimeoutError:
            pass  # the peer does not listen any more
        finally:
            await self._wire.release()

    def _has_ended(self) -> bool:
        return self._is_ended

    def _why_cut(self, cause: object) -> X0tError:
        if isinstance(cause, WebSocketError) and cause.code == WSCloseCode.MESSAGE_TOO_BIG:
            return error("stream.message_size", limit=self._message_bytes)
        return error("stream.cut", reason=cause or "the peer left without a word")
