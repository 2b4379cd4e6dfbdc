"""One thread's way to the table: its socket, the steps that are tried again, and what a look at the kernel is held to.

Whether anything may be written is not decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from appliance.core.errors import error
from appliance.core.limits import Limits
from appliance.netstack.nft.channel import Channel, LostError, OvertakenError, RefusedError, Wire
from appliance.netstack.nft.difference import (
    element_differences,
    layout_differences,
)
from appliance.netstack.nft.kernel import Kernel, Reading
from appliance.netstack.nft.raw import raw_filter
from appliance.netstack.nft.skeleton import MeshTable, skeleton
from appliance.netstack.nft.turns import Pace, at_once
from appliance.policy.enforcement import Difference
from appliance.policy.filter import Filter

SLACK_MS: Final = 2_000  # by which the kernel's end of a grant may differ from the wanted one: its clock is another
_T = TypeVar("_T")


class Ground(NamedTuple):
    """What all stand on: sockets, the clock (ms since the epoch), and a look for foreign changes.

    `was_touched` tells whether somebody else changed our table since it was asked last, or whether that is not known;
    only who writes asks.
    """

    connect: Callable[[], Wire]
    now_ms: Callable[[], int]
    was_touched: Callable[[], bool]
    note_port: Callable[[int], None]


class Access:
    """Blocks; one thread alone may use it. Each thread has one of its own, see `another`."""

    def __init__(self, table: MeshTable, limits: Limits, ground: Ground) -> None:
        self.table: Final = table
        self.limits: Final = limits
        self.ground: Final = ground
        self.skeleton = skeleton(table, limits)
        self._channel: Channel | None = None

    def another(self) -> Access:
        """One to the same table for another thread."""
        return Access(self.table, self.limits, self.ground)

    def steadily(
        self, step: Callable[[], _T], failed: Callable[[], None] = lambda: None, key: str = "firewall.refused"
    ) -> _T:
        """Do a step again while others overtake it or answers get lost, a bounded number of times.

        `failed` is called each time. Raises the error of that key, which names the table and the reason.
        """
        reason = ""
        for _ in range(self.limits.firewall_attempts):
            try:
                return step()
            except OvertakenError:
                reason = "others change the ruleset all the time"
            except LostError as err:
                reason = str(err)
                self.close()  # late answers must not be taken for those to the next question
            except (RefusedError, ValueError) as err:
                reason = str(err)
            failed()
        raise error(key, table=self.table.name, reason=reason)

    def now(self) -> int:
        """Wall clock, ms since the epoch."""
        return self.ground.now_ms()

    def nothing(self) -> Filter:
        """The filter that denies everything."""
        return Filter(own=self.table.own)

    def kernel(self, pace: Pace = at_once) -> Kernel:
        """The table as it is."""
        return Kernel(self.channel(), self.table, self.skeleton, pace)

    def channel(self) -> Channel:
        """The socket, opened when it is needed. Raises `firewall.unavailable`."""
        if self._channel is None:
            self._channel = _opened(self.ground)
        return self._channel

    def close(self) -> None:
        """End the socket; the next use opens another."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def differences(self, seen: Reading, wanted: Filter) -> list[Difference]:
        """What the whole table should be and is not."""
        different = layout_differences(self.skeleton, seen.layout)
        return different or element_differences(raw_filter(wanted, seen.at_ms), seen.raw, seen.at_ms, SLACK_MS)


def _opened(ground: Ground) -> Channel:
    try:
        wire = ground.connect()
    except OSError as err:
        raise error("firewall.unavailable", reason=err.strerror or str(err)) from err
    try:
        channel = Channel(wire)
    except OSError as err:
        wire.close()
        raise error("firewall.unavailable", reason=err.strerror or str(err)) from err
    ground.note_port(channel.port)
    return channel
