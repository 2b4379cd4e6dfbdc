"""Netlink fails at each step of a change: what is in force is the old filter or the new one, never half of either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import count

import pytest
import pytest_asyncio

from appliance.core.errors import X0tError
from appliance.policy.enforcement import Applied
from tests.faults.firewall_child import NEW, OLD
from tests.faults.firewall_faults import after, changes_on_the_way
from tests.firewall_bench import FAULTS, STEPS, Bench, at_once, from_then, standing
from tests.firewall_rig import TABLE, a_filter

pytestmark = pytest.mark.usefixtures("root")


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with standing() as made:
        yield made


async def test_the_bench_sees_which_filter_is_in_force(bench: Bench) -> None:
    await bench.to_old()
    assert await bench.holds(OLD)
    assert not await bench.holds(NEW)
    bench.plan.arm(None)
    await bench.firewall.apply(NEW)
    assert bench.plan.count >= STEPS
    assert await bench.holds(NEW)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_at_any_step_is_made_up_for(
    bench: Bench, fault: str, record_property: Callable[..., None]
) -> None:
    for step in count():
        await bench.to_old()
        bench.plan.arm(FAULTS[fault], at_once(step))
        done = await bench.firewall.apply(NEW)
        reached = bench.plan.count > step
        bench.plan.arm(None)
        assert await bench.holds(NEW), f"step {step}"
        assert await bench.firewall.verify() == []
        assert not done.rebuilt
        if not reached:
            break
    assert step >= STEPS
    record_property("counts", f"firewall, {fault}: {step} steps")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_that_stays_leaves_the_old_filter_or_the_new_one(bench: Bench, fault: str) -> None:
    for step in range(STEPS):
        await bench.to_old()
        bench.plan.arm(FAULTS[fault], from_then(step))
        with pytest.raises(X0tError) as caught:
            await bench.firewall.apply(NEW)
        assert caught.value.key == "firewall.refused"
        bench.plan.arm(None)
        assert await bench.holds(OLD) or await bench.holds(NEW), f"step {step}"
        await bench.firewall.apply(NEW)
        assert await bench.holds(NEW)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_while_the_whole_table_is_written_leaves_it_whole(bench: Bench, fault: str) -> None:
    for step in count():
        await bench.to_old()
        await _damage(bench)
        bench.plan.arm(FAULTS[fault], at_once(step))
        await bench.firewall.apply(NEW)
        if bench.plan.count <= step:
            break
        bench.plan.arm(None)
        assert await bench.holds(NEW), f"step {step}"
    assert step >= STEPS


async def test_a_foreign_flush_at_any_step_is_made_up_for(bench: Bench) -> None:
    for step in range(STEPS):
        await bench.to_old()
        flush = after(lambda: bench.node.run(["nft", "flush", "ruleset"]))
        bench.plan.arm(flush, at_once(step))
        await bench.firewall.apply(NEW)
        bench.plan.arm(None)
        if await bench.firewall.verify():  # flushed after the last look: that is what the notice is for
            await asyncio.wait_for(bench.firewall.disturbed(), 1)
            await bench.firewall.apply(NEW)
        assert await bench.holds(NEW), f"step {step}"


async def test_a_change_that_others_overtake_is_tried_again(bench: Bench) -> None:
    for step in range(STEPS):
        await bench.to_old()
        foreign = after(partial(bench.node.run, ["nft", "add", "table", "ip", f"other{step}"]))
        bench.plan.arm(foreign, at_once(step))
        done = await bench.firewall.apply(NEW)
        assert (done.added, done.removed) == (4, 4)
        assert await bench.holds(NEW)


async def test_others_who_never_stop_end_in_a_refusal_and_the_old_filter(bench: Bench) -> None:
    await bench.to_old()
    numbers = count()
    foreign = after(lambda: bench.node.run(["nft", "add", "table", "ip", f"other{next(numbers)}"]))
    bench.plan.arm(foreign, lambda at: at > 0)
    with pytest.raises(X0tError) as caught:
        await bench.firewall.apply(NEW)
    assert caught.value.key == "firewall.refused"
    assert "others" in caught.value.message
    assert await bench.holds(OLD)


async def test_a_first_filter_that_does_not_arrive_leaves_a_table_that_denies(bench: Bench) -> None:
    await asyncio.to_thread(bench.node.run, ["nft", "flush", "ruleset"])
    name = b"denied_inbound"
    bench.plan.arm(changes_on_the_way(name, b"denied_anybodyy"[: len(name)]), lambda at: at < 20)
    with pytest.raises(X0tError) as caught:
        await bench.firewall.apply(NEW)
    assert caught.value.key in {"firewall.refused", "firewall.mismatch"}
    bench.plan.arm(None)
    assert await bench.firewall.apply(NEW) != Applied()
    assert await bench.holds(NEW)


async def _damage(bench: Bench) -> None:
    rule = ["nft", "insert", "rule", "inet", TABLE.name, "untracked", "accept"]
    await asyncio.to_thread(bench.node.run, rule)


async def test_a_rule_that_somebody_inserts_is_taken_out(bench: Bench) -> None:
    await bench.to_old()
    await _damage(bench)
    assert "rule untracked 0" in [one.what for one in await bench.firewall.verify()]
    assert (await bench.firewall.apply(OLD)).rebuilt
    assert await bench.firewall.verify() == []


@pytest.mark.parametrize(
    "words",
    [
        "add table inet x0t-abcdefgh { flags dormant; }",
        "add chain inet x0t-abcdefgh more { type filter hook input priority -20; policy accept; }",
        "add set inet x0t-abcdefgh more { type mark; }",
        "delete element inet x0t-abcdefgh headers { 43 }",
        "add element inet x0t-abcdefgh peers { 200::77 : 5 }",
        "add element inet x0t-abcdefgh inbound { 0 . 5 . 3 . 2 }",
        "flush map inet x0t-abcdefgh locals",
        "flush chain inet x0t-abcdefgh forward",
    ],
)
async def test_any_edit_of_our_table_is_noticed_and_undone(bench: Bench, words: str) -> None:
    await bench.to_old()
    await asyncio.to_thread(bench.node.run, ["nft", words])
    assert (await asyncio.wait_for(bench.firewall.disturbed(), 1)).startswith("nft (process ")
    assert await bench.firewall.verify() != []
    await bench.firewall.apply(OLD)
    assert await bench.firewall.verify() == []
    assert await bench.holds(OLD)


async def test_a_filter_of_nothing_is_what_a_new_table_holds(bench: Bench) -> None:
    assert await bench.holds(a_filter(peers={}))
