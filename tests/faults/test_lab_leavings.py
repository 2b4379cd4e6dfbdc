"""A run of the bench that is killed leaves nothing for long, and collecting its leavings hurts nobody who lives."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.lab import leavings
from appliance.lab.namespaces import DIRECTORY, Owner, ours
from appliance.lab.site import Site

pytestmark = pytest.mark.usefixtures("root")

STEPS = ("entered", "hosts", "link", "pumped", "programs")
# `sleep` leads a session of its own and asks for no signal when its parent dies: only collecting ends it.
RUN = """
import sys
from appliance.lab.site import Shape, Site

def say(step):
    if step == sys.argv[1]:
        print(step, flush=True)
        sys.stdin.read()

with Site() as site:
    say("entered")
    one, other = site.hosts("one", "other")
    say("hosts")
    site.link(one, other, prefixes=["fd09::/64"])
    say("link")
    far = site.link(one, other, names=("far0", "far1"), prefixes=["fd08::/64"], shape=Shape(delay_ms=1))
    say("pumped")
    program = one.start(["sh", "-c", "setsid sleep 1000 & echo up; wait"])
    program.wait_for("up")
    say("programs")
    assert one.ping(far.end(other).v6, 10) is not None
"""


class Run:
    """A process that builds a site up to a step, and then waits for the end of its input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def names(self) -> list[str]:
        return [name for name in ours() if name.startswith(f"x0t-{self.process.pid}-")]

    def pids(self) -> list[int]:
        told = [subprocess.run(["ip", "netns", "pids", name], capture_output=True, check=True) for name in self.names()]
        return [int(pid) for done in told for pid in done.stdout.split()]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running(step: str = STEPS[-1]) -> Iterator[Run]:
    command = [sys.executable, "-c", RUN, step]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            if step:
                assert process.stdout is not None
                assert process.stdout.readline() == f"{step}\n"
            yield Run(process)
        finally:
            process.kill()


def ends(pid: int) -> bool:
    """Whether a process is gone or goes within a few seconds."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 5)[0])
    finally:
        os.close(pidfd)


def mounted(names: list[str]) -> list[str]:
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    return [name for name in names if name in mounts]


@pytest.mark.parametrize("step", STEPS)
def test_the_next_site_collects_a_run_that_was_killed(step: str) -> None:
    with running(step) as run:
        names, pids = run.names(), run.pids()
        run.kill()
        with Site():
            assert run.names() == []
    assert len(names) == (1 if step == "entered" else 3)
    assert len(pids) == {"pumped": 1, "programs": 3}.get(step, 0)
    assert mounted(names) == []
    assert [pid for pid in pids if not ends(pid)] == []


def test_a_program_dies_with_the_process_that_started_it_before_anybody_collects() -> None:
    with running() as run:
        shell = next(pid for pid in run.pids() if Path(f"/proc/{pid}/comm").read_text() == "sh\n")
        run.kill()
        assert ends(shell)
        leavings.collect()


def test_collecting_leaves_a_run_that_lives_alone() -> None:
    with running() as living, running() as killed:
        before = living.names(), living.pids()
        killed.kill()
        leavings.collect()
        assert killed.names() == []
        assert (living.names(), living.pids()) == before
        assert living.process.stdin is not None
        living.process.stdin.close()  # now it uses its link, and ends as it should
        assert living.process.wait(20) == 0
        assert living.names() == []


def test_several_may_collect_the_same_leavings_at_once() -> None:
    collect = [sys.executable, "-c", "from appliance.lab.leavings import collect; collect()"]
    with running() as run:
        run.kill()
        collectors = [subprocess.Popen(collect) for _ in range(4)]
        assert [collector.wait(30) for collector in collectors] == [0] * 4
        assert run.names() == []


def test_a_name_without_a_namespace_is_collected_too() -> None:
    """As after a reboot where the directory is not in memory."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    name = DIRECTORY / Owner(child.pid, 1).name(1, "one")
    with Site():  # so that the directory exists
        name.touch()
    leavings.collect()
    assert not name.exists()


@pytest.mark.parametrize("sig", [signal.SIGSTOP, signal.SIGTERM])
def test_a_program_that_sleeps_or_ignores_signals_is_ended_all_the_same(sig: signal.Signals) -> None:
    with running() as run:
        sleeper = next(pid for pid in run.pids() if Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        os.kill(sleeper, sig)
        run.kill()
        leavings.collect()
        assert ends(sleeper)


def test_killed_at_random_moments_it_never_leaves_what_cannot_be_collected(
    record_property: Callable[[str, object], None],
) -> None:
    """The steps above stop between two changes; this one anywhere, also inside a batch of iproute2."""
    found = 0
    for hundredth in range(6, 51, 3):
        with running(step="") as run:
            select.select([], [], [], hundredth / 100)  # not a wait for something: any moment is a case
            run.kill()
            found += len(run.names())
            leavings.collect()
            assert run.names() == []
    record_property("counts", f"leavings: {found} namespaces of 15 killed runs collected")
