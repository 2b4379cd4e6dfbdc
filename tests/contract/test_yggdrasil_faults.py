"""Yggdrasil and its manager killed at any moment, and its interface spoilt: all comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.limits import Limits
from appliance.lab.site import Site
from appliance.netstack.yggdrasil.key import create_key, load_key
from appliance.netstack.yggdrasil.manager import Yggdrasil
from appliance.netstack.yggdrasil.process import socket_path
from appliance.netstack.yggdrasil.records import Phase, Place, State
from tests.yggdrasil_rig import Node, flow, on_a_lan, running, want

HEALED_S = 20.0  # the bench measures; this only bounds
MOMENTS_S = (0.0, 0.01, 0.02, 0.04, 0.07, 0.1, 0.13, 0.16, 0.2)  # of a start, which takes 0.15 s

# Another life of the program, which is killed: as our own manager, in a process of its own.
OTHER_LIFE = """
import asyncio, sys
from pathlib import Path
import msgspec
from appliance.netstack.yggdrasil.key import load_key
from appliance.netstack.yggdrasil.manager import Yggdrasil
from appliance.netstack.yggdrasil.records import Place, Wanted

async def main(place, key):
    manager = Yggdrasil(place, key)
    manager.want(Wanted(members=(), password="one"))
    print("now", flush=True)
    await manager.run()

folder, netns = Path(sys.argv[1]), sys.argv[2]
place = Place(mesh=bytes(32), interface="x0t0", run_dir=folder / "run", mtu=32_000, netns=netns)
asyncio.run(main(place, load_key(folder / "key")))
"""


@pytest.fixture
def site(root: None) -> Iterator[Site]:
    with Site() as made:
        yield made


def is_running(state: State) -> bool:
    return state.phase is Phase.RUNNING


def at_work(place: Place) -> list[int]:
    """The processes in the daemon's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "cwd").samefile(socket_path(place).parent):
                found.append(int(entry.name))
    return found


async def within(seconds: float, task: asyncio.Task[None]) -> None:
    """Let it run for so long."""
    await asyncio.wait([task], timeout=seconds)


@pytest.mark.parametrize("moment_s", MOMENTS_S)
async def test_a_manager_that_is_stopped_while_it_starts_leaves_nothing_that_hinders_the_next(
    site: Site, tmp_path: Path, moment_s: float
) -> None:
    (one,) = await on_a_lan(site, tmp_path, "one")
    want(one)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.manager.run())
        await within(moment_s, task)
        task.cancel()
    one.renew()
    async with running(one):
        want(one)
        state = await one.until(is_running)
        assert await asyncio.to_thread(at_work, one.place) == [state.pid]
    assert await asyncio.to_thread(at_work, one.place) == []


@pytest.mark.parametrize("moment_s", MOMENTS_S)
async def test_a_daemon_that_is_killed_while_it_starts_is_started_again(
    site: Site, tmp_path: Path, moment_s: float
) -> None:
    (one,) = await on_a_lan(site, tmp_path, "one")
    async with running(one) as tasks:
        want(one)
        await within(moment_s, tasks[0])
        for pid in await asyncio.to_thread(at_work, one.place):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await one.until(lambda state: is_running(state) and Path(f"/proc/{state.pid}").exists())


@pytest.mark.parametrize("moment_s", MOMENTS_S[1:])
async def test_after_the_program_was_killed_while_it_started_yggdrasil_the_next_life_has_one_daemon(
    site: Site, tmp_path: Path, moment_s: float
) -> None:
    host = await asyncio.to_thread(site.host, "one")
    await asyncio.to_thread(create_key, tmp_path / "key")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_LIFE, tmp_path, host.netns, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    assert await child.stdout.readline() == b"now\n"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(moment_s):
            await child.wait()
    child.kill()
    await child.wait()
    node = Node(host, tmp_path, run_dir=tmp_path / "run", mesh=bytes(32))
    node.key = await asyncio.to_thread(load_key, tmp_path / "key")
    node.manager = Yggdrasil(node.place, node.key)
    async with running(node):
        want(node)
        state = await node.until(is_running)
        assert await asyncio.to_thread(at_work, node.place) == [state.pid]


@pytest.mark.parametrize("deed", ["link del x0t0", "link set x0t0 down", "addr flush dev x0t0"])
async def test_what_somebody_does_to_the_interface_is_undone(site: Site, tmp_path: Path, deed: str) -> None:
    one, two = await on_a_lan(site, tmp_path, "one", "two")
    async with running(one, two), flow(two, one) as traffic:
        want(one, two)
        await one.linked(two)
        await traffic.flows()
        await asyncio.to_thread(one.host.ip, deed)
        await traffic.flows(timeout_s=HEALED_S)


@pytest.mark.parametrize("deed", ["link del x0t0", "link set x0t0 down"])
async def test_a_daemon_whose_interface_was_spoilt_while_nobody_looked_is_replaced_and_not_waited_for(
    site: Site, tmp_path: Path, deed: str
) -> None:
    (one,) = await on_a_lan(site, tmp_path, "one")
    one.manager = Yggdrasil(one.place, one.key, Limits(yggdrasil_start_s=300))
    want(one)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(one.manager.run())
        before = await one.until(is_running)
        task.cancel()
    await asyncio.to_thread(one.host.ip, deed)
    one.manager = Yggdrasil(one.place, one.key, Limits(yggdrasil_start_s=300))
    async with running(one):
        want(one)
        assert (await one.until(is_running)).pid != before.pid
        assert await asyncio.to_thread(at_work, one.place) == [one.manager.state.pid]


async def test_an_interface_that_another_program_has_open_is_left_alone(site: Site, tmp_path: Path) -> None:
    (one,) = await on_a_lan(site, tmp_path, "one")
    other = Node(one.host, tmp_path, run_dir=tmp_path / "other", mesh=bytes(32))
    async with running(one):
        want(one)
        state = await one.until(is_running)
        before = await asyncio.to_thread(shown, one)
        async with running(other):
            want(other)
            blocked = await other.until(lambda state: state.phase is Phase.BLOCKED)
            assert "another program has it open" in blocked.reason
        assert await asyncio.to_thread(shown, one) == before
        assert await asyncio.to_thread(at_work, one.place) == [state.pid]


def shown(node: Node) -> str:
    """The interface and its addresses, as ip(8) shows them."""
    return node.host.run(["ip", "-d", "addr", "show", "dev", "x0t0"]).stdout
