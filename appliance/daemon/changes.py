"""A counter that can be waited for: how those who watch learn that something moved, without missing a move."""

from __future__ import annotations

import asyncio


class Changes:
    """Counts changes. Whoever remembers the count can never miss one."""

    def __init__(self) -> None:
        self.count = 0
        self._moved = asyncio.Event()

    def tell(self) -> None:
        """Something changed: wake all who wait."""
        self.count += 1
        self._moved.set()
        self._moved = asyncio.Event()

    async def after(self, count: int) -> int:
        """Wait until there are more changes than `count`; returns how many there are now."""
        while self.count == count:
            await self._moved.wait()
        return self.count
