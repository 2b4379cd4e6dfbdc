"""Routes of long work on the whole replica: verify, rebuild, export, import, archive; and the checkpoint before it.

The work runs in steps on the replica's writer thread, between which the daemon goes on as ever. Whoever leaves ends it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from typing import TypeVar

from aiohttp import web

from appliance.core import records
from appliance.core.errors import error
from appliance.core.ids import BatchHash
from appliance.daemon.control import show
from appliance.daemon.control.reply import Report, read, reply, stream_work, streaming
from appliance.daemon.mesh import FollowedMesh
from appliance.daemon.node import Node
from appliance.replica import archive, archive_check, maintenance
from appliance.replica.engine import Engine
from appliance.replica.reports import Progress

R = TypeVar("R")
Steps = Callable[[Engine], Generator[Progress | R, None, None]]


class UpkeepRoutes:
    """/v1/replica, long work."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @streaming
    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Read the whole log again and compare the read model with it."""
        mesh = self._node.mesh

        async def work(report: Report) -> records.Verified:
            steps = _stepped(mesh, lambda engine: maintenance.verify(engine, mesh.check))
            return show.verified(await _result(steps, "reading the log", report))

        return await stream_work(request, work)

    @streaming
    async def rebuild(self, request: web.Request) -> web.StreamResponse:
        """Make the read model anew from the log."""
        mesh = self._node.mesh

        async def work(report: Report) -> records.Rebuilt:
            return show.rebuilt(await _result(_stepped(mesh, maintenance.rebuild), "folding the log", report))

        return await stream_work(request, work)

    @streaming
    async def export(self, request: web.Request) -> web.StreamResponse:
        """Write all batches to a file."""
        mesh = self._node.mesh
        file = mesh.file((await read(request, records.FileAsk)).path)

        async def work(report: Report) -> records.Moved:
            steps = _stepped(mesh, lambda engine: archive.export(engine, file))
            return show.moved(await _result(steps, "writing", report))

        return await stream_work(request, work)

    @streaming
    async def import_(self, request: web.Request) -> web.StreamResponse:
        """Take batches from a file, each checked like one from a peer."""
        mesh = self._node.mesh
        file = mesh.file((await read(request, records.FileAsk)).path)

        async def work(report: Report) -> records.Imported:
            steps = archive_check.import_(mesh.replica, file)
            return show.imported(await _result(steps, "reading", report))

        return await stream_work(request, work)

    @streaming
    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Write what a checkpoint covers to a file and free the space here."""
        mesh = self._node.mesh
        ask = await read(request, records.ArchiveAsk)
        file = mesh.file(ask.path)
        epoch = ask.epoch if ask.epoch is not None else await mesh.replica.run(lambda engine: engine.authority.epoch())

        async def work(report: Report) -> records.Moved:
            steps = _stepped(mesh, lambda engine: archive.archive(engine, file, epoch, mesh.check))
            return show.moved(await _result(steps, "writing and reading back", report))

        return await stream_work(request, work)

    async def checkpoint(self, request: web.Request) -> web.StreamResponse:
        """Close the epoch."""
        ask = await read(request, records.CheckpointAsk)
        made = await self._node.mesh.operations.checkpoint(ask.older_than_ms)
        return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")


def _stepped(mesh: FollowedMesh, begin: Steps[R]) -> AsyncGenerator[Progress | R, None]:
    return maintenance.stepped(mesh.replica, begin)


async def _result(steps: AsyncGenerator[Progress | R, None], stage: str, report: Report) -> R:
    """Run long work to its end and tell how far it is; its last item is the result."""
    async with aclosing(steps):
        async for item in steps:
            if not isinstance(item, Progress):
                return item
            report(stage, item.done, item.total)
    raise error("control.interrupted")
