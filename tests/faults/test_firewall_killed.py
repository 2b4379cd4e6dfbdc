"""The process is killed at each step of a change: what it leaves is whole, and the next process goes on from there."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.lab.host import Host
from appliance.netstack.nft.channel import connect
from appliance.netstack.nft.firewall import NftFirewall
from tests.faults.firewall_child import NEW, OLD
from tests.faults.firewall_faults import holds
from tests.firewall_rig import TABLE, Pair

pytestmark = pytest.mark.usefixtures("root")

ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Host]:
    pair = Pair()
    await asyncio.to_thread(pair.__enter__)
    yield pair.node
    await asyncio.to_thread(pair.__exit__, None, None, None)


@pytest.mark.parametrize("table", ["sound", "damaged"])
async def test_a_killed_change_leaves_the_old_filter_or_the_new_one(
    node: Host, table: str, record_property: Callable[[str, object], None]
) -> None:
    steps = await _child(node, table, -1, "before")
    left = []
    for step in range(steps):
        for moment in ("before", "after"):
            assert await _child(node, table, step, moment) == -signal.SIGKILL
            found = [name for name, one in (("old", OLD), ("new", NEW)) if await asyncio.to_thread(holds, node, one)]
            assert len(found) == 1, f"killed {moment} step {step}"
            left += found
            await _goes_on(node, found[0])
    assert left == sorted(left, reverse=True)  # old up to the commit, new from then on
    assert set(left) == {"old", "new"}
    record_property("counts", f"firewall, killed while the table is {table}: {2 * steps} moments")


async def _goes_on(node: Host, found: str) -> None:
    """The next process keeps what it finds, and brings it to the new filter."""
    firewall = _firewall(node)
    await firewall.prepare()
    done = await firewall.apply(NEW)
    assert (done.added > 0) is (found == "old")
    assert await firewall.verify() == []
    await firewall.close()


async def _child(node: Host, table: str, step: int, moment: str) -> int:
    """Its status, from the old filter in a table of that kind."""
    firewall = _firewall(node)
    await firewall.prepare()
    await firewall.apply(OLD)
    await firewall.close()
    command = [sys.executable, "-m", "tests.faults.firewall_child", str(step), moment]
    if table == "damaged":
        command.append("damage")
    done = await asyncio.to_thread(node.run, command, check=False, env={"PYTHONPATH": str(ROOT)})
    return done.returncode


def _firewall(node: Host) -> NftFirewall:
    def inside() -> socket.socket:
        with node.enter():
            return connect()

    return NftFirewall(TABLE, connect=inside)
