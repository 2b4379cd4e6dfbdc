from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from OpenSSL import SSL
from OpenSSL._util import lib as openssl

from appliance.transport.channel import HYBRID_GROUP, PqChannel, TlsFailure
from appliance.transport.peers import PeerIdentity, Verdict, identify
from appliance.transport.pqtls import PqContext
from tests.unit.transport.manners import certificate
from tests.unit.transport.rig import HOST, Node, now_ms

MIB = 1 << 20
KEY = MLDSA65PrivateKey.generate()


def anybody(certificate: x509.Certificate) -> PeerIdentity:
    return identify(certificate, now_ms())


class End:
    """A channel and its two BIOs."""

    def __init__(self, context: PqContext, *, server: bool) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.channel = context.wrap_bio(self.incoming, self.outgoing, server_side=server)

    def give(self, other: End) -> int:
        return other.incoming.write(self.outgoing.read())


def shake_hands(client: End, server: End) -> None:
    for _ in range(4):
        for end, other in ((client, server), (server, client)):
            try:
                end.channel.do_handshake()
            except ssl.SSLWantReadError:
                pass
            end.give(other)


def pair(alice: Node, bob: Node) -> tuple[End, End]:
    client = End(bob.credentials.context(anybody), server=False)
    server = End(alice.credentials.context(anybody), server=True)
    shake_hands(client, server)
    return client, server


def lax(directory: Path, groups: bytes, version: int = SSL.TLS1_3_VERSION) -> SSL.Context:
    """An engine without our restrictions, to see that what follows the handshake does not depend on them."""
    engine = SSL.Context(SSL.TLS_METHOD)
    engine.set_max_proto_version(version)
    engine.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    engine.set_session_id(b"lax")
    assert openssl.SSL_CTX_set1_curves_list(engine._context, groups) == 1
    engine.use_privatekey_file(str(directory))
    return engine


def test_both_ends_know_each_other_and_what_was_agreed(alice: Node, bob: Node) -> None:
    client, server = pair(alice, bob)
    assert client.channel.peer == identify(alice.credentials.certificate(), now_ms())
    assert server.channel.peer == identify(bob.credentials.certificate(), now_ms())
    for channel in (client.channel, server.channel):
        assert channel.group() == HYBRID_GROUP
        assert channel.version() == "TLSv1.3"
        assert channel.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        assert channel.selected_alpn_protocol() == "http/1.1"
        assert channel.getpeercert() == {}
        assert not channel.session_reused
        assert (channel.session, channel.server_hostname) == (None, None)
    assert x509.load_der_x509_certificate(client.channel.getpeercert(binary_form=True)).issuer
    assert (client.channel.server_side, server.channel.server_side) == (False, True)


def test_the_exporter_binds_both_ends_and_no_other_channel(alice: Node, bob: Node) -> None:
    bindings = [end.channel.get_channel_binding("tls-exporter") for end in (*pair(alice, bob), *pair(alice, bob))]
    assert bindings[0] == bindings[1] != bindings[2] == bindings[3]
    assert len(bindings[0] or b"") == 32
    with pytest.raises(ValueError, match="tls-exporter"):
        pair(alice, bob)[0].channel.get_channel_binding("tls-unique")


def test_data_passes_in_any_pieces(alice: Node, bob: Node) -> None:
    client, server = pair(alice, bob)
    data = os.urandom(100_000)
    assert client.channel.write(data) == len(data)
    got = bytearray()
    for byte in client.outgoing.read():
        server.incoming.write(bytes([byte]))
        try:
            while True:
                got += server.channel.read(7_000)
        except ssl.SSLWantReadError:
            pass
    assert bytes(got) == data


def test_reading_into_a_buffer_counts(alice: Node, bob: Node) -> None:
    client, server = pair(alice, bob)
    client.channel.write(memoryview(b"hello"))
    client.give(server)
    buffer = bytearray(3)
    assert server.channel.read(3, buffer) == 3  # type: ignore[comparison-overlap]
    assert (bytes(buffer), server.channel.pending()) == (b"hel", 2)
    assert server.channel.read(3, buffer) == 2  # type: ignore[comparison-overlap]


def test_nothing_to_write_writes_nothing(alice: Node, bob: Node) -> None:
    client, _ = pair(alice, bob)
    assert client.channel.write(b"") == 0
    assert client.outgoing.read() == b""


def test_an_end_without_close_notify_is_told_apart(alice: Node, bob: Node) -> None:
    client, server = pair(alice, bob)
    client.channel.write(b"last")
    client.give(server)
    server.incoming.write_eof()
    assert server.channel.read() == b"last"
    with pytest.raises(ssl.SSLEOFError):
        server.channel.read()


def test_close_notify_reads_as_the_end_and_is_answered(alice: Node, bob: Node) -> None:
    client, server = pair(alice, bob)
    server.channel.write(b"sent before the goodbye arrived")
    server.give(client)
    with pytest.raises(ssl.SSLWantReadError):
        client.channel.unwrap()
    client.give(server)
    assert server.channel.read() == b""
    assert server.channel.read(5, bytearray(5)) == 0  # type: ignore[comparison-overlap]
    server.channel.unwrap()
    server.give(client)
    client.channel.unwrap()


def test_a_damaged_record_ends_the_channel(alice: Node, bob: Node) -> None:
    client, server = pair(alice, bob)
    client.channel.write(b"hello")
    record = bytearray(client.outgoing.read())
    record[-1] ^= 1
    server.incoming.write(record)
    with pytest.raises(TlsFailure) as caught:
        server.channel.read()
    assert caught.value.refusal.key == "tls.handshake"


@pytest.mark.parametrize(
    "groups, key", [(b"X25519", "tls.group"), (b"MLKEM768", "tls.group"), (b"SecP256r1MLKEM768", "tls.group")]
)
@pytest.mark.parametrize("server", [False, True])
def test_another_group_is_found_even_if_openssl_agreed_on_it(
    alice: Node, groups: bytes, key: str, server: bool
) -> None:
    engine = lax(alice.key_file, groups)
    ends = [End(PqContext(engine, alice.credentials.certificate(), anybody), server=side) for side in (False, True)]
    with pytest.raises(TlsFailure) as caught:
        shake_hands(ends[0], ends[1])
    assert caught.value.refusal.key == key
    assert ends[server].channel.peer is None


def test_an_old_version_is_found_even_if_openssl_agreed_on_it(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = PqContext(lax(file, b"P-256", SSL.TLS1_2_VERSION), certificate(key), anybody)
    with pytest.raises(TlsFailure) as caught:
        shake_hands(End(context, server=False), End(context, server=True))
    assert caught.value.refusal.key == "tls.version"


def test_a_resumed_session_is_found_even_if_openssl_resumed_it(alice: Node) -> None:
    engine = lax(alice.key_file, HYBRID_GROUP.encode())
    context = PqContext(engine, alice.credentials.certificate(), anybody)
    client, server = End(context, server=False), End(context, server=True)
    shake_hands(client, server)
    server.channel.write(b"with the ticket")
    server.give(client)
    client.channel.read()
    session = client.channel._connection.get_session()
    assert session is not None
    again = End(context, server=False)  # the first is kept: OpenSSL spoils the session of one that was cut
    again.channel._connection.set_session(session)
    with pytest.raises(TlsFailure) as caught:
        shake_hands(again, End(context, server=True))
    assert caught.value.refusal.key == "tls.resumed"


def test_a_client_that_refuses_the_certificate_sends_nothing_more(alice: Node, bob: Node) -> None:
    client = End(bob.credentials.context(Verdict(lambda _: False, now_ms)), server=False)
    server = End(alice.credentials.context(anybody), server=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.channel.do_handshake()
    client.give(server)
    with pytest.raises(ssl.SSLWantReadError):
        server.channel.do_handshake()
    server.give(client)
    with pytest.raises(TlsFailure) as caught:
        client.channel.do_handshake()
    assert caught.value.refusal.key == "tls.peer_unknown"
    assert client.channel.peer is None
    with pytest.raises(ssl.SSLWantReadError):  # it stays refused
        client.channel.do_handshake()


def test_what_would_be_classical_or_resumed_is_not_offered(alice: Node) -> None:
    context = alice.credentials.context(anybody)
    with pytest.raises(NotImplementedError):
        context.wrap_socket()
    with pytest.raises(ValueError, match="never resumed"):
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), session=object())  # type: ignore[arg-type]
    channel = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    assert channel.context is context
    assert (channel.group(), channel.cipher(), channel.getpeercert(binary_form=True)) == (None, None, None)
    with pytest.raises(NotImplementedError):
        channel.verify_client_post_handshake()


async def test_streams_of_asyncio_carry_sixteen_mib_both_ways(alice: Node, bob: Node) -> None:
    data = os.urandom(16 * MIB)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(data)))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, HOST, 0, ssl=alice.credentials.context(anybody))
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(HOST, port, ssl=bob.credentials.context(anybody))
        assert isinstance(writer.get_extra_info("ssl_object"), PqChannel)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


async def test_a_buffered_protocol_of_asyncio_is_served(alice: Node, bob: Node) -> None:
    class Collect(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer, self.got, self.done = bytearray(50_000), bytearray(), asyncio.Event()

        def get_buffer(self, sizehint: int) -> memoryview:
            return memoryview(self.buffer)

        def buffer_updated(self, nbytes: int) -> None:
            self.got += self.buffer[:nbytes]

        def eof_received(self) -> None:
            self.done.set()

    data = os.urandom(MIB)

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(send, HOST, 0, ssl=alice.credentials.context(anybody))
    async with server:
        port = server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        context = bob.credentials.context(anybody)
        transport, protocol = await loop.create_connection(Collect, HOST, port, ssl=context)
        await protocol.done.wait()
        transport.close()
        await asyncio.sleep(0.01)
    assert bytes(protocol.got) == data
