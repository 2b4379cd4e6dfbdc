"""Routes of this node's own way into a mesh."""

from __future__ import annotations

import asyncio

from aiohttp import web

from appliance.core.admission_records import EnrolAsk
from appliance.core.admission_records import Enrolment as Record
from appliance.core.clock import hlc_ms
from appliance.core.errors import ERRORS, error
from appliance.core.ids import MeshId
from appliance.daemon.control.reply import Lines, read, reply, streaming
from appliance.daemon.enrolment import APPROVED, OVER, mesh_of
from appliance.daemon.mesh import name_of
from appliance.daemon.node import Node, moment
from appliance.trust.tokens import parse_credential

PULSE_S = 15.0  # between two lines while nothing changes, so that a reader knows that it is not forgotten


class EnrolmentRoutes:
    """/v1/enrolment."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """Ask to be admitted. It goes on by itself."""
        ask = await read(request, EnrolAsk)
        if not self._node.follows(mesh_of(parse_credential(ask.token))):
            await self._node.enrolment.begin(ask.token, ask.name or name_of(self._node.config))
        return reply(await self._record(), 202, "/v1/enrolment")

    async def show(self, _request: web.Request) -> web.StreamResponse:
        """How it stands."""
        return reply(await self._record())

    @streaming
    async def watch(self, request: web.Request) -> web.StreamResponse:
        """A line now and after each change, until nothing will come of it without somebody's help."""
        changes = self._node.enrolment.changes
        async with Lines(request) as lines:
            try:
                while True:
                    seen = changes.count
                    record = await self._record()
                    await lines.write(record)
                    if record.over:
                        break
                    try:
                        async with asyncio.timeout(PULSE_S):
                            await changes.after(seen)
                    except TimeoutError:
                        pass
            except ConnectionError:
                pass  # the reader left
        return lines.response

    async def give_up(self, _request: web.Request) -> web.StreamResponse:
        """Ask no more, and forget the token; how it stood is the answer."""
        record = await self._record()
        await self._node.enrolment.give_up()
        return reply(record)

    async def _record(self) -> Record:
        """Raises `admission.none` where this node asks for nothing and is in no mesh."""
        enrolment = self._node.enrolment
        if enrolment.application is None:
            return await self._member()
        known, trouble = enrolment.application, enrolment.trouble
        cause = error(known.reason, **known.detail) if known.reason in ERRORS else trouble
        return Record(
            node=str(self._node.key.id),
            mesh=str(MeshId(mesh_of(parse_credential(known.text)))),
            name=known.name,
            state=known.state,
            over=enrolment.is_done or known.state in OVER - {APPROVED},
            since=moment(known.since_ms),
            gateway=known.gateway or enrolment.trying,
            reason=known.reason or (trouble.key if trouble else ""),
            detail=dict(cause.detail) if cause else {},
            explanation=cause.message if cause else "",
            hint=cause.hint if cause else "",
            note=known.note,
            tries=enrolment.tries,
        )

    async def _member(self) -> Record:
        """A node that is in the mesh, as its own replica knows it."""
        if not self._node.is_in_mesh:
            raise error("admission.none")
        mesh, own = self._node.mesh, self._node.key.id
        view = await mesh.admission_queries.admission(own.raw)
        reason = view.row.reason if view else ""
        cause = error(reason, node=own) if reason in ERRORS else None
        return Record(
            node=str(own),
            mesh=str(MeshId(mesh.descriptor.mesh)),
            name=view.name if view else mesh.name(),
            state=view.state if view else APPROVED,  # by a grant, or before its certificate has come
            over=True,
            since=moment(hlc_ms(view.row.since_hlc)) if view else "",
            gateway="",
            reason=reason,
            detail=dict(cause.detail) if cause else {},
            explanation=cause.message if cause else "",
            hint=cause.hint if cause else "",
            note=view.row.note if view else "",
            tries=0,
        )
