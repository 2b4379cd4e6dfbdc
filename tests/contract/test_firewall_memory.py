"""What packets leave in the memories of our table: it makes judging cheap, and never decides."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import cycle

import msgspec
import pytest
import pytest_asyncio
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6ExtHdrDestOpt

from appliance.core.limits import LIMITS
from appliance.core.prefix import address_text
from appliance.netstack.nft.firewall import NftFirewall, wall_clock_ms
from appliance.netstack.nft.skeleton import MEMORIES
from appliance.policy.enforcement import Stage
from appliance.policy.filter import Grant, Key, ServiceRange
from tests.firewall_ground import Ground, first_drop, send, standing, udp, v6
from tests.firewall_rig import (
    FAR,
    HIGH,
    LOW,
    MEMBERS,
    NOBODY,
    NODE,
    OTHER,
    OWN,
    SERVICES,
    TABLE,
    UDP,
    KernelRig,
    a_filter,
)

pytestmark = pytest.mark.usefixtures("root")

ROUNDS = 20
LOW_KEY = Key(MEMBERS, NODE, LOW)


@pytest_asyncio.fixture
async def ground() -> AsyncIterator[Ground]:
    async with standing() as made:
        yield made


@pytest_asyncio.fixture
async def rig(ground: Ground) -> AsyncIterator[KernelRig]:
    made = KernelRig(ground.pair)
    yield made
    await made.close()


async def test_a_conversation_is_looked_up_once_and_counted_packet_by_packet(ground: Ground, rig: KernelRig) -> None:
    talk = rig.talk(FAR, OWN, 1500)
    assert [await talk.ask(), await talk.answer(), await talk.ask()] == [True] * 3
    assert await asyncio.to_thread(_remembered, ground) == [[address_text(FAR), address_text(OWN), "udp", 1500]]
    assert (await ground.firewall.counters())["inbound", LOW_KEY].packets == 3
    assert await ground.firewall.verify() == []


async def test_a_change_of_any_map_acts_on_what_was_remembered(ground: Ground, rig: KernelRig) -> None:
    held = a_filter(inbound=[(MEMBERS, LOW)])
    moved = {**SERVICES, ServiceRange(UDP, UDP, 1000, 1999): HIGH, ServiceRange(UDP, UDP, 2000, 2999): LOW}
    replace = msgspec.structs.replace
    for port, changed in enumerate(
        (
            replace(held, peers={FAR: NOBODY, OTHER: MEMBERS}),
            replace(held, locals={(OWN, OWN): NODE + 1}),
            replace(held, services=moved),
            replace(held, inbound={}),
        ),
        1500,
    ):
        await ground.firewall.apply(held)
        talk = rig.talk(FAR, OWN, port)
        assert [await talk.ask(), await talk.answer()] == [True] * 2
        await ground.firewall.apply(changed)
        assert [await talk.answer(), await talk.ask()] == [False] * 2


async def test_a_grant_that_ends_by_itself_ends_what_was_remembered(ground: Ground, rig: KernelRig) -> None:
    until = Grant((), wall_clock_ms() + 700)
    await ground.firewall.apply(a_filter(inbound={(MEMBERS, LOW): until}))
    talk = rig.talk(FAR, OWN, 1500)
    assert await talk.ask()
    async with asyncio.timeout(2):
        while await talk.ask():
            pass
    assert await asyncio.to_thread(_remembered, ground)


async def test_a_full_memory_costs_time_alone(ground: Ground, rig: KernelRig) -> None:
    small = NftFirewall(TABLE, msgspec.structs.replace(LIMITS, firewall_memory=1), ground.pair.connect)
    await small.prepare()
    await small.apply(ground.wanted)
    for port in (1500, 1501, 1502):
        talk = rig.talk(FAR, OWN, port)
        assert [await talk.ask(), await talk.answer()] == [True] * 2
    assert not await rig.talk(FAR, OWN, 2500).ask()
    assert len(await asyncio.to_thread(_remembered, ground)) == 1
    assert (await small.counters())["inbound", LOW_KEY].packets == 6
    await small.close()


async def test_what_others_put_into_a_memory_is_found_and_goes(ground: Ground, rig: KernelRig) -> None:
    forged = f"{address_text(OTHER)} . {address_text(OWN)} . udp . 1500 : 0 . {MEMBERS} . {NODE} . {LOW}"
    words = ["nft", "add", "element", "inet", TABLE.name, "known_inbound", f"{{ {forged} }}"]
    for restarted in (False, True):
        await asyncio.to_thread(ground.pair.node.run, words)
        assert [found.what.split()[0] for found in await ground.firewall.verify()] == ["known_inbound"]
        firewall = rig.firewall if restarted else ground.firewall
        if restarted:
            await firewall.prepare()
        await firewall.apply(ground.wanted)
        assert await asyncio.to_thread(_remembered, ground) == []
        assert not await rig.talk(OTHER, OWN, 1500).ask()


async def test_neither_icmpv6_nor_an_extension_header_makes_use_of_a_memory(ground: Ground) -> None:
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / ICMPv6EchoRequest(id=3))
    assert await asyncio.to_thread(_remembered, ground) == []
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / udp(1500))
    await asyncio.to_thread(send, ground, "far", v6(FAR, OWN) / IPv6ExtHdrDestOpt() / udp(1500))
    assert (await first_drop(ground.firewall)).stage is Stage.HEADER


async def test_packets_on_their_way_through_a_change_leave_nothing_wrong_behind(ground: Ground) -> None:
    held = a_filter(inbound=[(MEMBERS, LOW)])
    barred = msgspec.structs.replace(held, peers={FAR: NOBODY, OTHER: MEMBERS})
    with _knocking(ground):
        for _ in range(ROUNDS):
            await ground.firewall.apply(held)
            await ground.firewall.apply(barred)
            before = (await ground.firewall.counters())["inbound", LOW_KEY]
            assert await ground.firewall.verify() == []
            assert (await ground.firewall.counters())["inbound", LOW_KEY] == before


@contextmanager
def _knocking(ground: Ground) -> Iterator[None]:
    """Somebody sends to one port after another all the time."""
    over = threading.Event()

    def knock() -> None:
        ports = cycle(range(1000, 2000))
        with ground.pair.far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind((address_text(FAR), 0))
            while not over.is_set():
                try:
                    one.sendto(b"x", (address_text(OWN), next(ports)))
                except OSError:  # nobody listens there
                    continue

    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _remembered(ground: Ground) -> list[list[str | int]]:
    """Source, target, protocol and port of all that is in the memories, as `nft` tells it."""
    found = []
    for name in MEMORIES:
        listed = json.loads(ground.pair.node.run(["nft", "-j", "list", "map", "inet", TABLE.name, name]).stdout)
        for key, _ in listed["nftables"][-1]["map"].get("elem", []):
            found.append((key["elem"]["val"] if "elem" in key else key)["concat"])
    return found
