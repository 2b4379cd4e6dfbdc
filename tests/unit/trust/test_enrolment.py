"""Requests for admission: what is well formed, which keys must have signed, and what one is bound to."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from appliance.core import cose
from appliance.core.canonical import Cbor
from appliance.core.domains import Domain
from appliance.core.ids import EnrolmentId
from appliance.core.limits import LIMITS
from appliance.trust.enrolment import (
    bind,
    encode_request,
    enrolment_id,
    open_request,
    peek_request,
    request_id,
    sign_request,
)
from appliance.trust.pqc import Provider
from appliance.trust.signed import FOREVER_MS
from tests.attach_rig import public
from tests.token_forge import (
    APPROVER,
    MESH,
    NOW_MS,
    REQUEST,
    REQUEST_BLOB,
    ROBOT,
    STRANGER,
    TOKEN_BLOB,
    VERIFY,
    fields_of,
    node,
    refusal,
    resigned,
)


def test_a_signed_request_opens_to_what_was_signed() -> None:
    assert open_request(REQUEST_BLOB, VERIFY) == REQUEST == peek_request(REQUEST_BLOB)


def test_signing_again_changes_the_bytes_and_not_the_id() -> None:
    again = sign_request(REQUEST, ROBOT.sign)
    assert again != REQUEST_BLOB
    assert request_id(again) == request_id(REQUEST_BLOB) == hashlib.sha256(encode_request(REQUEST)).digest()


def test_the_payload_is_a_canonical_array_of_eleven() -> None:
    assert fields_of(REQUEST_BLOB) == [
        1, MESH, REQUEST.token, ROBOT.public_key, REQUEST.kem_key, public("robot"), REQUEST.mesh_proof, b"\3" * 32,
        "robot 7", NOW_MS, REQUEST.binding,
    ]  # fmt: skip


MALFORMED: list[tuple[str, int, Cbor]] = [
    ("another version", 0, 2),
    ("a short mesh", 1, MESH[:-1]),
    ("no token", 2, None),
    ("a short key", 3, ROBOT.public_key[:-1]),
    ("a short ML-KEM key", 4, bytes(1183)),
    ("a long mesh key", 5, bytes(33)),
    ("a short proof", 6, bytes(63)),
    ("a proof as base64 text", 6, "A" * 86 + "=="),
    ("no tunnel key", 7, b""),
    ("no name", 8, ""),
    ("a long name", 8, "n" * 65),
    ("a name with a control character", 8, "robot\x00"),
    ("a time before 1970", 9, -1),
    ("a time that no clock reaches", 9, FOREVER_MS + 1),
    ("a time that is true", 9, True),
    ("a short binding", 10, bytes(31)),
]


@pytest.mark.parametrize("at, value", [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_a_request_is_malformed_with(at: int, value: Cbor) -> None:
    blob = resigned(REQUEST_BLOB, Domain.ENROL, {at: value})
    assert refusal(lambda: open_request(blob, VERIFY)) == "request.malformed"


@pytest.mark.parametrize("blob", [b"", TOKEN_BLOB, REQUEST_BLOB[:-1], REQUEST_BLOB + b"\0", b"\0" * 50_000])
def test_what_is_no_request_is_malformed(blob: bytes) -> None:
    assert refusal(lambda: peek_request(blob)) == "request.malformed"


def test_nothing_malformed_is_signed() -> None:
    assert refusal(lambda: sign_request(replace(REQUEST, name=""), ROBOT.sign)) == "request.malformed"


FORGED: list[tuple[str, str, bytes]] = [
    ("signed by another key", "request.signature", sign_request(REQUEST, STRANGER.sign)),
    (
        "signed under another label",
        "request.signature",
        cose.sign1(encode_request(REQUEST), Domain.TOKEN, ROBOT.sign),
    ),
    ("for another node", "request.proof", sign_request(replace(REQUEST, node_key=STRANGER.public_key), STRANGER.sign)),
    ("for another mesh", "request.proof", sign_request(replace(REQUEST, mesh=bytes(32)), ROBOT.sign)),
    ("with another's mesh key", "request.proof", sign_request(replace(REQUEST, mesh_key=public("relay")), ROBOT.sign)),
    ("with no proof", "request.proof", sign_request(replace(REQUEST, mesh_proof=bytes(64)), ROBOT.sign)),
]


@pytest.mark.parametrize("key, blob", [row[1:] for row in FORGED], ids=[row[0] for row in FORGED])
def test_a_request_is_refused(key: str, blob: bytes) -> None:
    assert refusal(lambda: open_request(blob, VERIFY)) == key


def test_no_proof_is_looked_at_before_the_signature_holds() -> None:
    forged = sign_request(replace(REQUEST, mesh_proof=bytes(64)), STRANGER.sign)
    assert refusal(lambda: open_request(forged, VERIFY)) == "request.signature"


def test_what_one_provider_signed_the_other_opens(liboqs: Provider, openssl: Provider) -> None:
    for signer, reader in ((liboqs, openssl), (openssl, liboqs)):
        blob = sign_request(REQUEST, signer.mldsa_keypair(bytes([43] * 32)).sign)
        assert open_request(blob, reader.mldsa_verify) == REQUEST


def test_the_largest_request_fits_a_message_of_a_guest_and_an_entry() -> None:
    largest = replace(REQUEST, name="\N{CJK UNIFIED IDEOGRAPH-20000}" * 64, created_ms=FOREVER_MS)
    assert len(sign_request(largest, ROBOT.sign)) < 7_200 < LIMITS.guest_message_bytes
    assert len(sign_request(largest, ROBOT.sign)) < LIMITS.entry_bytes


def test_a_binding_belongs_to_one_session_and_is_no_exporter() -> None:
    assert bind(b"one session") == hashlib.sha256(b"x0t/enrol-binding/1" + b"one session").digest()
    assert len({bind(b"one session"), bind(b"another"), b"one session"}) == 3


def test_asking_again_is_the_same_enrolment_and_anything_else_is_another() -> None:
    robot, approver = node(ROBOT.public_key), node(APPROVER.public_key)
    later = replace(REQUEST, created_ms=NOW_MS + 1, binding=bind(b"another session"))
    assert request_id(sign_request(later, ROBOT.sign)) != request_id(REQUEST_BLOB)
    first = enrolment_id(REQUEST.token, robot)
    assert first == enrolment_id(later.token, node(later.node_key))
    assert first == hashlib.sha256(b"x0t/enrolment/1" + REQUEST.token + robot).digest()
    assert len({first, enrolment_id(REQUEST.token, approver), enrolment_id(bytes(32), robot)}) == 3
    assert str(EnrolmentId(first)).startswith("enrol1")
