"""Network namespaces by name: who owns one, how a thread enters it, and one call of iproute2 for many changes.

A name says which process made it, `x0t-<pid>-<start time>-<site>-<host>`, so anybody can tell later whether that
process still lives: a process id is used again, the pair of id and start time is not (proc_pid_stat(5), field 22).
This module never changes the namespace that it was called in: every command names the one that it is for.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

DIRECTORY: Final = Path("/run/netns")  # where iproute2 keeps them: ip-netns(8)
MORTAL: Final = ("setpriv", "--pdeathsig", "KILL", "--")  # before a command: it dies with the thread that started it
_OWN: Final = "/proc/thread-self/ns/net"
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_NAME: Final = re.compile(r"x0t-(\d+)-(\d+)-\d+-[a-z0-9-]+")
_libc: Final = ctypes.CDLL(None, use_errno=True)


class LabError(RuntimeError):
    """The bench could not do what it was asked to; the message ends with what the failed command said."""


@dataclass(frozen=True)
class Owner:
    """A process that made namespaces: its id, and when it began in clock ticks since the machine did."""

    pid: int
    start: int

    @classmethod
    def me(cls) -> Owner:
        """The calling process."""
        state = _state(os.getpid())
        assert state is not None
        return cls(os.getpid(), state[1])

    def lives(self) -> bool:
        """Whether this very process still runs. One that waits to be reaped does not."""
        state = _state(self.pid)
        return state is not None and state[0] not in "ZX" and state[1] == self.start

    def name(self, site: int, host: str) -> str:
        """The name of a host's namespace in the owner's n-th site."""
        return f"x0t-{self.pid}-{self.start}-{site}-{host}"


def owner_of(name: str) -> Owner | None:
    """Who made a namespace; None if it is not one of the bench's."""
    found = _NAME.fullmatch(name)
    return Owner(int(found[1]), int(found[2])) if found else None


def ours() -> list[str]:
    """The names of all namespaces that any bench made on this machine, in order."""
    try:
        return sorted(entry.name for entry in DIRECTORY.iterdir() if owner_of(entry.name))
    except FileNotFoundError:
        return []


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """The calling thread is in the namespace of this descriptor, and afterwards where it was before: setns(2).

    Threads and child processes that begin meanwhile begin in there. Do not await inside: the loop's other tasks
    would run in there too.
    """
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd)
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def iproute(program: Literal["bridge", "ip", "tc"], lines: Iterable[str], namespace: str | None = None) -> None:
    """Run a program of iproute2 in a namespace, if one is named: one process for all lines, up to the first failure.

    It dies with the caller: what a killed run began must not go on while the next one collects.
    """
    text = "".join(f"{line}\n" for line in lines)
    within = ["-n", namespace] if namespace else []
    command = [*MORTAL, program, *within, "-batch", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        where = f" in {namespace}" if namespace else ""
        raise LabError(f"{program} failed{where}: {done.stderr.strip()}\n{text}")


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"setns: {os.strerror(number)}")


def _state(pid: int) -> tuple[str, int] | None:
    """State letter and start time; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may have spaces and brackets; field 3 comes first
    return fields[0], int(fields[19])
