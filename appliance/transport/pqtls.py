"""TLS 1.3 (RFC 8446) with X25519MLKEM768 for asyncio and aiohttp: what both sides of a connection share.

Python 3.11's ssl can neither agree on a hybrid group nor use ML-DSA certificates; pyOpenSSL can. `PqContext`
is an `ssl.SSLContext` by type only: asyncio asks it for an SSL object and gets a `PqChannel`.

Never: an older version, a classical group, ML-KEM alone, a resumed session, early data, compression, a peer
without a certificate. Who the peer is and whether it may come in is for the judge to say (see `peers`).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from cryptography import x509
from OpenSSL import SSL
from OpenSSL._util import lib as openssl  # for what pyOpenSSL does not wrap: the groups

from appliance.core.errors import error
from appliance.transport.channel import HYBRID_GROUP, PqChannel, TlsFailure
from appliance.transport.peers import Judge

ALPN: Final = b"http/1.1"
_CIPHERS: Final = b"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"  # no 128-bit keys in category 3


def make_engine(key_file: Path) -> SSL.Context:
    """OpenSSL's part of both sides, with the private key of *key_file* (PKCS #8 PEM); blocks to read it.

    The caller has checked the permissions of the file. Certificates come later, one with each channel.
    """
    engine = SSL.Context(SSL.TLS_METHOD)
    engine.set_min_proto_version(SSL.TLS1_3_VERSION)
    engine.set_max_proto_version(SSL.TLS1_3_VERSION)
    engine.set_tls13_ciphersuites(_CIPHERS)
    engine.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    engine.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    engine.set_mode(openssl.SSL_MODE_RELEASE_BUFFERS)  # an idle channel keeps no record buffers
    engine.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _leave_to_the_judge)
    engine.set_alpn_protos([ALPN])
    engine.set_alpn_select_callback(_select_alpn)
    # "Curves" is OpenSSL's old name for groups. What came of it is checked again after each handshake.
    handle = engine._context  # noqa: SLF001 - pyOpenSSL does not wrap the call
    if openssl.SSL_CTX_set1_curves_list(handle, HYBRID_GROUP.encode()) != 1:
        raise error("pqc.provider", provider="openssl", reason=f"it has no {HYBRID_GROUP}")
    engine.use_privatekey_file(str(key_file))
    return engine


class PqContext(ssl.SSLContext):
    """Makes channels with one engine, one certificate and one judge; `PqChannel` explains `on_failure`."""

    def __new__(cls, *_: object, **__: object) -> Self:
        """An `ssl.SSLContext` whose own settings are never used."""
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(
        self,
        engine: SSL.Context,
        certificate: x509.Certificate,
        judge: Judge,
        on_failure: Callable[[TlsFailure], None] | None = None,
    ) -> None:
        self._engine = engine
        self._certificate = certificate
        self.judge: Final = judge
        self.on_failure: Final = on_failure

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the signature of ssl
        server_hostname: str | bytes | None = None,  # noqa: ARG002 - names are neither sent nor believed
        session: ssl.SSLSession | None = None,
    ) -> PqChannel:
        """The channel that asyncio will drive."""
        if session is not None:
            raise ValueError("sessions are never resumed")
        connection = SSL.Connection(self._engine, None)
        connection.use_certificate(self._certificate)
        if server_side:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        return PqChannel(self, connection, (incoming, outgoing), server_side=server_side)

    def wrap_socket(self, *_: object, **__: object) -> NoReturn:
        """Not offered: a plain socket would get the classical TLS of the base class."""
        raise NotImplementedError("PqContext works through asyncio only")


def _leave_to_the_judge(*_: object) -> bool:
    return True  # no chain is built: the key is the identity, and OpenSSL has checked that the peer holds it


def _select_alpn(_: SSL.Connection, offered: list[bytes]) -> Any:  # pyOpenSSL's "none" has a private type
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS
