"""Routes of admission: how nodes stand, what led there, and what an approver decides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from appliance.core import admission_records as records
from appliance.core.clock import hlc_ms, hlc_text
from appliance.core.errors import error
from appliance.core.ids import BatchHash, CertificateId, NodeId, TokenId
from appliance.daemon.control import show
from appliance.daemon.control.find import find_node
from appliance.daemon.control.reply import read, reply
from appliance.daemon.node import Node, moment
from appliance.replica.admission_operations import AdmissionOperations, ApproveAsk
from appliance.replica.admission_queries import AdmissionView, Step
from appliance.replica.reports import Receipt

Decide = Callable[[AdmissionOperations, bytes, str], Awaitable[Receipt]]
ACTIONS: dict[str, Decide] = {
    "ban": AdmissionOperations.ban,
    "evict": AdmissionOperations.evict,
    "reject": AdmissionOperations.reject,
    "resume": AdmissionOperations.resume,
    "revoke": AdmissionOperations.revoke_member,
    "suspend": AdmissionOperations.suspend,
    "unban": AdmissionOperations.unban,
}


class AdmissionRoutes:
    """/v1/admissions."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def list(self, _request: web.Request) -> web.StreamResponse:
        """How all nodes stand that asked to be admitted, or were decided upon."""
        found = await self._node.mesh.admission_queries.admissions()
        return reply([_admission(view) for view in found])

    async def show(self, request: web.Request) -> web.StreamResponse:
        """How one node stands."""
        node = await self._find(request)
        view = await self._node.mesh.admission_queries.admission(node)
        if view is None:
            raise error("replica.not_found", what=f"admission of {NodeId(node)}")
        return reply(_admission(view))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happened to a node, in the order that counts."""
        node = await self._find(request)
        return reply([_event(step) for step in await self._node.mesh.admission_queries.course(node)])

    async def decide(self, request: web.Request) -> web.StreamResponse:
        """Reject, suspend, resume, revoke, evict, ban or unban a node."""
        ask = await read(request, records.DecideAsk)
        action = ACTIONS.get(ask.action)
        if action is None:
            raise error("control.request", reason=f"decisions are {', '.join(ACTIONS)}")
        made = await action(self._node.mesh.admission, await self._find(request), ask.reason)
        return _written(made)

    async def approve(self, request: web.Request) -> web.StreamResponse:
        """Make a node a member."""
        ask = _ask(await read(request, records.ApproveAsk))
        return _written(await self._node.mesh.admission.approve(await self._find(request), ask))

    async def renew(self, request: web.Request) -> web.StreamResponse:
        """Give a node another certificate like the one that it has."""
        ask = _ask(await read(request, records.ApproveAsk))
        return _written(await self._node.mesh.admission.renew(await self._find(request), ask))

    async def _find(self, request: web.Request) -> bytes:
        return await find_node(self._node.mesh, request.match_info["node"])


def _written(made: Receipt) -> web.Response:
    return reply(show.receipt(made), 201, f"/v1/replica/batches/{BatchHash(made.hash)}")


def _ask(ask: records.ApproveAsk) -> ApproveAsk:
    return ApproveAsk(tags=ask.tags, lifetime_ms=ask.lifetime_ms)


def _admission(view: AdmissionView) -> records.Admission:
    row, held = view.row, view.certificate
    return records.Admission(
        node=str(NodeId(row.node)),
        name=view.name,
        state=view.state,
        since=moment(hlc_ms(row.since_hlc)),
        reason=row.reason,
        explanation=show.explain(row.reason),
        note=row.note,
        token="" if row.token is None else str(TokenId(row.token)),
        tags=row.tags,
        level=row.level,
        actor=str(NodeId(row.actor)),
        until="" if held is None else moment(held.not_after_ms),
        certificate="" if held is None else str(CertificateId(held.certificate)),
    )


def _event(step: Step) -> records.AdmissionEvent:
    return records.AdmissionEvent(
        time=hlc_text(step.hlc),
        event=step.event.value,
        state=step.state,
        actor=str(NodeId(step.actor)),
        note=step.note,
        rule=step.rule,
        batch=str(BatchHash(step.batch)),
        reason=step.reason,
        effect=step.fault,
    )
