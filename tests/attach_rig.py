"""Attachments for tests: Yggdrasil keys that follow from a name, and entries that prove them."""

from __future__ import annotations

import functools
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.replica.entries import AttachEntry
from appliance.trust.attachment import attach_statement


@functools.cache
def network_key(name: str) -> Ed25519PrivateKey:
    """The key of the network of a node with this name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"network " + name.encode()).digest())


def public(name: str) -> bytes:
    """Its public half."""
    return network_key(name).public_key().public_bytes_raw()


@functools.lru_cache(4096)
def attach(mesh: bytes, node: bytes, name: str, *uris: str, relay: bool = False) -> AttachEntry:
    """What a node says that has the key of this name."""
    proof = network_key(name).sign(attach_statement(mesh, node, public(name)))
    return AttachEntry(public(name), proof, uris, relay)
