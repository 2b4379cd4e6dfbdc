"""Both ends of an enrolment, honest or not, in this process, against real daemons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.admission.messages import (
    ENROL_PATH,
    Ask,
    FromGateway,
    Hello,
    News,
    Offer,
    Refusal,
    decode_from_gateway,
    encode,
)
from appliance.core.admission_records import ApproveAsk, EnrolAsk, Enrolment, TokenAsk, TokenMade
from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS
from appliance.core.records import Batch, Receipt
from appliance.lab.rig import Machine
from appliance.transport.address import Address
from appliance.transport.certificates import Credentials
from appliance.transport.dialler import Dialler
from appliance.transport.guests import Guest
from appliance.transport.listener import Listener
from appliance.transport.stream import BoundStream
from appliance.trust.attachment import attach_statement
from appliance.trust.enrolment import Request, bind, sign_request
from appliance.trust.keys import NodeKey, create_key
from appliance.trust.pqc import provider
from appliance.trust.tokens import Ticket, parse_token, token_id

WAIT_S = 20.0
HOST = "127.0.0.1"
PARTING_S = 0.02  # for the loop to close a socket whose other end is in another process, before the loop itself ends


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Stranger:
    """A node of this process, with a key file and keys of its own; *changes* are made to what it signs."""

    def __init__(self, directory: Path, name: str, **changes: Any) -> None:
        by = provider()
        self.name = name
        self.key: NodeKey = create_key(directory / f"{name}.pem", by)
        self.credentials = Credentials(self.key.path, now_ms)
        self.kem = by.mlkem_keypair()
        self.yggdrasil = Ed25519PrivateKey.generate()
        self.changes = changes

    @property
    def id(self) -> bytes:
        return self.key.id.raw

    def request(self, ticket: Ticket, exporter: bytes) -> bytes:
        mesh_key, mesh = self.yggdrasil.public_key().public_bytes_raw(), ticket.token.mesh
        request = Request(
            mesh=mesh,
            token=token_id(ticket.blob),
            node_key=self.key.public_key,
            kem_key=self.kem.public_key,
            mesh_key=mesh_key,
            mesh_proof=self.yggdrasil.sign(attach_statement(mesh, self.id, mesh_key)),
            tunnel_key=bytes([7]) * 32,
            name=self.name,
            created_ms=now_ms(),
            binding=bind(exporter),
        )
        return sign_request(msgspec.structs.replace(request, **self.changes), self.key.sign)

    @asynccontextmanager
    async def at(self, gate: Machine, path: str = ENROL_PATH) -> AsyncIterator[Talk]:
        """A conversation at the door of a gateway."""
        dialler = Dialler(self.credentials, lambda _: True, LIMITS)
        try:
            stream = await dialler.open(Address(HOST, gate.port), NodeId.parse(gate.key().node).raw, path)
            try:
                yield Talk(stream)
            finally:
                await stream.close()
        finally:
            await asyncio.sleep(PARTING_S)

    async def enrol(self, gate: Machine, ticket: Ticket) -> FromGateway:
        """Ask as an honest node does; the first news, or why not. Comes again when it had to make room."""
        while True:
            try:
                async with self.at(gate) as talk:
                    offer = await talk.say(Hello(token_id(ticket.blob)))
                    if not isinstance(offer, Offer):
                        return offer
                    return await talk.say(Ask(self.request(ticket, talk.stream.binding), ticket.secret))
            except X0tError as err:
                if err.key not in {"stream.cut", "tls.unreachable", "tls.handshake_timeout"}:
                    raise
                await asyncio.sleep(0.05)


@dataclass
class Talk:
    """What goes back and forth on one stream."""

    stream: BoundStream

    async def say(self, message: Any) -> FromGateway:
        """Say something; the answer."""
        await self.stream.send(message if isinstance(message, bytes) else encode(message))
        return await self.hear()

    async def hear(self) -> FromGateway:
        data = await self.stream.receive()
        assert data is not None
        return decode_from_gateway(data)


async def refusal(answer: Awaitable[FromGateway]) -> str:
    """The key of a refusal."""
    said = await answer
    assert isinstance(said, Refusal), said
    return said.key


@dataclass
class Impostor:
    """A gateway of this process that says what a test likes: *answer* gets each message and returns the next one."""

    key: NodeKey
    answer: Callable[[bytes], Any]
    heard: list[bytes] = field(default_factory=list)
    connections: int = 0
    address: str = ""

    async def receive(self, _guest: Guest, stream: BoundStream) -> None:
        self.connections += 1
        while (data := await stream.receive()) is not None:
            self.heard.append(data)
            said = self.answer(data)
            if said is None:
                return
            await stream.send(said if isinstance(said, bytes) else encode(said))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Impostor]:
        listener = Listener(Credentials(self.key.path, now_ms), lambda _: False, LIMITS)
        listener.open_to_guests(ENROL_PATH, self, lambda _: True)
        async with asyncio.TaskGroup() as tasks:
            port = await listener.start(tasks, HOST, 0)
            self.address = f"{HOST}:{port}"
            try:
                yield self
            finally:
                await listener.stop()


# ---- real daemons


def make_token(gate: Machine, **asked: Any) -> TokenMade:
    return gate.client.send("POST", "/tokens", TokenAsk(**{"tags": ("robot",), **asked}), TokenMade)


def ticket_of(gate: Machine, **asked: Any) -> Ticket:
    return parse_token(make_token(gate, **asked).text)


def ask(robot: Machine, text: str) -> str:
    """Ask with a token; returns the id of the node."""
    return robot.client.send("POST", "/enrolment", EnrolAsk(token=text), Enrolment).node


def approve(gate: Machine, node: str, **asked: Any) -> None:
    gate.client.send("POST", f"/admissions/{node}/certificates", ApproveAsk(**asked), Receipt)


def enrolment(robot: Machine) -> Enrolment:
    return robot.client.get("/enrolment", Enrolment)


def until(robot: Machine, holds: Callable[[Enrolment], bool]) -> Enrolment:
    """Wait for a state of the robot's own admission."""
    end_s = time.monotonic() + WAIT_S
    seen = enrolment(robot)
    while not holds(seen) and time.monotonic() < end_s:
        time.sleep(0.02)
        seen = enrolment(robot)
    assert holds(seen), f"{seen}\n{robot.tail()}"
    return seen


def stands(robot: Machine, state: str) -> Enrolment:
    return until(robot, lambda seen: seen.state == state)


def member(robot: Machine) -> Enrolment:
    """Wait until the robot is in the mesh, and linked with it."""
    seen = until(robot, lambda seen: seen.state == "approved" and seen.over)
    robot.wait(lambda watch: watch.links_up >= 1, WAIT_S)
    return seen


def entries(gate: Machine, kind: str) -> int:
    """How many entries of a kind are in the log."""
    batches = gate.client.get("/replica/batches", tuple[Batch, ...], limit=10_000)
    return sum(batch.kinds.count(kind) for batch in batches)


def is_well(machine: Machine) -> None:
    """Nothing failed in a daemon."""
    assert [(job.name, job.last_error) for job in machine.status().jobs if job.failures] == [], machine.tail()


def first_news(said: FromGateway) -> str:
    return said.state if isinstance(said, News) else ""
