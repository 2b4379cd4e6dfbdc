"""Service manager notification, the protocol of sd_notify(3): one datagram of `KEY=value` lines to `$NOTIFY_SOCKET`.

It never fails the daemon: without a socket, or with a deaf one, the calls do nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from appliance.core.printable import printable

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


class Notifier:
    """Speaks to the service manager named by the environment; a path that starts with `@` is an abstract address."""

    def __init__(self, env: Mapping[str, str]) -> None:
        path = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._watchdog_us = _watchdog_us(env)

    @property
    def watchdog_period_s(self) -> float | None:
        """Seconds between two signs of life, half of what the manager allows; None when it does not watch."""
        return self._watchdog_us / 2_000_000 if self._watchdog_us and self._address else None

    def send(self, *lines: str) -> bool:
        """Send the lines in one datagram; True if the manager's socket took it.

        A line that holds a line end would be two: what others wrote must not become an order to the manager.
        """
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sock:
                sock.connect(self._address)
                sock.send("\n".join(printable(line) for line in lines).encode())
        except OSError:
            return False
        return True


def _watchdog_us(env: Mapping[str, str]) -> int:
    usec, pid = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    for_us = not pid or pid == str(os.getpid())
    return int(usec) if usec.isdecimal() and for_us else 0
