from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from appliance.core.errors import UnavailableError
from appliance.daemon import supervisor as module
from appliance.daemon.supervisor import Job, Phase, Supervisor


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_MIN_S", 0.001)


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[None]:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(supervisor.run())
        try:
            yield
        finally:
            supervisor.stop()


async def test_a_periodic_job_runs_again_and_again() -> None:
    rounds = asyncio.Semaphore(0)

    async def work() -> None:
        rounds.release()

    supervisor = Supervisor()
    supervisor.add(Job(name="work", run=work, period_s=0.001, critical=True))
    async with running(supervisor):
        for _ in range(3):
            await rounds.acquire()
        assert supervisor.is_healthy()


async def test_a_failed_job_is_tried_again() -> None:
    done = asyncio.Event()
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("not yet")
        done.set()

    supervisor = Supervisor()
    supervisor.add(Job(name="work", run=work, period_s=60))
    async with running(supervisor):
        await done.wait()
    state = supervisor.states()[0]
    assert (tries, state.failures, state.last_error) == (3, 2, "not yet")


async def test_a_job_that_uses_up_its_restarts_stays_down_and_the_rest_goes_on() -> None:
    given_up = asyncio.Event()

    async def bad() -> None:
        raise OSError("never")

    async def watch() -> None:
        if supervisor.states()[0].phase is Phase.GIVEN_UP:
            given_up.set()

    supervisor = Supervisor()
    supervisor.add(Job(name="bad", run=bad, period_s=60, restarts=2))
    supervisor.add(Job(name="watch", run=watch, period_s=0.001, critical=True))
    async with running(supervisor):
        await given_up.wait()
        assert supervisor.is_healthy()
    assert supervisor.states()[0].failures == 3


async def test_a_critical_job_that_is_given_up_ends_the_daemon() -> None:
    async def bad() -> None:
        raise OSError("never")

    supervisor = Supervisor()
    supervisor.add(Job(name="bad", run=bad, restarts=1, critical=True))
    with pytest.raises(UnavailableError, match="never") as caught:
        await asyncio.wait_for(supervisor.run(), 5)
    assert caught.value.key == "daemon.job_failed"


async def test_a_round_that_takes_too_long_counts_as_a_failure() -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    supervisor = Supervisor()
    supervisor.add(Job(name="hang", run=hang, period_s=1, timeout_s=0.001, restarts=0, critical=True))
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(supervisor.run(), 5)


async def test_health_is_lost_when_a_critical_job_makes_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    supervisor = Supervisor()
    supervisor.add(Job(name="hang", run=hang, period_s=1, timeout_s=1, critical=True))
    async with running(supervisor):
        await started.wait()
        assert supervisor.is_healthy()
        supervisor.states()[0].progress_at_s -= 100
        assert not supervisor.is_healthy()


async def test_a_job_may_be_added_while_the_supervisor_runs() -> None:
    ran = asyncio.Event()

    async def idle() -> None:
        await asyncio.Event().wait()

    async def late() -> None:
        ran.set()
        await asyncio.Event().wait()

    supervisor = Supervisor()
    supervisor.add(Job(name="idle", run=idle))
    async with running(supervisor):
        await asyncio.sleep(0)
        supervisor.add(Job(name="late", run=late))
        await ran.wait()


async def test_stopping_twice_is_harmless() -> None:
    supervisor = Supervisor()
    supervisor.stop()
    supervisor.stop()
    await asyncio.wait_for(supervisor.run(), 5)
