"""Mesh descriptor: the name and the authority key of a mesh, signed by that key, for a node that wants to join.

A COSE_Sign1 under the label `x0t/descriptor/1`. It holds no secret and proves only that its parts belong together:
whoever joins with it trusts the channel that it came by, so people compare the mesh id. Pure.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from appliance.core.domains import Domain
from appliance.core.errors import error
from appliance.core.ids import mesh_id
from appliance.core.limits import Limits
from appliance.trust.signed import Form, Hash, Sign, SigningKey, Verify

VERSION: Final = 1


class Descriptor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a descriptor says."""

    version: Literal[1]
    mesh: Hash
    authority_key: SigningKey
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    created_ms: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


def seal_descriptor(authority_key: bytes, name: str, created_ms: int, sign: Sign) -> bytes:
    """The signed descriptor of the mesh of this authority. Raises `mesh.descriptor` for one that nobody would take."""
    return _FORM.sign(Descriptor(VERSION, mesh_id(authority_key).raw, authority_key, name, created_ms), sign)


def open_descriptor(blob: bytes, verify: Verify) -> Descriptor:
    """The checked content. Raises `mesh.descriptor` or `mesh.descriptor_signature`."""
    descriptor, signed = _FORM.read(blob)
    if not _FORM.is_signed_by(descriptor.authority_key, signed, verify):
        raise error("mesh.descriptor_signature")
    return descriptor


def _fault(descriptor: Descriptor, _: Limits) -> str | None:
    is_owner = descriptor.mesh == mesh_id(descriptor.authority_key).raw
    return None if is_owner else "the mesh id does not belong to the authority key"


_FORM: Final = Form(Descriptor, Domain.DESCRIPTOR, "mesh.descriptor", _fault)
