"""A gateway that is asked for operations of admission, with real keys and signatures; and the robots that come."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from appliance.core.errors import X0tError
from appliance.core.ids import node_id
from appliance.replica.admission_operations import AdmissionOperations, TokenAsk
from appliance.replica.admission_queries import AdmissionQueries
from appliance.replica.operations import Operations
from appliance.replica.queries import Queries
from appliance.replica.reports import Receipt
from appliance.replica.service import Replica
from appliance.trust.enrolment import Request, bind, sign_request
from appliance.trust.pqc import SigningKey
from appliance.trust.tokens import Endpoint, Ticket, Token, parse_token, sign_token, token_id
from tests.attach_rig import attach, public
from tests.mesh_rig import START_MS
from tests.unit.replica.operations_rig import Site

DAY_MS = 86_400_000
GATE = "10.0.0.1:7443"


class Gate:
    """Anna's node: she owns the mesh, approves, and is the gateway. Robots come to it."""

    def __init__(self, site: Site, replica: Replica) -> None:
        self.site = site
        self.replica = replica
        self.act = AdmissionOperations(replica, site.anna.key.sign)
        self.ask = AdmissionQueries(replica)
        self.edit = Operations(replica, site.anna.key.sign)
        self.queries = Queries(replica)

    def robot(self, name: str) -> SigningKey:
        return self.site.mesh.key(name)

    def id(self, name: str) -> bytes:
        return node_id(self.robot(name).public_key).raw

    def wanted(self, **says: object) -> TokenAsk:
        """A token for this gateway, for a day."""
        fields = {"endpoints": (Endpoint(GATE, self.replica.node),), "lifetime_ms": DAY_MS, **says}
        return TokenAsk(**fields)  # type: ignore[arg-type]

    async def token(self, **says: object) -> Ticket:
        _, text = await self.act.create_token(self.wanted(**says))
        return parse_token(text)

    def request(self, name: str, ticket: Ticket, session: bytes = b"") -> bytes:
        key, mesh = self.robot(name), self.site.mesh.id
        body = Request(
            mesh=mesh,
            token=token_id(ticket.blob),
            node_key=key.public_key,
            kem_key=bytes(1184),
            mesh_key=public(name),
            mesh_proof=attach(mesh, self.id(name), name).proof,
            tunnel_key=bytes(32),
            name=name,
            created_ms=START_MS,
            binding=bind(session),
        )
        return sign_request(body, key.sign)

    def unpublished(self) -> bytes:
        """A token of this mesh that is in no log."""
        body = Token(
            mesh=self.site.mesh.id,
            issuer=self.replica.node,
            grant=self.site.anna.parent,
            lock=bytes(32),
            endpoints=(Endpoint(GATE, self.replica.node),),
            tags=(),
            level="none",
            uses=1,
            binding=None,
            redeemer=None,
            not_before_ms=START_MS,
            not_after_ms=START_MS + DAY_MS,
        )
        return sign_token(body, self.site.anna.key.sign)

    async def blobs(self) -> list[bytes]:
        """All that is in the log."""
        return await self.replica.run(lambda engine: [blob for _, _, blob in engine.log.after(0, 99) if blob])

    async def enrol(self, name: str, ticket: Ticket) -> Receipt | None:
        return await self.act.enrol(ticket.blob, self.request(name, ticket))

    async def admit(self, name: str, **says: object) -> None:
        """Make a robot a member."""
        await self.enrol(name, await self.token(**says))
        await self.act.approve(self.id(name))

    async def state(self, name: str) -> str:
        found = await self.ask.admission(self.id(name))
        return found.state if found else "unknown"


async def refused(deed: Awaitable[object]) -> str:
    """The key of the error with which a deed is refused."""
    with pytest.raises(X0tError) as refusal:
        await deed
    return refusal.value.key
