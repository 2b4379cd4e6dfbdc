"""Enrolment: the job by which this node asks to be admitted, until the mesh has decided and the node follows it.

It asks one gateway of the token after the other, each only by its pinned key, and waits with the one that took the
request for the mesh to decide. What it knows stands in the application file before anything is built on it: cut off or
killed at any step, it asks again and is told how it stands. It ends by itself only for what no further try can change.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, NamedTuple

import msgspec
import structlog

from appliance.admission.joiner import Applicant, Joiner, Means
from appliance.admission.messages import News
from appliance.core.errors import X0tError, error
from appliance.core.ids import MeshId, NodeId
from appliance.daemon import events
from appliance.daemon.application import ASKING, REFUSED, Application, ApplicationFile
from appliance.daemon.changes import Changes
from appliance.daemon.supervisor import contain
from appliance.daemon.target import Target, parse_target
from appliance.transport.dialler import backoff_s
from appliance.transport.stream import BoundStream
from appliance.trust.tokens import Pointer, Ticket, format_token, parse_credential

APPROVED: Final = "approved"
OVER: Final = frozenset({REFUSED, APPROVED, "rejected", "revoked", "evicted", "banned"})  # nobody needs to ask again
FINAL: Final = frozenset(  # what a gateway may say that no other gateway will see otherwise, and no later time
    {
        "admission.code",
        "admission.device",
        "admission.keys",
        "admission.secret",
        "token.expired",
        "token.retired",
        "token.spent",
    }
)


class Way(NamedTuple):
    """How the job reaches gateways and keys, and what it does in the end."""

    dial: Callable[[Target], Awaitable[BoundStream]]
    applicant: Callable[[bytes, str], Applicant]  # (mesh, name); makes the keys, blocking
    follow: Callable[[bytes, list[Target]], Awaitable[None]]  # (descriptor, where the mesh is met)
    means: Means


class Enrolment:
    """This node's way into a mesh."""

    def __init__(self, file: ApplicationFile, way: Way) -> None:
        self.application: Application | None = None
        self.changes = Changes()
        self.tries = 0
        self.is_done = False  # the node follows the mesh
        self.trouble: X0tError | None = None  # why the last try came to nothing
        self.trying = ""
        self._file = file
        self._way = way
        self._applicant: Applicant | None = None
        self._interrupt = asyncio.Event()
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("enrolment")

    # -- what people ask for

    async def load(self, *, is_member: bool) -> None:
        """Go on with what was begun before this start; one that was fulfilled is forgotten."""
        self.application = await asyncio.to_thread(self._file.read)
        if self.application is not None and is_member:
            await asyncio.to_thread(self._file.remove)
            self.application = None

    async def begin(self, text: str, name: str) -> None:
        """Ask with a token or its short form. The same one again changes nothing; raises `admission.exists`."""
        text = "".join(text.split())
        parse_credential(text)
        asked = hashlib.sha256(text.encode()).hexdigest()
        known = self.application
        if known is not None and known.state not in OVER - {APPROVED}:
            if text != known.text and asked != known.asked:
                raise error("admission.exists", state=known.state)
            return
        await self._keep(Application(text=text, asked=asked, name=name, since_ms=self._way.means.now_ms()))
        self._restart()

    async def give_up(self) -> None:
        """Ask no more and forget the token; what the mesh knows of the node stays.

        Raises `admission.none`, or `admission.exists` once the node is admitted: it leaves the mesh in another way.
        """
        if self.application is None:
            raise error("admission.none")
        if self.application.state == APPROVED:
            raise error("admission.exists", state=APPROVED)
        await asyncio.to_thread(self._file.remove)
        self.application = None
        self._restart()
        self.changes.tell()

    def _restart(self) -> None:
        self.tries, self.trouble, self._applicant = 0, None, None
        self._interrupt.set()

    # -- the job

    async def run(self) -> None:
        """Ask for as long as there is something to ask for; cancelled at the end."""
        while True:
            self._interrupt.clear()
            async with asyncio.TaskGroup() as group:
                work = group.create_task(self._pursue())
                await self._interrupt.wait()
                work.cancel()

    async def _pursue(self) -> None:
        failures = 0
        for number in count():
            application = self.application
            if application is None or self.is_done or application.state in OVER - {APPROVED}:
                return
            if application.state == APPROVED:
                if await self._follow(application):
                    return
                await asyncio.sleep(self._way.means.limits.peer_backoff_min_s)
                continue
            targets = targets_of(parse_credential(application.text))
            target = targets[number % len(targets)]
            heard = self.changes.count
            await self._try(target)
            failures = 0 if self.changes.count != heard else failures + 1
            if self.application is not None and self.application.state in OVER:
                continue
            jitter = random.random()  # noqa: S311 - not a secret
            await asyncio.sleep(backoff_s(failures // len(targets), jitter, self._way.means.limits))

    async def _try(self, target: Target) -> None:
        self.tries += 1
        self.trying = str(target.address)
        try:
            await contain(f"the enrolment with {target}", self._converse(target))
        except (X0tError, OSError, TimeoutError) as err:
            self.trouble = err if isinstance(err, X0tError) else error("stream.cut", reason=str(err) or "no answer")
            self._log.info(events.ENROLMENT_TRIED, gateway=str(target), error=str(self.trouble))
            if self.trouble.key in FINAL:
                await self._give_in(self.trouble)

    async def _converse(self, target: Target) -> None:
        """One session with one gateway, until it ends or the mesh has decided."""
        application = self._current()
        credential = parse_credential(application.text)
        applicant = await self._made(mesh_of(credential), application.name)
        stream = await self._way.dial(target)
        try:
            means = msgspec.structs.replace(self._way.means, is_known=application.state != ASKING)
            joiner = Joiner(credential, applicant, stream.binding, means)
            await stream.send(joiner.begin())
            async with asyncio.timeout(means.limits.guest_s) as patience:
                while (data := await stream.receive()) is not None:
                    answer = await asyncio.to_thread(joiner.take, data)
                    if joiner.ticket is not None and isinstance(credential, Pointer):
                        await self._fetched(joiner.ticket)
                    if answer is not None:
                        await stream.send(answer)
                    if joiner.news is not None:
                        patience.reschedule(None)
                        await self._hear(joiner.news, joiner.descriptor_blob, target)
                        if joiner.news.state in OVER:
                            return
        finally:
            await stream.close()

    async def _fetched(self, ticket: Ticket) -> None:
        """From now on the token itself is asked with: a code is good for as long as its gateway keeps it."""
        text = format_token(ticket.blob, ticket.secret)
        await self._keep(msgspec.structs.replace(self._current(), text=text))

    async def _hear(self, news: News, descriptor: bytes, target: Target) -> None:
        """Note what the mesh says, before anything is done about it."""
        after = msgspec.structs.replace(
            self._current(),
            state=news.state,
            reason=news.reason,
            detail=news.detail,
            note=news.note,
            since_ms=news.since_ms,
            gateway=str(target.address),
            descriptor=descriptor,
        )
        self.trouble = None
        if after != self.application:
            self._log.info(events.ENROLMENT_STATE, state=news.state, reason=news.reason, gateway=str(target))
            await self._keep(after)

    async def _give_in(self, why: X0tError) -> None:
        known = self._current()
        await self._keep(
            msgspec.structs.replace(
                known, state=REFUSED, reason=why.key, detail=dict(why.detail), since_ms=self._way.means.now_ms()
            )
        )

    async def _follow(self, application: Application) -> bool:
        """Become a node of the mesh; False if that failed for a reason that may pass, such as a full disk."""
        credential = parse_credential(application.text)
        try:
            await self._way.follow(application.descriptor, targets_of(credential))
            await asyncio.to_thread(self._file.remove)
        except X0tError as err:
            self.trouble = err
            self._log.warning(events.ENROLMENT_TRIED, gateway="this node", error=str(err))
            return False
        self._log.info(events.ENROLMENT_DONE, mesh=MeshId(mesh_of(credential)))
        self.is_done, self.trouble = True, None
        self.changes.tell()
        return True

    async def _made(self, mesh: bytes, name: str) -> Applicant:
        if self._applicant is None:
            self._applicant = await asyncio.to_thread(self._way.applicant, mesh, name)
        return self._applicant

    async def _keep(self, application: Application) -> None:
        await asyncio.to_thread(self._file.write, application)
        self.application = application
        self.changes.tell()

    def _current(self) -> Application:
        if self.application is None:
            raise error("admission.none")
        return self.application


def mesh_of(credential: Ticket | Pointer) -> bytes:
    """The mesh that it is for."""
    return credential.token.mesh if isinstance(credential, Ticket) else credential.mesh


def targets_of(credential: Ticket | Pointer) -> list[Target]:
    """The gateways to ask, in the order of the token."""
    if isinstance(credential, Pointer):
        return [_target(credential.node, credential.address)]
    token = credential.token
    return [_target(end.node, end.address) for end in token.endpoints if token.redeemer in (None, end.node)]


def _target(node: bytes, address: str) -> Target:
    return Target(parse_target(address).address, NodeId(node))
