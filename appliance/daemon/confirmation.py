"""Commit-confirm: a change of policy that nobody confirms in time is undone, also after a crash in between.

Who makes a change that cuts them off cannot say that it was a mistake. So the change is written down before it is made,
with the moment at which it is taken back; a confirmation removes the note. What others wrote since stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from appliance.core.errors import X0tError, error
from appliance.daemon import events
from appliance.daemon.membership import write_whole
from appliance.policy.service import PolicyService, Written
from appliance.replica.service import Replica

RETRY_S: Final = 5.0


class Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change that waits. Revisions in hex; `after` is empty while the change itself is being written."""

    before: str
    after: str
    by_ms: int


class Confirmation:
    """The one change of this node that waits to be confirmed."""

    def __init__(self, file: Path, replica: Replica, policy: PolicyService) -> None:
        self._file = file
        self._replica = replica
        self._policy = policy
        self._pending: Pending | None = None
        self._is_read = False
        self._turn = asyncio.Lock()  # of whoever makes, keeps or undoes the change
        self._changed = asyncio.Event()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("policy")

    @property
    def by_ms(self) -> int:
        """When the change is undone; 0 if none waits."""
        return self._pending.by_ms if self._pending else 0

    async def change(self, before: bytes, by_ms: int, write: Callable[[], Awaitable[Written]]) -> Written:
        """Make a change that is undone at that moment unless somebody confirms. `before`: the revision in force.

        Raises `policy.waiting` while another waits, and what `write` raises. Where it does not come back, the note
        stays, and what it wrote is undone when it is due.
        """
        async with self._turn:
            await self._read()
            if self._pending is not None:
                raise error("policy.waiting")
            pending = Pending(before.hex(), "", by_ms)
            await self._keep(pending)
            try:
                written = await write()
            except X0tError:
                await self._keep(None)
                raise
            await self._keep(msgspec.structs.replace(pending, after=written.revision.hex()))
            return written

    async def confirm(self) -> None:
        """Keep the change. Raises `policy.no_confirmation`."""
        async with self._turn:
            await self._read()
            if self._pending is None:
                raise error("policy.no_confirmation")
            await self._keep(None)

    async def run(self) -> None:
        """Undo what is not confirmed in time, for ever."""
        async with self._turn:
            await self._read()
        while True:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._left_s()):
                    await self._changed.wait()
            except TimeoutError:
                async with self._turn:
                    is_settled = await self._undo()
                if not is_settled:
                    await asyncio.sleep(RETRY_S)

    def _left_s(self) -> float | None:
        return max(0.0, (self._pending.by_ms - self._replica.now_ms()) / 1000) if self._pending else None

    async def _undo(self) -> bool:
        """True unless there is something to undo that could not be. Nothing is if it was confirmed at this moment."""
        pending = self._pending
        if pending is None or self._left_s():
            return True
        try:
            after = await self._made(pending)
            if after:
                await self._policy.undo(bytes.fromhex(pending.before), after)
                self._log.warning(events.POLICY_UNDONE, revision=after.hex())
        except X0tError as err:
            if err.key != "policy.unchanged":  # else somebody took it back already
                self._log.error(events.POLICY_UNDO_FAILED, error=str(err))
                return False
        await self._keep(None)
        return True

    async def _made(self, pending: Pending) -> bytes:
        """The change to undo: as noted, or as written just before a crash. Empty if there is none with effect."""
        history = (await self._policy.snapshot()).history
        known = [each.change.hex() for each in history]
        if pending.after:
            return bytes.fromhex(pending.after) if pending.after in known else b""
        later = history[known.index(pending.before) + 1 :] if pending.before in known else history
        mine = [each.change for each in later if each.author == self._replica.node]
        return mine[-1] if mine else b""

    async def _read(self) -> None:
        """What a daemon before this one left."""
        if self._is_read:
            return
        try:
            self._pending = msgspec.json.decode(await asyncio.to_thread(self._file.read_bytes), type=Pending)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as err:
            raise error("config.file", path=self._file, reason=str(err)) from err
        self._is_read = True

    async def _keep(self, pending: Pending | None) -> None:
        if pending is None:
            await asyncio.to_thread(self._file.unlink, missing_ok=True)
        else:
            await asyncio.to_thread(write_whole, self._file, msgspec.json.encode(pending))
        self._pending = pending
        self._changed.set()
