"""Papers of admission in a simulated mesh: tokens, requests and node certificates, signed by whoever one likes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

from appliance.replica.entries import CertifyEntry, DecideEntry, EnrolEntry, RetireEntry, TokenEntry
from appliance.trust.attachment import attach_statement
from appliance.trust.certificates import NodeCertificate, sign_certificate
from appliance.trust.enrolment import Request, bind, enrolment_id, sign_request
from appliance.trust.grants import grant_id
from appliance.trust.tokens import Binding, Endpoint, Level, Token, lock_of, sign_token, token_id
from tests.attach_rig import network_key, public
from tests.sim.world import FAR_MS, START_MS, Member, Mesh

Times = tuple[int, int]
ADMISSION = (TokenEntry, RetireEntry, EnrolEntry, DecideEntry, CertifyEntry)


@functools.lru_cache(4096)
def _proof(mesh: bytes, node: bytes, name: str) -> bytes:
    return network_key(name).sign(attach_statement(mesh, node, public(name)))


def token(  # noqa: PLR0913  # what a token says
    mesh: Mesh,
    issuer: Member,
    grant: bytes,
    gateways: Sequence[Member],
    *,
    tags: Sequence[str] = (),
    uses: int = 1,
    level: Level = "none",
    binding: Binding | None = None,
    redeemer: Member | None = None,
    times: Times = (START_MS, FAR_MS),
    number: int = 0,
) -> bytes:
    """A signed token; `number` tells apart what says the same."""
    body = Token(
        mesh=mesh.id,
        issuer=issuer.id,
        grant=grant_id(grant),
        lock=lock_of(number.to_bytes(32)),
        endpoints=tuple(Endpoint("10.0.0.1:7443", gateway.id) for gateway in gateways),
        tags=tuple(sorted(tags)),
        level=level,
        uses=uses,
        binding=binding,
        redeemer=None if redeemer is None else redeemer.id,
        not_before_ms=times[0],
        not_after_ms=times[1],
    )
    return sign_token(body, issuer.sign, mesh.limits)


def request(mesh: Mesh, node: Member, token_blob: bytes, *, session: bytes = b"", name: str = "") -> bytes:
    """What a node signs that asks with this token."""
    body = Request(
        mesh=mesh.id,
        token=token_id(token_blob),
        node_key=node.public_key,
        kem_key=hashlib.shake_256(b"kem" + node.id).digest(1184),
        mesh_key=public(node.name),
        mesh_proof=_proof(mesh.id, node.id, node.name),
        tunnel_key=hashlib.sha256(b"tunnel" + node.id).digest(),
        name=name or node.name,
        created_ms=START_MS,
        binding=bind(session),
    )
    return sign_request(body, node.sign, mesh.limits)


def certificate(  # noqa: PLR0913  # what a certificate says
    mesh: Mesh,
    issuer: Member,
    grant: bytes,
    node: Member,
    *,
    enrolment: bytes | None,
    tags: Sequence[str] = (),
    times: Times = (START_MS, FAR_MS),
    number: int = 0,
) -> bytes:
    """A signed node certificate."""
    body = NodeCertificate(
        mesh=mesh.id,
        issuer=issuer.id,
        subject=node.id,
        subject_key=node.public_key,
        kem_key=hashlib.shake_256(b"kem" + node.id).digest(1184),
        mesh_key=public(node.name),
        tunnel_key=hashlib.sha256(b"tunnel" + node.id).digest(),
        name=node.name,
        tags=tuple(sorted(tags)),
        level="none",
        not_before_ms=times[0],
        not_after_ms=times[1],
        parent=grant_id(grant),
        enrolment=enrolment,
        nonce=number.to_bytes(16),
    )
    return sign_certificate(body, issuer.sign, mesh.limits)


def enrolment(token_blob: bytes, node: Member) -> bytes:
    """The id of what a node asked with a token."""
    return enrolment_id(token_id(token_blob), node.id)
