"""Supervisor: one TaskGroup for all work of the daemon, with period, timeout and a budget of restarts for each job.

A job that fails is tried again after a bounded, growing wait; one that uses up its budget is given up. Giving up a
critical job ends the daemon, because the service manager starts it clean; any other stays down and status says so.
`is_healthy` is what feeds the watchdog: true only while every critical job makes progress.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum

import msgspec
import structlog

from appliance.core.errors import X0tError, error
from appliance.daemon import events

BACKOFF_MIN_S = 0.25
BACKOFF_MAX_S = 30.0
STALL_FACTOR = 3  # a periodic job is stalled after three of its longest rounds


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Something to keep running. Without a period, `run` is a service that ends only when cancelled."""

    name: str
    run: Callable[[], Awaitable[None]]
    period_s: float | None = None
    timeout_s: float = 30.0  # of one round of a periodic job
    critical: bool = False
    restarts: int = 8  # failures allowed within the window
    window_s: float = 300.0


class Phase(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    GIVEN_UP = "given-up"


class JobState(msgspec.Struct):
    """What the supervisor knows of a job; times are of the loop's clock."""

    job: Job
    phase: Phase = Phase.WAITING
    rounds: int = 0
    failures: int = 0
    last_error: str = ""
    progress_at_s: float = 0.0

    def is_stalled(self, now_s: float) -> bool:
        """True if a periodic job has not finished a round for too long, or if the job is not running at all."""
        if self.phase is Phase.GIVEN_UP:
            return True
        if self.job.period_s is None:
            return False
        return now_s - self.progress_at_s > STALL_FACTOR * (self.job.period_s + self.job.timeout_s)


class Supervisor:
    """Runs jobs until `stop` is called. Jobs may be added before and while it runs."""

    def __init__(self) -> None:
        self._states: dict[str, JobState] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("supervisor")

    def add(self, job: Job) -> None:
        """Take a job; it starts at once if the supervisor runs. Names are unique."""
        if job.name in self._states:
            raise ValueError(f"job {job.name} exists")
        self._states[job.name] = JobState(job)
        if self._group is not None:
            self._start(job.name)

    def stop(self) -> None:
        """Ask `run` to cancel all jobs and to return; harmless when repeated."""
        self._stop.set()

    async def run(self) -> None:
        """Keep all jobs running until `stop`. Raises `daemon.job_failed` when a critical job is given up."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for name in self._states:
                    self._start(name)
                await self._stop.wait()
                for task in self._tasks.values():
                    task.cancel()
        except BaseExceptionGroup as failures:
            known, rest = failures.split(X0tError)
            if rest is not None or known is None:
                raise
            raise _first(known) from failures
        finally:
            self._group = None

    def states(self) -> list[JobState]:
        """All jobs, in the order in which they were added."""
        return list(self._states.values())

    def is_healthy(self) -> bool:
        """True while every critical job makes progress."""
        now_s = asyncio.get_running_loop().time()
        return not any(state.job.critical and state.is_stalled(now_s) for state in self._states.values())

    def _start(self, name: str) -> None:
        assert self._group is not None
        state = self._states[name]
        state.progress_at_s = asyncio.get_running_loop().time()
        self._tasks[name] = self._group.create_task(self._keep(state), name=name)

    async def _keep(self, state: JobState) -> None:
        """Run one job round after round; failures are counted within the window."""
        recent: deque[float] = deque()
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            state.phase = Phase.RUNNING
            try:
                await self._round(state)
            except Exception as err:  # the supervisor is the place that decides what a failure means
                state.failures += 1
                state.last_error = str(err) or type(err).__name__
                recent.append(loop.time())
                while recent and loop.time() - recent[0] > state.job.window_s:
                    recent.popleft()
                self._log.warning(events.JOB_FAILED, job=state.job.name, error=state.last_error, exc_info=_unknown(err))
                if len(recent) > state.job.restarts:
                    self._give_up(state)
                    return
                state.phase = Phase.RETRYING
                await asyncio.sleep(min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** (len(recent) - 1)))
            else:
                state.rounds += 1
                state.progress_at_s = loop.time()
                if state.job.period_s is not None:
                    state.phase = Phase.WAITING
                    await asyncio.sleep(state.job.period_s)

    async def _round(self, state: JobState) -> None:
        if state.job.period_s is not None:
            async with asyncio.timeout(state.job.timeout_s):
                await state.job.run()
            return
        await state.job.run()
        if not self._stop.is_set():
            raise RuntimeError("the service ended by itself")

    def _give_up(self, state: JobState) -> None:
        state.phase = Phase.GIVEN_UP
        self._log.error(events.JOB_GIVEN_UP, job=state.job.name, failures=state.failures)
        if state.job.critical:
            raise error("daemon.job_failed", job=state.job.name, reason=state.last_error)


async def contain(what: str, work: Awaitable[None]) -> None:
    """Await what a peer may make fail, so that a fault of ours ends that alone. Raises it as `daemon.fault`."""
    try:
        await work
    except (X0tError, OSError, TimeoutError):
        raise
    except Exception as err:  # here a failure is bounded, as in a job
        structlog.get_logger("supervisor").exception(events.FAULT, what=what)
        raise error("daemon.fault", what=what) from err


def _unknown(err: Exception) -> bool:
    """Only an error without a key of ours needs a traceback in the log."""
    return not isinstance(err, X0tError | OSError | TimeoutError)


def _first(group: BaseExceptionGroup[X0tError]) -> X0tError:
    for err in group.exceptions:
        return _first(err) if isinstance(err, BaseExceptionGroup) else err
    raise AssertionError("an exception group is never empty")
