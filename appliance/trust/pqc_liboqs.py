"""ML-DSA-65 and ML-KEM-768 by liboqs: the fast provider.

The C functions are called with buffers of exact size, because the classes of liboqs-python copy every
argument and pad a short public key with zeros. Calls through ctypes release the GIL, so verifying in worker
threads uses every core. Private keys stand in ctypes buffers, which `wipe` really clears; wipe a key that
no thread is using. This module never finds or loads the library (`liboqs_loader` does). See FIPS 203 and
FIPS 204.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from ctypes import Array, byref, c_char, c_size_t, create_string_buffer
from pathlib import Path
from typing import Final

from appliance.core.errors import X0tError, error
from appliance.trust import pqc
from appliance.trust.liboqs_loader import Library, load_library

_OK: Final = 0  # OQS_SUCCESS
_MLDSA_SECRET_BYTES: Final = 4032  # FIPS 204, table 2: the expanded private key
_MLKEM_SECRET_BYTES: Final = 2400  # FIPS 203, table 3: the decapsulation key


class Secret:
    """A private key in memory, cleared by `wipe`, when it is forgotten, and at the orderly end of the process."""

    __slots__ = ("__weakref__", "_buffer", "wipe")

    def __init__(self, library: Library, size: int) -> None:
        self._buffer = create_string_buffer(size)
        self.wipe = weakref.finalize(self, library.cleanse, self._buffer, size)

    @property
    def buffer(self) -> Array[c_char]:
        """The key itself; `key.wiped` when it is gone."""
        if not self.wipe.alive:
            raise error("key.wiped")
        return self._buffer


class LiboqsSigningKey:
    """An ML-DSA-65 private key in a buffer of ours."""

    __slots__ = ("_library", "public_key", "secret")

    def __init__(self, library: Library, seed: bytes | bytearray) -> None:
        self._library = library
        self.secret = Secret(library, _MLDSA_SECRET_BYTES)
        self.public_key: bytes = _derive(library, library.keypair, seed, self.secret, pqc.MLDSA_PUBLIC_BYTES)

    def sign(self, message: bytes, context: bytes = b"") -> bytes:
        """See `pqc.SigningKey`."""
        secret = self.secret.buffer
        if len(context) > pqc.MLDSA_CONTEXT_BYTES:
            raise error("pqc.context")
        signature = create_string_buffer(pqc.MLDSA_SIGNATURE_BYTES)
        length = c_size_t(pqc.MLDSA_SIGNATURE_BYTES)
        status = self._library.sign(signature, byref(length), message, len(message), context, len(context), secret)
        if status != _OK or length.value != pqc.MLDSA_SIGNATURE_BYTES:
            raise _failed("ML-DSA-65 signing")
        return signature.raw

    def wipe(self) -> None:
        """See `pqc.SigningKey`."""
        self.secret.wipe()


class LiboqsKemKey:
    """An ML-KEM-768 private key in a buffer of ours."""

    __slots__ = ("_library", "public_key", "secret")

    def __init__(self, library: Library, seed: bytes | bytearray) -> None:
        self._library = library
        self.secret = Secret(library, _MLKEM_SECRET_BYTES)
        self.public_key: bytes = _derive(library, library.kem_keypair, seed, self.secret, pqc.MLKEM_PUBLIC_BYTES)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """See `pqc.KemKey`."""
        secret = self.secret.buffer
        if len(ciphertext) != pqc.MLKEM_CIPHERTEXT_BYTES:
            raise error("pqc.ciphertext")
        shared = create_string_buffer(pqc.MLKEM_SECRET_BYTES)
        if self._library.decapsulate(shared, ciphertext, secret) != _OK:
            raise _failed("ML-KEM-768 decapsulation")
        return shared.raw

    def wipe(self) -> None:
        """See `pqc.KemKey`."""
        self.secret.wipe()


class LiboqsProvider:
    """The `liboqs` provider."""

    name = "liboqs"

    def __init__(self, library: Library) -> None:
        self._library = library
        self._verify = library.verify

    def mldsa_keypair(self, seed: bytes | bytearray) -> LiboqsSigningKey:
        """See `pqc.Provider`."""
        pqc.check_length(seed, pqc.MLDSA_SEED_BYTES)
        return LiboqsSigningKey(self._library, seed)

    def mldsa_verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes = b"") -> bool:
        """See `pqc.Provider`. The C function reads 1,952 bytes of key whatever it is given."""
        if len(public_key) != pqc.MLDSA_PUBLIC_BYTES or len(context) > pqc.MLDSA_CONTEXT_BYTES:
            return False
        return self._verify(message, len(message), signature, len(signature), context, len(context), public_key) == _OK

    def mlkem_keypair(self, seed: bytes | bytearray | None = None) -> LiboqsKemKey:
        """See `pqc.Provider`."""
        if seed is None:
            seed = os.urandom(pqc.MLKEM_SEED_BYTES)
        pqc.check_length(seed, pqc.MLKEM_SEED_BYTES)
        return LiboqsKemKey(self._library, seed)

    def mlkem_encapsulate(self, public_key: bytes) -> tuple[bytes, bytes]:
        """See `pqc.Provider`."""
        if len(public_key) != pqc.MLKEM_PUBLIC_BYTES:
            raise error("pqc.key", algorithm="ML-KEM-768")
        ciphertext = create_string_buffer(pqc.MLKEM_CIPHERTEXT_BYTES)
        shared = create_string_buffer(pqc.MLKEM_SECRET_BYTES)
        if self._library.encapsulate(ciphertext, shared, public_key) != _OK:
            raise error("pqc.key", algorithm="ML-KEM-768")  # its one failure: FIPS 203, 7.2, modulus check
        return shared.raw, ciphertext.raw


@functools.cache
def liboqs_provider(prefix: Path) -> LiboqsProvider:
    """That of *prefix*/lib/liboqs.so; `pqc.provider` if it does not load, `pqc.self_test` if it is wrong."""
    provider = LiboqsProvider(load_library(prefix))
    pqc.self_test(provider)
    return provider


def _derive(
    library: Library, derive: Callable[..., int], seed: bytes | bytearray, secret: Secret, public_bytes: int
) -> bytes:
    """Fill *secret* and return the public key; C reads the seed in a copy, which is cleared."""
    public = create_string_buffer(public_bytes)
    copy = Secret(library, len(seed))
    copy.buffer.raw = bytes(seed)
    status = derive(public, secret.buffer, copy.buffer)
    copy.wipe()
    if status != _OK:
        raise _failed("deriving a key")
    return public.raw


def _failed(operation: str) -> X0tError:
    return error("pqc.operation", provider="liboqs", operation=operation)
