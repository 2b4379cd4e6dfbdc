"""Node: what this daemon is, and the mesh that it follows once it has one.

It founds a mesh or joins one while the daemon runs, and then keeps the mesh's jobs under the supervisor: listening,
links, announcing itself, and a probe that shows whether the replica still writes. It parses no request and opens no
file itself: `membership` has the files, `wiring` builds the parts.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from appliance.core import records
from appliance.core.errors import error
from appliance.core.ids import MeshId
from appliance.daemon import events
from appliance.daemon.config import Config
from appliance.daemon.control.server import ControlServer
from appliance.daemon.enrolment import Enrolment
from appliance.daemon.membership import Membership, found
from appliance.daemon.mesh import FollowedMesh
from appliance.daemon.supervisor import Job, Supervisor
from appliance.daemon.target import Target
from appliance.trust.descriptor import Descriptor
from appliance.trust.keys import NodeKey, format_public_key

Open = Callable[[Descriptor], Awaitable[FollowedMesh]]


class Node:
    """The daemon's one object that all routes speak to."""

    def __init__(self, config: Config, key: NodeKey, membership: Membership, open_mesh: Open) -> None:
        self.config = config
        self.key = key
        self.membership = membership
        self.enrolment: Enrolment  # joined by the wiring: it needs this object to be made first
        self.supervisor = Supervisor()
        self.started_s = time.monotonic()
        self._open = open_mesh
        self._mesh: FollowedMesh | None = None
        self._changing = asyncio.Lock()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("node")

    @property
    def mesh(self) -> FollowedMesh:
        """The mesh that this node follows. Raises `replica.no_mesh`."""
        if self._mesh is None:
            raise error("replica.no_mesh")
        return self._mesh

    # -- life

    async def open(self) -> None:
        """Open the replica of the mesh that this node followed when it last ran."""
        descriptor = await asyncio.to_thread(self.membership.descriptor)
        if descriptor is not None:
            known = await asyncio.to_thread(self.membership.peers)
            async with self._opened(descriptor, known) as mesh:
                self._follow(mesh)
            self._log.info(events.MESH_OPENED, mesh=MeshId(descriptor.mesh), name=descriptor.name)
        await self.enrolment.load(is_member=descriptor is not None)

    async def run(
        self, server: ControlServer, ready: Callable[[], None], feed: Callable[[], Awaitable[None]], feed_s: float
    ) -> None:
        """Serve until the supervisor is stopped. `ready` is called when commands are answered and peers can dial."""

        async def serve() -> None:
            up = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve(up.set))
                await up.wait()
                if self._mesh is not None:
                    await self._mesh.listening.wait()
                ready()

        self.supervisor.add(Job(name="control", run=serve, critical=True, restarts=0))
        self.supervisor.add(Job(name="enrolment", run=self.enrolment.run))
        self.supervisor.add(Job(name="service-manager", run=feed, period_s=feed_s))
        await self.supervisor.run()

    def stop(self) -> None:
        """Begin a clean stop; harmless when repeated."""
        if self._mesh is not None:
            self._mesh.end_watching()
        self.supervisor.stop()

    async def close(self) -> None:
        """Finish what the replica has begun, and close it. Harmless when repeated."""
        mesh, self._mesh = self._mesh, None
        if mesh is not None:
            await mesh.close()
        self.key.wipe()

    def summary(self) -> str:
        """One line for the service manager."""
        if self._mesh is None:
            asked = self.enrolment.application
            return (
                "in no mesh yet: x0t mesh create, or x0t join"
                if asked is None
                else f"asks to be admitted: {asked.state}"
            )
        links = self._mesh.links
        return f"mesh {self._mesh.descriptor.name}, {'cut off' if links.is_cut else f'{len(links.up())} links'}"

    # -- founding and joining

    async def create(self, name: str) -> records.Mesh:
        """Found a mesh, with this node as its first owner."""
        async with self._changing:
            self._refuse_second()
            now_ms = time.time_ns() // 1_000_000
            authority = await asyncio.to_thread(self.membership.authority)
            depth = self.config.effective_limits().grant_depth
            try:
                blob, grant = await asyncio.to_thread(found, authority, self.key, name, now_ms, depth)
            finally:
                authority.wipe()
            descriptor = await asyncio.to_thread(self.membership.open, blob)
            async with self._opened(descriptor, []) as mesh:
                if not mesh.replica.vector:  # else a founding was interrupted after its first batch
                    await mesh.operations.found(grant, mesh.name())
                await asyncio.to_thread(self.membership.follow, blob)
                self._follow(mesh)
            self._log.info(events.MESH_CREATED, mesh=MeshId(mesh.descriptor.mesh), name=name)
        return await self.mesh_record()

    async def join(self, blob: bytes, peers: list[Target]) -> records.Mesh:
        """Follow a mesh and meet it at these peers. Repeating it only adds peers."""
        async with self._changing:
            if self._mesh is None:
                descriptor = await asyncio.to_thread(self.membership.open, blob)
                async with self._opened(descriptor, list(dict.fromkeys(peers))) as mesh:
                    await asyncio.to_thread(self.membership.follow, blob, peers)
                    self._follow(mesh)
                self._log.info(events.MESH_JOINED, mesh=MeshId(descriptor.mesh), name=descriptor.name)
            else:
                await asyncio.to_thread(self.membership.follow, blob, peers)
                self._mesh.known_peers = await asyncio.to_thread(self.membership.peers)
                self._mesh.aim()
        return await self.mesh_record()

    async def mesh_record(self) -> records.Mesh:
        """The mesh for `x0t mesh show`."""
        descriptor = self.mesh.descriptor
        blob = await asyncio.to_thread(self.membership.descriptor_blob)
        warning = await asyncio.to_thread(self.membership.warning)
        return records.Mesh(
            mesh=str(MeshId(descriptor.mesh)),
            name=descriptor.name,
            authority=format_public_key(descriptor.authority_key),
            created=moment(descriptor.created_ms),
            authority_here=bool(warning),
            descriptor=base64.b64encode(blob or b"").decode(),
            warning=warning,
        )

    @property
    def is_in_mesh(self) -> bool:
        """True once this node follows a mesh."""
        return self._mesh is not None

    def follows(self, mesh: bytes) -> bool:
        """True if this node follows this mesh; raises `replica.mesh_exists` if it follows another."""
        if self._mesh is not None and self._mesh.descriptor.mesh != mesh:
            raise error("replica.mesh_exists", mesh=self._mesh.descriptor.name)
        return self._mesh is not None

    def _refuse_second(self) -> None:
        if self._mesh is not None:
            raise error("replica.mesh_exists", mesh=self._mesh.descriptor.name)

    @asynccontextmanager
    async def _opened(self, descriptor: Descriptor, known_peers: list[Target]) -> AsyncIterator[FollowedMesh]:
        """A mesh that is ready to be followed; closed again if what is done with it fails."""
        mesh = await self._open(descriptor)
        try:
            mesh.known_peers = known_peers
            mesh.aim()
            yield mesh
        except BaseException:
            await mesh.close()
            raise

    def _follow(self, mesh: FollowedMesh) -> None:
        """From here on nothing fails."""
        self._mesh = mesh
        for job in mesh.jobs():
            self.supervisor.add(job)


def moment(ms: int) -> str:
    """RFC 3339, UTC, in seconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
