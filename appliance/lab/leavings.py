"""What a run left that was killed: found by the names of its namespaces, ended and removed.

Only namespaces of the bench are looked at, and only those whose owner is dead; a run that lives loses nothing.
(Two machines' worth of process ids over one /run/netns, as in some containers, would not know each other's owners.)
Everything that a site makes is in its namespaces, so when they are gone, nothing of it is left.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from appliance.lab.namespaces import DIRECTORY, LabError, ours, owner_of

END_S: Final = 5.0  # until killed processes are gone; one that the kernel holds in a driver may never go

_Place = tuple[int, int]  # device and inode of a namespace: namespaces(7)


def collect() -> list[str]:
    """Remove the namespaces of every dead owner with all that runs inside; returns their names."""
    dead = [name for name in ours() if (owner := owner_of(name)) is not None and not owner.lives()]
    remove(dead)
    return dead


def remove(names: Iterable[str]) -> None:
    """End the processes inside these namespaces, then delete them. Harmless for one that is gone already.

    Raises LabError if something could not be ended or removed; the rest is removed all the same.
    """
    wanted = list(names)
    if not wanted:
        return
    stubborn = _end(_places(wanted))
    lines = "".join(f"netns del {name}\n" for name in wanted)
    subprocess.run(["ip", "-force", "-batch", "-"], input=lines, capture_output=True, text=True, check=False)
    left = sorted(set(wanted) & set(ours()))
    if stubborn or left:
        raise LabError(f"not removed: namespaces {left}, processes {stubborn}")


def _places(names: Iterable[str]) -> set[_Place]:
    places = set()
    for name in names:
        try:
            found = (DIRECTORY / name).stat()
        except FileNotFoundError:  # another run collects at the same time
            continue
        places.add((found.st_dev, found.st_ino))
    return places


def _end(places: set[_Place]) -> list[int]:
    """Kill what runs in there until nothing does; returns the ids of those that did not go in time."""
    end_s = time.monotonic() + END_S
    while pids := list(_within(places)):
        if time.monotonic() > end_s:
            return pids
        for pidfd in [pidfd for pid in pids if (pidfd := _killed(pid, places)) is not None]:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(max(0.0, end_s - time.monotonic()) * 1000)
            os.close(pidfd)
    return []


def _killed(pid: int, places: set[_Place]) -> int | None:
    """Kill a process; returns a descriptor that shows its end, and pins the id meanwhile: pidfd_open(2)."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if _place_of(pid) in places:  # still the process that was seen
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return pidfd


def _within(places: set[_Place]) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _place_of(int(entry.name)) in places:
            yield int(entry.name)


def _place_of(pid: int) -> _Place | None:
    """Where a process is; None once it has ended: one that waits to be reaped is nowhere."""
    try:
        found = Path(f"/proc/{pid}/ns/net").stat()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return found.st_dev, found.st_ino
