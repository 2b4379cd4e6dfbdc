"""Known answers of NIST and others on both providers; kat/README.md names the origins."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from appliance.trust.pqc import Provider
from appliance.trust.pqc_liboqs import LiboqsProvider

T = TypeVar("T")
KAT = Path(__file__).parent / "kat"


class Hex(bytes):
    """Bytes that the files write in hexadecimal."""


class DsaKey(msgspec.Struct, frozen=True, rename="camel"):
    tc_id: int
    seed: Hex
    pk: Hex
    sk: Hex


class DsaSignature(msgspec.Struct, frozen=True, rename="camel"):
    tc_id: int
    pk: Hex
    message: Hex
    context: Hex
    signature: Hex
    test_passed: bool = True
    reason: str = ""


class KemKey(msgspec.Struct, frozen=True, rename="camel"):
    tc_id: int
    d: Hex
    z: Hex
    ek: Hex
    dk: Hex


class Decapsulation(msgspec.Struct, frozen=True, rename="camel"):
    tc_id: int
    reason: str
    c: Hex
    k: Hex


class Decapsulations(msgspec.Struct, frozen=True, rename="camel"):
    dk: Hex
    tests: list[Decapsulation]


class Seeded(msgspec.Struct, frozen=True):
    count: int
    d: Hex
    z: Hex
    pk: Hex
    ct: Hex
    ss: Hex
    ct_n: Hex  # not made for this key: rejected implicitly
    ss_n: Hex


def _hex(kind: type, value: object) -> object:
    assert kind is Hex
    assert isinstance(value, str)
    return Hex(bytes.fromhex(value))


def _load(name: str, kind: type[T]) -> T:
    return msgspec.json.decode((KAT / name).read_bytes(), type=kind, dec_hook=_hex)


DSA_KEYS = _load("ml_dsa_65_keygen.json", list[DsaKey])
DSA_SIGNATURES = _load("ml_dsa_65_siggen.json", list[DsaSignature]) + _load("ml_dsa_65_sigver.json", list[DsaSignature])
KEM_KEYS = _load("ml_kem_768_keygen.json", list[KemKey])
DECAPSULATIONS = _load("ml_kem_768_decapsulation.json", Decapsulations)
SEEDED = _load("ml_kem_768_seeded.json", list[Seeded])


@pytest.mark.parametrize("case", DSA_KEYS, ids=lambda case: f"acvp-{case.tc_id}")
def test_a_seed_gives_the_public_key_of_the_standard(each: Provider, case: DsaKey) -> None:
    assert each.mldsa_keypair(case.seed).public_key == case.pk


@pytest.mark.parametrize("case", DSA_KEYS, ids=lambda case: f"acvp-{case.tc_id}")
def test_a_seed_gives_the_expanded_private_key_of_the_standard(liboqs: LiboqsProvider, case: DsaKey) -> None:
    key = liboqs.mldsa_keypair(case.seed)
    assert key.secret.buffer.raw == case.sk


@pytest.mark.parametrize("case", DSA_SIGNATURES, ids=lambda case: f"acvp-{case.tc_id}")
def test_a_signature_holds_exactly_when_the_standard_says_so(each: Provider, case: DsaSignature) -> None:
    assert each.mldsa_verify(case.pk, case.message, case.signature, case.context) is case.test_passed


@pytest.mark.parametrize("case", KEM_KEYS, ids=lambda case: f"acvp-{case.tc_id}")
def test_a_kem_seed_gives_the_public_key_of_the_standard(each: Provider, case: KemKey) -> None:
    assert each.mlkem_keypair(case.d + case.z).public_key == case.ek


@pytest.mark.parametrize("case", KEM_KEYS, ids=lambda case: f"acvp-{case.tc_id}")
def test_a_kem_seed_gives_the_private_key_of_the_standard(liboqs: LiboqsProvider, case: KemKey) -> None:
    key = liboqs.mlkem_keypair(case.d + case.z)
    assert key.secret.buffer.raw == case.dk


@pytest.mark.parametrize("case", DECAPSULATIONS.tests, ids=lambda case: f"acvp-{case.tc_id}")
def test_a_ciphertext_gives_the_secret_of_the_standard(liboqs: LiboqsProvider, case: Decapsulation) -> None:
    key = liboqs.mlkem_keypair()
    key.secret.buffer.raw = DECAPSULATIONS.dk
    assert key.decapsulate(case.c) == case.k


@pytest.mark.parametrize("case", SEEDED, ids=lambda case: f"kat-{case.count}")
def test_a_seeded_key_decapsulates_and_rejects_implicitly_as_known(each: Provider, case: Seeded) -> None:
    key = each.mlkem_keypair(case.d + case.z)
    assert (key.public_key, key.decapsulate(case.ct), key.decapsulate(case.ct_n)) == (
        case.pk,
        case.ss,
        case.ss_n,
    )
