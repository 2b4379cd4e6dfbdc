"""Routes of long work on the whole replica: verify, rebuild, export, import, archive; and the checkpoint before it.

The work runs in steps on the replica's writer thread, between which the daemon goes on as ever. Whoever leaves ends it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import TypeVar

from aiohttp import web

from appliance.core import records
from appliance.core.errors import error
from appliance.core.ids import BatchHash
from appliance.daemon.control import show
from appliance.daemon.control.reply import Report, reply, stream_work, streaming
from appliance.daemon.node import Node
from appliance.replica import maintenance
from appliance.replica.engine import Engine
from appliance.replica.reports import Progress, Rebuilt, Verified

R = TypeVar("R")


class UpkeepRoutes:
    """/v1/replica, long work."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @streaming
    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Read the whole log again and compare the read model with it."""
        mesh = self._node.mesh

        async def work(report: Report) -> records.Verified:
            result = await self._steps("reading the log", report, lambda e: maintenance.verify(e, mesh.check))
            assert isinstance(result, Verified)
            return show.verified(result)

        return await stream_work(request, work)

    @streaming
    async def rebuild(self, request: web.Request) -> web.StreamResponse:
        """Make the read model anew from the log."""

        async def work(report: Report) -> records.Rebuilt:
            result = await self._steps("folding the log", report, maintenance.rebuild)
            assert isinstance(result, Rebuilt)
            return records.Rebuilt(batches=result.batches, before=result.before.hex(), after=result.after.hex())

        return await stream_work(request, work)

    async def _steps(self, stage: str, report: Report, begin: Callable[[Engine], Iterator[Progress | R]]) -> R:
        """Run long work to its end, with its progress; its last item is the result."""
        items: AsyncIterator[Progress | R] = maintenance.stepped(self._node.mesh.replica, begin)
        async with aclosing(items) as steps:  # type: ignore[type-var]  # it is an async generator
            async for item in steps:
                if not isinstance(item, Progress):
                    return item
                report(stage, item.done, item.total)
        raise error("control.interrupted")

    async def checkpoint(self, _request: web.Request) -> web.StreamResponse:
        """Close the epoch."""
        made = await self._node.mesh.operations.checkpoint(0)
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")

    @streaming
    async def export(self, request: web.Request) -> web.StreamResponse:
        raise error("control.interrupted")

    import_ = archive = export
