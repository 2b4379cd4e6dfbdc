"""Handshakes and throughput of our streams against a bare pyOpenSSL loop over sockets of the same kind.

Both ends run in one thread, so a figure counts the work of two nodes; seconds are those of the processor, so that
a busy machine disturbs less. The bare loop has neither event loop nor HTTP nor frames nor verdict: the ratio is the
price of all that.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL

from appliance.core.limits import LIMITS, Limits
from appliance.transport.address import Address
from appliance.transport.certificates import Credentials
from appliance.transport.dialler import Dialler
from appliance.transport.listener import Listener
from appliance.transport.peers import PeerIdentity, Verdict
from appliance.transport.pqtls import make_engine
from appliance.transport.stream import SYNC_PATH, Stream
from appliance.trust.keys import create_key
from appliance.trust.pqc import provider
from tests.bench.rows import Row, compared

HOST = "127.0.0.1"
HANDSHAKES = 150
BYTES = 64 << 20
RECORD = 16_384
ROUNDS = 3  # the best of them counts: the machine is shared


class Sink:
    """Swallows messages and answers the last one."""

    async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
        while (message := await stream.receive()) is not None:
            if len(message) == 1:
                await stream.send(message)


class Bare:
    """pyOpenSSL with memory BIOs over a blocking socket, nothing else."""

    def __init__(self, engine: SSL.Context, certificate: x509.Certificate, end: socket.socket) -> None:
        self.tls = SSL.Connection(engine, None)
        self.tls.use_certificate(certificate)
        self.socket = end

    def push(self) -> bool:
        try:
            while True:
                self.socket.sendall(self.tls.bio_read(RECORD + 256))
        except SSL.WantReadError:
            return True

    def step(self) -> bool:
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            self.push()
            return False
        return self.push()

    def pull(self) -> None:
        self.tls.bio_write(self.socket.recv(RECORD))


@contextmanager
def bare_pair(credentials: Credentials, engine: SSL.Context, server: socket.socket) -> Iterator[tuple[Bare, Bare]]:
    with socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            ends = [Bare(engine, credentials.certificate(), end) for end in (near, far)]
            for end in ends:
                end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ends[0].tls.set_connect_state()
            ends[1].tls.set_accept_state()
            yield ends[0], ends[1]


def shake_hands(client: Bare, server: Bare) -> None:
    client.step()
    server.pull()
    while not client.step():
        if not server.step():
            client.pull()
    while not server.step():
        server.pull()


def bare_handshakes(credentials: Credentials, engine: SSL.Context) -> float:
    with socket.create_server((HOST, 0)) as server:
        begin = time.process_time()
        for _ in range(HANDSHAKES):
            with bare_pair(credentials, engine, server) as (client, end):
                shake_hands(client, end)
        return HANDSHAKES / (time.process_time() - begin)


def bare_mib_s(credentials: Credentials, engine: SSL.Context) -> float:
    data = bytes(RECORD)
    with socket.create_server((HOST, 0)) as server, bare_pair(credentials, engine, server) as (client, end):
        shake_hands(client, end)
        got, begin = 0, time.process_time()
        while got < BYTES:
            client.tls.sendall(data)
            client.push()
            end.pull()
            try:
                while True:
                    got += len(end.tls.recv(RECORD))
            except SSL.WantReadError:
                pass
        return got / (1 << 20) / (time.process_time() - begin)


async def asyncio_handshakes(credentials: Credentials) -> float:
    context = credentials.context(Verdict(lambda _: True, credentials.now_ms))

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, HOST, 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        begin = time.process_time()
        for _ in range(HANDSHAKES):
            _, writer = await asyncio.open_connection(HOST, port, ssl=context)
            writer.transport.abort()
        return HANDSHAKES / (time.process_time() - begin)


async def with_listener(
    credentials: Credentials, limits: Limits, work: Callable[[Dialler, Address], Awaitable[float]]
) -> float:
    listener = Listener(credentials, lambda _: True, limits)
    listener.mount(SYNC_PATH, Sink())
    async with asyncio.TaskGroup() as tasks:
        port = await listener.start(tasks, HOST, 0)
        try:
            return await work(Dialler(credentials, lambda _: True, limits), Address(HOST, port))
        finally:
            await listener.stop()


async def streams_s(dialler: Dialler, address: Address) -> float:
    begin = time.process_time()
    for _ in range(HANDSHAKES):
        await (await dialler.open(address)).close()
    return HANDSHAKES / (time.process_time() - begin)


def stream_mib_s(size: int) -> Callable[[Dialler, Address], Awaitable[float]]:
    async def measure(dialler: Dialler, address: Address) -> float:
        stream = await dialler.open(address)
        message, begin = bytes(size), time.process_time()
        for _ in range(BYTES // size):
            await stream.send(message)
        await stream.send(b"?")
        await stream.receive()
        taken = time.process_time() - begin
        await stream.close()
        return BYTES / (1 << 20) / taken

    return measure


def run() -> list[Row]:
    """The rows; the best of a few rounds each, measured in turn."""
    with tempfile.TemporaryDirectory() as directory:
        key_file = Path(directory) / "key.pem"
        create_key(key_file, provider("openssl"))
        credentials = Credentials(key_file, lambda: time.time_ns() // 1_000_000)
        engine = make_engine(key_file)
        many = Limits(connections_per_peer=LIMITS.connections)
        measures: dict[str, Callable[[], float]] = {
            "bare handshakes": lambda: bare_handshakes(credentials, engine),
            "handshakes": lambda: asyncio.run(asyncio_handshakes(credentials)),
            "streams": lambda: asyncio.run(with_listener(credentials, many, streams_s)),
            "bare": lambda: bare_mib_s(credentials, engine),
            "64 KiB": lambda: asyncio.run(with_listener(credentials, many, stream_mib_s(1 << 16))),
            "1 MiB": lambda: asyncio.run(with_listener(credentials, many, stream_mib_s(1 << 20))),
        }
        best = dict.fromkeys(measures, 0.0)
        for _ in range(ROUNDS):
            for name, measure in measures.items():
                best[name] = max(best[name], measure())
    shakes, bare = best["bare handshakes"], best["bare"]
    return [
        compared("handshakes through asyncio", "1/s", best["handshakes"], shakes, at_least=0.7),
        compared("streams opened and closed", "1/s", best["streams"], shakes, at_least=0.5),
        compared("stream, messages of 64 KiB", "MiB/s", best["64 KiB"], bare, at_least=0.6),
        compared("stream, messages of 1 MiB", "MiB/s", best["1 MiB"], bare, at_least=0.6),
    ]
