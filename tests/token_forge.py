"""A mesh on paper: an authority, two approvers, and a token, a node certificate and a request that are all in order.

Tests change one thing of them and see that it is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

import pytest
from msgspec.structs import replace

from appliance.core import canonical, cose
from appliance.core.canonical import Cbor
from appliance.core.domains import Domain
from appliance.core.errors import X0tError
from appliance.core.ids import mesh_id, node_id
from appliance.trust.attachment import attach_statement
from appliance.trust.certificates import NodeCertificate, sign_certificate
from appliance.trust.enrolment import Request, bind, enrolment_id, sign_request
from appliance.trust.grants import Grant, Role, grant_id, sign_grant
from appliance.trust.pqc import provider
from appliance.trust.tokens import Binding, Endpoint, Pointer, Token, lock_of, sign_token, token_id
from tests.attach_rig import network_key, public

PROVIDER: Final = provider("auto")
VERIFY: Final = PROVIDER.mldsa_verify
AUTHORITY, OWNER, APPROVER, ROBOT, STRANGER = (PROVIDER.mldsa_keypair(bytes([40 + n] * 32)) for n in range(5))
MESH: Final = mesh_id(AUTHORITY.public_key).raw
HOUR_MS: Final = 3_600_000
NOW_MS: Final = 1_790_000_000_000
SECRET: Final = bytes(range(32))
GATEWAY, OTHER_GATEWAY = b"\1" * 32, b"\2" * 32


def node(key: bytes) -> bytes:
    """The raw id of who holds the key."""
    return node_id(key).raw


OWNER_GRANT: Final = Grant(
    mesh=MESH,
    issuer=MESH,
    subject=node(OWNER.public_key),
    subject_key=OWNER.public_key,
    roles=(Role.OWNER,),
    scope=(),
    delegate=3,
    not_before_ms=NOW_MS - 1000 * HOUR_MS,
    not_after_ms=NOW_MS + 1000 * HOUR_MS,
    parent=None,
    nonce=bytes(16),
)
OWNER_BLOB: Final = sign_grant(OWNER_GRANT, AUTHORITY.sign)
APPROVER_GRANT: Final = replace(  # an approver of two tags
    OWNER_GRANT,
    issuer=OWNER_GRANT.subject,
    subject=node(APPROVER.public_key),
    subject_key=APPROVER.public_key,
    roles=(Role.APPROVER,),
    scope=("line-1", "line-2"),
    delegate=0,
    not_before_ms=NOW_MS - 100 * HOUR_MS,
    not_after_ms=NOW_MS + 100 * HOUR_MS,
    parent=grant_id(OWNER_BLOB),
)
APPROVER_BLOB: Final = sign_grant(APPROVER_GRANT, OWNER.sign)
CHAIN: Final = (APPROVER_BLOB, OWNER_BLOB)

TOKEN: Final = Token(
    mesh=MESH,
    issuer=APPROVER_GRANT.subject,
    grant=grant_id(APPROVER_BLOB),
    lock=lock_of(SECRET),
    endpoints=(Endpoint("gateway-1:7330", GATEWAY), Endpoint("[2001:db8::7]:7330", OTHER_GATEWAY)),
    tags=("line-1", "line-2"),
    level="none",
    uses=3,
    binding=Binding("key", hashlib.sha256(ROBOT.public_key).digest()),
    redeemer=GATEWAY,
    not_before_ms=NOW_MS - HOUR_MS,
    not_after_ms=NOW_MS + HOUR_MS,
)
TOKEN_BLOB: Final = sign_token(TOKEN, APPROVER.sign)
POINTER: Final = Pointer(MESH, GATEWAY, "gateway-1.plant.example:7330", bytes(range(16)))

EXPORTER: Final = b"exporter of a session, 32 bytes."
REQUEST: Final = Request(
    mesh=MESH,
    token=token_id(TOKEN_BLOB),
    node_key=ROBOT.public_key,
    kem_key=PROVIDER.mlkem_keypair(bytes(64)).public_key,
    mesh_key=public("robot"),
    mesh_proof=network_key("robot").sign(attach_statement(MESH, node(ROBOT.public_key), public("robot"))),
    tunnel_key=b"\3" * 32,
    name="robot 7",
    created_ms=NOW_MS,
    binding=bind(EXPORTER),
)
REQUEST_BLOB: Final = sign_request(REQUEST, ROBOT.sign)

CERTIFICATE: Final = NodeCertificate(
    mesh=MESH,
    issuer=APPROVER_GRANT.subject,
    subject=node(ROBOT.public_key),
    subject_key=ROBOT.public_key,
    kem_key=REQUEST.kem_key,
    mesh_key=REQUEST.mesh_key,
    tunnel_key=REQUEST.tunnel_key,
    name="robot 7",
    tags=("line-1",),
    level="none",
    not_before_ms=NOW_MS,
    not_after_ms=NOW_MS + 24 * HOUR_MS,
    parent=grant_id(APPROVER_BLOB),
    enrolment=enrolment_id(REQUEST.token, node(ROBOT.public_key)),
    nonce=bytes(16),
)
CERTIFICATE_BLOB: Final = sign_certificate(CERTIFICATE, APPROVER.sign)


def fields_of(blob: bytes) -> list[Cbor]:
    """The fields of a signed record, to be spoilt."""
    fields = canonical.decode(cose.open1(blob).payload)
    assert isinstance(fields, list)
    return fields


def resigned(blob: bytes, domain: Domain, change: Mapping[int, Cbor]) -> bytes:
    """A signed record with other fields, signed again by whoever: the checks of its form come first."""
    fields = fields_of(blob)
    for at, value in change.items():
        fields[at] = value
    return cose.sign1(canonical.encode(fields), domain, AUTHORITY.sign)


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit turned."""
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def refusal(call: Callable[[], object]) -> str:
    """The key of the error that *call* raises."""
    with pytest.raises(X0tError) as caught:
        call()
    return caught.value.key
