"""Who is at the other end: the peer's ML-DSA-65 public key, taken from its certificate.

TLS has proved that the peer holds the key; the certificate only carries it (RFC 9881). Its names and its
issuer are never read, and nothing here decides who belongs to a mesh: the caller says so.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

from appliance.core.errors import error
from appliance.core.ids import NodeId, node_id

Clock = Callable[[], int]  # milliseconds since the Unix epoch


class Permitted(Protocol):
    """Says whether a node may talk to us now."""

    def __call__(self, node_id: bytes, /) -> bool:
        """Answer at once: it is asked in the middle of a handshake."""
        ...


class Judge(Protocol):
    """Takes a peer's certificate; returns who it is or raises why it may not come in."""

    def __call__(self, certificate: x509.Certificate, /) -> PeerIdentity:
        """Raise an `X0tError` to refuse."""
        ...


class PeerIdentity(msgspec.Struct, frozen=True):
    """A peer that was let in: its key and the node id derived from it."""

    node_id: bytes
    public_key: bytes

    def __str__(self) -> str:
        return str(NodeId(self.node_id))


def identify(certificate: x509.Certificate, now_ms: int) -> PeerIdentity:
    """The identity in *certificate*; `tls.certificate`, `tls.peer_expired` or `tls.peer_not_yet`."""
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError) as err:
        raise error("tls.certificate", reason="its key cannot be read") from err
    if not isinstance(key, MLDSA65PublicKey):
        kind = type(key).__name__.removesuffix("PublicKey").strip("_")
        raise error("tls.certificate", reason=f"its key is {kind}")
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    try:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as err:  # the year 0
        raise error("tls.certificate", reason="its times cannot be read") from err
    if now < start:
        raise error("tls.peer_not_yet", start=start.isoformat())
    if now > end:
        raise error("tls.peer_expired", end=end.isoformat())
    public_key = key.public_bytes_raw()
    return PeerIdentity(node_id(public_key).raw, public_key)


class Verdict:
    """The judge of this node: a valid certificate, the right key where one is expected, a permitted peer."""

    def __init__(self, permitted: Permitted, now_ms: Clock, expected: bytes | None = None) -> None:
        self._permitted = permitted
        self._now_ms = now_ms
        self._expected = expected

    def __call__(self, certificate: x509.Certificate, /) -> PeerIdentity:
        """Who the peer is; also `tls.peer_key` (not the one that was dialled) or `tls.peer_unknown`."""
        peer = identify(certificate, self._now_ms())
        if self._expected is not None and peer.node_id != self._expected:
            raise error("tls.peer_key", peer=peer, expected=NodeId(self._expected))
        if not self._permitted(peer.node_id):
            raise error("tls.peer_unknown", peer=peer)
        return peer
