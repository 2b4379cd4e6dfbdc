"""Signed records: what grants, descriptors, tokens, node certificates and requests have in common.

A record is a frozen msgspec array. Its payload is its one canonical encoding, and it travels as a COSE_Sign1 under the
label of its kind. Its id is the hash of the payload, because ML-DSA signatures are randomised. Nothing malformed is
signed, and nothing malformed is read. Who may sign a record is its own module's business. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeAlias, TypeVar

import msgspec

from appliance.core import canonical, cose
from appliance.core.domains import Domain
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits

Sign: TypeAlias = Callable[[bytes, bytes], bytes]  # (message, context) -> signature
Verify: TypeAlias = Callable[[bytes, bytes, bytes, bytes], bool]  # (public key, message, signature, context)
FOREVER_MS: Final = (1 << 47) - 1  # the last millisecond that an HLC can hold: int64 less 16 bits of counter

Hash: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # SHA-256
SigningKey: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=1952, max_length=1952)]  # FIPS 204, table 2
KemKey: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=1184, max_length=1184)]  # FIPS 203, table 3
CurveKey: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]  # Ed25519 or X25519
Nonce: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Ms: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=FOREVER_MS)]  # Unix time

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Form(Generic[R]):
    """One kind of signed record."""

    record: type[R]
    domain: Domain
    malformed: str  # the error for what is not of this form; it names a `reason`
    fault: Callable[[R, Limits], str | None]  # what is wrong with a record that its types cannot say

    def encode(self, record: R) -> bytes:
        """The payload of a record: the only encoding of it that is accepted."""
        return canonical.encode(msgspec.to_builtins(record, builtin_types=(bytes,)))

    def sign(self, record: R, sign: Sign, limits: Limits = LIMITS) -> bytes:
        """The signed record; the error `malformed` for one that nobody would accept."""
        payload = self.encode(record)
        self._parse(payload, limits)
        return cose.sign1(payload, self.domain, sign)

    def peek(self, blob: bytes, limits: Limits = LIMITS) -> R:
        """What a signed record says, before anybody has verified it. Raises `malformed`."""
        return self.read(blob, limits)[0]

    def read(self, blob: bytes, limits: Limits = LIMITS) -> tuple[R, cose.Signed]:
        """What a signed record says, and what is left to verify of it. Raises `malformed`."""
        if len(blob) > limits.entry_bytes:
            raise error(self.malformed, reason=f"it is longer than {limits.entry_bytes} bytes")
        try:
            signed = cose.open1(blob)
        except X0tError as err:
            raise error(self.malformed, reason=err.message) from err
        return self._parse(signed.payload, limits), signed

    def is_signed_by(self, key: bytes, signed: cose.Signed, verify: Verify) -> bool:
        """Whether the holder of that ML-DSA-65 key signed it, as a record of this kind."""
        return verify(key, cose.to_be_signed(signed.payload), signed.signature, self.domain.encode())

    def _parse(self, payload: bytes, limits: Limits) -> R:
        try:
            fields = canonical.decode(payload, limits=limits)
            record = msgspec.convert(fields, self.record, builtin_types=(bytes,))  # else it takes base64 for bytes
        except (X0tError, msgspec.ValidationError) as err:
            raise error(self.malformed, reason=err) from err
        fault = self.fault(record, limits)
        if fault:
            raise error(self.malformed, reason=fault)
        return record


def record_id(blob: bytes) -> bytes:
    """The id of a signed record: SHA-256 of its payload, so that signing again changes nothing."""
    return hashlib.sha256(cose.open1(blob).payload).digest()
