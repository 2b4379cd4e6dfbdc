"""Attachment: a Yggdrasil key says that it belongs to a member, so that an address on the mesh is bound to a node.

The Yggdrasil key (Ed25519, RFC 8032) signs the name of the mesh, of the node and itself. The proof says that who wrote
it could use the key, not that nobody else can. It names one mesh and one node, so it proves nothing anywhere else; its
label and its length keep it apart from what Yggdrasil itself signs with the same key.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from appliance.core.domains import Domain
from appliance.core.ids import ID_BYTES
from appliance.core.yggdrasil import KEY_BYTES

PROOF_BYTES: Final = 64


def attach_statement(mesh: bytes, node: bytes, key: bytes) -> bytes:
    """The 108 bytes that the key signs: the label, then mesh id, node id and key of 32 bytes each."""
    if (len(mesh), len(node), len(key)) != (ID_BYTES, ID_BYTES, KEY_BYTES):
        raise ValueError("mesh id, node id and key have 32 bytes each")
    return Domain.ATTACH.encode() + mesh + node + key


def verify_attachment(mesh: bytes, node: bytes, key: bytes, proof: bytes) -> bool:
    """True if the key itself signed that it belongs to this node of this mesh."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(proof, attach_statement(mesh, node, key))
    except (InvalidSignature, ValueError):
        return False
    return True
