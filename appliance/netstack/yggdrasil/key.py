"""The Yggdrasil key of this node in one mesh: Ed25519 (RFC 8032) in a private PKCS #8 file.

The file obeys the same rules as that of the node key (appliance/trust/keys.py). The key makes the node's address, signs
that it belongs to the node, and is handed to the daemon; it is never printed and never leaves this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from appliance.core.errors import error
from appliance.core.yggdrasil import KEY_BYTES
from appliance.trust.attachment import attach_statement
from appliance.trust.keys import PRIVATE_FILE_BYTES, publish_file, read_file

RELAY_BITS: Final = 16  # about 5 s, once; of 1,000 nodes that are none, one in 65 meshes has a lower key
_PRIVATE_MODE: Final = 0o600


class YggdrasilKey:
    """The private key, loaded."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public: Final[bytes] = key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"YggdrasilKey({self.public.hex()}, ***)"

    def attach(self, mesh: bytes, node: bytes) -> bytes:
        """The proof that this key belongs to a node of a mesh, 64 bytes: see `appliance.trust.attachment`."""
        return self._key.sign(attach_statement(mesh, node, self.public))

    def secret_text(self) -> str:
        """The form that the daemon's configuration wants: seed and public key as 128 hex digits. A secret."""
        return self._key.private_bytes_raw().hex() + self.public.hex()


def generate_key(low_bits: int = 0) -> YggdrasilKey:
    """A key of this process only, whose public half begins with so many zero bits: 2**low_bits tries."""
    return YggdrasilKey(_generated(low_bits))


def create_key(path: Path, low_bits: int = 0) -> YggdrasilKey:
    """Make a key, write it to *path* and read it back. `key.exists` when something is there already.

    The lowest public key of a mesh is the root of Yggdrasil's tree. It should be a node that many are linked with and
    that is always on, so relays take `RELAY_BITS` (docs/adr/0013).
    """
    key = _generated(low_bits)
    publish_file(path, bytearray(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())), _PRIVATE_MODE)
    return load_key(path)


def load_key(path: Path) -> YggdrasilKey:
    """The key in *path*.

    `key.permissions` when others can reach it, `key.file` when it is no plain file of reasonable size,
    `yggdrasil.key` when it holds something else.
    """
    pem = read_file(path, PRIVATE_FILE_BYTES, private=True)
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:  # TypeError: it is encrypted
        raise error("yggdrasil.key", path=path) from err
    finally:
        pem[:] = bytes(len(pem))
    if not isinstance(key, Ed25519PrivateKey):
        raise error("yggdrasil.key", path=path)
    return YggdrasilKey(key)


def _generated(low_bits: int) -> Ed25519PrivateKey:
    while True:
        key = Ed25519PrivateKey.generate()
        if int.from_bytes(key.public_key().public_bytes_raw(), "big") >> 8 * KEY_BYTES - low_bits == 0:
            return key
