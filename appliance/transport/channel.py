"""One TLS connection over OpenSSL's memory BIOs, with the methods that asyncio expects of an `ssl.SSLObject`.

It drives an `OpenSSL.SSL.Connection` in slices of one record, and checks what the handshake agreed on before
any byte of data goes either way. It never decides who may come in and never touches a socket.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL._util import lib as openssl  # for what pyOpenSSL does not wrap: the reuse flag

from appliance.core.errors import X0tError, error
from appliance.transport.peers import PeerIdentity

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from appliance.transport.pqtls import PqContext

HYBRID_GROUP: Final = "X25519MLKEM768"  # draft-ietf-tls-ecdhe-mlkem, code point 0x11EC
SLICE_BYTES: Final = 16_384  # one record; OpenSSL moves what a BIO holds at each write: it must hold little
_RECORD_BYTES: Final = SLICE_BYTES + 256  # RFC 8446 section 5.2: so much longer may a record be
_ALERT, _HANDSHAKE = 0x15, 0x16  # first byte of a record, RFC 8446 section 5.1

E = TypeVar("E", bound=Exception)

# The end of OpenSSL's reason -> our key and its details.
_REASONS: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("no suitable key share", "tls.group", {"reason": "it offers no hybrid key share"}),
    ("no suitable groups", "tls.group", {"reason": "it offers no hybrid group"}),
    ("alert handshake failure", "tls.group", {"reason": "it refused the only group of ours"}),
    ("unsupported protocol", "tls.version", {"version": "an older version"}),
    ("alert protocol version", "tls.version", {"version": "an older version"}),
    ("peer did not return a certificate", "tls.certificate_missing", {}),
    ("alert certificate required", "tls.certificate_missing", {}),
    ("wrong version number", "tls.plain", {}),
)


class TlsFailure(ssl.SSLError):
    """Carries one of our errors through asyncio and aiohttp, which know how to handle `ssl.SSLError`."""

    def __init__(self, refusal: X0tError) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, str(refusal))
        self.refusal: Final = refusal


class PqChannel(ssl.SSLObject):
    """One TLS connection between two memory BIOs, as asyncio expects it.

    The handshake ends well only after version, group and freshness were checked. Then the judge looks at the
    certificate: what it refuses ends a client's handshake; a server keeps it in `refusal`, so that it can be
    said to the peer over the finished channel. `peer` is set exactly if the judge agreed.

    asyncio drops what is unsent when a handshake fails. A server with `on_failure` therefore calls that and
    asks for more input instead of raising, which flushes the alert; whoever listens closes the connection.
    """

    def __init__(
        self,
        context: PqContext,
        connection: SSL.Connection,
        bios: tuple[ssl.MemoryBIO, ssl.MemoryBIO],
        *,
        server_side: bool,
    ) -> None:
        self._context = context
        self._connection = connection
        self._incoming, self._outgoing = bios
        self._server_side = server_side
        self._is_begun = False
        self._is_closing = False
        self.failure: TlsFailure | None = None
        self.refusal: X0tError | None = None
        self.peer: PeerIdentity | None = None

    # ---- the handshake

    def do_handshake(self) -> None:
        """Go on with the handshake; `ssl.SSLWantReadError` until the peer has answered."""
        if self.failure is None:
            try:
                self._shake_hands()
            except TlsFailure as failure:
                self.failure = _without_frames(failure)
                self._flush()
                if self._context.on_failure is None:
                    raise
                self._context.on_failure(failure)
            else:
                return
        raise _want_read()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._connection.do_handshake()
                break
            except SSL.WantReadError:
                self._flush()
                if not self._feed():
                    raise _want_read() from None
            except SSL.Error as err:
                raise _failure(err) from err
        self._check()
        self._flush()

    def _check(self) -> None:
        if self._connection.get_protocol_version() != SSL.TLS1_3_VERSION:
            raise TlsFailure(error("tls.version", version=self.version()))
        if self.group() != HYBRID_GROUP:
            raise TlsFailure(error("tls.group", reason=f"it agreed on {self.group()}"))
        if self.session_reused:
            raise TlsFailure(error("tls.resumed"))
        certificate = self._peer_certificate()
        if certificate is None:
            raise TlsFailure(error("tls.certificate_missing"))
        try:
            self.peer = self._context.judge(certificate)
        except X0tError as refusal:
            self.refusal = _without_frames(refusal)
            if not self._server_side:
                raise TlsFailure(refusal) from refusal

    def _peer_certificate(self) -> x509.Certificate | None:
        try:
            return self._connection.get_peer_certificate(as_cryptography=True)
        except (ValueError, x509.InvalidVersion) as err:  # OpenSSL read it, cryptography's stricter parser did not
            raise TlsFailure(error("tls.certificate", reason="it cannot be parsed")) from err

    # ---- data

    def read(self, size: int = 1024, buffer: WriteableBuffer | None = None) -> bytes:
        """Up to one record of data; nothing after the peer's close_notify. With *buffer*, its count."""
        size = min(size, SLICE_BYTES)
        while True:
            try:
                if buffer is None:
                    return self._connection.recv(size)
                return self._connection.recv_into(buffer, size)  # type: ignore[return-value]
            except SSL.WantReadError:
                if not self._feed():
                    self._flush()  # the answer to a key update, if any
                    raise _want_read() from None
            except SSL.ZeroReturnError:
                return b"" if buffer is None else 0  # type: ignore[return-value]
            except SSL.SysCallError as err:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer left without close_notify") from err
            except SSL.Error as err:
                raise _failure(err) from err

    def write(self, data: ReadableBuffer) -> int:
        """Encrypt all of *data*; memory BIOs never refuse, and asyncio would copy a remainder each time."""
        view = memoryview(data).cast("B")
        try:
            for start in range(0, len(view), SLICE_BYTES):
                self._connection.sendall(view[start : start + SLICE_BYTES])
                self._flush()
        except SSL.Error as err:
            raise _failure(err) from err
        return len(view)

    def unwrap(self) -> None:
        """Send close_notify, then wait for the peer's; what the peer sent before it saw ours is dropped."""
        try:
            if not self._is_closing:
                self._is_closing = True
                self._connection.shutdown()
                self._flush()
            while True:
                try:
                    self._connection.recv(SLICE_BYTES)
                except SSL.WantReadError:
                    if not self._feed():
                        raise _want_read() from None
        except SSL.ZeroReturnError:
            return
        except SSL.Error as err:
            raise _failure(err) from err

    def _feed(self) -> bool:
        chunk = self._incoming.read(SLICE_BYTES)
        if not chunk:
            if self._incoming.eof:
                self._connection.bio_shutdown()
            return self._incoming.eof and not self._is_closing
        if not self._is_begun:
            self._is_begun = True
            if chunk[0] != _HANDSHAKE and (self._server_side or chunk[0] != _ALERT):
                raise TlsFailure(error("tls.plain"))
        self._connection.bio_write(chunk)
        return True

    def _flush(self) -> None:
        try:
            while True:
                chunk = self._connection.bio_read(_RECORD_BYTES)
                self._outgoing.write(chunk)
                if len(chunk) < _RECORD_BYTES:
                    return
        except SSL.WantReadError:
            return

    # ---- what callers of ssl.SSLObject ask

    @property
    def context(self) -> PqContext:  # type: ignore[override]
        """The context that made this channel; it cannot be changed."""
        return self._context

    @property
    def session(self) -> None:  # type: ignore[override]
        """Nothing: there are no sessions to resume."""
        return

    @property
    def session_reused(self) -> bool:
        """True if OpenSSL resumed a session, which ends the handshake."""
        handle = self._connection._ssl  # noqa: SLF001 - pyOpenSSL does not wrap the call
        return bool(openssl.SSL_session_reused(handle))

    @property
    def server_side(self) -> bool:
        """True on the side that was dialled."""
        return self._server_side

    @property
    def server_hostname(self) -> str | None:
        """Nothing: peers are known by key."""
        return None

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: FBT001, FBT002 - the signature of ssl
        """The peer's certificate as DER; as a dictionary it is empty, because nothing in it is believed."""
        if not binary_form:
            return {}
        certificate = self._peer_certificate()
        return None if certificate is None else certificate.public_bytes(Encoding.DER)

    def selected_alpn_protocol(self) -> str | None:
        """The protocol of RFC 7301, if the peer named it."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None

    def selected_npn_protocol(self) -> None:
        """Nothing: NPN is dead."""
        return

    def group(self) -> str | None:
        """The key agreement; None before the handshake."""
        return self._connection.get_group_name()

    def cipher(self) -> tuple[str, str, int] | None:
        """Name, protocol and secret bits of the cipher; None before the handshake."""
        name, bits = self._connection.get_cipher_name(), self._connection.get_cipher_bits()
        return None if name is None or bits is None else (name, self.version(), bits)

    def shared_ciphers(self) -> None:
        """Not known."""
        return

    def compression(self) -> None:
        """Never used: TLS 1.3 has none."""
        return

    def pending(self) -> int:
        """Decrypted bytes that `read` would return at once."""
        return self._connection.pending()

    def version(self) -> str:
        """The protocol version as text."""
        return self._connection.get_protocol_version_name()

    def get_channel_binding(self, cb_type: str = "tls-exporter") -> bytes:
        """RFC 9266: 32 bytes that only the two ends of this channel know."""
        if cb_type != "tls-exporter":
            raise ValueError("TLS 1.3 binds channels by tls-exporter only")
        return self._connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")

    def verify_client_post_handshake(self) -> NoReturn:
        """Not offered: clients show their certificate in the handshake."""
        raise NotImplementedError("clients are verified in the handshake")


def _want_read() -> ssl.SSLWantReadError:
    return ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the peer must send more")


def _failure(err: SSL.Error) -> TlsFailure:
    reason = err.args[0][-1][2] if err.args and isinstance(err.args[0], list) and err.args[0] else str(err)
    for suffix, key, details in _REASONS:
        if reason.endswith(suffix):
            return TlsFailure(error(key, **details))
    return TlsFailure(error("tls.handshake", reason=reason))


def _without_frames(err: E) -> E:
    """The error without its tracebacks: their frames hold the channel that keeps it, a third of a MiB in a circle."""
    cause: BaseException | None = err
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return err
