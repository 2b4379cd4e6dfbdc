"""COSE_Sign1 (RFC 9052, section 4.2) in the one form that we use: strict, attached, ML-DSA-65.

    18([ << {1: -49} >>, {}, payload, signature ])

The algorithm stands in the protected header; the unprotected header is empty, so every byte but the signature
is signed. The domain label is not in the message: it is the ML-DSA context (FIPS 204, section 5.2), which
signer and verifier each bring. This module holds no key and verifies nothing: callers do, with
`to_be_signed`, before they believe a payload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from appliance.core.canonical import Tagged, decode, encode
from appliance.core.errors import error

COSE_SIGN1: Final = 18  # RFC 9052, section 2: CBOR tag
ALG_ML_DSA_65: Final = -49  # RFC 9964
SIGNATURE_BYTES: Final = 3309  # FIPS 204, table 2: ML-DSA-65
_PROTECTED: Final = encode({1: ALG_ML_DSA_65})  # label 1: alg
_TAGS: Final = frozenset({COSE_SIGN1})


class Signed(msgspec.Struct, frozen=True):
    """The parts of a well-formed message; its signature is not verified yet."""

    payload: bytes
    signature: bytes
    alg: int


def sign1(payload: bytes, domain: str, sign: Callable[[bytes, bytes], bytes]) -> bytes:
    """The message that carries *payload*; *sign* takes the bytes to be signed and the context."""
    signature = sign(to_be_signed(payload), domain.encode())
    if len(signature) != SIGNATURE_BYTES:
        raise error("cose.signature", size=len(signature), expected=SIGNATURE_BYTES)
    return encode(Tagged(COSE_SIGN1, [_PROTECTED, {}, payload, signature]))


def open1(blob: bytes) -> Signed:
    """The parts of *blob*, without verifying; `cose.*` or `cbor.*` for anything but the one form."""
    message = decode(blob, allowed_tags=_TAGS)
    if not isinstance(message, Tagged):
        raise error("cose.tag")
    parts = message.value
    if not isinstance(parts, list) or len(parts) != 4:
        raise error("cose.shape")
    protected, unprotected, payload, signature = parts
    if protected != _PROTECTED:
        raise error("cose.protected")
    if unprotected != {}:
        raise error("cose.unprotected")
    if not isinstance(payload, bytes):
        raise error("cose.payload")
    if not isinstance(signature, bytes) or len(signature) != SIGNATURE_BYTES:
        size = len(signature) if isinstance(signature, bytes) else 0
        raise error("cose.signature", size=size, expected=SIGNATURE_BYTES)
    return Signed(payload, signature, ALG_ML_DSA_65)


def to_be_signed(payload: bytes) -> bytes:
    """The Sig_structure of RFC 9052, section 4.4, without external data: the context says the domain."""
    return encode(["Signature1", _PROTECTED, b"", payload])
