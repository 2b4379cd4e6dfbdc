"""The post-quantum seam: ML-DSA-65 (FIPS 204) and ML-KEM-768 (FIPS 203) behind one small Protocol.

Two providers implement it: `liboqs`, eight times faster at signing, and `openssl`, which is always there.
Which one runs is a setting; what they compute is the same and is cross-checked in the tests. A provider is
imported when it is first asked for. This module never parses a format and never reads a key file.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal, Protocol

from appliance.core.errors import UnavailableError, error

MLDSA_SEED_BYTES: Final = 32  # FIPS 204, algorithm 1: xi
MLDSA_PUBLIC_BYTES: Final = 1952  # FIPS 204, table 2
MLDSA_SIGNATURE_BYTES: Final = 3309  # FIPS 204, table 2
MLDSA_CONTEXT_BYTES: Final = 255  # FIPS 204, algorithms 2 and 3: the longest context
MLKEM_SEED_BYTES: Final = 64  # FIPS 203, algorithm 19: d and z
MLKEM_PUBLIC_BYTES: Final = 1184  # FIPS 203, table 3
MLKEM_CIPHERTEXT_BYTES: Final = 1088  # FIPS 203, table 3
MLKEM_SECRET_BYTES: Final = 32  # FIPS 203, table 3: the shared secret
# SHA-256 of the public key of the seed 32 * 00, as OpenSSL 4.0.3 derives it.
ZERO_SEED_KEY_SHA256: Final = "085ba380ff386dd52e42349c6eb88489d6058ea541a4e3fb0dce9a3fd1f7a911"

ProviderName = Literal["auto", "liboqs", "openssl"]


class SigningKey(Protocol):
    """An ML-DSA-65 private key in memory. Safe to use from many threads at once."""

    @property
    def public_key(self) -> bytes:
        """The 1,952-byte public key."""

    def sign(self, message: bytes, context: bytes = b"") -> bytes:
        """A hedged signature of 3,309 bytes; `pqc.context` above 255 bytes, `key.wiped` after `wipe`."""

    def wipe(self) -> None:
        """Zeroise what Python lets us reach. May be called twice."""


class KemKey(Protocol):
    """An ML-KEM-768 private key in memory."""

    @property
    def public_key(self) -> bytes:
        """The 1,184-byte encapsulation key."""

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The 32-byte secret; of a forged ciphertext, one that nobody knows (FIPS 203, 6.3)."""

    def wipe(self) -> None:
        """Zeroise what Python lets us reach. May be called twice."""


class Provider(Protocol):
    """What the product needs of post-quantum cryptography, and nothing more."""

    @property
    def name(self) -> str:
        """`liboqs` or `openssl`."""

    def mldsa_keypair(self, seed: bytes | bytearray) -> SigningKey:
        """The key of a 32-byte seed (FIPS 204, algorithm 6). The caller wipes the seed."""

    def mldsa_verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes = b"") -> bool:
        """Whether the signature holds. Anything of a wrong length is False, never an exception."""

    def mlkem_keypair(self, seed: bytes | bytearray | None = None) -> KemKey:
        """The key of a 64-byte seed d || z (FIPS 203, algorithm 16), or a fresh one."""

    def mlkem_encapsulate(self, public_key: bytes) -> tuple[bytes, bytes]:
        """(secret, ciphertext) for an encapsulation key, which is checked (FIPS 203, 7.2): `pqc.key`."""


def provider(name: ProviderName = "auto") -> Provider:
    """The provider of that name; `auto` is liboqs where its shared library works, else OpenSSL.

    `liboqs` without a working library raises `pqc.provider`, which says where it was looked for.
    """
    match name:
        case "openssl":
            return _openssl()
        case "liboqs":
            return _liboqs()
        case "auto":
            try:
                return _liboqs()
            except UnavailableError:
                return _openssl()


def self_test(candidate: Provider) -> None:
    """Raise `pqc.self_test` unless it derives the known key and tells a good signature from a bad one.

    A library that derives another key would give a node a false name; 0.5 ms with liboqs.
    """
    key = candidate.mldsa_keypair(bytes(MLDSA_SEED_BYTES))
    signature = key.sign(b"message", b"context")
    told_apart = [
        candidate.mldsa_verify(key.public_key, message, signature, b"context") for message in (b"message", b"another")
    ]
    if hashlib.sha256(key.public_key).hexdigest() != ZERO_SEED_KEY_SHA256 or told_apart != [True, False]:
        raise error("pqc.self_test", provider=candidate.name, algorithm="ML-DSA-65")


def check_length(key: bytes | bytearray, expected: int) -> None:
    """Raise `key.length` unless the key or seed has that many bytes."""
    if len(key) != expected:
        raise error("key.length", length=len(key), expected=expected)


def _openssl() -> Provider:
    from appliance.trust.pqc_openssl import OpensslProvider  # a lazy import: 10 MiB

    return OpensslProvider()


def _liboqs() -> Provider:
    from appliance.trust.liboqs_loader import find_prefix
    from appliance.trust.pqc_liboqs import liboqs_provider

    return liboqs_provider(find_prefix())
