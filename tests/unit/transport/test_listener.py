from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from OpenSSL import SSL

from appliance.core.errors import error
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS, Limits
from appliance.transport.address import Address
from appliance.transport.channel import PqChannel
from appliance.transport.listener import Listener, StreamHandler
from appliance.transport.peers import PeerIdentity
from appliance.transport.server import peer_of
from appliance.transport.stream import SYNC_PATH, Stream
from tests.unit.transport.manners import BAD_TLS, MLDSA, UNPARSED, UPGRADE, Manners, make_id
from tests.unit.transport.rig import HOST, Echo, Node, listening, raw_client, refusal_of, until


async def test_further_routes_are_served_to_members_and_know_who_asks(alice: Node, bob: Node) -> None:
    async def who(request: web.Request) -> web.Response:
        return web.Response(text=str(peer_of(request)))

    listener = Listener(alice.credentials, alice.permits, LIMITS)
    listener.add_routes([web.get("/who", who)])
    context = Manners(bob.key()).context(bob.key_file.parent)
    async with asyncio.TaskGroup() as tasks:
        port = await listener.start(tasks, HOST, 0)
        async with raw_client(context, Address(HOST, port)) as client:
            await client.handshake()
            await client.send(b"GET /who HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
            answer = await client.receive_all()
        await listener.stop()
    assert answer.endswith(str(NodeId(bob.id)).encode())
    assert client.connection.get_alpn_proto_negotiated() == b""  # none was offered


async def test_a_request_in_the_same_packet_as_the_handshake_is_served_once(alice: Node, bob: Node) -> None:
    """The client is done one message earlier than the server, so its request may come before the verdict."""
    asked: list[bytes] = []

    async def count(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return web.Response(text="counted")

    listener = Listener(alice.credentials, alice.permits, LIMITS)
    listener.add_routes([web.post("/count", count)])
    context = Manners(bob.key()).context(bob.key_file.parent)
    body = bytes(range(256)) * 1000
    head = f"POST /count HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    async with asyncio.TaskGroup() as tasks:
        port = await listener.start(tasks, HOST, 0)
        async with raw_client(context, Address(HOST, port)) as client:
            client.after_handshake = head.encode() + body
            await client.handshake()
            assert (await client.receive_all()).endswith(b"counted")
        await listener.stop()
    assert asked == [body]


async def test_stopping_says_goodbye_on_every_stream(alice: Node, bob: Node, carol: Node) -> None:
    echo = Echo()
    async with listening(alice, echo) as served:
        streams = [await node.dialler().open(served.address, alice.id) for node in (bob, carol)]
        async with asyncio.TaskGroup() as tasks:
            ends = [tasks.create_task(stream.receive()) for stream in streams]
            await asyncio.sleep(0)
            await served.listener.stop()
        assert [end.result() for end in ends] == [None, None]
        for stream in streams:
            await stream.close()
        assert not served.listener.connections()
    assert echo.ends == ["end", "end"]


@pytest.mark.parametrize("state", ["half open", "refused", "idle", "deaf stream", "stubborn handler"])
async def test_stopping_takes_less_than_two_seconds_whatever_peers_do(alice: Node, bob: Node, state: str) -> None:
    class Stubborn:
        async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
            await asyncio.Event().wait()

    class Flood:
        async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
            while True:
                await stream.send(bytes(1 << 20))

    handlers: dict[str, StreamHandler] = {"deaf stream": Flood(), "stubborn handler": Stubborn()}
    context = Manners(bob.key()).context(bob.key_file.parent)
    if state == "refused":
        alice.strangers.add(bob.id)
    async with listening(alice, handlers.get(state)) as served, raw_client(context, served.address) as client:
        if state != "half open":
            await client.handshake()
        if state in {"deaf stream", "stubborn handler"}:
            await client.send(UPGRADE)
            assert b" 101 " in await client.receive()
        await asyncio.sleep(0.05)  # the flood fills the sockets
        begin = time.monotonic()
        await served.listener.stop()
        assert time.monotonic() - begin < 2


async def test_nothing_is_left_after_hundreds_of_connections(alice: Node, bob: Node) -> None:
    with warnings.catch_warnings(record=True) as leaks:
        warnings.simplefilter("always", ResourceWarning)
        async with listening(alice) as served:
            for _ in range(50):
                stream = await bob.dialler().open(served.address, alice.id)
                await stream.send(b"x")
                await stream.close()
            await until(lambda: not served.listener.connections())
            alice.strangers.add(bob.id)
            for _ in range(20):
                with pytest.raises(Exception, match=r"tls\.refused"):
                    await bob.dialler().open(served.address, alice.id)
        await asyncio.sleep(0)
        gc.collect()
    assert [str(leak.message) for leak in leaks] == []


@pytest.mark.parametrize(
    "manners", [Manners(MLDSA), BAD_TLS["X25519 alone"][0], UNPARSED], ids=["stranger", "TLS", "DER"]
)
async def test_a_refused_peer_is_forgotten_without_the_cycle_collector(
    alice: Node, tmp_path: Path, manners: Manners
) -> None:
    alice.strangers.add(make_id(MLDSA))
    context = manners.context(tmp_path)
    gc.collect()
    gc.disable()
    try:
        async with listening(alice) as served:
            for _ in range(3):
                async with raw_client(context, served.address) as client:
                    with suppress(SSL.Error, EOFError, OSError):
                        await client.handshake()
                        await client.send(UPGRADE)
                        await client.receive_all()
            await until(lambda: served.listener.refusals.total() == 3)
            await until(lambda: not any(isinstance(thing, PqChannel) for thing in gc.get_objects()))
    finally:
        gc.enable()


async def test_a_peer_that_leaves_at_once_is_no_error(
    alice: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = Manners(MLDSA).context(tmp_path)
    async with listening(alice) as served:
        for _ in range(10):
            async with raw_client(context, served.address) as client:
                await client.handshake()
                await client.send(UPGRADE)
        await until(lambda: not served.listener.connections())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_flood_from_one_host_does_not_push_out_a_slow_peer_at_another(alice: Node) -> None:
    async with listening(alice) as served:
        slow, slow_writer = await asyncio.open_connection(HOST, served.address.port, local_addr=("127.0.0.2", 0))
        flood = [await asyncio.open_connection(HOST, served.address.port) for _ in range(100)]
        await until(lambda: served.listener.refusals["tls.half_open"] == 101 - LIMITS.half_open)
        assert not slow.at_eof()
        slow_writer.write(b"GET")
        assert b"tls.plain" in await slow.read()  # it was still heard
        for _, writer in [*flood, (slow, slow_writer)]:
            writer.close()


async def test_a_member_that_asks_for_nothing_is_let_go(alice: Node, bob: Node) -> None:
    context = Manners(bob.key()).context(bob.key_file.parent)
    async with (
        listening(alice, limits=Limits(heartbeat_s=1)) as served,
        raw_client(context, served.address) as client,
    ):
        await client.handshake()
        await client.send(b"GET /x0t/sync/1 HTTP/1.1\r\nX-Slow: ")
        assert await client.receive() == b""


async def test_it_runs_as_a_job_until_cancelled(alice: Node, bob: Node) -> None:
    listener = Listener(alice.credentials, alice.permits, LIMITS)
    listener.mount(SYNC_PATH, Echo())
    ports: list[int] = []
    async with asyncio.TaskGroup() as tasks:
        job = tasks.create_task(listener.run(HOST, 0, ports.append))
        await until(lambda: bool(ports))
        stream = await bob.dialler().open(Address(HOST, ports[0]), alice.id)
        await stream.close()
        job.cancel()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, ports[0])


async def test_a_fault_of_ours_in_one_handshake_ends_that_alone(alice: Node, bob: Node) -> None:
    faulty = {bob.id}

    def permitted(node: bytes) -> bool:
        if node in faulty:
            raise LookupError("an error that nobody foresaw")
        return True

    async def contain(what: str, work: Awaitable[None]) -> None:
        try:
            await work
        except LookupError as err:
            raise error("daemon.fault", what=what) from err

    listener = Listener(alice.credentials, permitted, LIMITS, contain)
    listener.mount(SYNC_PATH, Echo())
    async with asyncio.TaskGroup() as tasks:
        address = Address(HOST, await listener.start(tasks, HOST, 0))
        try:
            await refusal_of(bob, address)
            assert set(listener.refusals) == {"daemon.fault"}
            faulty.clear()
            await (await bob.dialler().open(address)).close()
        finally:
            await listener.stop()


async def test_a_port_in_use_is_an_os_error(alice: Node, bob: Node) -> None:
    async with listening(alice) as served, asyncio.TaskGroup() as tasks:
        second = Listener(bob.credentials, bob.permits, LIMITS)
        with pytest.raises(OSError, match="in use"):
            await second.start(tasks, HOST, served.address.port)
        await second.stop()


async def test_a_member_that_is_turned_away_gets_its_place_back_later(alice: Node, bob: Node) -> None:
    async with listening(alice, limits=Limits(connections_per_peer=1)) as served:
        for _ in range(3):
            stream = await bob.dialler().open(served.address, alice.id)
            with pytest.raises(Exception, match=r"tls\.peer_busy"):
                await bob.dialler().open(served.address, alice.id)
            await stream.close()
            await until(lambda: not served.listener.connections())
    assert dict(served.listener.refusals) == {"tls.busy_peer": 3}
