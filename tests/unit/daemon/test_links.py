from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from appliance.core.errors import InputError, IntegrityError, error
from appliance.core.ids import NodeId
from appliance.core.limits import Limits
from appliance.daemon import events
from appliance.daemon.changes import Changes
from appliance.daemon.links import Links
from appliance.daemon.target import Target, parse_target
from appliance.transport.address import Address
from appliance.transport.peers import PeerIdentity

A, B, C = (NodeId(bytes([n]) * 32) for n in (1, 2, 3))
AT_B, AT_C = Address("b", 1), Address("c", 1)
LIMITS = Limits(peer_backoff_min_s=0, peer_backoff_max_s=0, redial_max_s=0)


class Wire:
    """One end of a connection in memory."""

    def __init__(self, peer: NodeId) -> None:
        self.peer = PeerIdentity(peer.raw, b"")
        self.closed = asyncio.Event()
        self.failure: Exception | None = None

    async def send(self, message: bytes) -> None:
        raise AssertionError(message)

    async def receive(self) -> bytes | None:
        raise AssertionError

    async def close(self, reason: str = "") -> None:
        self.closed.set()

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self.closed.set()


class Slow(Wire):
    """One that takes its time to close."""

    def __init__(self, peer: NodeId) -> None:
        super().__init__(peer)
        self.asked, self.let_go = asyncio.Event(), asyncio.Event()

    async def close(self, reason: str = "") -> None:
        self.asked.set()
        await self.let_go.wait()
        await super().close(reason)


class Net:
    """Answers dials and remembers them."""

    def __init__(self) -> None:
        self.dialled: asyncio.Queue[Wire] = asyncio.Queue()
        self.answers: Callable[[Target], NodeId] = lambda target: target.node or B

    async def dial(self, target: Target) -> Wire:
        wire = Wire(self.answers(target))
        self.dialled.put_nowait(wire)
        return wire

    async def drive(self, wire: object, dialled: bool) -> None:
        assert isinstance(wire, Wire)
        await wire.closed.wait()
        if wire.failure:
            raise wire.failure


@asynccontextmanager
async def links_of(node: NodeId, net: Net, *targets: Target) -> AsyncIterator[tuple[Links, asyncio.TaskGroup]]:
    links = Links(node, net.dial, net.drive, Changes(), LIMITS)
    links.want(targets)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        tasks = [group.create_task(links.run())]
        await asyncio.sleep(0)
        yield links, group
        for task in tasks:
            task.cancel()


async def until(links: Links, holds: Callable[[], bool]) -> None:
    while not holds():
        await links.changes.after(links.changes.count)


async def refused(links: Links, wire: Wire) -> None:
    with pytest.raises(IntegrityError):
        await links.handle(wire.peer, wire)


async def test_a_wanted_peer_is_dialled_and_dialled_again_when_it_is_lost() -> None:
    net = Net()
    async with links_of(A, net, Target(AT_B, B)) as (links, _):
        first = await net.dialled.get()
        await until(links, lambda: B in links.up())
        await first.close()
        second = await net.dialled.get()
        await until(links, lambda: B in links.up())
        assert links.up()[B].stream is second


@pytest.mark.parametrize("own,stays", [(A, "out"), (C, "in")])
async def test_of_two_connections_the_one_dialled_by_the_smaller_id_stays(own: NodeId, stays: str) -> None:
    net = Net()
    async with links_of(own, net, Target(AT_B, B)) as (links, group):
        out = await net.dialled.get()
        await until(links, lambda: B in links.up())
        accepted = Wire(B)
        group.create_task(links.handle(accepted.peer, accepted))
        kept, lost = (out, accepted) if stays == "out" else (accepted, out)
        await lost.closed.wait()
        await until(links, lambda: B in links.up() and links.up()[B].stream is kept)
        assert net.dialled.empty()
        await kept.close()


async def test_a_peer_that_dials_again_replaces_its_dead_connection() -> None:
    net = Net()
    async with links_of(A, net) as (links, group):
        old, new = Wire(B), Wire(B)
        group.create_task(links.handle(old.peer, old))
        await until(links, lambda: B in links.up())
        group.create_task(links.handle(new.peer, new))
        await old.closed.wait()
        await until(links, lambda: B in links.up() and links.up()[B].stream is new)
        await new.close()


async def test_cut_closes_all_and_refuses_new_ones_until_restore() -> None:
    net = Net()
    async with links_of(A, net, Target(AT_B, B)) as (links, _group):
        wire = await net.dialled.get()
        await until(links, lambda: B in links.up())
        assert await links.cut(None) == 1
        assert wire.closed.is_set()
        assert not links.up()
        assert links.is_cut
        knocking = Wire(C)
        await links.handle(knocking.peer, knocking)
        assert knocking.closed.is_set()
        assert net.dialled.empty()
        links.restore(None)
        await net.dialled.get()
        await until(links, lambda: B in links.up())


async def test_a_stream_that_was_to_replace_another_stays_down_if_a_cut_comes_first() -> None:
    net = Net()
    async with links_of(A, net) as (links, group):
        old, new = Slow(B), Wire(B)
        group.create_task(links.handle(old.peer, old))
        await until(links, lambda: B in links.up())
        group.create_task(links.handle(new.peer, new))
        await old.asked.wait()  # the new one waits for the old one to close
        cutting = group.create_task(links.cut(B))
        await asyncio.sleep(0)
        old.let_go.set()
        assert await cutting == 1
        await new.closed.wait()
        assert not links.up()


async def test_cut_can_be_of_one_peer() -> None:
    net = Net()
    async with links_of(A, net, Target(AT_B, B), Target(AT_C, C)) as (links, _):
        await until(links, lambda: len(links.up()) == 2)
        assert await links.cut(B) == 1
        assert list(links.up()) == [C]


async def test_a_peer_that_breaks_the_protocol_is_left_alone_for_a_while() -> None:
    net = Net()
    links = Links(A, net.dial, net.drive, Changes(), Limits())
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(links.run())
        await asyncio.sleep(0)
        liar = Wire(B)
        group.create_task(refused(links, liar))
        await until(links, lambda: B in links.up())
        liar.fail(error("sync.claimed_not_sent"))
        await until(links, lambda: B not in links.up())
        assert not links.is_open_to(B)
        assert links.is_open_to(C)
        again = Wire(B)
        await links.handle(again.peer, again)
        assert again.closed.is_set()
        assert not links.up()
        task.cancel()


@pytest.mark.blocking  # the traceback in the log reads source files
async def test_a_fault_of_ours_on_one_link_ends_no_other() -> None:
    net = Net()
    async with links_of(A, net, Target(AT_B, B), Target(AT_C, C)) as (links, _):
        wires = {NodeId(wire.peer.node_id): wire for wire in [await net.dialled.get(), await net.dialled.get()]}
        await until(links, lambda: len(links.up()) == 2)
        wires[B].fail(ExceptionGroup("", [AttributeError("a mistake")]))
        again = await net.dialled.get()
        await until(links, lambda: B in links.up() and links.up()[B].stream is again)
        assert links.up()[C].stream is wires[C]


async def test_a_peer_that_merely_went_away_may_come_back_at_once() -> None:
    net = Net()
    async with links_of(A, net) as (links, group):
        wire = Wire(B)
        group.create_task(links.handle(wire.peer, wire))
        await until(links, lambda: B in links.up())
        wire.fail(ConnectionResetError())
        await until(links, lambda: B not in links.up())
        assert links.is_open_to(B)


async def test_a_node_that_dials_itself_gives_that_address_up() -> None:
    net = Net()
    net.answers = lambda _: A
    async with links_of(A, net, Target(Address("me", 1))) as (links, _):
        wire = await net.dialled.get()
        await wire.closed.wait()
        await asyncio.sleep(0)
        assert net.dialled.empty()
        assert links.dialling()[0].note == "this is the node itself"


async def test_a_fault_in_dialling_one_target_leaves_the_others_up() -> None:
    net = Net()

    def answer(target: Target) -> NodeId:
        if target.address == AT_C:
            raise ValueError("an error that nobody foresaw")
        return B

    net.answers = answer
    with capture_logs() as logged:
        async with links_of(A, net, Target(AT_C), Target(AT_B)) as (links, _):
            await until(links, lambda: B in links.up())
            assert [dialling.note for dialling in links.dialling() if "daemon.fault" in dialling.note]
    assert events.FAULT in {line["event"] for line in logged}


async def test_an_unwanted_target_is_no_longer_dialled() -> None:
    net = Net()
    async with links_of(A, net, Target(AT_B, B)) as (links, _):
        wire = await net.dialled.get()
        await until(links, lambda: B in links.up())
        links.want(())
        await wire.closed.wait()
        assert not links.dialling()


@pytest.mark.parametrize(
    "text,target",
    [
        ("gw:7330", Target(Address("gw", 7330))),
        ("[::1]:1", Target(Address("::1", 1))),
        (f"{B}@gw:1", Target(Address("gw", 1), B)),
    ],
)
def test_a_peer_is_written_as_host_and_port(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize("text", ["gw", ":1", "::1:1", "gw:0", "gw:65536", "gw:x", "node1x@gw:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_target(text)
