"""Key agreement keys of a node: ML-KEM-768 (FIPS 203) and X25519 (RFC 7748) in private key files of their own.

They are made when they are first needed, which is when the node asks to be admitted, and loaded after. The files obey
the rules of appliance/trust/keys.py, in PKCS #8: the first in seed form (RFC 9935), the second as RFC 8410 has it. This
module never prints a key and never agrees on one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from appliance.core.errors import StateError, error
from appliance.trust.keys import clear, read_private_key, write_private_key
from appliance.trust.pqc import KemKey, Provider, provider


class TunnelKey:
    """The X25519 private key of the node's tunnels."""

    __slots__ = ("_key", "public_key")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public_key: Final[bytes] = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"TunnelKey({self.public_key.hex()}, ***)"


def ensure_kem_key(path: Path, by: Provider | None = None) -> KemKey:
    """The ML-KEM-768 key in *path*, made if there is none; used by that provider (default: the preferred one).

    Raises `key.file`, `key.permissions`, `key.format` or `key.algorithm`.
    """
    key = _ensure(path, MLKEM768PrivateKey.generate)
    if not isinstance(key, MLKEM768PrivateKey):
        raise error("key.algorithm", path=path)
    seed = bytearray(key.private_bytes_raw())
    try:
        return (by or provider()).mlkem_keypair(seed)
    finally:
        clear(seed)


def ensure_tunnel_key(path: Path) -> TunnelKey:
    """The X25519 key in *path*, made if there is none. Raises what `ensure_kem_key` does."""
    key = _ensure(path, X25519PrivateKey.generate)
    if not isinstance(key, X25519PrivateKey):
        raise error("key.algorithm", path=path)
    return TunnelKey(key)


def _ensure(path: Path, make: Callable[[], MLKEM768PrivateKey | X25519PrivateKey]) -> PrivateKeyTypes:
    if not path.exists():
        try:
            write_private_key(path, make())
        except StateError as err:
            if err.key != "key.exists":  # somebody was quicker: theirs it is
                raise
    return read_private_key(path)
