"""Clients that write to a real daemon as fast as they are answered, and remember every acknowledgement."""

from __future__ import annotations

import threading

from appliance.core.errors import X0tError
from appliance.core.records import NameAsk, Receipt
from appliance.lab.rig import Machine

WRITERS = 4
PATIENCE_S = 30.0
RETRY_S = 0.01
# What a client may be told while its daemon stops, is away, or has a name already.
FORESEEN = frozenset({"control.daemon_down", "control.interrupted", "replica.closing", "tags.unchanged"})


class Load:
    """As a context manager: writes from entry to exit, through restarts of the daemon."""

    def __init__(self, machine: Machine, writers: int = WRITERS, pace_s: float = 0.0) -> None:
        """`pace_s`: pause of each writer after an acknowledgement."""
        self._machine = machine
        self._node = machine.key().node
        self._pace_s = pace_s
        self._stop = threading.Event()
        self._moved = threading.Condition()
        self.acknowledged: list[Receipt] = []
        self.unforeseen: list[X0tError] = []
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(writers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Wait for so many further acknowledgements."""
        with self._moved:
            wanted = len(self.acknowledged) + more
            assert self._moved.wait_for(lambda: len(self.acknowledged) >= wanted, PATIENCE_S), self._machine.tail()

    def _write(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            ask = NameAsk(name=f"{self._machine.name} {number} {count}")
            try:
                receipt = self._machine.client.send("PUT", f"/nodes/{self._node}/name", ask, Receipt)
            except X0tError as err:
                if err.key not in FORESEEN:
                    self.unforeseen.append(err)
                self._stop.wait(RETRY_S)
                continue
            with self._moved:
                self.acknowledged.append(receipt)
                self._moved.notify_all()
            self._stop.wait(self._pace_s)
