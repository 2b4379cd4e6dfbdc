"""The seam: both providers compute the same, refuse the same, and forget their keys."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from appliance.core.errors import X0tError
from appliance.trust import pqc
from appliance.trust.pqc import KemKey, Provider, SigningKey
from appliance.trust.pqc_liboqs import LiboqsProvider
from appliance.trust.pqc_openssl import OpensslProvider

CONTEXTS = [b"", b"x0t/batch/1", bytes(255)]
MESSAGES = [b"", b"\0", b"message", bytes(range(256)) * 256]
SEED = bytes(range(32))


def _seeds(count: int, size: int) -> list[bytes]:
    """Seeds that differ everywhere, the extremes first."""
    return [
        bytes(size),
        b"\xff" * size,
        *(number.to_bytes(4) * (size // 4) for number in range(1, count - 1)),
    ]


def test_both_providers_derive_the_same_signing_key_from_200_seeds(liboqs: Provider, openssl: Provider) -> None:
    seeds = _seeds(200, 32)
    assert [liboqs.mldsa_keypair(seed).public_key for seed in seeds] == [
        openssl.mldsa_keypair(seed).public_key for seed in seeds
    ]


def test_both_providers_derive_the_same_kem_key_from_200_seeds(liboqs: Provider, openssl: Provider) -> None:
    seeds = _seeds(200, 64)
    assert [liboqs.mlkem_keypair(seed).public_key for seed in seeds] == [
        openssl.mlkem_keypair(seed).public_key for seed in seeds
    ]


@pytest.mark.parametrize("context", CONTEXTS, ids=len)
@pytest.mark.parametrize("message", MESSAGES, ids=len)
def test_each_provider_verifies_what_the_other_signed(
    liboqs: Provider, openssl: Provider, message: bytes, context: bytes
) -> None:
    for signer, verifier in ((liboqs, openssl), (openssl, liboqs)):
        key = signer.mldsa_keypair(SEED)
        signature = key.sign(message, context)
        assert verifier.mldsa_verify(key.public_key, message, signature, context)


@pytest.mark.parametrize("seed", _seeds(50, 32), ids=lambda seed: seed[:4].hex())
def test_a_derived_key_signs_for_its_public_key(liboqs: Provider, openssl: Provider, seed: bytes) -> None:
    key = liboqs.mldsa_keypair(seed)
    assert openssl.mldsa_verify(key.public_key, b"message", key.sign(b"message", b"context"), b"context")


def test_each_provider_decapsulates_what_the_other_encapsulated(liboqs: Provider, openssl: Provider) -> None:
    for sender, receiver in ((liboqs, openssl), (openssl, liboqs)):
        key = receiver.mlkem_keypair()
        secret, ciphertext = sender.mlkem_encapsulate(key.public_key)
        assert (len(secret), len(ciphertext)) == (32, 1088)
        assert key.decapsulate(ciphertext) == secret


def test_a_forged_ciphertext_gives_both_providers_the_same_useless_secret(liboqs: Provider, openssl: Provider) -> None:
    seed = bytes(64)
    first, second = liboqs.mlkem_keypair(seed), openssl.mlkem_keypair(seed)
    secret, ciphertext = openssl.mlkem_encapsulate(first.public_key)
    forged = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert first.decapsulate(forged) == second.decapsulate(forged) != secret


def test_a_key_is_made_of_a_bytearray_too(each: Provider) -> None:
    assert each.mldsa_keypair(bytearray(SEED)).public_key == each.mldsa_keypair(SEED).public_key
    assert each.mlkem_keypair(bytearray(64)).public_key == each.mlkem_keypair(bytes(64)).public_key


def test_fresh_kem_keys_differ(each: Provider) -> None:
    assert each.mlkem_keypair().public_key != each.mlkem_keypair().public_key


def test_signing_is_hedged_even_right_after_a_key_was_derived(each: Provider) -> None:
    key = each.mldsa_keypair(SEED)
    assert len({key.sign(b"message", b"") for _ in range(4)}) == 4


def test_keys_derived_while_others_sign_are_those_of_their_seeds(each: Provider) -> None:
    seeds = _seeds(100, 32)
    expected = [OpensslProvider().mldsa_keypair(seed).public_key for seed in seeds]
    busy, stop = each.mldsa_keypair(SEED), threading.Event()
    signatures: set[bytes] = set()

    def sign_on() -> None:
        while not stop.is_set():
            signatures.add(busy.sign(b"message"))

    signers = [threading.Thread(target=sign_on) for _ in range(2)]
    for thread in signers:
        thread.start()
    try:
        assert [each.mldsa_keypair(seed).public_key for seed in seeds] == expected
    finally:
        stop.set()
        for thread in signers:
            thread.join()
    assert all(each.mldsa_verify(busy.public_key, b"message", signature) for signature in signatures)


def _altered(value: bytes, at: int) -> bytes:
    return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


REFUSED: list[tuple[str, Callable[[bytes, bytes, bytes, bytes], tuple[bytes, bytes, bytes, bytes]]]] = [
    ("another message", lambda k, m, s, c: (k, m + b".", s, c)),
    ("an empty message", lambda k, m, s, c: (k, b"", s, c)),
    ("another context", lambda k, m, s, c: (k, m, s, c + b".")),
    ("no context", lambda k, m, s, c: (k, m, s, b"")),
    ("a context moved into the message", lambda k, m, s, c: (k, c + m, s, b"")),
    ("a context too long", lambda k, m, s, c: (k, m, s, bytes(256))),
    ("the first bit of the signature", lambda k, m, s, c: (k, m, _altered(s, 0), c)),
    ("the middle of the signature", lambda k, m, s, c: (k, m, _altered(s, 1600), c)),
    ("the end of the signature", lambda k, m, s, c: (k, m, _altered(s, 3308), c)),
    ("a short signature", lambda k, m, s, c: (k, m, s[:-1], c)),
    ("a long signature", lambda k, m, s, c: (k, m, s + b"\0", c)),
    ("no signature", lambda k, m, s, c: (k, m, b"", c)),
    ("another key", lambda k, m, s, c: (_altered(k, 0), m, s, c)),
    ("a short key", lambda k, m, s, c: (k[:-1], m, s, c)),
    ("a long key", lambda k, m, s, c: (k + b"\0", m, s, c)),
    ("no key", lambda k, m, s, c: (b"", m, s, c)),
]


@pytest.mark.parametrize("alter", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_signature_does_not_hold_for(
    each: Provider, alter: Callable[[bytes, bytes, bytes, bytes], tuple[bytes, bytes, bytes, bytes]]
) -> None:
    key = each.mldsa_keypair(SEED)
    signature = key.sign(b"message", b"context")
    assert each.mldsa_verify(key.public_key, b"message", signature, b"context")
    assert not each.mldsa_verify(*alter(key.public_key, b"message", signature, b"context"))


ERRORS: list[tuple[str, str, Callable[[Provider], object]]] = [
    ("a short seed", "key.length", lambda p: p.mldsa_keypair(bytes(31))),
    ("a long seed", "key.length", lambda p: p.mldsa_keypair(bytes(33))),
    ("a short KEM seed", "key.length", lambda p: p.mlkem_keypair(bytes(32))),
    ("an empty KEM seed", "key.length", lambda p: p.mlkem_keypair(b"")),
    ("a context too long", "pqc.context", lambda p: p.mldsa_keypair(SEED).sign(b"", bytes(256))),
    ("a short KEM key", "pqc.key", lambda p: p.mlkem_encapsulate(bytes(1183))),
    ("a KEM key above the modulus", "pqc.key", lambda p: p.mlkem_encapsulate(b"\xff" * 1184)),
    ("a short ciphertext", "pqc.ciphertext", lambda p: p.mlkem_keypair().decapsulate(bytes(1087))),
    ("a long ciphertext", "pqc.ciphertext", lambda p: p.mlkem_keypair().decapsulate(bytes(1089))),
]


@pytest.mark.parametrize("key, call", [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS])
def test_bad_input_is_refused_alike(each: Provider, key: str, call: Callable[[Provider], object]) -> None:
    with pytest.raises(X0tError) as caught:
        call(each)
    assert caught.value.key == key


USES: list[tuple[str, Callable[[SigningKey, KemKey], object]]] = [
    ("signing", lambda signing, kem: signing.sign(b"message")),
    ("decapsulating", lambda signing, kem: kem.decapsulate(bytes(1088))),
]


@pytest.mark.parametrize("use", [row[1] for row in USES], ids=[row[0] for row in USES])
def test_a_wiped_key_refuses(each: Provider, use: Callable[[SigningKey, KemKey], object]) -> None:
    signing, kem = each.mldsa_keypair(SEED), each.mlkem_keypair()
    for key in (signing, kem, signing, kem):
        key.wipe()
    with pytest.raises(X0tError) as caught:
        use(signing, kem)
    assert caught.value.key == "key.wiped"


def test_wiping_clears_the_secret_in_memory(liboqs: LiboqsProvider) -> None:
    for key in (liboqs.mldsa_keypair(SEED), liboqs.mlkem_keypair()):
        secret = key.secret.buffer
        assert any(secret.raw)
        key.wipe()
        assert not any(secret.raw)


def test_a_forgotten_key_is_cleared_in_memory(liboqs: LiboqsProvider) -> None:
    key = liboqs.mldsa_keypair(SEED)
    secret = key.secret.buffer
    del key
    assert not any(secret.raw)


class _WrongKeys(OpensslProvider):
    """A provider that is well behaved and derives another key than the standard's."""

    name = "wrong"

    def mldsa_keypair(self, seed: bytes | bytearray) -> SigningKey:  # type: ignore[override]
        return super().mldsa_keypair(bytes(byte ^ 1 for byte in seed))


class _BelievesAll(OpensslProvider):
    """A provider that calls every signature good."""

    name = "believer"

    def mldsa_verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes = b"") -> bool:
        return True


@pytest.mark.parametrize("wrong", [_WrongKeys(), _BelievesAll()], ids=lambda wrong: wrong.name)
def test_the_self_test_catches_a_provider_that_is_wrong(wrong: Provider) -> None:
    with pytest.raises(X0tError) as caught:
        pqc.self_test(wrong)
    assert (caught.value.key, caught.value.detail["provider"]) == ("pqc.self_test", wrong.name)


def test_both_providers_pass_the_self_test(each: Provider) -> None:
    pqc.self_test(each)
