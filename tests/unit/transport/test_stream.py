from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.transport.address import Address
from appliance.transport.peers import PeerIdentity
from appliance.transport.stream import Stream
from tests.unit.transport.manners import UPGRADE, Manners
from tests.unit.transport.rig import Echo, Node, RawTls, listening, raw_client, until

MIB = 1 << 20


class Handler:
    """A stream handler from a function."""

    def __init__(self, behave: Callable[[Stream], Awaitable[None]]) -> None:
        self._behave = behave
        self.raised: list[str] = []
        self.ended = asyncio.Event()

    async def handle(self, peer: PeerIdentity, stream: Stream) -> None:
        assert stream.peer == peer
        try:
            await self._behave(stream)
        except X0tError as err:
            self.raised.append(err.key)
            raise
        finally:
            self.ended.set()


async def key_of(receive: Callable[[], Awaitable[object]]) -> tuple[str, str]:
    with pytest.raises(X0tError) as caught:
        await receive()
    return caught.value.key, caught.value.detail.get("reason", "")


def frame(opcode: int, payload: bytes, announced: int | None = None) -> bytes:
    """A masked frame of RFC 6455 with a mask of zeros."""
    size = len(payload) if announced is None else announced
    short = struct.pack("!BB", 0x80 | opcode, 0x80 | size) if size < 126 else b""
    return (short or struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)) + bytes(4) + payload


async def test_sixteen_mib_return_byte_by_byte_in_messages_of_the_highest_size(alice: Node, bob: Node) -> None:
    messages = [os.urandom(MIB) for _ in range(16)]
    async with listening(alice) as served, asyncio.TaskGroup() as tasks:
        stream = await bob.dialler().open(served.address, alice.id)

        async def send_all() -> None:
            for message in messages:
                await stream.send(message)

        tasks.create_task(send_all())
        assert [await stream.receive() for _ in messages] == messages
        await stream.close()


async def test_sixteen_mib_return_in_one_message_where_the_limit_allows_it(alice: Node, bob: Node) -> None:
    limits = Limits(sync_frame_bytes=16 * MIB)
    message = os.urandom(16 * MIB)
    async with listening(alice, limits=limits) as served:
        stream = await bob.dialler(limits).open(served.address, alice.id)
        await stream.send(message)
        assert await stream.receive() == message
        await stream.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 16_383, 16_384, 16_385, 65_535, 65_536, MIB])
async def test_a_message_of_any_allowed_size_returns(alice: Node, bob: Node, size: int) -> None:
    async with listening(alice) as served:
        stream = await bob.dialler().open(served.address, alice.id)
        await stream.send(bytes(size))
        assert await stream.receive() == bytes(size)
        await stream.close()


async def test_a_message_over_the_limit_is_refused_before_it_is_sent(alice: Node, bob: Node) -> None:
    async with listening(alice) as served:
        stream = await bob.dialler().open(served.address, alice.id)
        assert await key_of(lambda: stream.send(bytes(MIB + 1))) == ("stream.message_size", "")
        await stream.send(b"the stream goes on")
        assert await stream.receive() == b"the stream goes on"
        await stream.close()


async def test_a_peer_that_sends_a_message_over_the_limit_is_cut_off(alice: Node, bob: Node) -> None:
    echo = Echo()
    async with listening(alice, echo) as served:
        stream = await bob.dialler(Limits(sync_frame_bytes=2 * MIB)).open(served.address, alice.id)
        await stream.send(bytes(MIB + 1))
        key, _ = await key_of(stream.receive)
        assert key in {"stream.closed_by_peer", "stream.cut"}  # its parting words may be lost in the flood
        await echo.ended.wait()
        await stream.close()
    assert echo.ends == ["stream.message_size"]


@asynccontextmanager
async def by_hand(node: Node, address: Address) -> AsyncIterator[RawTls]:
    """A stream of *node* whose frames the test writes itself."""
    context = Manners(node.key()).context(node.key_file.parent)
    async with raw_client(context, address) as client:
        await client.handshake()
        await client.send(UPGRADE)
        assert b" 101 " in await client.receive()
        yield client


async def test_text_is_refused(alice: Node, bob: Node) -> None:
    echo = Echo()
    async with listening(alice, echo) as served, by_hand(bob, served.address) as client:
        await client.send(frame(1, b"hello"))
        assert b"stream.message_kind" in await client.receive()
        await client.send(frame(8, struct.pack("!H", 1000)))
        await echo.ended.wait()
    assert echo.ends == ["stream.message_kind"]


@pytest.mark.parametrize(
    "last_words, end",
    [
        (frame(2, b"half of it", announced=1000), "stream.cut"),
        (b"", "stream.cut"),
        (frame(8, struct.pack("!H", 1000)), "end"),
        (frame(8, struct.pack("!H", 1001)), "end"),
        (frame(8, struct.pack("!H", 4000) + b"sync.stall"), "stream.closed_by_peer"),
        (frame(8, struct.pack("!H", 1011)), "stream.closed_by_peer"),
        (b"\xff" * 100, "stream.cut"),
    ],
    ids=["mid-frame", "between frames", "proper", "going away", "with a reason", "failing", "nonsense"],
)
@pytest.mark.parametrize("part", ["cut", "close_notify", "half close"])
async def test_the_end_of_a_stream_is_told_apart_from_a_cut(
    alice: Node, bob: Node, last_words: bytes, end: str, part: str
) -> None:
    echo = Echo()
    async with listening(alice, echo) as served, by_hand(bob, served.address) as client:
        await client.send(frame(2, b"first") + last_words)
        assert b"first" in await client.receive()
        match part:
            case "cut":
                client.writer.transport.abort()
            case "close_notify":
                client.connection.shutdown()
                await client.flush()
            case _:
                client.writer.write_eof()
        await echo.ended.wait()
        await until(lambda: not served.listener.connections())
    assert echo.ends == [end]


async def test_the_dialling_side_tells_them_apart_as_well(alice: Node, bob: Node) -> None:
    async def leave(stream: Stream) -> None:
        match await stream.receive():
            case b"return":
                return
            case b"fail":
                raise error("sync.mesh")
            case _:
                await stream.close("sync.window")

    async with listening(alice, Handler(leave)) as served:
        for wish, outcome in {
            b"fail": ("stream.closed_by_peer", "sync.mesh"),
            b"close": ("stream.closed_by_peer", "sync.window"),
        }.items():
            stream = await bob.dialler().open(served.address, alice.id)
            await stream.send(wish)
            assert await key_of(stream.receive) == outcome
            assert await stream.receive() is None
            await stream.close()
        stream = await bob.dialler().open(served.address, alice.id)
        await stream.send(b"return")
        assert await stream.receive() is None
        assert await stream.receive() is None
        assert await key_of(lambda: stream.send(b"too late")) == ("stream.cut", "it is closed")
        await stream.close()


async def test_a_cut_ends_the_dialling_side_too(alice: Node, bob: Node) -> None:
    async with listening(alice) as served:
        stream = await bob.dialler().open(served.address, alice.id)
        alice.strangers.add(bob.id)
        served.listener.recheck()
        key, _ = await key_of(stream.receive)
        assert key == "stream.cut"
        await stream.close()
        assert dict(served.listener.refusals) == {"tls.peer_unknown": 1}


async def test_closing_while_another_task_receives_ends_its_wait(alice: Node, bob: Node) -> None:
    async with listening(alice) as served, asyncio.TaskGroup() as tasks:
        stream = await bob.dialler().open(served.address, alice.id)
        received = tasks.create_task(stream.receive())
        await asyncio.sleep(0)
        await stream.close()
        assert await received is None


async def test_sending_waits_for_a_peer_that_does_not_receive(alice: Node, bob: Node) -> None:
    may_read = asyncio.Event()
    counts: list[int] = []

    async def read_late(stream: Stream) -> None:
        await may_read.wait()
        while (message := await stream.receive()) is not None:
            counts.append(len(message))

    handler = Handler(read_late)
    async with listening(alice, handler) as served, asyncio.TaskGroup() as tasks:
        stream = await bob.dialler().open(served.address, alice.id)
        sent: list[int] = []

        async def send_all() -> None:
            for _ in range(64):
                await stream.send(bytes(MIB))
                sent.append(MIB)

        sending = tasks.create_task(send_all())
        before = -1
        while before != len(sent):  # nothing moved for a while
            before = len(sent)
            await asyncio.sleep(0.1)
        assert len(sent) < 32  # of 64: the sockets of the kernel hold some MiB
        may_read.set()
        await sending
        await stream.close()
        await handler.ended.wait()
    assert counts == sent


async def test_many_streams_at_once_do_not_mix(alice: Node, bob: Node, carol: Node) -> None:
    async def talk(node: Node, number: int) -> None:
        stream = await node.dialler().open(served.address, alice.id)
        for turn in range(20):
            message = f"{number}.{turn}".encode() * 1000
            await stream.send(message)
            assert await stream.receive() == message
        await stream.close()

    echo = Echo()
    async with listening(alice, echo) as served:
        async with asyncio.TaskGroup() as tasks:
            for number in range(LIMITS.connections_per_peer):
                tasks.create_task(talk(bob, number))
                tasks.create_task(talk(carol, -number))
        await until(lambda: not served.listener.connections())
    assert sorted(echo.peers) == sorted([bob.id, carol.id] * LIMITS.connections_per_peer)
    assert set(echo.ends) == {"end"}


async def test_a_peer_that_neither_answers_nor_leaves_is_given_up(alice: Node, bob: Node) -> None:
    echo = Echo()
    async with listening(alice, echo, Limits(heartbeat_s=1)) as served, by_hand(bob, served.address):
        await echo.ended.wait()  # the peer never answers the ping
    assert echo.ends == ["stream.cut"]


async def test_the_peer_that_answers_pings_stays(alice: Node, bob: Node) -> None:
    limits = Limits(heartbeat_s=1)
    async with listening(alice, limits=limits) as served, asyncio.TaskGroup() as tasks:
        stream = await bob.dialler(limits).open(served.address, alice.id)
        received = tasks.create_task(stream.receive())
        await asyncio.sleep(2.5)  # two heartbeats: their clock is aiohttp's
        assert not received.done()
        await stream.send(b"here")
        assert await received == b"here"
        await stream.close()


async def test_no_extension_is_agreed_on(alice: Node, bob: Node) -> None:
    """Compressed secrets leak their length, and a small message could unpack to a huge one."""
    context = Manners(bob.key()).context(bob.key_file.parent)
    async with listening(alice) as served, raw_client(context, served.address) as client:
        await client.handshake()
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        await client.send(UPGRADE.removesuffix(b"\r\n") + offer)
        answer = await client.receive()
        assert b" 101 " in answer
        assert b"permessage" not in answer
