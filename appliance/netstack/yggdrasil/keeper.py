"""Keeps one daemon: adopts the one that runs, starts it, waits until it is ready, tries again when it ends.

The interface comes first and stays, so that what is meant for the mesh never takes another way; the daemon that
answers must have our key and have given the interface our address, or it is ended. When and why a daemon that runs is
to be replaced is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address
from appliance.netstack.links import Links
from appliance.netstack.yggdrasil import process
from appliance.netstack.yggdrasil.config import Config, to_json
from appliance.netstack.yggdrasil.process import Daemon, Running
from appliance.netstack.yggdrasil.records import Place

_POLL_S: Final = 0.02  # of a daemon that is coming up
_WINDOW_S: Final = 600.0  # in which crashes are counted
_BACKOFF_MIN_S: Final = 0.25
_BACKOFF_MAX_S: Final = 8.0
_SLOW_S: Final = 60.0  # between tries once the budget is used up


class Keeper:
    """The daemon of one place. `daemon` is there from the moment it is ready until it ends."""

    def __init__(self, place: Place, key: bytes, on_end: Callable[[], None], limits: Limits = LIMITS) -> None:
        self.daemon: Daemon | None = None
        self.index = 0  # of the interface
        self.starts = 0
        self.last_words = ""  # of a daemon that ended by itself
        self._place = place
        self._key = key
        self._limits = limits
        self._on_end = on_end
        self._crashes: deque[float] = deque()
        self._not_before_s = 0.0

    @property
    def is_crashing(self) -> bool:
        """True once it ended by itself too often."""
        return len(self._crashes) > self._limits.yggdrasil_restarts

    @property
    def wait_s(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._not_before_s - asyncio.get_running_loop().time())

    async def adopt(self, links: Links) -> bool:
        """Take over a daemon that an earlier life of ours left, if it is what it should be; end it otherwise."""
        daemon = await process.adopt(self._place, self._limits)
        if daemon is None:
            return False
        try:
            self.index = await links.index(self._place.interface) or 0
            if not self.index or not await links.is_up(self.index):
                raise error("yggdrasil.interface", interface=self._place.interface, reason="it is down or gone")
            await self._ready(daemon, links)
        except X0tError:
            await self._end(daemon)
            return False
        except BaseException:
            daemon.close()
            raise
        self._take(daemon)
        return True

    async def has_interface(self, links: Links) -> bool:
        """True if the interface is still the one that the daemon has open."""
        return await links.index(self._place.interface) == self.index

    async def start(self, links: Links, config: Config, closed_for: frozenset[bytes]) -> None:
        """Start a daemon and wait until it is ready. Raises `yggdrasil.*`; the next try then must wait `wait_s`."""
        try:
            daemon = await self._started(links, config, closed_for)
        except X0tError:
            self._count_crash()
            raise
        self._take(daemon)
        self.starts += 1

    async def _started(self, links: Links, config: Config, closed_for: frozenset[bytes]) -> Daemon:
        """Cancelled, it may leave a daemon that the next start adopts or ends."""
        user = process.user_id(self._place)
        await process.end_strays(self._place, self._limits)
        if await links.is_open(self._place.interface):
            raise error("yggdrasil.interface", interface=self._place.interface, reason="another program has it open")
        self.index = await links.make_tun(self._place.interface, user, config.mtu)
        await links.clear_addresses(self.index)  # the daemon sets its own, and takes none that is there
        daemon = await process.start(self._place, to_json(config), _running(config, closed_for), self._limits)
        try:
            await self._ready(daemon, links)
            await links.hold(self.index, node_address(self._key))
        except X0tError:
            await self._end(daemon)
            raise
        except BaseException:
            daemon.close()
            raise
        return daemon

    async def stop(self) -> None:
        """End the daemon; harmless if there is none."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            await self._end(daemon)

    async def ended(self) -> None:
        """Take note that the daemon ended by itself."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            daemon.close()
        self.last_words = await process.log_tail(self._place)
        self._count_crash()

    def release(self) -> None:
        """Let go of the daemon and leave it running."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            daemon.close()

    def _take(self, daemon: Daemon) -> None:
        self.daemon = daemon
        daemon.on_end = self._on_end

    async def _ready(self, daemon: Daemon, links: Links) -> None:
        """Wait until it answers and the interface has our address. Raises `yggdrasil.*` if that does not come true."""
        address = node_address(self._key)
        try:
            async with asyncio.timeout(self._limits.yggdrasil_start_s):
                while True:
                    if daemon.has_ended:
                        raise error("yggdrasil.program", reason=await process.log_tail(self._place))
                    if not await self.has_interface(links):
                        raise error("yggdrasil.interface", interface=self._place.interface, reason="it was taken away")
                    if await self._answers(daemon) and address in {
                        each for each, _ in await links.addresses(self.index)
                    }:
                        return
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as err:
            reason = f"not within {self._limits.yggdrasil_start_s} s; {await process.log_tail(self._place)}"
            raise error("yggdrasil.unavailable", request="getself", reason=reason) from err

    async def _answers(self, daemon: Daemon) -> bool:
        """True if it is the daemon that we know, False if nobody answers yet."""
        try:
            found = await daemon.admin.self_()
        except X0tError as err:
            if err.key == "yggdrasil.unavailable":
                return False
            raise
        wanted = self._key.hex(), address_text(node_address(self._key))
        if (found.key, found.address) != wanted:
            raise error("yggdrasil.stranger", reason=f"its key is {found.key}, its address {found.address}")
        return True

    async def _end(self, daemon: Daemon) -> None:
        try:
            await daemon.stop(self._limits.yggdrasil_stop_s)
        finally:
            daemon.close()

    def _count_crash(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._crashes.append(now_s)
        while now_s - self._crashes[0] > _WINDOW_S:
            self._crashes.popleft()
        backoff_s = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2.0 ** (len(self._crashes) - 1))
        self._not_before_s = now_s + (_SLOW_S if self.is_crashing else backoff_s)


def _running(config: Config, closed_for: frozenset[bytes]) -> Running:
    return Running(
        pid=0,
        start_ticks=0,
        boot="",
        base_digest=config.base_digest,
        password_digest=process.password_digest(config.password),
        allowed=tuple(sorted(key.hex() for key in config.allowed)),
        closed_for=tuple(sorted(key.hex() for key in closed_for)),
    )
