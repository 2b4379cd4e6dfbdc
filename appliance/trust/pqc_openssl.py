"""ML-DSA-65 and ML-KEM-768 by `cryptography` (OpenSSL): the provider that is always there.

Private keys live inside OpenSSL, which clears them when they are freed: `wipe` drops our only reference.
Never imported before it is asked for: it costs 10 MiB. See FIPS 203 and FIPS 204.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from appliance.core.errors import error
from appliance.trust import pqc


class OpensslSigningKey:
    """An ML-DSA-65 private key held by OpenSSL."""

    __slots__ = ("_key", "public_key")

    def __init__(self, seed: bytes | bytearray) -> None:
        key = MLDSA65PrivateKey.from_seed_bytes(seed)
        self._key: MLDSA65PrivateKey | None = key
        self.public_key: bytes = key.public_key().public_bytes_raw()

    def sign(self, message: bytes, context: bytes = b"") -> bytes:
        """See `pqc.SigningKey`."""
        if self._key is None:
            raise error("key.wiped")
        if len(context) > pqc.MLDSA_CONTEXT_BYTES:
            raise error("pqc.context")
        return self._key.sign(message, context)

    def wipe(self) -> None:
        """See `pqc.SigningKey`."""
        self._key = None


class OpensslKemKey:
    """An ML-KEM-768 private key held by OpenSSL."""

    __slots__ = ("_key", "public_key")

    def __init__(self, seed: bytes | bytearray | None) -> None:
        key = MLKEM768PrivateKey.generate() if seed is None else MLKEM768PrivateKey.from_seed_bytes(seed)
        self._key: MLKEM768PrivateKey | None = key
        self.public_key: bytes = key.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """See `pqc.KemKey`."""
        if self._key is None:
            raise error("key.wiped")
        if len(ciphertext) != pqc.MLKEM_CIPHERTEXT_BYTES:
            raise error("pqc.ciphertext")
        return self._key.decapsulate(ciphertext)

    def wipe(self) -> None:
        """See `pqc.KemKey`."""
        self._key = None


class OpensslProvider:
    """The `openssl` provider."""

    name = "openssl"

    def mldsa_keypair(self, seed: bytes | bytearray) -> OpensslSigningKey:
        """See `pqc.Provider`."""
        pqc.check_length(seed, pqc.MLDSA_SEED_BYTES)
        return OpensslSigningKey(seed)

    def mldsa_verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes = b"") -> bool:
        """See `pqc.Provider`. Importing the public key is 7 % of the time, so keys are not cached."""
        if (
            len(public_key) != pqc.MLDSA_PUBLIC_BYTES
            or len(signature) != pqc.MLDSA_SIGNATURE_BYTES
            or len(context) > pqc.MLDSA_CONTEXT_BYTES
        ):
            return False
        try:
            MLDSA65PublicKey.from_public_bytes(public_key).verify(signature, message, context)
        except InvalidSignature:
            return False
        return True

    def mlkem_keypair(self, seed: bytes | bytearray | None = None) -> OpensslKemKey:
        """See `pqc.Provider`."""
        if seed is not None:
            pqc.check_length(seed, pqc.MLKEM_SEED_BYTES)
        return OpensslKemKey(seed)

    def mlkem_encapsulate(self, public_key: bytes) -> tuple[bytes, bytes]:
        """See `pqc.Provider`."""
        try:
            key = MLKEM768PublicKey.from_public_bytes(public_key)
        except ValueError as err:
            raise error("pqc.key", algorithm="ML-KEM-768") from err
        return key.encapsulate()
