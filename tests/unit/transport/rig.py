"""Real nodes on loopback, and hostile ends that speak TLS as they like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
)
from OpenSSL import SSL

from appliance.core.errors import ERRORS, X0tError
from appliance.core.limits import LIMITS, Limits
from appliance.transport.address import Address
from appliance.transport.certificates import Credentials
from appliance.transport.dialler import Dialler
from appliance.transport.listener import Listener, StreamHandler
from appliance.transport.peers import PeerIdentity
from appliance.transport.stream import SYNC_PATH, Stream
from appliance.trust.keys import create_key
from appliance.trust.pqc import provider

HOST = "127.0.0.1"
QUICK = Limits(handshake_s=1)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Node:
    """A node of the test: its credentials and whom it permits (everybody, until told otherwise)."""

    credentials: Credentials
    key_file: Path
    strangers: set[bytes] = field(default_factory=set)

    @property
    def id(self) -> bytes:
        return self.credentials.node_id.raw

    def permits(self, node_id: bytes) -> bool:
        return node_id not in self.strangers

    def dialler(self, limits: Limits = LIMITS) -> Dialler:
        return Dialler(self.credentials, self.permits, limits)

    def key(self) -> mldsa.MLDSA65PrivateKey:
        key = load_pem_private_key(self.key_file.read_bytes(), None)
        assert isinstance(key, mldsa.MLDSA65PrivateKey)
        return key


def make_node(directory: Path, name: str, clock: Callable[[], int] = now_ms) -> Node:
    key_file = directory / f"{name}.pem"
    create_key(key_file, provider("openssl"))
    return Node(Credentials(key_file, clock), key_file)


class Echo:
    """Sends each message back until the peer ends; remembers how each stream ended."""

    def __init__(self) -> None:
        self.peers: list[bytes] = []
        self.ends: list[str] = []
        self.ended = asyncio.Event()

    async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
        self.peers.append(peer.node_id)
        end = "end"
        try:
            while (message := await stream.receive()) is not None:
                await stream.send(message)
        except Exception as err:
            end = getattr(err, "key", repr(err))
            raise
        finally:
            self.ends.append(end)
            self.ended.set()


@dataclass
class Served:
    listener: Listener
    address: Address


@asynccontextmanager
async def listening(node: Node, handler: StreamHandler | None = None, limits: Limits = LIMITS) -> AsyncIterator[Served]:
    listener = Listener(node.credentials, node.permits, limits)
    listener.mount(SYNC_PATH, handler or Echo())
    async with asyncio.TaskGroup() as tasks:
        port = await listener.start(tasks, HOST, 0)
        try:
            yield Served(listener, Address(HOST, port))
        finally:
            await listener.stop()


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    """Wait for something that another task or the peer brings about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


class RawTls:
    """One end of TLS driven by hand over asyncio streams."""

    def __init__(
        self, context: SSL.Context, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, server: bool
    ) -> None:
        self.connection = SSL.Connection(context, None)
        if server:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
        self.reader, self.writer = reader, writer
        self.after_handshake = b""  # goes out with the last message of the handshake

    async def handshake(self) -> None:
        def step() -> None:
            self.connection.do_handshake()
            if self.after_handshake:
                self.connection.sendall(self.after_handshake)

        await self._drive(step)

    async def send(self, data: bytes) -> None:
        self.connection.sendall(data)
        await self.flush()

    async def receive(self) -> bytes:
        """Some data; empty after close_notify. SSL.Error or EOFError if the peer ends otherwise."""
        got = bytearray()
        try:
            await self._drive(lambda: got.extend(self.connection.recv(65536)))
        except SSL.ZeroReturnError:
            return b""
        return bytes(got)

    async def receive_all(self) -> bytes:
        got = bytearray()
        while data := await self.receive():
            got += data
        return bytes(got)

    async def _drive(self, step: Callable[[], None]) -> None:
        while True:
            try:
                step()
                await self.flush()
                return
            except SSL.WantReadError:
                await self.flush()
                data = await self.reader.read(65536)
                if not data:
                    raise EOFError from None
                self.connection.bio_write(data)
            except SSL.Error:
                await self.flush()  # the alert
                raise

    async def flush(self) -> None:
        try:
            while True:
                self.writer.write(self.connection.bio_read(65536))
        except SSL.WantReadError:
            await self.writer.drain()


@asynccontextmanager
async def raw_client(context: SSL.Context, address: Address) -> AsyncIterator[RawTls]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield RawTls(context, reader, writer, server=False)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def raw_server(context: SSL.Context, behave: Callable[[RawTls], Awaitable[None]]) -> AsyncIterator[Address]:
    """A server that shakes hands in its own way and then behaves so; what goes wrong on it is ignored."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = RawTls(context, reader, writer, server=True)
        try:
            await end.handshake()
            await behave(end)
        except (SSL.Error, EOFError, OSError):
            pass

    async with plain_server(serve) as address:
        yield address


@asynccontextmanager
async def plain_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Address]:
    running: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)  # the loop closes the socket in its next round

    server = await asyncio.start_server(tracked, HOST, 0)
    try:
        yield Address(HOST, int(server.sockets[0].getsockname()[1]))
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def counted(listener: Listener, key: str, times: int = 1) -> None:
    """Exactly this refusal was counted, and the key is a documented one."""
    assert key in ERRORS
    await until(lambda: listener.refusals.total() >= times)
    assert dict(listener.refusals) == {key: times}


async def refusal_of(node: Node, address: Address, expected: bytes | None = None) -> X0tError:
    with pytest.raises(X0tError) as caught:
        await node.dialler(QUICK).open(address, expected)
    return caught.value
