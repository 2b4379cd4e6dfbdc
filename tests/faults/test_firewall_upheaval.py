"""What a change acts on goes away meanwhile: the mesh interface, or the table. By packets: never open, never half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.faults.firewall_faults import Plan, after
from tests.firewall_bench import DENIED_PORT, GRANTED_PORT, STEPS, Bench, at_once, knocking, standing, who_gets_through
from tests.firewall_rig import FAR, HIGH, LOW, MEMBERS, NOBODY, OTHER, TABLE, Pair, a_filter

pytestmark = pytest.mark.usefixtures("root")

PATIENT_S = 10.0
FIRST = a_filter(inbound=[(MEMBERS, LOW)], peers={FAR: MEMBERS, OTHER: NOBODY})
SECOND = a_filter(inbound=[(MEMBERS, LOW)], outbound=[(MEMBERS, LOW)], peers={FAR: MEMBERS, OTHER: MEMBERS})
HIGH_ALONE = a_filter(inbound=[(MEMBERS, HIGH)], peers={OTHER: MEMBERS})


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with standing() as made:
        yield made


class Interface:
    """The mesh interface, which goes before one request and comes back before the next."""

    def __init__(self, pair: Pair, step: int) -> None:
        self._pair = pair
        self._step = step
        self.is_gone = False

    def come_back(self) -> None:
        """If it is gone."""
        if self.is_gone:
            self._pair.appear()
            self.is_gone = False

    def __call__(self, plan: Plan, data: bytes, real: Callable[[bytes], int]) -> int:
        self.come_back()
        if plan.count > self._step:
            self._step = 1 << 30  # once
            self._pair.vanish()
            self.is_gone = True
        return real(data)


@pytest.mark.parametrize("table", ["sound", "damaged"])
async def test_the_mesh_interface_vanishes_and_comes_back_at_any_step_of_a_change(bench: Bench, table: str) -> None:
    for step in range(STEPS):
        bench.plan.arm(None)
        await bench.firewall.apply(FIRST)
        if table == "damaged":
            await bench.nft(f"add rule inet {TABLE.name} untracked counter")
        with knocking(bench.pair) as arrived:
            interface = Interface(bench.pair, step)
            bench.plan.arm(interface)
            await bench.firewall.apply(SECOND)
            bench.plan.arm(None)
            await asyncio.to_thread(interface.come_back)
            assert await bench.holds(SECOND)
            before = arrived[GRANTED_PORT]
            async with asyncio.timeout(PATIENT_S):
                while arrived[GRANTED_PORT] == before:  # noqa: ASYNC110  # what is granted goes on
                    await asyncio.sleep(0.01)
        assert arrived[DENIED_PORT] == 0, f"step {step}"
        assert await bench.firewall.verify() == []


@pytest.mark.parametrize("words", ["flush ruleset", "flush map inet {} peers", "flush set inet {} inbound"])
async def test_two_changes_at_once_with_a_foreign_flush_in_between_leave_the_later_one(
    bench: Bench, words: str
) -> None:
    foreign = ["nft", words.format(TABLE.name)]
    for step in range(0, 2 * STEPS, 3):
        bench.plan.arm(None)
        await bench.firewall.apply(SECOND)
        with knocking(bench.pair) as arrived:
            bench.plan.arm(after(lambda: bench.node.run(foreign)), at_once(step))
            await asyncio.gather(bench.firewall.apply(FIRST), bench.firewall.apply(HIGH_ALONE))
            bench.plan.arm(None)
            if await bench.firewall.verify():  # flushed after the last look: that is what the notice is for
                await asyncio.wait_for(bench.firewall.disturbed(), PATIENT_S)
                await bench.firewall.apply(HIGH_ALONE)
        assert await bench.holds(HIGH_ALONE), f"step {step}"
        assert await bench.firewall.verify() == []
        assert await who_gets_through(bench.pair) == {(OTHER, DENIED_PORT)}
        if words != "flush ruleset":  # which opens everything until it is mended
            assert arrived[DENIED_PORT] == 0, f"step {step}"
