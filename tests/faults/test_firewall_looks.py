"""Looks at the table beside changes of it: no change waits for one, none is told of half a change, and what is found is
mended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from itertools import count, cycle

import msgspec
import pytest
import pytest_asyncio

from appliance.core.limits import LIMITS
from appliance.netstack.nft import wire
from appliance.netstack.nft.channel import Request
from appliance.netstack.nft.looks import PIECES
from appliance.netstack.nft.skeleton import Kind
from appliance.netstack.nft.turns import Rank
from appliance.policy.enforcement import Applied
from tests.faults.firewall_child import NEW, OLD
from tests.faults.firewall_faults import about_conversations, after, of, smuggles, where
from tests.firewall_bench import Bench, standing
from tests.firewall_rig import LOW, TABLE, a_filter

pytestmark = pytest.mark.usefixtures("root")

PATIENT_S = 20.0
READ_BACK = 2  # the request of a change that follows its commit
EMPTYING = Request(Kind.ELEMENTS + 2, wire.text(1, TABLE.name) + wire.text(2, "outbound"))  # all elements of a set

MORE = msgspec.structs.replace(OLD, inbound=OLD.inbound | a_filter(inbound=[(77, LOW)]).inbound)


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with standing() as made:
        await made.to_old()
        yield made


class Hold:
    """A request that does not go on until it is let."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.over = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.over.wait(PATIENT_S)

    async def reach(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, PATIENT_S)


async def test_a_change_does_not_wait_for_a_look(bench: Bench) -> None:
    for look in (bench.firewall.verify, bench.firewall.counters, bench.firewall.flows):
        await bench.to_old()
        hold = Hold()
        bench.plan.arm(of(Rank.LOOK, 0, after(hold)))
        looking = asyncio.ensure_future(look())
        await hold.reach()
        await asyncio.wait_for(bench.firewall.apply(NEW), PATIENT_S)
        assert await bench.holds(NEW)
        hold.over.set()
        await looking


async def test_a_change_does_not_wait_for_the_conversations_of_the_one_before(bench: Bench) -> None:
    hold = Hold()
    bench.plan.arm(where(about_conversations, after(hold)))
    changing = [asyncio.ensure_future(bench.firewall.apply(NEW))]
    await hold.reach()
    changing.append(asyncio.ensure_future(bench.firewall.apply(OLD)))
    async with asyncio.timeout(PATIENT_S):
        while not await bench.holds(OLD):
            pass
    assert not any(each.done() for each in changing)
    hold.over.set()
    assert [(done.added, done.owed) for done in await asyncio.gather(*changing)] == [(4, ""), (4, "")]


@pytest.mark.parametrize("patience_ms", [LIMITS.firewall_patience_ms, 100])
async def test_a_look_at_a_change_that_is_not_read_back_yet_says_nothing_false(patience_ms: int) -> None:
    async with standing(msgspec.structs.replace(LIMITS, firewall_patience_ms=patience_ms)) as bench:
        await bench.to_old()
        hold = Hold()
        bench.plan.arm(of(Rank.CHANGE, READ_BACK, after(hold)))
        changing = asyncio.ensure_future(bench.firewall.apply(NEW))
        await hold.reach()
        assert await bench.holds(NEW)
        looking = asyncio.ensure_future(bench.firewall.verify())
        await asyncio.wait({looking}, timeout=0.4)
        hold.over.set()
        assert await looking == []
        await changing


async def test_a_change_within_a_look_is_no_difference(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    filters = cycle([NEW, OLD])
    done: list[Applied] = []

    def change() -> None:
        changing = bench.firewall.apply(next(filters))
        done.append(asyncio.run_coroutine_threadsafe(changing, loop).result(PATIENT_S))

    for step in count():
        bench.plan.arm(of(Rank.LOOK, step, after(change)))
        assert await bench.firewall.verify() == [], f"step {step}"
        if len(done) == step:  # the look was over before
            break
    assert step > len(PIECES)
    assert {(each.added, each.removed) for each in done} == {(4, 4)}


async def test_what_nobody_gave_notice_of_is_found_and_mended_by_the_next_change(bench: Bench) -> None:
    bench.plan.arm(of(Rank.CHANGE, READ_BACK, smuggles(EMPTYING)))
    assert await bench.firewall.apply(MORE) == Applied(1, 0)
    bench.plan.arm(None)
    assert not await bench.holds(MORE)
    assert await bench.firewall.apply(MORE) == Applied()  # there is nothing to change, as far as it knows
    assert [found.found for found in await bench.firewall.verify()] == ["nothing"] * len(OLD.outbound)
    assert await bench.firewall.apply(MORE) == Applied(len(OLD.outbound), 0)
    assert await bench.holds(MORE)
    assert await bench.firewall.verify() == []


async def test_a_look_that_changes_overtake_all_the_time_takes_its_turn_among_them() -> None:
    async with standing(msgspec.structs.replace(LIMITS, firewall_patience_ms=0)) as hasty:
        await hasty.to_old()
        assert await hasty.firewall.verify() == []
        assert len(await hasty.firewall.counters()) == len(OLD.inbound) + len(OLD.outbound)
        hasty.plan.arm(of(Rank.CHANGE, READ_BACK, smuggles(EMPTYING)))
        await hasty.firewall.apply(MORE)
        hasty.plan.arm(None)
        assert len(await hasty.firewall.verify()) == len(OLD.outbound)
        assert (await hasty.firewall.apply(OLD)).added == len(OLD.outbound)
        assert await hasty.holds(OLD)
