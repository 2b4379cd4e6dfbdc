"""Routes that read the replica: status, log, what has no effect, conflicts, and the watch stream."""

from __future__ import annotations

import time

from aiohttp import web

from appliance.core import records
from appliance.core.errors import error
from appliance.core.ids import MeshId, NodeId
from appliance.core.records import LogAsk, WatchAsk
from appliance.daemon.control import show
from appliance.daemon.control.reply import Lines, query, reply, streaming
from appliance.daemon.node import Node
from appliance.daemon.software import software


class ReplicaRoutes:
    """/v1/replica, reading."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def status(self, _request: web.Request) -> web.StreamResponse:
        """The daemon and its replica."""
        node, mesh = self._node, self._node.mesh
        state = await mesh.queries.status()
        listen = node.config.listen
        return reply(
            records.Status(
                node=str(node.key.id),
                mesh=str(MeshId(state.mesh)),
                name=mesh.descriptor.name,
                software=f"x0td {software()}",
                uptime_s=int(time.monotonic() - node.started_s),
                digest=state.digest.hex(),
                vector=state.vector.hex(),
                batches=state.batches,
                authors=state.authors,
                epoch=state.epoch,
                no_effect=state.no_effect,
                parked=state.parked,
                frozen=show.names(state.frozen),
                refused=state.refused,
                turned_away=dict(mesh.listener.refusals),
                log_bytes=state.log_bytes,
                links_up=len(mesh.links.up()),
                cut=mesh.links.is_cut,
                listen=f"{listen.address}:{mesh.port}" if mesh.port else "",
                healthy=node.supervisor.is_healthy(),
                jobs=self._jobs(),
            )
        )

    def _jobs(self) -> tuple[records.Job, ...]:
        return tuple(
            records.Job(
                name=state.job.name,
                phase=state.phase.value,
                rounds=state.rounds,
                failures=state.failures,
                last_error=state.last_error,
            )
            for state in self._node.supervisor.states()
        )

    @streaming
    async def watch(self, request: web.Request) -> web.StreamResponse:
        """A line now, after each change, and at least each pulse, until the reader leaves."""
        ask = query(request, WatchAsk)
        mesh = self._node.mesh
        async with Lines(request) as lines:
            try:
                async for _ in mesh.watch(ask.pulse_ms / 1000):
                    vector, up = mesh.replica.vector.digest().hex(), len(mesh.links.up())
                    await lines.write(records.Watch(vector=vector, batches=mesh.batches, links_up=up))
            except ConnectionError:
                pass
        return lines.response

    async def log(self, request: web.Request) -> web.StreamResponse:
        """Batches, newest first."""
        ask = query(request, LogAsk)
        author = NodeId.parse(ask.author).raw if ask.author else None
        return reply([show.line(row) for row in await self._node.mesh.queries.log(author, ask.limit)])

    async def show(self, request: web.Request) -> web.StreamResponse:
        """One batch, by its id or the beginning of it."""
        name = request.match_info["batch"]
        found = await self._node.mesh.queries.show(name)
        if found is None:
            raise error("replica.not_found", what=f"batch {name}")
        return reply(show.detail(found))

    async def no_effect(self, _request: web.Request) -> web.StreamResponse:
        """Entries that are kept and have no effect."""
        return reply([show.no_effect(row) for row in await self._node.mesh.queries.no_effect()])

    async def conflicts(self, _request: web.Request) -> web.StreamResponse:
        """What was written concurrently and does not agree."""
        return reply([show.conflict(view) for view in await self._node.mesh.queries.conflicts()])
