"""Node certificates: what is well formed, who may give one, and what one stands for."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from appliance.core import cose
from appliance.core.canonical import Cbor
from appliance.core.domains import Domain
from appliance.core.limits import LIMITS
from appliance.trust.certificates import (
    NodeCertificate,
    as_grant,
    certificate_id,
    certifies,
    encode_certificate,
    open_certificate,
    peek_certificate,
    sign_certificate,
)
from appliance.trust.grants import Grant, Role, encode_grant, grant_id, peek_grant, sign_grant
from appliance.trust.pqc import Provider
from appliance.trust.signed import FOREVER_MS
from tests.token_forge import (
    APPROVER,
    APPROVER_BLOB,
    APPROVER_GRANT,
    CERTIFICATE,
    CERTIFICATE_BLOB,
    HOUR_MS,
    MESH,
    NOW_MS,
    REQUEST,
    ROBOT,
    STRANGER,
    TOKEN_BLOB,
    VERIFY,
    fields_of,
    node,
    refusal,
    resigned,
)


def test_a_signed_certificate_opens_to_what_was_signed() -> None:
    opened = open_certificate(CERTIFICATE_BLOB, VERIFY, APPROVER.public_key)
    assert opened == CERTIFICATE == peek_certificate(CERTIFICATE_BLOB)


def test_signing_again_changes_the_bytes_and_not_the_id() -> None:
    again = sign_certificate(CERTIFICATE, APPROVER.sign)
    assert again != CERTIFICATE_BLOB
    assert certificate_id(again) == certificate_id(CERTIFICATE_BLOB)
    assert certificate_id(again) == hashlib.sha256(encode_certificate(CERTIFICATE)).digest()


def test_the_payload_is_a_canonical_array_of_sixteen() -> None:
    assert fields_of(CERTIFICATE_BLOB) == [
        1, MESH, node(APPROVER.public_key), node(ROBOT.public_key), ROBOT.public_key, REQUEST.kem_key,
        REQUEST.mesh_key, REQUEST.tunnel_key, "robot 7", ["line-1"], "none", NOW_MS, NOW_MS + 24 * HOUR_MS,
        grant_id(APPROVER_BLOB), CERTIFICATE.enrolment, bytes(16),
    ]  # fmt: skip


MALFORMED: list[tuple[str, int, Cbor]] = [
    ("another version", 0, 2),
    ("a short mesh", 1, MESH[:-1]),
    ("no issuer", 2, None),
    ("a subject of another key", 3, node(STRANGER.public_key)),
    ("another subject's key", 4, STRANGER.public_key),
    ("a short key", 4, ROBOT.public_key[:-1]),
    ("a long ML-KEM key", 5, REQUEST.kem_key + b"\0"),
    ("an ML-KEM key as base64 text", 5, "A" * 1580),
    ("a short mesh key", 6, bytes(31)),
    ("a long tunnel key", 7, bytes(33)),
    ("no name", 8, ""),
    ("a long name", 8, "n" * 65),
    ("a name that recolours", 8, "robot\x1b[31m"),
    ("a name that reads backwards", 8, "robot\u202e7"),
    ("a name of two lines", 8, "robot\nnode2"),
    ("a name that is bytes", 8, b"robot"),
    ("tags out of order", 9, ["line-2", "line-1"]),
    ("a tag twice", 9, ["line-1", "line-1"]),
    ("what is no tag", 9, ["line_1"]),
    ("too many tags", 9, [f"{number:03}" for number in range(65)]),
    ("an unknown level", 10, "high"),
    ("a time before 1970", 11, -1),
    ("an end before the beginning", 12, NOW_MS - 1),
    ("an end that no clock reaches", 12, FOREVER_MS + 1),
    ("no parent", 13, None),
    ("a short enrolment", 14, bytes(31)),
    ("a long nonce", 15, bytes(17)),
]


@pytest.mark.parametrize("at, value", [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED])
def test_a_certificate_is_malformed_with(at: int, value: Cbor) -> None:
    blob = resigned(CERTIFICATE_BLOB, Domain.NODE_CERT, {at: value})
    assert refusal(lambda: peek_certificate(blob)) == "certificate.malformed"


BOUNDS: list[tuple[str, NodeCertificate]] = [
    ("no enrolment", replace(CERTIFICATE, enrolment=None)),
    ("no tag", replace(CERTIFICATE, tags=())),
    ("the most tags", replace(CERTIFICATE, tags=tuple(f"{number:02}" for number in range(64)))),
    ("the longest name", replace(CERTIFICATE, name="é" * 64)),
    ("a level", replace(CERTIFICATE, level="tpm")),
    ("one moment", replace(CERTIFICATE, not_after_ms=NOW_MS)),
    ("all of time", replace(CERTIFICATE, not_before_ms=0, not_after_ms=FOREVER_MS)),
]


@pytest.mark.parametrize("certificate", [row[1] for row in BOUNDS], ids=[row[0] for row in BOUNDS])
def test_a_certificate_may_have(certificate: NodeCertificate) -> None:
    assert peek_certificate(sign_certificate(certificate, APPROVER.sign)) == certificate


@pytest.mark.parametrize("blob", [b"", TOKEN_BLOB, CERTIFICATE_BLOB[:-1], CERTIFICATE_BLOB + b"\0", b"\0" * 50_000])
def test_what_is_no_certificate_is_malformed(blob: bytes) -> None:
    assert refusal(lambda: peek_certificate(blob)) == "certificate.malformed"


def test_nothing_malformed_is_signed() -> None:
    spoilt = replace(CERTIFICATE, subject=bytes(32))
    assert refusal(lambda: sign_certificate(spoilt, APPROVER.sign)) == "certificate.malformed"


def test_the_largest_certificate_fits_an_entry() -> None:
    tags = tuple(f"{number:02}" + "a" * 61 for number in range(64))
    largest = replace(CERTIFICATE, name="\N{CJK UNIFIED IDEOGRAPH-20000}" * 64, tags=tags, not_after_ms=FOREVER_MS)
    assert len(sign_certificate(largest, APPROVER.sign)) < 11_500 < LIMITS.entry_bytes


def test_a_certificate_signed_by_another_key_than_its_issuers_does_not_verify() -> None:
    forged = sign_certificate(CERTIFICATE, STRANGER.sign)
    assert refusal(lambda: open_certificate(forged, VERIFY, APPROVER.public_key)) == "certificate.signature"
    assert refusal(lambda: open_certificate(forged, VERIFY, STRANGER.public_key)) == "certificate.issuer"


def test_a_certificate_under_another_label_does_not_verify() -> None:
    blob = cose.sign1(encode_certificate(CERTIFICATE), Domain.GRANT, APPROVER.sign)
    assert refusal(lambda: open_certificate(blob, VERIFY, APPROVER.public_key)) == "certificate.signature"


def test_what_one_provider_signed_the_other_opens(liboqs: Provider, openssl: Provider) -> None:
    for signer, reader in ((liboqs, openssl), (openssl, liboqs)):
        blob = sign_certificate(CERTIFICATE, signer.mldsa_keypair(bytes([42] * 32)).sign)
        assert open_certificate(blob, reader.mldsa_verify, APPROVER.public_key) == CERTIFICATE


# ---- who may give one

ALL_TAGS = replace(APPROVER_GRANT, scope=())
GIVEN: list[tuple[str, NodeCertificate, Grant]] = [
    ("an approver of its tags", CERTIFICATE, APPROVER_GRANT),
    ("an approver of the whole mesh", CERTIFICATE, ALL_TAGS),
    ("an approver of the whole mesh, without tags", replace(CERTIFICATE, tags=()), ALL_TAGS),
    ("an owner", CERTIFICATE, replace(ALL_TAGS, roles=(Role.OWNER,))),
    ("an approver who may grant nothing", CERTIFICATE, replace(APPROVER_GRANT, delegate=0)),
    ("an approver, until the grant ends", replace(CERTIFICATE, not_after_ms=ALL_TAGS.not_after_ms), APPROVER_GRANT),
]


@pytest.mark.parametrize("certificate, parent", [row[1:] for row in GIVEN], ids=[row[0] for row in GIVEN])
def test_may_be_given_by(certificate: NodeCertificate, parent: Grant) -> None:
    certifies(certificate, parent)


REFUSED: list[tuple[str, str, NodeCertificate, Grant]] = [
    ("another mesh's approver", "certificate.mesh", CERTIFICATE, replace(APPROVER_GRANT, mesh=bytes(32))),
    ("somebody else", "certificate.issuer", CERTIFICATE, replace(APPROVER_GRANT, subject=bytes(32))),
    ("an admin", "certificate.widens", CERTIFICATE, replace(APPROVER_GRANT, roles=(Role.ADMIN,))),
    ("an approver of other tags", "certificate.widens", CERTIFICATE, replace(APPROVER_GRANT, scope=("x",))),
    ("an approver of tags, for the whole mesh", "certificate.widens", replace(CERTIFICATE, tags=()), APPROVER_GRANT),
    (
        "an approver before the grant",
        "certificate.widens",
        replace(CERTIFICATE, not_before_ms=APPROVER_GRANT.not_before_ms - 1),
        APPROVER_GRANT,
    ),
    (
        "an approver for longer than the grant",
        "certificate.widens",
        replace(CERTIFICATE, not_after_ms=APPROVER_GRANT.not_after_ms + 1),
        APPROVER_GRANT,
    ),
]


@pytest.mark.parametrize("key, certificate, parent", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_may_not_be_given_by(key: str, certificate: NodeCertificate, parent: Grant) -> None:
    assert refusal(lambda: certifies(certificate, parent)) == key


def test_a_certificate_stands_for_membership_and_nothing_else() -> None:
    grant = as_grant(CERTIFICATE)
    assert grant == Grant(
        mesh=MESH,
        issuer=node(APPROVER.public_key),
        subject=node(ROBOT.public_key),
        subject_key=ROBOT.public_key,
        roles=(Role.MEMBER,),
        scope=(),
        delegate=0,
        not_before_ms=NOW_MS,
        not_after_ms=NOW_MS + 24 * HOUR_MS,
        parent=grant_id(APPROVER_BLOB),
        nonce=bytes(16),
    )
    assert peek_grant(sign_grant(grant, APPROVER.sign)) == grant
    assert hashlib.sha256(encode_grant(grant)).digest() != certificate_id(CERTIFICATE_BLOB)
