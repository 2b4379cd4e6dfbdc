"""The node's own certificate: self-signed with its ML-DSA-65 key (RFC 9881), short-lived, renewed in time.

A certificate is only the envelope in which TLS carries the key, so it is made anew at each start and never
stored. Its name is the node id, for people who look at a capture; no peer believes it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from appliance.core.errors import error
from appliance.core.ids import node_id
from appliance.transport.channel import TlsFailure
from appliance.transport.peers import Clock, Judge
from appliance.transport.pqtls import PqContext, make_engine
from appliance.trust.keys import load_key
from appliance.trust.pqc import provider

LIFETIME_DAYS: Final = 30  # a node that nobody restarts renews three times in the life of a certificate
_BACKDATED: Final = timedelta(days=1)  # clocks of cut-off nodes drift
_RENEWED_AFTER: Final = 1 / 3  # of the lifetime: leaves two thirds for peers whose clock is ahead


def make_certificate(key: MLDSA65PrivateKey, now_ms: int, days: int = LIFETIME_DAYS) -> x509.Certificate:
    """A certificate of *key* by itself, valid from a day before *now_ms* to *days* after it."""
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    public_key = key.public_key()
    text = str(node_id(public_key.public_bytes_raw()))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    builder = (
        x509.CertificateBuilder(name, name, public_key, x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    return builder.sign(key, None)


class Credentials:
    """What a node shows to peers: its key, loaded once, and a certificate that is always current.

    Making one blocks: it reads *key_file* after `trust.keys` has checked who else can.
    """

    def __init__(self, key_file: Path, now_ms: Clock, days: int = LIFETIME_DAYS) -> None:
        load_key(key_file, provider("openssl")).wipe()
        key = load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(key, MLDSA65PrivateKey):
            raise error("key.algorithm", path=key_file)
        self.now_ms: Final = now_ms
        self.node_id: Final = node_id(key.public_key().public_bytes_raw())
        self._key = key
        self._days = days
        self._certificate = make_certificate(key, now_ms(), days)
        self._engine = make_engine(key_file)
        self._engine.use_certificate(self._certificate)
        self._engine.check_privatekey()

    def certificate(self) -> x509.Certificate:
        """The certificate for now; made anew after a third of its life, or if the clock went back."""
        now_ms = self.now_ms()
        start = self._certificate.not_valid_before_utc
        renewal = start + _BACKDATED + timedelta(days=self._days) * _RENEWED_AFTER
        if not start <= datetime.fromtimestamp(now_ms / 1000, UTC) < renewal:
            self._certificate = make_certificate(self._key, now_ms, self._days)
        return self._certificate

    def context(self, judge: Judge, on_failure: Callable[[TlsFailure], None] | None = None) -> PqContext:
        """A context for one or more channels, with the certificate of now."""
        return PqContext(self._engine, self.certificate(), judge, on_failure)
