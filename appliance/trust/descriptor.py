"""Mesh descriptor: the name and the authority key of a mesh, signed by that key, for a node that wants to join.

A COSE_Sign1 under the label `x0t/descriptor/1`. It holds no secret and proves only that its parts belong together:
whoever joins with it trusts the channel that it came by, so people compare the mesh id. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from appliance.core import canonical, cose
from appliance.core.domains import Domain
from appliance.core.errors import X0tError, error
from appliance.core.ids import mesh_id

VERSION = 1
DESCRIPTOR_BYTES = 8_192  # a key of 1,952, a signature of 3,309, a name, and some framing

Sign = Callable[[bytes, bytes], bytes]
Verify = Callable[[bytes, bytes, bytes, bytes], bool]


class Descriptor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a descriptor says."""

    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)]
    mesh: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    authority_key: Annotated[bytes, msgspec.Meta(min_length=1952, max_length=1952)]  # ML-DSA-65, FIPS 204 table 2
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    created_ms: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


def seal_descriptor(authority_key: bytes, name: str, created_ms: int, sign: Sign) -> bytes:
    """The signed descriptor of the mesh of this authority."""
    fields: list[canonical.Encodable] = [VERSION, mesh_id(authority_key).raw, authority_key, name, created_ms]
    return cose.sign1(canonical.encode(fields), Domain.DESCRIPTOR, sign)


def open_descriptor(blob: bytes, verify: Verify) -> Descriptor:
    """The checked content. Raises `mesh.descriptor` or `mesh.descriptor_signature`."""
    if len(blob) > DESCRIPTOR_BYTES:
        raise error("mesh.descriptor", reason="it is too large")
    try:
        signed = cose.open1(blob)
        descriptor = msgspec.convert(canonical.decode(signed.payload), Descriptor, builtin_types=(bytes,))
    except (X0tError, msgspec.ValidationError) as err:
        raise error("mesh.descriptor", reason=str(err)) from err
    if descriptor.mesh != mesh_id(descriptor.authority_key).raw:
        raise error("mesh.descriptor", reason="the mesh id does not belong to the authority key")
    message = cose.to_be_signed(signed.payload)
    if not verify(descriptor.authority_key, message, signed.signature, Domain.DESCRIPTOR.value.encode()):
        raise error("mesh.descriptor_signature")
    return descriptor
