"""What every firewall promises, the one in the kernel and the one in memory."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec
import pytest
import pytest_asyncio

from appliance.core.prefix import parse_address
from appliance.netstack.nft.firewall import wall_clock_ms
from appliance.policy.enforcement import Applied, Firewall
from appliance.policy.filter import Grant, Key
from tests.faults.firewall_faults import FaultySocket, Plan, about_conversations, refuses, where
from tests.firewall_rig import (
    ANY_TIME,
    ECHO,
    FAR,
    HIGH,
    HOST,
    HOSTS,
    LOW,
    MEMBERS,
    NOBODY,
    NODE,
    OTHER,
    OWN,
    STRANGER,
    FakeRig,
    FirewallRig,
    KernelRig,
    Pair,
    a_filter,
)

LOW_PORT, HIGH_PORT = 1500, 2500
IN_LOW = ("inbound", Key(MEMBERS, NODE, LOW))


class PlannedRig(KernelRig):
    """The firewall in nf_tables, whose sockets fail as planned."""

    def __init__(self, pair: Pair) -> None:
        self.plan = Plan()
        super().__init__(pair, self._socket)

    def _socket(self) -> socket.socket:
        with self.pair.node.enter():
            return FaultySocket.made(self.plan)

    @contextmanager
    def lingering(self) -> Iterator[None]:
        self.plan.arm(where(about_conversations, refuses(errno.ENOMEM)))
        yield
        self.plan.arm(None)


@pytest_asyncio.fixture(params=["kernel", "fake"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[FirewallRig]:
    if request.param == "fake":
        fake = FakeRig()
        yield fake
        await fake.close()
        return
    request.getfixturevalue("root")
    pair = Pair()
    await asyncio.to_thread(pair.__enter__)
    try:
        made = PlannedRig(pair)
        yield made
        await made.close()
    finally:
        await asyncio.to_thread(pair.__exit__, None, None, None)


async def opens(rig: FirewallRig, opener: bytes, opened: bytes, port: int) -> bool:
    """True if a packet that opens a conversation arrives, and its answer comes back."""
    talk = rig.talk(opener, opened, port)
    return await talk.ask() and await talk.answer()


async def test_both_are_firewalls(rig: FirewallRig) -> None:
    firewall: Firewall = rig.firewall
    await firewall.prepare()


async def test_nothing_crosses_before_there_is_a_filter(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    assert not await opens(rig, FAR, OWN, LOW_PORT)
    assert not await opens(rig, OWN, FAR, LOW_PORT)
    assert not await rig.echo(FAR, OWN)
    assert await rig.firewall.verify() == []


async def test_what_is_granted_crosses_and_nothing_else(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    wanted = a_filter(inbound=[(MEMBERS, LOW), (MEMBERS, ECHO)], outbound=[(MEMBERS, HIGH)])
    assert await rig.firewall.apply(wanted) == Applied(10, 0, rebuilt=False, ended=0)
    found = {
        "in low": await opens(rig, FAR, OWN, LOW_PORT),
        "in high": await opens(rig, FAR, OWN, HIGH_PORT),
        "in beyond": await opens(rig, FAR, OWN, 3000),
        "out low": await opens(rig, OWN, FAR, LOW_PORT),
        "out high": await opens(rig, OWN, FAR, HIGH_PORT),
        "echo in": await rig.echo(FAR, OWN),
        "echo out": await rig.echo(OWN, FAR),
        "member without rights": await opens(rig, OTHER, OWN, LOW_PORT),
        "host of another class": await opens(rig, HOST, OWN, LOW_PORT),
        "stranger": await opens(rig, STRANGER, OWN, LOW_PORT),
    }
    assert {what for what, passed in found.items() if passed} == {"in low", "out high", "echo in"}


@pytest.mark.parametrize("port", [999, 1000, 1999, 2000])
async def test_ranges_of_ports_are_exact(rig: FirewallRig, port: int) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    assert await opens(rig, FAR, OWN, port) == (1000 <= port <= 1999)


async def test_a_host_behind_another_gateway_is_judged_by_its_interval(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(HOSTS, LOW)]))
    assert await opens(rig, HOST, OWN, LOW_PORT)
    assert not await opens(rig, FAR, OWN, LOW_PORT)


async def test_a_member_has_no_rights_of_the_subnet_that_its_address_lies_in(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(HOSTS, LOW)], peers={HOST: NOBODY}))
    assert not await opens(rig, HOST, OWN, LOW_PORT)


async def test_a_revoked_conversation_stops_at_once_also_an_established_one(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW), (MEMBERS, HIGH)]))
    talk, stays = rig.talk(FAR, OWN, LOW_PORT), rig.talk(FAR, OWN, HIGH_PORT)
    for one in (talk, stays):
        assert await one.ask()
        assert await one.answer()
    assert await rig.firewall.apply(a_filter(inbound=[(MEMBERS, HIGH)])) == Applied(0, 1, rebuilt=False, ended=1)
    assert not await talk.ask()
    assert not await talk.answer()
    assert await stays.ask()
    assert await stays.answer()
    assert [flow.port for flow in await rig.firewall.flows()] == [HIGH_PORT]


async def test_conversations_that_cannot_be_ended_are_cut_all_the_same_and_ended_later(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    talk = rig.talk(FAR, OWN, LOW_PORT)
    assert [await talk.ask(), await talk.answer()] == [True] * 2
    with rig.lingering():
        for removed in (1, 0):
            done = await rig.firewall.apply(a_filter())
            assert (done.removed, done.ended, bool(done.owed)) == (removed, 0, True)
            assert [await talk.ask(), await talk.answer()] == [False] * 2
            assert await rig.firewall.verify() == []
    assert len(await rig.firewall.flows()) == 1
    assert await rig.firewall.apply(a_filter()) == Applied(ended=1)
    assert await rig.firewall.flows() == []
    assert await rig.firewall.apply(a_filter()) == Applied()


async def test_a_member_that_leaves_loses_its_conversations(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(outbound=[(MEMBERS, LOW)]))
    talk = rig.talk(OWN, FAR, LOW_PORT)
    assert await talk.ask()
    assert await talk.answer()
    done = await rig.firewall.apply(a_filter(outbound=[(MEMBERS, LOW)], peers={OTHER: NOBODY}))
    assert done == Applied(0, 1, rebuilt=False, ended=1)
    assert not await talk.answer()


async def test_the_same_filter_again_changes_nothing(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    assert await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)])) == Applied()


async def test_a_small_change_is_small_and_keeps_the_counters_of_the_rest(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    assert await opens(rig, FAR, OWN, LOW_PORT)
    done = await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW), (MEMBERS, HIGH)]))
    assert (done.added, done.removed) == (1, 0)
    counted = await rig.firewall.counters()
    assert counted[IN_LOW].packets == 2  # both directions
    assert counted[IN_LOW].bytes > 0
    assert counted["inbound", Key(MEMBERS, NODE, HIGH)].packets == 0


async def test_a_changed_class_is_one_that_goes_and_one_that_comes(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    assert await opens(rig, FAR, OWN, LOW_PORT)
    done = await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)], peers={FAR: NOBODY, OTHER: MEMBERS}))
    assert (done.added, done.removed) == (2, 2)
    assert not await opens(rig, FAR, OWN, LOW_PORT)
    assert await opens(rig, OTHER, OWN, LOW_PORT)


async def test_a_grant_ends_at_its_moment_with_nobody_acting(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    now_ms = wall_clock_ms()
    ending = {(MEMBERS, LOW): Grant((), now_ms + 400), (MEMBERS, HIGH): Grant((), now_ms - 1)}
    assert (await rig.firewall.apply(a_filter(inbound=ending))).added == 8  # not the one that has ended
    assert await opens(rig, FAR, OWN, LOW_PORT)
    assert not await opens(rig, FAR, OWN, HIGH_PORT)
    await asyncio.sleep((now_ms + 450 - wall_clock_ms()) / 1000)
    assert not await opens(rig, FAR, OWN, LOW_PORT)
    assert await rig.firewall.verify() == []
    assert (await rig.firewall.apply(a_filter())).removed == 0


async def test_a_grant_without_end_replaces_one_with_an_end(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound={(MEMBERS, LOW): Grant((), wall_clock_ms() + 60_000)}))
    done = await rig.firewall.apply(a_filter(inbound={(MEMBERS, LOW): ANY_TIME}))
    assert (done.added, done.removed) == (1, 1)
    assert await opens(rig, FAR, OWN, LOW_PORT)


async def test_after_a_restart_the_filter_and_its_counters_are_as_before(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    wanted = a_filter(inbound=[(MEMBERS, LOW)], outbound=[(HOSTS, HIGH)])
    await rig.firewall.apply(wanted)
    assert await opens(rig, FAR, OWN, LOW_PORT)
    firewall = rig.restart()
    await firewall.prepare()
    assert (await firewall.counters())[IN_LOW].packets == 2
    assert await firewall.apply(wanted) == Applied()
    assert await opens(rig, FAR, OWN, LOW_PORT)


async def test_a_foreign_flush_is_noticed_told_and_mended(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    wanted = a_filter(inbound=[(MEMBERS, LOW)])
    await rig.firewall.apply(wanted)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        noticed = group.create_task(rig.firewall.disturbed())
        await rig.flush()
    assert noticed.result().startswith("nft (process ")
    assert await rig.firewall.verify() != []
    assert (await rig.firewall.apply(wanted)).rebuilt
    assert await rig.firewall.verify() == []
    assert await opens(rig, FAR, OWN, LOW_PORT)
    assert not await opens(rig, FAR, OWN, HIGH_PORT)


async def test_what_it_changes_itself_does_not_disturb_it(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    async with asyncio.TaskGroup() as group:
        noticed = group.create_task(rig.firewall.disturbed())
        await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
        await rig.firewall.apply(a_filter())
        await rig.flush()
    assert await rig.firewall.verify() != []  # so what was noticed is the flush
    assert noticed.result().startswith("nft (process ")


async def test_two_changes_at_once_happen_one_after_the_other(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    filters = [a_filter(inbound=[(MEMBERS, service)]) for service in (LOW, HIGH)] * 4
    done = await asyncio.gather(*(rig.firewall.apply(one) for one in filters))
    assert [(one.added, one.removed) for one in done] == [(8, 0), *[(1, 1)] * 7]
    assert await rig.firewall.verify() == []
    assert await opens(rig, FAR, OWN, HIGH_PORT)
    assert not await opens(rig, FAR, OWN, LOW_PORT)


async def test_a_filter_of_another_node_is_not_taken(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    with pytest.raises(ValueError, match="another node"):
        await rig.firewall.apply(msgspec.structs.replace(a_filter(), own=FAR))


async def test_a_table_that_was_removed_is_made_anew_and_denies(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    await rig.firewall.remove()
    await rig.firewall.remove()
    await rig.firewall.prepare()
    assert not await opens(rig, FAR, OWN, LOW_PORT)


async def test_intervals_that_touch_one_another_stay_apart(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    edges = [parse_address(text) for text in ("300:9::", "300:9::4", "300:9::5", "300:9::5", "300:9::6", "300:9::7")]
    nets = {(edges[0], edges[1]): 20, (edges[2], edges[3]): HOSTS, (edges[4], edges[5]): 21}
    wanted = msgspec.structs.replace(a_filter(inbound=[(HOSTS, LOW)]), peer_nets=nets)
    await rig.firewall.apply(wanted)
    assert await opens(rig, HOST, OWN, LOW_PORT)
    nets = {(edges[0], edges[3]): 20, (edges[4], edges[5]): HOSTS}
    await rig.firewall.apply(msgspec.structs.replace(wanted, peer_nets=nets))
    assert await rig.firewall.verify() == []
    assert not await opens(rig, HOST, OWN, LOW_PORT)


async def test_a_closed_firewall_leaves_the_table_in_force(rig: FirewallRig) -> None:
    await rig.firewall.prepare()
    await rig.firewall.apply(a_filter(inbound=[(MEMBERS, LOW)]))
    await rig.firewall.close()
    assert await opens(rig, FAR, OWN, LOW_PORT)
    assert not await opens(rig, FAR, OWN, HIGH_PORT)
