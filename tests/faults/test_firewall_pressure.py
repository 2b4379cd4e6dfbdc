"""Packets that knock while the table changes, changes that meet, and filters as large as they get."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from appliance.core.prefix import address_text
from appliance.netstack.nft.firewall import NftFirewall
from appliance.policy.filter import Key
from tests.faults.firewall_faults import holds
from tests.firewall_bench import DENIED_PORT, GRANTED_PORT, knocking
from tests.firewall_rig import ANY_TIME, FAR, GRANTS, HIGH, LOW, MEMBERS, NODE, OWN, PEERS, TABLE, Pair, a_filter, large

pytestmark = pytest.mark.usefixtures("root")

PATIENT_S = 2.0  # what does not arrive in this time does not arrive


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    await asyncio.to_thread(made.__enter__)
    yield made
    await asyncio.to_thread(made.__exit__, None, None, None)


@pytest_asyncio.fixture
async def firewall(pair: Pair) -> AsyncIterator[NftFirewall]:
    made = NftFirewall(TABLE, connect=pair.connect)
    await made.prepare()
    yield made
    await made.close()


async def test_nothing_slips_through_while_the_whole_table_is_written_again_and_again(
    pair: Pair, firewall: NftFirewall
) -> None:
    wanted = a_filter(inbound=[(MEMBERS, LOW)])
    await firewall.apply(wanted)
    harmless = ["nft", "add", "rule", "inet", TABLE.name, "untracked", "counter"]
    with knocking(pair) as arrived:
        for _ in range(25):
            await asyncio.to_thread(pair.node.run, harmless)
            assert (await firewall.apply(wanted)).rebuilt
    assert arrived[DENIED_PORT] == 0
    assert arrived[GRANTED_PORT] > 1_000


async def test_nothing_slips_through_while_members_and_grants_come_and_go(pair: Pair, firewall: NftFirewall) -> None:
    filters = [
        a_filter(inbound=[(MEMBERS, LOW)]),
        a_filter(inbound=[(MEMBERS, LOW)], peers={}),
        a_filter(),
        a_filter(inbound=[(MEMBERS, LOW)], peers={FAR: 77}),
    ]
    with knocking(pair) as arrived:
        for _ in range(20):
            for one in filters:
                await firewall.apply(one)
    assert arrived[DENIED_PORT] == 0
    assert arrived[GRANTED_PORT] > 0


async def test_what_is_granted_goes_on_without_a_gap_while_other_things_change(
    pair: Pair, firewall: NftFirewall
) -> None:
    filters = [a_filter(inbound=[(MEMBERS, LOW), (other, LOW)]) for other in (90, 91)]
    await firewall.apply(filters[0])
    with (
        pair.far.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mouth,
        pair.node.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ear,
    ):
        mouth.bind((address_text(FAR), 0))
        ear.bind((address_text(OWN), GRANTED_PORT))
        ear.setblocking(False)
        for round_ in range(50):
            changing = asyncio.ensure_future(firewall.apply(filters[round_ % 2]))
            while not changing.done():
                mouth.sendto(b"hello", (address_text(OWN), GRANTED_PORT))
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ear, 64), PATIENT_S)
            assert (await changing).added == 1 or round_ == 0


async def test_two_processes_that_write_the_same_table_leave_it_to_one_of_them(
    pair: Pair, firewall: NftFirewall
) -> None:
    second = NftFirewall(TABLE, connect=pair.connect)
    await second.prepare()
    mine, theirs = a_filter(inbound=[(MEMBERS, LOW)]), a_filter(outbound=[(MEMBERS, LOW)])
    for _ in range(20):
        await asyncio.gather(firewall.apply(mine), second.apply(theirs))
        found = [await asyncio.to_thread(holds, pair.node, one) for one in (mine, theirs)]
        assert sorted(found) == [False, True]
    await second.close()


async def test_ten_thousand_peers_and_fifty_thousand_elements(pair: Pair, firewall: NftFirewall) -> None:
    wanted = large()
    only_low = {key: grant for key, grant in wanted.inbound.items() if key != Key(1, NODE, HIGH)}
    wanted = msgspec.structs.replace(wanted, peers={**wanted.peers, FAR: 1}, inbound=only_low)
    key = Key(1, NODE, 500_000)
    one_more = msgspec.structs.replace(wanted, inbound={**wanted.inbound, key: ANY_TIME})
    with knocking(pair) as arrived:
        done = await firewall.apply(wanted)
        assert done.added == PEERS + GRANTS + 3
        assert await firewall.verify() == []
        assert len(await firewall.counters()) == GRANTS - 1
        assert (await firewall.apply(one_more)).added == 1
        await asyncio.to_thread(pair.node.run, ["nft", "add", "rule", "inet", TABLE.name, "untracked", "counter"])
        assert (await firewall.apply(one_more)).rebuilt
    assert arrived[DENIED_PORT] == 0
    assert arrived[GRANTED_PORT] > 0
    again = NftFirewall(TABLE, connect=pair.connect)
    await again.prepare()
    assert (await again.apply(one_more)).added == 0
    await again.close()
    await asyncio.to_thread(pair.node.run, ["nft", "flush", "ruleset"])
    assert await asyncio.wait_for(firewall.disturbed(), 5)
    assert (await firewall.apply(one_more)).rebuilt
    assert await firewall.verify() == []
