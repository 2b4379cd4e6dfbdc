"""Applicant: the keys of this node in a mesh that it wants to enter, and the requests that they sign.

The keys are made before the first request and stay: a node that asks again, also after a power cut, asks with the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from appliance.core.ids import MeshId
from appliance.netstack.yggdrasil.key import RELAY_BITS, YggdrasilKey, create_key, load_key
from appliance.trust.agreement_keys import TunnelKey, ensure_kem_key, ensure_tunnel_key
from appliance.trust.enrolment import Request, sign_request
from appliance.trust.keys import NodeKey
from appliance.trust.pqc import KemKey, Provider
from appliance.trust.tokens import Token


class MeshKeys(NamedTuple):
    """What a node has of its own in one mesh."""

    yggdrasil: YggdrasilKey
    kem: KemKey
    tunnel: TunnelKey


def mesh_directory(data_dir: Path, mesh: bytes) -> Path:
    """Where the files of one mesh are."""
    return data_dir / str(MeshId(mesh))


def yggdrasil_key(directory: Path, *, relay: bool) -> YggdrasilKey:
    """The Yggdrasil key in the directory of a mesh, made if there is none; a relay's takes some seconds to find."""
    path = directory / "yggdrasil.pem"
    return load_key(path) if path.exists() else create_key(path, RELAY_BITS if relay else 0)


def mesh_keys(directory: Path, by: Provider, *, relay: bool) -> MeshKeys:
    """All keys in the directory of a mesh, made where there are none."""
    directory.mkdir(mode=0o700, exist_ok=True)
    return MeshKeys(
        yggdrasil_key(directory, relay=relay),
        ensure_kem_key(directory / "kem.pem", by),
        ensure_tunnel_key(directory / "tunnel.pem"),
    )


class NodeApplicant:
    """`Applicant` with the keys of this node."""

    def __init__(self, key: NodeKey, keys: MeshKeys, name: str, now_ms: Callable[[], int]) -> None:
        self._key = key
        self._keys = keys
        self._name = name
        self._now_ms = now_ms

    def request(self, token: Token, token_id: bytes, binding: bytes) -> bytes:
        """See `appliance.admission.joiner.Applicant`."""
        yggdrasil = self._keys.yggdrasil
        request = Request(
            mesh=token.mesh,
            token=token_id,
            node_key=self._key.public_key,
            kem_key=self._keys.kem.public_key,
            mesh_key=yggdrasil.public,
            mesh_proof=yggdrasil.attach(token.mesh, self._key.id.raw),
            tunnel_key=self._keys.tunnel.public_key,
            name=self._name,
            created_ms=self._now_ms(),
            binding=binding,
        )
        return sign_request(request, self._key.sign)
