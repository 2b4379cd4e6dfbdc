"""Typed 32-byte identifiers and their checked text forms.

The text form is bech32m (BIP-350) with the kind as its prefix, 63 characters or a few more. Raw bytes are for
hot paths; an `Id` is for borders and people. This module never decides whether an identifier is known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from appliance.core import bech32m
from appliance.core.errors import error

ID_BYTES: Final = 32
_SHORT_CHARS: Final = 12
_NODE_LABEL: Final = b"x0t/node-id/1"
_MESH_LABEL: Final = b"x0t/mesh-id/1"


@dataclass(frozen=True, slots=True, order=True)
class Id:
    """32 raw bytes of one kind; kinds never compare equal and are not ordered against each other."""

    HRP: ClassVar[str] = ""

    raw: bytes

    def __post_init__(self) -> None:
        if type(self.raw) is not bytes or len(self.raw) != ID_BYTES:
            raise error("id.raw", kind=self.HRP, length=len(self.raw))

    def __str__(self) -> str:
        return bech32m.encode(self.HRP, self.raw)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The identifier that *text* names; `id.text` for a typing error or for another kind."""
        prefix, raw = bech32m.decode(text)
        if prefix != cls.HRP or len(raw) != ID_BYTES:
            raise error("id.text", text=text, reason=f"it is not a {cls.HRP} identifier")
        return cls(raw)

    @property
    def short(self) -> str:
        """The first 12 characters of the text form, for tables; never parsed back."""
        return str(self)[:_SHORT_CHARS]


class NodeId(Id):
    """A node: the hash of its ML-DSA-65 public key."""

    __slots__ = ()
    HRP = "node"


class MeshId(Id):
    """A mesh: the hash of its authority's ML-DSA-65 public key."""

    __slots__ = ()
    HRP = "mesh"


class BatchHash(Id):
    """A batch: SHA-256 of its payload, never of the signed blob."""

    __slots__ = ()
    HRP = "batch"


class GrantId(Id):
    """A grant: SHA-256 of its payload."""

    __slots__ = ()
    HRP = "grant"


class ChangeHash(Id):
    """An Automerge change: the hash that Automerge itself gives it."""

    __slots__ = ()
    HRP = "change"


class TokenId(Id):
    """A token: SHA-256 of its payload. It is no secret; the token's text is."""

    __slots__ = ()
    HRP = "token"


class CertificateId(Id):
    """A node certificate: SHA-256 of its payload."""

    __slots__ = ()
    HRP = "cert"


class EnrolmentId(Id):
    """An enrolment: one node and the token that it asks with."""

    __slots__ = ()
    HRP = "enrol"


def node_id(public_key: bytes) -> NodeId:
    """The id of the node that holds *public_key* (ML-DSA-65; the caller checks its length)."""
    return NodeId(hashlib.sha256(_NODE_LABEL + public_key).digest())


def mesh_id(authority_public_key: bytes) -> MeshId:
    """The id of the mesh whose authority holds *authority_public_key*."""
    return MeshId(hashlib.sha256(_MESH_LABEL + authority_public_key).digest())
