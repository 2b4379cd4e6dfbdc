"""Reception: the gateway's end of the door, where nodes ask to be admitted and wait for the mesh to decide.

One conversation for each guest: `admission.gateway` keeps its order and checks the request, the replica says whether
it has effect and makes it durable, and what becomes of it is told until it is decided. A request that was written
before is answered with the state that is: nothing is written twice. Why somebody is sent away is told by its key; a
stranger learns nothing from it that it did not bring.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from appliance.admission.gateway import Conversation, Session, judge, same_keys
from appliance.admission.messages import Ask, Fetch, FromJoiner, Hello, News, Offer, Refusal, Ticket, encode
from appliance.core.clock import hlc_ms
from appliance.core.errors import X0tError, error
from appliance.core.ids import NodeId, TokenId
from appliance.daemon import events
from appliance.daemon.codes import Codes
from appliance.daemon.desk import Desk, Held
from appliance.daemon.supervisor import contain
from appliance.replica.admission_queries import AdmissionQueries
from appliance.replica.reports import Receipt
from appliance.replica.rows import AdmissionRow
from appliance.replica.service import Replica
from appliance.transport.guests import Guest
from appliance.transport.stream import BoundStream
from appliance.trust.enrolment import peek_request
from appliance.trust.signed import Verify
from appliance.trust.tokens import token_id

APPROVED = "approved"
DECIDED = frozenset({APPROVED, "rejected", "revoked", "evicted", "banned"})  # nothing more is told after these
REASONS = {  # what is said of a state that the mesh gave no reason for
    "banned": "admission.banned",
    "evicted": "admission.evicted",
    "expired": "admission.expired",
    "rejected": "admission.rejected",
    "revoked": "admission.withdrawn",
    "suspended": "admission.suspended",
}

TOLD = frozenset({"admission", "certificate", "grant", "request", "token"})  # areas of errors that are about the guest

# (token, request), both signed: written down and durable; None if it was before
Enrol = Callable[[bytes, bytes], Awaitable[Receipt | None]]


class Gateway(msgspec.Struct, frozen=True):
    """What a gateway is, to those who come to it."""

    mesh: bytes
    descriptor: Callable[[], bytes]  # signed; blocks to read it
    enrol: Enrol
    verify: Verify
    now_ms: Callable[[], int]


class Reception:
    """Serves the streams of `ENROL_PATH`."""

    def __init__(self, gateway: Gateway, replica: Replica, desk: Desk, codes: Codes) -> None:
        self._gateway = gateway
        self._desk = desk
        self._queries = AdmissionQueries(replica)
        self._codes = codes
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("admission")

    async def receive(self, guest: Guest, stream: BoundStream) -> None:
        """One conversation, until it is decided or the guest leaves."""
        try:
            await contain(f"the enrolment of {guest.peer}", self._converse(guest, stream))
        except X0tError as err:
            if not err.key.startswith("stream."):
                self._log.info(events.GUEST_REFUSED, node=str(guest.peer), host=guest.host, reason=str(err))
                await stream.send(encode(_refusal(err)))
            raise

    async def _converse(self, guest: Guest, stream: BoundStream) -> None:
        conversation = Conversation()
        held: Held | None = None
        while (data := await stream.receive()) is not None:
            message: FromJoiner = conversation.take(data)
            match message:
                case Fetch(code):
                    await stream.send(encode(self._ticket(code)))
                case Hello(token):
                    held = await self._desk.find(token, guest.peer.node_id)
                    await stream.send(encode(await self._offer(held)))
                case Ask():
                    assert held is not None  # the order of a conversation
                    await self._take(message, held, guest, stream)
                    guest.stand()
                    await self._tell(guest, stream)
                    return

    # -- the messages

    def _ticket(self, code: bytes) -> Ticket:
        text = self._codes.find(code)
        if text is None:
            raise error("admission.code")
        return Ticket(text)

    async def _offer(self, held: Held) -> Offer:
        descriptor = await asyncio.to_thread(self._gateway.descriptor)
        return Offer(descriptor, await self._queries.chain(held.token.issuer, held.token.grant))

    async def _take(self, ask: Ask, held: Held, guest: Guest, stream: BoundStream) -> None:
        """Write the request down, unless it was before. Raises what is wrong with it."""
        gateway = self._gateway
        node, token = guest.peer.node_id, token_id(held.blob)
        session = Session(gateway.mesh, node, stream.binding, gateway.now_ms())
        request = await asyncio.to_thread(judge, ask, held.blob, session, gateway.verify)
        if await gateway.enrol(held.blob, ask.request) is not None:
            self._log.info(events.GUEST_ENROLLED, node=str(guest.peer), host=guest.host, token=str(TokenId(token)))
            return
        earlier = await self._queries.request_with(token, node)
        if earlier is None or not same_keys(request, peek_request(earlier)):
            raise error("admission.keys", node=NodeId(node))

    async def _tell(self, guest: Guest, stream: BoundStream) -> None:
        """Say how it stands now and after each change, until it is decided or the guest has left."""
        async with asyncio.TaskGroup() as group:
            leaving = group.create_task(_until_left(stream))
            telling = group.create_task(self._until_decided(guest.peer.node_id, stream))
            await asyncio.wait({leaving, telling}, return_when=asyncio.FIRST_COMPLETED)
            leaving.cancel()
            telling.cancel()
        if not leaving.cancelled() and leaving.result() is not None:
            raise error("admission.order", message="of any kind", stage="asked")

    async def _until_decided(self, node: bytes, stream: BoundStream) -> None:
        """Returns, too, when the guest cannot be told any more."""
        told: News | None = None
        glance: AdmissionRow | None = None
        try:
            while told is None or told.state not in DECIDED:
                seen = self._desk.changes.count
                if told is None or self._desk.admissions.get(node) != glance:
                    glance = self._desk.admissions.get(node)
                    news = await self._news(node)
                    if news is not None and news != told:
                        await stream.send(encode(news))
                        told = news
                        continue
                await self._desk.changes.after(seen)
        except X0tError as err:
            self._log.info(events.GUEST_REFUSED, node=str(NodeId(node)), host="", reason=str(err))

    async def _news(self, node: bytes) -> News | None:
        view = await self._queries.admission(node)
        if view is None:
            return None
        row, held = view.row, view.certificate
        news = News(
            view.state, row.reason or REASONS.get(view.state, ""), _details(row), row.note, hlc_ms(row.since_hlc)
        )
        if view.state != APPROVED or held is None:
            return news
        blob = await self._queries.certificate_blob(held)
        chain = await self._queries.chain(held.issuer, held.parent)
        return msgspec.structs.replace(news, certificate=blob, chain=chain)


async def _until_left(stream: BoundStream) -> bytes | None:
    """None once the guest has left; else what it said though nothing was left to say."""
    try:
        return await stream.receive()
    except X0tError:
        return None


def _details(row: AdmissionRow) -> dict[str, str]:
    named = {"node": str(NodeId(row.node))}
    if row.token is not None:
        named["token"] = str(TokenId(row.token))
    if row.winner is not None:
        named["winner"] = str(NodeId(row.winner))
    return named


def _refusal(err: X0tError) -> Refusal:
    """What a guest is told: of faults of ours the key alone."""
    is_its_own = err.key.partition(".")[0] in TOLD
    return Refusal(err.key, dict(err.detail) if is_its_own else {})
