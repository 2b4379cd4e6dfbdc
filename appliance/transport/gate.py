"""What stands between a finished handshake and the HTTP server: nothing passes before the peer was let in.

It holds back what the peer sends early, hands it to the server on admission and drops it on refusal. Of a guest it
looks at the first line before it hands on anything. It never decides who comes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from appliance.core.errors import X0tError
from appliance.transport.stream import REFUSAL_HEADER


class Gate(asyncio.Protocol):
    """The protocol above TLS for the connection *raw*. *on_lost* is called once, when that has ended."""

    def __init__(self, raw: asyncio.Transport, on_lost: Callable[[Gate], None]) -> None:
        self._raw = raw
        self._on_lost = on_lost
        self._server: asyncio.Protocol | None = None
        self._early: bytearray | None = bytearray()  # None: dropped; at most what asyncio reads in one round
        self._heard = asyncio.Event()
        self.lost: Final = asyncio.Event()

    def admit(self, transport: asyncio.Transport, server: asyncio.Protocol) -> None:
        """Put *server* in charge of the connection, beginning with what came early."""
        self._server = server
        server.connection_made(transport)
        if self._early:
            server.data_received(bytes(self._early))
        self._early = None

    async def opens_with(self, line: bytes, patience_s: float) -> bool:
        """True if the first bytes of the peer are *line*; it has so long to send them."""
        try:
            async with asyncio.timeout(patience_s):
                while self._early is not None and not self.lost.is_set():
                    head = bytes(self._early[: len(line)])
                    if head == line:
                        return True
                    if not line.startswith(head):
                        return False
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            pass
        return False

    async def refuse(self, transport: asyncio.Transport, refusal: X0tError, patience_s: float) -> None:
        """Answer the first request, whatever it is, with the problem of *refusal* (RFC 9457), and close.

        Waits for the request because a client that has not asked yet would miss the answer.
        """
        if not self._early:
            await _within(self._heard, patience_s)
        self._early = None
        transport.write(_answer(refusal))
        transport.close()
        await _within(self.lost, patience_s)
        self.abort()

    def abort(self) -> None:
        """End the connection at once. Not through TLS: asyncio's transport forgets its protocol when closed twice."""
        self._raw.abort()

    def data_received(self, data: bytes) -> None:
        """From TLS: to the server, into the waiting room, or nowhere."""
        if self._server is not None:
            self._server.data_received(data)
            return
        self._heard.set()
        if self._early is not None:
            self._early += data

    def eof_received(self) -> None:
        """From TLS: the peer sent close_notify; TLS parts by itself."""
        if self._server is not None:
            self._server.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """From TLS: it is over."""
        self._heard.set()
        self.lost.set()
        if self._server is not None:
            self._server.connection_lost(exc)
        self._on_lost(self)

    def pause_writing(self) -> None:
        """From TLS: the peer is behind."""
        if self._server is not None:
            self._server.pause_writing()

    def resume_writing(self) -> None:
        """From TLS: the peer caught up."""
        if self._server is not None:
            self._server.resume_writing()


def _answer(refusal: X0tError) -> bytes:
    body = msgspec.json.encode(refusal.problem())
    head = (
        f"HTTP/1.1 {refusal.status} Refused\r\n{REFUSAL_HEADER}: {refusal.key}\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
