"""What holds for every test: hypothesis profiles, no blocking call in the loop, nothing left running.

It also writes the tally that ./test shows.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase

ROOT = Path(__file__).parent.parent

# dev: quick. ci: the same examples each time, so that a red build can be repeated. deep: for a night.
_slow = (HealthCheck.too_slow, HealthCheck.data_too_large)
_found = DirectoryBasedExampleDatabase(ROOT / ".cache" / "hypothesis")
settings.register_profile("dev", max_examples=50, deadline=timedelta(seconds=2), database=_found)
settings.register_profile("ci", max_examples=150, deadline=None, derandomize=True, suppress_health_check=_slow)
settings.register_profile("deep", max_examples=5000, deadline=None, database=_found, suppress_health_check=_slow)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev"))


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """In an async test, a call of ours that blocks the event loop fails the test (blockbuster)."""
    is_async = inspect.iscoroutinefunction(getattr(request, "function", None))
    if not is_async or request.node.get_closest_marker("blocking") is not None:
        yield
        return
    with blockbuster_ctx("appliance"):
        yield


@pytest.fixture(autouse=True)
def no_threads_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A thread that a test started has ended when the test has."""
    before = set(threading.enumerate())
    yield
    if request.node.get_closest_marker("leaves_threads") is not None:
        return
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=1)
        assert not thread.is_alive(), f"the test left the thread {thread.name!r} running"


@pytest.fixture(scope="session")
def root() -> None:
    """Only root can become somebody else: without it the test fails where everything is required, else is skipped."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI") == "true" or os.environ.get("X0T_REQUIRE_ALL") == "1":
        pytest.fail("the tests must run as root here")
    pytest.skip("only root can become somebody else")


def _no_tasks_left(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def checked(*arguments: object, **named: object) -> None:
        before = asyncio.all_tasks()
        await test(*arguments, **named)
        for _ in range(3):  # what was cancelled at the very end may finish
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        assert not left, f"the test left tasks running: {sorted(task.get_name() for task in left)}"

    return checked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every async test is checked for tasks that it left running; fixtures clean up later."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _no_tasks_left(item.obj)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests counted (`record_property("counts", ...)`), and writes the tally for the table of ./test."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    properties = [
        pair for report in reports for pair in getattr(report, "user_properties", ()) if report.when == "call"
    ]
    if lines := [str(text) for name, text in properties if name == "counts"]:
        terminalreporter.section("counts")
        terminalreporter.write("".join(f"{line}\n" for line in lines))
    if path := os.environ.get("X0T_TALLY"):
        counts = {name: len(reports) for name, reports in terminalreporter.stats.items()}
        failed = counts.get("failed", 0) + counts.get("error", 0)
        skipped = counts.get("skipped", 0) + counts.get("xfailed", 0)
        Path(path).write_text(f"{counts.get('passed', 0)} {failed} {skipped}\n")
