"""The door for guests: one route for peers that are no members, and nothing else that was not there before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from OpenSSL import SSL

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.transport.address import Address
from appliance.transport.dialler import Dialler
from appliance.transport.guests import Guest
from appliance.transport.listener import Listener
from appliance.transport.stream import SYNC_PATH, BoundStream
from tests.unit.transport.manners import MLDSA, UPGRADE, Manners
from tests.unit.transport.rig import HOST, Echo, Node, RawTls, make_node, raw_client, until

DOOR = "/x0t/door/1"
KNOCK = UPGRADE.replace(SYNC_PATH.encode(), DOOR.encode())
FORBIDDEN = b"HTTP/1.1 403 "


class Porter:
    """Echoes what guests say; `stand` lets a guest stand at once."""

    def __init__(self, *, stand: bool = True) -> None:
        self.stand = stand
        self.guests: list[Guest] = []
        self.bindings: list[bytes] = []
        self.ends: list[str] = []

    async def receive(self, guest: Guest, stream: BoundStream) -> None:
        self.guests.append(guest)
        self.bindings.append(stream.binding)
        if self.stand:
            guest.stand()
        end = "end"
        try:
            while (message := await stream.receive()) is not None:
                if message == b"refuse":
                    raise error("stream.flood")
                await stream.send(message)
        except X0tError as err:
            end = err.key
            raise
        finally:
            self.ends.append(end)


class House:
    """A listener with a door, and who may come in at it."""

    def __init__(self, node: Node, limits: Limits, *, stand: bool = True) -> None:
        self.node = node
        self.porter = Porter(stand=stand)
        self.inside = Echo()
        self.banned: set[bytes] = set()
        self.asked: list[str] = []
        self.listener = Listener(node.credentials, node.permits, limits)
        self.listener.mount(SYNC_PATH, self.inside)
        self.listener.add_routes([web.get("/who", self._who)])
        self.listener.open_to_guests(DOOR, self.porter, lambda key: key not in self.banned)
        self.address = Address(HOST, 0)

    async def _who(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.Response(text="a member")

    async def guest(self, node: Node, limits: Limits = LIMITS) -> BoundStream:
        return await Dialler(node.credentials, lambda _: True, limits).open(self.address, self.node.id, DOOR)


@asynccontextmanager
async def house(node: Node, limits: Limits = LIMITS, *, stand: bool = True) -> AsyncIterator[House]:
    made = House(node, limits, stand=stand)
    async with asyncio.TaskGroup() as tasks:
        made.address = Address(HOST, await made.listener.start(tasks, HOST, 0))
        try:
            yield made
        finally:
            await made.listener.stop()


@pytest.fixture
def strangers(node: Node, tmp_path: Path) -> list[Node]:
    made = [make_node(tmp_path, f"stranger-{number}") for number in range(4)]
    node.strangers |= {stranger.id for stranger in made}
    return made


async def say(client: RawTls, data: bytes) -> bytes:
    await client.handshake()
    await client.send(data)
    return await client.receive_all()


class TestAGuest:
    async def test_is_served_at_the_door_and_shares_the_binding_of_the_session(
        self, node: Node, strangers: list[Node]
    ) -> None:
        async with house(node) as open_house:
            streams = [await open_house.guest(stranger) for stranger in strangers[:2]]
            for stream in streams:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
            assert open_house.porter.bindings == [stream.binding for stream in streams]
            assert len(set(open_house.porter.bindings)) == 2
            assert [guest.peer.node_id for guest in open_house.porter.guests] == [s.id for s in strangers[:2]]
            assert (open_house.listener.guests(), open_house.listener.connections().total()) == (2, 0)
            for stream in streams:
                await stream.close()
            await until(lambda: open_house.listener.guests() == 0)

    @pytest.mark.parametrize(
        "opening",
        [
            UPGRADE,
            KNOCK.replace(b"GET", b"POST", 1),
            KNOCK.replace(DOOR.encode(), DOOR.encode() + b"/"),
            KNOCK.replace(DOOR.encode(), DOOR.encode() + b"?a=1"),
            KNOCK.replace(DOOR.encode(), b"//" + DOOR.encode()),
            KNOCK.replace(b"HTTP/1.1", b"HTTP/1.0", 1),
            b"\r\n" + KNOCK,
            b"GET /x0t/door/1\tHTTP/1.1\r\n\r\n",
            bytes(70_000),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"G",
        ],
    )
    async def test_that_asks_for_anything_else_is_refused_unread(
        self, node: Node, tmp_path: Path, opening: bytes
    ) -> None:
        limits = Limits(handshake_s=1)
        async with (
            house(node, limits) as open_house,
            raw_client(Manners(MLDSA).context(tmp_path), open_house.address) as client,
        ):
            answer = await say(client, opening)
            assert answer.startswith(FORBIDDEN)
            assert b"X0t-Refusal: tls.peer_unknown" in answer
            assert dict(open_house.listener.refusals) == {"tls.peer_unknown": 1}
        assert (open_house.porter.guests, open_house.inside.peers, open_house.asked) == ([], [], [])

    async def test_may_send_its_request_in_any_pieces(self, node: Node, tmp_path: Path) -> None:
        async with (
            house(node) as open_house,
            raw_client(Manners(MLDSA).context(tmp_path), open_house.address) as client,
        ):
            await client.handshake()
            for at in range(0, len(KNOCK), 7):
                await client.send(KNOCK[at : at + 7])
                await asyncio.sleep(0)
            assert b" 101 " in await client.receive()

    async def test_finds_no_other_route_on_its_connection(self, node: Node, tmp_path: Path) -> None:
        """A request that fails leaves an HTTP connection open: what comes next on it meets the same walls."""
        async with (
            house(node) as open_house,
            raw_client(Manners(MLDSA).context(tmp_path), open_house.address) as client,
        ):
            await client.handshake()
            await client.send(f"GET {DOOR} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
            assert b" 400 " in await client.receive()
            await client.send(b"GET /who HTTP/1.1\r\nHost: node\r\n\r\n")
            assert b" 404 " in await client.receive()
            await client.send(UPGRADE)
            assert b" 404 " in await client.receive()
        assert (open_house.inside.peers, open_house.asked) == ([], [])

    async def test_that_is_not_welcome_is_refused_in_the_handshake(self, node: Node, strangers: list[Node]) -> None:
        async with house(node) as open_house:
            open_house.banned.add(strangers[0].id)
            with pytest.raises(X0tError) as caught:
                await open_house.guest(strangers[0])
            assert (caught.value.key, caught.value.detail["reason"]) == ("tls.refused", "tls.peer_unknown")
            stream = await open_house.guest(strangers[1])
            open_house.banned.add(strangers[1].id)
            open_house.listener.recheck()
            with pytest.raises(X0tError, match=r"stream\.cut"):
                await stream.receive()
            await stream.close()

    async def test_is_told_why_its_conversation_ends(self, node: Node, strangers: list[Node]) -> None:
        async with house(node) as open_house:
            stream = await open_house.guest(strangers[0])
            await stream.send(b"refuse")
            with pytest.raises(X0tError) as caught:
                await stream.receive()
            await stream.close()
        assert (caught.value.key, caught.value.detail["reason"]) == ("stream.closed_by_peer", "stream.flood")

    async def test_that_says_too_much_at_once_is_let_go(self, node: Node, strangers: list[Node]) -> None:
        limits = Limits(guest_message_bytes=1000)
        async with house(node, limits) as open_house:
            stream = await open_house.guest(strangers[0])
            await stream.send(bytes(1000))
            assert await stream.receive() == bytes(1000)
            await stream.send(bytes(1001))
            with pytest.raises(X0tError):
                await stream.receive()
            await stream.close()
            await until(lambda: open_house.porter.ends == ["stream.message_size"])

    @pytest.mark.parametrize("opcode", [0x2, 0x9, 0xA], ids=["messages", "pings", "pongs"])
    async def test_that_says_too_much_in_all_is_let_go(self, node: Node, tmp_path: Path, opcode: int) -> None:
        async with (
            house(node) as open_house,
            raw_client(Manners(MLDSA).context(tmp_path), open_house.address) as client,
        ):
            await client.handshake()
            await client.send(KNOCK)
            assert b" 101 " in await client.receive()
            await client.send(bytes([0x80 | opcode, 0x80, 0, 0, 0, 0]) * (LIMITS.guest_frames + 2))
            await until(lambda: open_house.porter.ends == ["stream.flood"])

    async def test_is_no_guest_where_it_is_a_member(self, node: Node, friend: Node) -> None:
        async with house(node) as open_house:
            stream = await open_house.guest(friend)
            await stream.send(b"me too")
            assert await stream.receive() == b"me too"
            assert (open_house.listener.guests(), open_house.listener.connections().total()) == (0, 1)
            await stream.close()


class TestPlaces:
    async def test_of_guests_are_not_those_of_members(self, node: Node, friend: Node, strangers: list[Node]) -> None:
        async with AsyncExitStack() as stack:
            open_house = await stack.enter_async_context(house(node, Limits(connections=1)))
            for stranger in strangers:
                stack.push_async_callback((await open_house.guest(stranger)).close)
            stream = await friend.dialler().open(open_house.address, node.id)
            stack.push_async_callback(stream.close)
            assert (open_house.listener.guests(), open_house.listener.connections().total()) == (4, 1)

    @pytest.mark.parametrize("limits", [Limits(guests=2), Limits(guests_per_host=2)], ids=["in all", "of a host"])
    async def test_of_newcomers_go_from_the_oldest_to_the_newest(
        self, node: Node, strangers: list[Node], limits: Limits
    ) -> None:
        async with house(node, limits, stand=False) as open_house:
            streams = [await open_house.guest(stranger) for stranger in strangers[:3]]
            assert open_house.listener.guests() == 2
            with pytest.raises(X0tError, match=r"stream\.cut"):
                await streams[0].receive()
            await streams[2].send(b"newest")
            assert await streams[2].receive() == b"newest"
            assert dict(open_house.listener.refusals) == {"tls.guests": 1}
            for stream in streams:
                await stream.close()

    async def test_of_those_whose_claim_stands_are_apart_and_bounded(self, node: Node, strangers: list[Node]) -> None:
        async with house(node, Limits(guests=1, guests_standing=2)) as open_house:
            streams = [await open_house.guest(stranger) for stranger in strangers[:3]]
            with pytest.raises(X0tError, match=r"stream\.cut"):
                await streams[0].receive()
            assert open_house.listener.guests() == 2
            for stream in streams:
                await stream.close()

    async def test_are_taken_over_by_the_same_key(self, node: Node, strangers: list[Node]) -> None:
        async with house(node) as open_house:
            first = await open_house.guest(strangers[0])
            second = await open_house.guest(strangers[0])
            with pytest.raises(X0tError, match=r"stream\.cut"):
                await first.receive()
            await second.send(b"again")
            assert await second.receive() == b"again"
            assert open_house.listener.guests() == 1
            for stream in (first, second):
                await stream.close()

    async def test_are_kept_for_a_while_only_by_who_shows_nothing(self, node: Node, strangers: list[Node]) -> None:
        async with house(node, Limits(guest_s=1)) as open_house:
            steady = await open_house.guest(strangers[0])
            await steady.send(b"?")
            assert await steady.receive() == b"?"
            open_house.porter.stand = False
            idle = await open_house.guest(strangers[1])
            with pytest.raises(X0tError, match=r"stream\.cut"):
                await idle.receive()
            await steady.send(b"still here")
            assert await steady.receive() == b"still here"
            assert dict(open_house.listener.refusals) == {"tls.guest_slow": 1}
            for stream in (steady, idle):
                await stream.close()

    async def test_are_lost_by_who_drips_the_head_of_its_request(self, node: Node, tmp_path: Path) -> None:
        async with (
            house(node, Limits(guest_s=1)) as open_house,
            raw_client(Manners(MLDSA).context(tmp_path), open_house.address) as client,
        ):
            await client.handshake()
            await client.send(f"GET {DOOR} HTTP/1.1\r\nX: ".encode())
            await until_cut(client)
            assert open_house.porter.guests == []


async def until_cut(client: RawTls) -> None:
    """Go on sending a byte now and then until the other side has had enough."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.send(b"a")
                async with asyncio.timeout(0.05):
                    await client.receive()
                return
            except TimeoutError:
                continue
            except (SSL.Error, EOFError, OSError):
                return
