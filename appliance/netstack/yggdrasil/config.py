"""The daemon's configuration: from a record to the JSON that `yggdrasil -useconf` reads. Pure.

It names no public peer, shows no node information and discovers nobody but on the interfaces chosen. What is not
given here would be the daemon's default, which is open: every such field is written out. The result holds secrets.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final
from urllib.parse import urlencode

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.core.ids import ID_BYTES
from appliance.core.yggdrasil import KEY_BYTES

_PASSWORD_LABEL: Final = b"x0t/yggdrasil-peer/1"
_PASSWORD_BYTES: Final = 33  # 44 characters of base64 without padding; the daemon takes 64 at most (blake2b)
_RETRY_MAX: Final = "30s"  # least that the daemon accepts; by default it would wait up to an hour


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What one daemon runs with. All of it but `peers` needs a new process to change."""

    key: str  # see `YggdrasilKey.secret_text`
    password: str
    interface: str
    mtu: int
    admin_socket: str  # path
    listen: tuple[str, ...]
    discovery: tuple[str, ...]
    allowed: frozenset[bytes]  # keys that may dial us; the daemon does not ask this of links by discovery
    peers: tuple[str, ...] = ()  # that we dial, with their options: see `peer_uri`

    def __repr__(self) -> str:
        return f"Config({self.interface}, {len(self.allowed)} allowed, ***)"

    @property
    def base_digest(self) -> str:
        """SHA-256 of everything but the allowed keys and the peers, as hex."""
        return hashlib.sha256(to_json(msgspec.structs.replace(self, allowed=frozenset(), peers=()))).hexdigest()


def peer_password(secret: bytes, mesh: bytes, epoch: int) -> str:
    """The password that peers of a mesh show one another in an epoch: HKDF-SHA256 (RFC 5869) of the mesh's secret."""
    if len(mesh) != ID_BYTES:
        raise ValueError("a mesh id has 32 bytes")
    info = _PASSWORD_LABEL + epoch.to_bytes(8, "big")
    derived = HKDF(algorithm=SHA256(), length=_PASSWORD_BYTES, salt=mesh, info=info).derive(secret)
    return base64.urlsafe_b64encode(derived).decode()


def peer_uri(uri: str, key: bytes, password: str) -> str:
    """A peer to dial: the daemon parts from whoever answers with another key or without the password."""
    return f"{uri}?{urlencode({'key': key.hex(), 'password': password, 'maxbackoff': _RETRY_MAX})}"


def to_json(config: Config) -> bytes:
    """The configuration as the daemon reads it; the same bytes for the same record."""
    nobody = config.key[2 * KEY_BYTES :]  # an empty list would allow everybody; our own key is nobody else's
    document = {
        "PrivateKey": config.key,
        "Listen": [f"{uri}?{urlencode({'password': config.password})}" for uri in config.listen],
        "Peers": list(config.peers),
        "InterfacePeers": {},
        "AllowedPublicKeys": sorted(key.hex() for key in config.allowed) or [nobody],
        "MulticastInterfaces": [
            {"Regex": f"^{re.escape(name)}$", "Beacon": True, "Listen": True, "Port": 0, "Password": config.password}
            for name in sorted(config.discovery)
        ],
        "AdminListen": f"unix://{config.admin_socket}",
        "IfName": config.interface,
        "IfMTU": config.mtu,
        "LogLookups": False,
        "NodeInfo": {},
        "NodeInfoPrivacy": True,
    }
    return msgspec.json.encode(document)
