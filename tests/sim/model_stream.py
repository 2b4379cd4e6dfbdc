"""Two ends of a stream in memory, with the manners of the real one: whole messages, bounded, cut or ended properly."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from appliance.core.errors import error
from appliance.transport.peers import PeerIdentity

QUEUE = 4  # messages under way


class ModelStream:
    """One end; `pair` makes two."""

    def __init__(self, peer: PeerIdentity, message_bytes: int) -> None:
        self.peer = peer
        self.other: ModelStream
        self._message_bytes = message_bytes
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE)
        self._is_cut = False
        self._open = asyncio.Event()
        self._open.set()
        self._count = 0
        self._counted = asyncio.Condition()

    async def send(self, message: bytes) -> None:
        if len(message) > self._message_bytes:
            raise error("stream.message_size", limit=self._message_bytes)
        await self._open.wait()
        if self._is_cut:
            raise error("stream.cut", reason="it is closed")
        await self.other._inbox.put(message)

    async def receive(self) -> bytes | None:
        message = await self._inbox.get()
        if self._is_cut:
            raise error("stream.cut", reason="the test cut it")
        async with self._counted:
            self._count += 1
            self._counted.notify_all()
        return message

    async def close(self, reason: str = "") -> None:
        for end in (self, self.other):
            if end._inbox.full():
                end._inbox.get_nowait()
            end._inbox.put_nowait(None)

    async def heard(self, messages: int) -> None:
        """Wait until so many messages were received here."""
        async with asyncio.timeout(5), self._counted:
            await self._counted.wait_for(lambda: self._count >= messages)

    def arrived(self) -> Iterator[bytes]:
        """What waits here."""
        while not self._inbox.empty():
            if message := self._inbox.get_nowait():
                yield message

    def cut(self) -> None:
        """The connection is gone."""
        for end in (self, self.other):
            end._is_cut = True
            end._inbox.put_nowait(None)

    def block(self) -> None:
        """Nothing that is sent here leaves any more."""
        self._open.clear()


def pair(message_bytes: int) -> tuple[ModelStream, ModelStream]:
    """Two ends; the left one is node 1."""
    left = ModelStream(PeerIdentity(bytes([2]) * 32, b""), message_bytes)
    right = ModelStream(PeerIdentity(bytes([1]) * 32, b""), message_bytes)
    left.other, right.other = right, left
    return left, right
