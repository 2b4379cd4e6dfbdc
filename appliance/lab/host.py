"""A host of a site: one network namespace, and what can be done inside it.

It has its own interfaces, routes, firewall and sysctls, and shares files (also /sys) and process ids with the machine.
IPv6 addresses are usable at once (no duplicate address detection), nothing is configured by router advertisements,
and it forwards nothing and checks no reverse path until told to.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from appliance.lab import echo, namespaces, program
from appliance.lab.namespaces import LabError
from appliance.lab.program import Program

Socket = socket.socket
RUN_S: Final = 30.0
PING_S: Final = 1.0
_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_IFF_RUNNING: Final = 0x40  # linux/if.h
# Set before there is an interface: `default` is what each new one gets. Some of these a namespace takes from the
# machine's own settings (ipv4), so that a machine that routes would make hosts that do.
_SYSCTLS: Final = {
    "net.ipv4.ping_group_range": "0 2147483647",
    "net.ipv4.ip_forward": "0",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    **{
        f"net.ipv6.conf.{which}.{setting}": "0"
        for which in ("all", "default")
        for setting in ("accept_ra", "autoconf", "accept_dad", "dad_transmits", "forwarding")
    },
}


class Host:
    """One namespace that exists already; a site makes and removes it."""

    def __init__(self, name: str, netns: str, spawner: ThreadPoolExecutor) -> None:
        self.name: Final = name
        self.netns: Final = netns
        self.netns_path: Final = namespaces.DIRECTORY / netns
        self.fd: Final = os.open(self.netns_path, os.O_RDONLY | os.O_CLOEXEC)
        self._spawner: Final = spawner
        self._programs: Final[list[Program]] = []
        with self.enter():
            for setting, value in _SYSCTLS.items():
                _write_sysctl(setting, value)

    def __repr__(self) -> str:
        return f"Host({self.name})"

    def enter(self) -> AbstractContextManager[None]:
        """The calling thread runs inside until the block ends: see namespaces.inside."""
        return namespaces.inside(self.fd)

    def socket(self, family: int, kind: int, protocol: int = 0) -> Socket:
        """A socket that belongs to this host and is used from anywhere; the caller closes it."""
        with self.enter():
            return socket.socket(family, kind, protocol)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        timeout_s: float = RUN_S,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside until it ends. Raises LabError with what it wrote if it fails and `check` is set."""
        try:
            done = subprocess.run(
                program.inside_argv(self.netns_path, argv),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                env={**os.environ, **env} if env else None,
            )
        except subprocess.TimeoutExpired as err:
            raise LabError(f"{self.name}: {argv[0]} did not end within {timeout_s:g} s\n{err.output!r}") from err
        if check and done.returncode != 0:
            words = " ".join(str(word) for word in argv)
            raise LabError(f"{self.name}: {words}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: Socket | None = None,
    ) -> Program:
        """Start a program inside; it ends with the site at the latest, and when this process is killed."""
        command = program.inside_argv(self.netns_path, argv)
        started = self._spawner.submit(program.start, command, log, env, cwd, stdin).result()
        self._programs.append(started)
        return started

    def is_running(self, interface: str) -> bool:
        """Whether an interface is up and its link works (IFF_RUNNING): frames sent now are not lost at this end."""
        with self.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
        return bool(struct.unpack_from("16xH", answer)[0] & _IFF_RUNNING)

    def ping(self, address: str, timeout_s: float = PING_S) -> float | None:
        """Round trip to an address in ms, by ICMP or ICMPv6 echo; None if no reply comes in time."""
        return echo.ping(self.socket, address, timeout_s)

    def ip(self, *lines: str) -> None:
        """Run lines of ip(8) inside: `ip("route add default via 192.168.7.1")`."""
        namespaces.iproute("ip", lines, self.netns)

    def tc(self, *lines: str) -> None:
        """Run lines of tc(8) inside."""
        namespaces.iproute("tc", lines, self.netns)

    def sysctl(self, name: str, value: str | None = None) -> str:
        """Set a kernel setting of this host, such as net.ipv4.ip_forward, or only read it; returns what it now is."""
        with self.enter():
            if value is not None:
                _write_sysctl(name, value)
            return _sysctl_path(name).read_text(encoding="ascii").strip()

    def forward(self) -> None:
        """Route IPv4 and IPv6 between its interfaces, also those that come later."""
        self.sysctl("net.ipv4.ip_forward", "1")
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
        self.sysctl("net.ipv6.conf.default.forwarding", "1")

    def ask(self) -> None:
        """Ask all its programs to end, without waiting."""
        for started in self._programs:
            started.ask()

    def stop(self) -> None:
        """End its programs and wait for that."""
        self.ask()
        while self._programs:
            self._programs.pop().close()

    def close(self) -> None:
        """End its programs and let go of the namespace."""
        try:
            self.stop()
        finally:
            os.close(self.fd)


def _sysctl_path(name: str) -> Path:
    """Dots become slashes as in sysctl(8); an interface with a dot in its name writes it as a slash."""
    return Path("/proc/sys") / name.translate(str.maketrans("./", "/."))


def _write_sysctl(name: str, value: str) -> None:
    _sysctl_path(name).write_text(value, encoding="ascii")
