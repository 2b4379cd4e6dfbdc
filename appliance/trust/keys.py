"""Key files: private keys as PKCS #8 PEM (RFC 5958) in seed form (RFC 9881), public keys as a line of text.

A private key file belongs to our user, is readable by nobody else and is a plain file, or it is refused. It
is made whole or not at all: written beside its place, synced, linked there without replacing anything, and
the directory synced. This module never overwrites a key, never prints one and never decides what a key may
do.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.core.errors import error
from appliance.core.ids import NodeId, node_id
from appliance.trust import pqc
from appliance.trust.pqc import Provider, SigningKey, provider

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

ALGORITHM: Final = "ml-dsa-65"
PRIVATE_FILE_BYTES: Final = 16_384  # ours are 130 bytes; the longest form, which is told apart, about 5,600
PUBLIC_TEXT_CHARS: Final = len(ALGORITHM) + 1 + 4 * -(-pqc.MLDSA_PUBLIC_BYTES // 3)  # name, space, base64
_PRIVATE_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class NodeKey:
    """The private key of a node or of a mesh authority, loaded from its file."""

    __slots__ = ("_key", "path", "public_key")

    def __init__(self, path: Path, key: SigningKey) -> None:
        self.path = path
        self.public_key: bytes = key.public_key
        self._key = key

    def __repr__(self) -> str:
        return f"NodeKey({self.id}, ***)"

    @property
    def id(self) -> NodeId:
        """The id of the node that holds this key."""
        return node_id(self.public_key)

    def sign(self, message: bytes, context: bytes = b"") -> bytes:
        """See `pqc.SigningKey`."""
        return self._key.sign(message, context)

    def wipe(self) -> None:
        """See `pqc.SigningKey`."""
        self._key.wipe()


def create_key(path: Path, by: Provider | None = None) -> NodeKey:
    """Make a key, write it to *path* and read it back. `key.exists` when something is there already."""
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

    write_private_key(path, MLDSA65PrivateKey.generate())
    return load_key(path, by)


def load_key(path: Path, by: Provider | None = None) -> NodeKey:
    """The private key in *path*, to be used by that provider (default: the preferred one).

    `key.permissions` when others can reach it, `key.file` when it is no plain file of reasonable size,
    `key.format` or `key.algorithm` when it holds something else.
    """
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

    key = read_private_key(path)
    if not isinstance(key, MLDSA65PrivateKey):
        raise error("key.algorithm", path=path)
    seed = bytearray(key.private_bytes_raw())
    try:
        return NodeKey(path, (by or provider()).mldsa_keypair(seed))
    finally:
        clear(seed)


def write_private_key(path: Path, key: MLDSA65PrivateKey | MLKEM768PrivateKey | X25519PrivateKey) -> None:
    """Write a key to *path* for our user alone, in seed form where it has one. Raises `key.exists`, `key.file`."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = bytearray(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    publish_file(path, pem, _PRIVATE_MODE)


def read_private_key(path: Path) -> PrivateKeyTypes:
    """The private key in *path*, of whatever algorithm; otherwise raises what `load_key` does."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_file(path, PRIVATE_FILE_BYTES, private=True)
    try:
        return load_pem_private_key(pem, None)
    except UnsupportedAlgorithm as err:
        raise error("key.algorithm", path=path) from err
    except (ValueError, TypeError) as err:  # TypeError: it is encrypted
        raise error("key.format", reason=f"{path} holds no unencrypted PKCS #8 key in seed form") from err
    finally:
        clear(pem)


def format_public_key(public_key: bytes) -> str:
    """The line `ml-dsa-65 <base64>` of a public key, without a line end."""
    pqc.check_length(public_key, pqc.MLDSA_PUBLIC_BYTES)
    return f"{ALGORITHM} {base64.b64encode(public_key).decode()}"


def parse_public_key(text: str) -> bytes:
    """The 1,952 bytes of such a line, which may end with one line feed; `key.format` for anything else."""
    line = text.removesuffix("\n")
    name, space, digits = line.partition(" ")
    if name != ALGORITHM or not space:
        raise error("key.format", reason=f"it does not begin with {ALGORITHM} and a space")
    if len(line) != PUBLIC_TEXT_CHARS:
        raise error("key.format", reason=f"the line has {len(line)} characters, not {PUBLIC_TEXT_CHARS}")
    try:
        public_key = base64.b64decode(digits.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as err:
        raise error("key.format", reason="its second word is not base64") from err
    if len(public_key) != pqc.MLDSA_PUBLIC_BYTES or format_public_key(public_key) != line:
        raise error("key.format", reason="its base64 is not of 1,952 bytes")
    return public_key


def write_public_key(path: Path, public_key: bytes) -> None:
    """Write the line to *path* for all to read. `key.exists` when something is there already."""
    publish_file(path, bytearray(f"{format_public_key(public_key)}\n".encode()), _PUBLIC_MODE)


def read_public_key(path: Path) -> bytes:
    """The public key in *path*: see `parse_public_key`; `key.file` when it is no plain file of that size."""
    data = read_file(path, PUBLIC_TEXT_CHARS + 1, private=False)
    try:
        return parse_public_key(data.decode("ascii"))
    except UnicodeDecodeError as err:
        raise error("key.format", reason="it is not ASCII text") from err


def read_file(path: Path, limit: int, *, private: bool) -> bytearray:
    """The whole of a plain file of at most *limit* bytes; checked once open, so that it cannot be swapped.

    Raises `key.file`, and `key.permissions` for a private one that others can reach. The caller clears a secret.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # NONBLOCK: a FIFO
    except OSError as err:
        raise error("key.file", path=path, reason=err.strerror) from err
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode):
            raise error("key.file", path=path, reason="it is not a plain file")
        if private and (facts.st_mode & _OTHERS or facts.st_uid != os.geteuid()):
            raise error("key.permissions", path=path)
        buffer = bytearray(limit + 1)
        size = os.readv(file, [buffer])
    except OSError as err:
        raise error("key.file", path=path, reason=err.strerror) from err
    finally:
        os.close(file)
    if size > limit:
        clear(buffer)
        raise error("key.file", path=path, reason=f"it is longer than {limit} bytes")
    del buffer[size:]
    return buffer


def publish_file(path: Path, data: bytearray, mode: int) -> None:
    """Make *path* with that content, whole and durable or not at all; clears *data*. Raises `key.exists`, `key.file`.

    A link, not a rename: a rename would replace a key that another process made in the meantime.
    """
    draft = f".{path.name}.{secrets.token_hex(8)}"
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                _write_draft(directory, draft, data, mode)
                os.link(draft, path.name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=directory)
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as err:
        raise error("key.exists", path=path) from err
    except OSError as err:
        raise error("key.file", path=path, reason=err.strerror) from err
    finally:
        clear(data)


def _write_draft(directory: int, name: str, data: bytearray, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(name, flags, _PRIVATE_MODE, dir_fd=directory)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fchmod(file, mode)
        os.fsync(file)
    finally:
        os.close(file)


def clear(secret: bytearray) -> None:
    """Overwrite it with zeros."""
    secret[:] = bytes(len(secret))
