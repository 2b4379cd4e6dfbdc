"""Parts of an admission, forged at will: a mesh with an owner, tokens, requests and certificates of any shape."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.core.ids import mesh_id, node_id
from appliance.trust.attachment import attach_statement
from appliance.trust.certificates import NodeCertificate, sign_certificate
from appliance.trust.descriptor import seal_descriptor
from appliance.trust.enrolment import Request, bind, sign_request
from appliance.trust.grants import Grant, Role, grant_id, sign_grant
from appliance.trust.pqc import SigningKey, provider
from appliance.trust.tokens import Endpoint, Ticket, Token, format_token, lock_of, parse_token, sign_token, token_id

NOW_MS = 1_900_000_000_000
DAY_MS = 86_400_000
SECRET = bytes(range(32))
GATEWAY_ADDRESS = "gateway:7330"


def signing_key(name: str) -> SigningKey:
    return provider().mldsa_keypair(hashlib.sha256(name.encode()).digest())


@dataclass
class World:
    """A mesh whose authority made *owner* its first owner, who is an issuer, an approver and the gateway."""

    name: str = "plant"
    now_ms: int = NOW_MS
    roles: tuple[Role, ...] = (Role.OWNER,)
    scope: tuple[str, ...] = ()
    authority: SigningKey = field(init=False)
    owner: SigningKey = field(init=False)

    def __post_init__(self) -> None:
        self.authority = signing_key(f"authority of {self.name}")
        self.owner = signing_key(f"owner of {self.name}")
        self.mesh = mesh_id(self.authority.public_key).raw
        self.gateway = node_id(self.owner.public_key).raw
        self.descriptor = seal_descriptor(self.authority.public_key, self.name, NOW_MS - DAY_MS, self.authority.sign)
        self.chain = (self._root_grant(),)

    def _root_grant(self) -> bytes:
        grant = Grant(
            mesh=self.mesh,
            issuer=self.mesh,
            subject=self.gateway,
            subject_key=self.owner.public_key,
            roles=self.roles,
            scope=self.scope,
            delegate=2,
            not_before_ms=NOW_MS - 30 * DAY_MS,
            not_after_ms=NOW_MS + 300 * DAY_MS,
            parent=None,
            nonce=bytes(16),
        )
        return sign_grant(grant, self.authority.sign)

    def token(self, **changes: Any) -> Token:
        token = Token(
            mesh=self.mesh,
            issuer=self.gateway,
            grant=grant_id(self.chain[0]),
            lock=lock_of(SECRET),
            endpoints=(Endpoint(GATEWAY_ADDRESS, self.gateway),),
            tags=("robot",),
            level="none",
            uses=1,
            binding=None,
            redeemer=None,
            not_before_ms=NOW_MS - DAY_MS,
            not_after_ms=NOW_MS + DAY_MS,
        )
        return msgspec.structs.replace(token, **changes)

    def ticket(self, **changes: Any) -> Ticket:
        return parse_token(format_token(sign_token(self.token(**changes), self.owner.sign), SECRET))

    def certificate(self, request: Request, **changes: Any) -> bytes:
        certificate = NodeCertificate(
            mesh=self.mesh,
            issuer=self.gateway,
            subject=node_id(request.node_key).raw,
            subject_key=request.node_key,
            kem_key=request.kem_key,
            mesh_key=request.mesh_key,
            tunnel_key=request.tunnel_key,
            name=request.name,
            tags=("robot",),
            level="none",
            not_before_ms=NOW_MS,
            not_after_ms=NOW_MS + DAY_MS,
            parent=grant_id(self.chain[0]),
            enrolment=None,
            nonce=bytes(16),
        )
        return sign_certificate(msgspec.structs.replace(certificate, **changes), self.owner.sign)


@dataclass
class Robot:
    """A node that asks; *changes* are made to what it signs."""

    name: str = "robot"
    now_ms: int = NOW_MS
    changes: dict[str, Any] = field(default_factory=dict)
    made: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = signing_key(self.name)
        self.id = node_id(self.key.public_key).raw
        self.kem = provider().mlkem_keypair(hashlib.sha512(self.name.encode()).digest())
        self.yggdrasil = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"ygg" + self.name.encode()).digest())

    def request(self, token: Token, token_id: bytes, binding: bytes) -> bytes:
        mesh_key = self.yggdrasil.public_key().public_bytes_raw()
        request = Request(
            mesh=token.mesh,
            token=token_id,
            node_key=self.key.public_key,
            kem_key=self.kem.public_key,
            mesh_key=mesh_key,
            mesh_proof=self.yggdrasil.sign(attach_statement(token.mesh, self.id, mesh_key)),
            tunnel_key=bytes(32),
            name=self.name,
            created_ms=self.now_ms,
            binding=binding,
        )
        self.made.append(sign_request(msgspec.structs.replace(request, **self.changes), self.key.sign))
        return self.made[-1]


def asked(robot: Robot, ticket: Ticket, exporter: bytes) -> bytes:
    """The request of a robot with a token in a session."""
    return robot.request(ticket.token, token_id(ticket.blob), bind(exporter))
