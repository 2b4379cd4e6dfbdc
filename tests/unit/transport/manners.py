"""How hostile ends do TLS, and under which key a node refuses each of them: the rows of tests/contract."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from OpenSSL._util import lib as openssl

from appliance.core.ids import node_id

Key = mldsa.MLDSA65PrivateKey | mldsa.MLDSA44PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def certificate(key: Key, start: timedelta = timedelta(days=-1), days: int = 30) -> x509.Certificate:
    begin = datetime.now(UTC) + start
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )
    is_mldsa = isinstance(key, mldsa.MLDSA65PrivateKey | mldsa.MLDSA44PrivateKey)
    return builder.sign(key, None if is_mldsa else hashes.SHA256())


def with_version(der: bytes, version: int) -> bytes:
    """The certificate with another version number: OpenSSL takes it, cryptography does not."""
    place = der.index(bytes.fromhex("a0030201")) + 4  # [0] INTEGER, RFC 5280 section 4.1
    return der[:place] + bytes([version]) + der[place + 1 :]


def from_year_0(der: bytes) -> bytes:
    """The certificate, valid from a year on that no date of Python has."""
    place = der.index(b"\x17\x0d")  # UTCTime
    longer = b"\x18\x0f00000101000000Z"  # GeneralizedTime, two bytes longer
    changed = bytearray(der[:place] + longer + der[place + 15 :])
    changed[place - 1] += 2  # the size of both times
    for size in (2, 6):  # of the certificate, of what is signed
        changed[size : size + 2] = (int.from_bytes(changed[size : size + 2], "big") + 2).to_bytes(2, "big")
    return bytes(changed)


@dataclass(frozen=True)
class Manners:
    """How a hostile end does TLS."""

    key: Key | None
    cert: x509.Certificate | None = None
    groups: bytes = b"X25519MLKEM768"
    version: int = SSL.TLS1_3_VERSION
    der: bytes | None = None  # instead of `cert`: one that only OpenSSL can read

    def context(self, directory: Path) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(self.version)
        context.set_max_proto_version(self.version)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        context.set_session_id(b"hostile")
        assert openssl.SSL_CTX_set1_curves_list(context._context, self.groups) == 1
        if self.key is not None:
            file = directory / f"hostile-{id(self)}.pem"
            file.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            context.use_privatekey_file(str(file))
            if self.der is None:
                context.use_certificate(self.cert or certificate(self.key))
            else:
                der = crypto.load_certificate(crypto.FILETYPE_ASN1, self.der)
                assert openssl.SSL_CTX_use_certificate(context._context, der._x509) == 1
        return context


# The request that opens a stream.
UPGRADE = (
    b"GET /x0t/sync/1 HTTP/1.1\r\nHost: node\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
MLDSA = mldsa.MLDSA65PrivateKey.generate()
MLDSA44 = mldsa.MLDSA44PrivateKey.generate()
ECDSA = ec.generate_private_key(ec.SECP384R1())
RSA = rsa.generate_private_key(65537, 2048)
EXPIRED = certificate(MLDSA, timedelta(days=-3), days=2)
NOT_YET = certificate(MLDSA, timedelta(hours=1))
DER = certificate(MLDSA).public_bytes(Encoding.DER)
UNPARSED = Manners(MLDSA, der=with_version(DER, 9))  # refused within the handshake, under tls.certificate

# A TLS end that ends in an alert: how it behaves, the key under which the node refuses it.
BAD_TLS = {
    "X25519 alone": (Manners(MLDSA, groups=b"X25519"), "tls.group"),
    "P-256 alone": (Manners(MLDSA, groups=b"P-256"), "tls.group"),
    "ML-KEM-768 alone": (Manners(MLDSA, groups=b"MLKEM768"), "tls.group"),
    "ML-KEM-1024 alone": (Manners(MLDSA, groups=b"MLKEM1024"), "tls.group"),
    "another hybrid": (Manners(MLDSA, groups=b"SecP256r1MLKEM768"), "tls.group"),
    "TLS 1.2": (Manners(ECDSA, groups=b"P-256", version=SSL.TLS1_2_VERSION), "tls.version"),
}
# A TLS end that finishes the handshake, and whose certificate the node then refuses.
BAD_CERTIFICATES = {
    "ECDSA": (Manners(ECDSA), "tls.certificate"),
    "RSA": (Manners(RSA), "tls.certificate"),
    "ML-DSA-44": (Manners(MLDSA44), "tls.certificate"),
    "expired": (Manners(MLDSA, EXPIRED), "tls.peer_expired"),
    "from the year 0": (Manners(MLDSA, der=from_year_0(DER)), "tls.certificate"),
    "not yet valid": (Manners(MLDSA, NOT_YET), "tls.peer_not_yet"),
    "unknown key": (Manners(MLDSA), "tls.peer_unknown"),
}


def make_id(key: mldsa.MLDSA65PrivateKey) -> bytes:
    return node_id(key.public_key().public_bytes_raw()).raw
