"""Batch: what one author signs at once, a run of entries in its append-only log.

A batch travels as COSE_Sign1 (RFC 9052) over deterministic CBOR (RFC 8949 section 4.2.1), signed with ML-DSA-65
under the domain label `x0t/batch/1`. Its identity is the SHA-256 of the payload and never of the signed blob, because
an ML-DSA signature is randomised. This module parses, builds and verifies; it never decides what a batch may do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated

import msgspec

from appliance.core import canonical, cose
from appliance.core.domains import Domain
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits

VERSION = 1
CHANNELS = ("control", "ledger", "audit")

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Sign = Callable[[bytes, bytes], bytes]
Verify = Callable[[bytes, bytes, bytes, bytes], bool]
Entry = tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=32)], bytes]


class Batch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """The signed payload. `hlc` is greater than that of `prev` and of each parent, so (hlc, hash) is causal."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    mesh: Hash
    channel: str
    author: Hash
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    prev: Hash | None
    parents: tuple[Hash, ...]
    hlc: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    entries: tuple[Entry, ...]

    def dependencies(self) -> tuple[bytes, ...]:
        """Hashes that must be known before this batch: its predecessor, then its parents."""
        return self.parents if self.prev is None else (self.prev, *self.parents)


class SignedBatch(msgspec.Struct, frozen=True, gc=False):
    """A batch with its identity and the bytes that were signed and are kept."""

    hash: bytes
    blob: bytes
    payload: bytes
    signature: bytes
    batch: Batch


def parse_batch(blob: bytes, limits: Limits = LIMITS) -> SignedBatch:
    """Decode one signed batch strictly; the signature is not checked. Raises `batch.size` or `batch.malformed`."""
    if len(blob) > limits.batch_bytes:
        raise error("batch.size", size=len(blob), limit=limits.batch_bytes, unit="bytes")
    try:
        signed = cose.open1(blob)
    except X0tError as err:
        raise error("batch.malformed", reason=str(err)) from err
    return SignedBatch(
        hash=hashlib.sha256(signed.payload).digest(),
        blob=blob,
        payload=signed.payload,
        signature=signed.signature,
        batch=_open_payload(signed.payload, limits),
    )


def parse_payload(payload: bytes, limits: Limits = LIMITS) -> SignedBatch:
    """A batch whose signature lies in an archive: only for what this replica verified when it arrived."""
    digest = hashlib.sha256(payload).digest()
    return SignedBatch(hash=digest, blob=b"", payload=payload, signature=b"", batch=_open_payload(payload, limits))


def build_batch(batch: Batch, sign: Sign, limits: Limits = LIMITS) -> SignedBatch:
    """Sign a batch of our own; the same bounds hold as for one that arrives."""
    _check_shape(batch, limits)
    payload = canonical.encode(
        [
            batch.version,
            batch.mesh,
            batch.channel,
            batch.author,
            batch.seq,
            batch.prev,
            list(batch.parents),
            batch.hlc,
            [list(entry) for entry in batch.entries],
        ]
    )
    blob = cose.sign1(payload, Domain.BATCH, sign)
    if len(blob) > limits.batch_bytes:
        raise error("batch.size", size=len(blob), limit=limits.batch_bytes, unit="bytes")
    return SignedBatch(
        hash=hashlib.sha256(payload).digest(),
        blob=blob,
        payload=payload,
        signature=cose.open1(blob).signature,
        batch=batch,
    )


def verify_batch(signed: SignedBatch, public_key: bytes, verify: Verify) -> bool:
    """True if the signature is the author's. `verify(public_key, message, signature, context)` is a provider's."""
    return verify(public_key, cose.to_be_signed(signed.payload), signed.signature, Domain.BATCH.value.encode())


def _open_payload(payload: bytes, limits: Limits) -> Batch:
    try:
        batch = msgspec.convert(canonical.decode(payload, limits=limits), Batch, builtin_types=(bytes,))
    except (X0tError, msgspec.ValidationError) as err:
        raise error("batch.malformed", reason=str(err)) from err
    _check_shape(batch, limits)
    return batch


def short(digest: bytes) -> str:
    """Enough of a hash for a person to find the batch."""
    return digest.hex()[:12]


def _check_shape(batch: Batch, limits: Limits) -> None:
    if batch.channel not in CHANNELS:
        raise error("batch.channel", channel=batch.channel[:32])
    if (batch.prev is None) != (batch.seq == 1):
        raise error("batch.chain")
    if len(batch.parents) > limits.batch_parents:
        raise error("batch.parents")
    if any(a >= b for a, b in zip(batch.parents, batch.parents[1:], strict=False)) or batch.prev in batch.parents:
        raise error("batch.parents")
    if not 1 <= len(batch.entries) <= limits.batch_entries:
        raise error("batch.size", size=len(batch.entries), limit=limits.batch_entries, unit="entries")
    largest = max(len(body) for _, body in batch.entries)
    if largest > limits.entry_bytes:
        raise error("batch.size", size=largest, limit=limits.entry_bytes, unit="bytes in an entry")
