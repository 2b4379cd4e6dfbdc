"""Whom a listening node refuses, and what the refused side is told.

The other side is real: Python's own ssl, or OpenSSL with groups, versions and certificates of its choice.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest
from OpenSSL import SSL
from OpenSSL._util import lib as openssl

from appliance.core.limits import Limits
from tests.unit.transport.manners import BAD_CERTIFICATES, BAD_TLS, ECDSA, MLDSA, UNPARSED, UPGRADE, Manners
from tests.unit.transport.rig import (
    HOST,
    QUICK,
    Echo,
    Node,
    RawTls,
    counted,
    listening,
    make_node,
    raw_client,
    raw_server,
    refusal_of,
    until,
)


class TestTheListenerRefuses:
    @pytest.mark.parametrize("name", BAD_TLS)
    async def test_bad_tls_with_an_alert(self, node: Node, tmp_path: Path, name: str) -> None:
        manners, key = BAD_TLS[name]
        echo = Echo()
        async with (
            listening(node, echo) as served,
            raw_client(manners.context(tmp_path), served.address) as client,
        ):
            with pytest.raises(SSL.Error, match="alert"):
                await client.handshake()
            await counted(served.listener, key)
        assert echo.peers == []

    async def test_the_classical_tls_of_python(self, node: Node) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        async with listening(node) as served:
            with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
                await asyncio.open_connection(HOST, served.address.port, ssl=context)
            await counted(served.listener, "tls.group")

    async def test_a_client_without_a_certificate(self, node: Node, tmp_path: Path) -> None:
        async with (
            listening(node) as served,
            raw_client(Manners(None).context(tmp_path), served.address) as client,
        ):
            await client.handshake()  # TLS 1.3: the client is done before it is judged
            with pytest.raises(SSL.Error, match="certificate required"):
                await client.receive()
            await counted(served.listener, "tls.certificate_missing")

    @pytest.mark.parametrize("name", BAD_CERTIFICATES)
    async def test_a_bad_certificate_with_a_coded_answer(self, node: Node, tmp_path: Path, name: str) -> None:
        manners, key = BAD_CERTIFICATES[name]
        echo = Echo()
        async with (
            listening(node, echo) as served,
            raw_client(manners.context(tmp_path), served.address) as client,
        ):
            await client.handshake()
            await client.send(UPGRADE)
            answer = await client.receive_all()
            await counted(served.listener, key)
        head, body = answer.split(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert f"X0t-Refusal: {key}".encode() in head
        assert json.loads(body)["key"] == key
        assert echo.peers == []

    async def test_a_certificate_that_only_openssl_can_read(self, node: Node, tmp_path: Path) -> None:
        async with (
            listening(node) as served,
            raw_client(UNPARSED.context(tmp_path), served.address) as client,
        ):
            await client.handshake()  # TLS 1.3: the client is done before it is judged
            with pytest.raises((EOFError, OSError)):
                await client.receive()
            await counted(served.listener, "tls.certificate")

    async def test_a_stranger_who_says_nothing(self, node: Node, tmp_path: Path) -> None:
        async with (
            listening(node, limits=QUICK) as served,
            raw_client(Manners(MLDSA).context(tmp_path), served.address) as client,
        ):
            await client.handshake()
            assert b"tls.peer_unknown" in await client.receive_all()
            await counted(served.listener, "tls.peer_unknown")

    @pytest.mark.parametrize(
        "opening", [b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", b"SSH-2.0-x\r\n", bytes(64), b"\x80\x2e\x01"]
    )
    async def test_plain_bytes_in_plain_words(self, node: Node, opening: bytes) -> None:
        async with listening(node) as served:
            reader, writer = await asyncio.open_connection(HOST, served.address.port)
            writer.write(opening)
            answer = await reader.read()
            writer.close()
            await counted(served.listener, "tls.plain")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"X0t-Refusal: tls.plain" in answer

    @pytest.mark.parametrize(
        "opening, key",
        [
            (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", "tls.handshake"),  # a ServerHello from a client
            (b"\x16\x03\x01\xff\xff" + bytes(70_000), "tls.handshake"),  # a record longer than any may be
            (b"\x16\x07\x07\x00\x05hello", "tls.plain"),
        ],
    )
    async def test_nonsense_in_a_record(self, node: Node, opening: bytes, key: str) -> None:
        async with listening(node) as served:
            _, writer = await asyncio.open_connection(HOST, served.address.port)
            writer.write(opening)
            await counted(served.listener, key)
            writer.close()

    async def test_a_client_that_leaves_in_the_handshake(self, node: Node) -> None:
        async with listening(node) as served:
            _, writer = await asyncio.open_connection(HOST, served.address.port)
            writer.write(b"\x16\x03\x01")
            writer.close()
            await counted(served.listener, "tls.handshake")

    @pytest.mark.parametrize("opening", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "slow"])
    async def test_a_handshake_that_does_not_end(self, node: Node, opening: bytes) -> None:
        async with listening(node, limits=QUICK) as served:
            reader, writer = await asyncio.open_connection(HOST, served.address.port)
            writer.write(opening)
            assert await reader.read() == b""
            writer.close()
            await counted(served.listener, "tls.handshake_timeout")

    async def test_a_session_of_another_key_by_a_full_handshake(self, node: Node, tmp_path: Path) -> None:
        """A session made with a permitted key does not let in the key that offers it later."""
        context = Manners(MLDSA).context(tmp_path)

        async def lend(end: RawTls) -> None:
            await end.send(b"x")
            await end.receive()

        async with (
            raw_server(Manners(ECDSA).context(tmp_path), lend) as address,
            raw_client(context, address) as lent,
            raw_client(context, address) as proof,
            listening(node) as served,
            raw_client(context, served.address) as client,
        ):
            await lent.handshake()
            await lent.receive()
            session = lent.connection.get_session()
            assert session is not None
            proof.connection.set_session(session)
            await proof.handshake()
            assert openssl.SSL_session_reused(proof.connection._ssl) == 1  # where it was made, it works
            client.connection.set_session(session)
            await client.handshake()
            assert openssl.SSL_session_reused(client.connection._ssl) == 0
            await client.send(UPGRADE)
            assert b"tls.peer_unknown" in await client.receive_all()
            await counted(served.listener, "tls.peer_unknown")

    async def test_and_gives_no_ticket_to_resume_with(self, node: Node, friend: Node, tmp_path: Path) -> None:
        context = Manners(friend.key()).context(tmp_path)
        async with (
            listening(node) as served,
            raw_client(context, served.address) as first,
            raw_client(context, served.address) as second,
        ):
            for client in (first, second):
                await client.handshake()
                await client.send(UPGRADE)
                assert b"101 Switching Protocols" in await client.receive()
                assert openssl.SSL_session_reused(client.connection._ssl) == 0
                session = client.connection.get_session()
                assert session is not None
                if client is first:
                    second.connection.set_session(session)

    async def test_nobody_who_offers_the_hybrid_only_second(self, node: Node, friend: Node, tmp_path: Path) -> None:
        """A client that guessed wrong is asked again (RFC 8446 section 4.1.4)."""
        context = Manners(friend.key(), groups=b"X25519:X25519MLKEM768").context(tmp_path)
        async with listening(node) as served, raw_client(context, served.address) as client:
            await client.handshake()
            assert client.connection.get_group_name() == "X25519MLKEM768"
            await client.send(UPGRADE)
            assert b"101 Switching Protocols" in await client.receive()

    async def test_more_connections_than_it_has_places(self, node: Node, friend: Node, tmp_path: Path) -> None:
        other = await asyncio.to_thread(make_node, tmp_path, "other")
        async with listening(node, limits=Limits(connections=2)) as served:
            streams = [await friend.dialler().open(served.address, node.id) for _ in range(2)]
            refusal = await refusal_of(other, served.address, node.id)
            assert (refusal.key, refusal.detail["reason"]) == ("tls.peer_busy", "tls.busy")
            await streams.pop().close()
            await until(lambda: served.listener.connections().total() == 1)
            streams.append(await other.dialler().open(served.address, node.id))
            await counted(served.listener, "tls.busy")
            for stream in streams:
                await stream.close()

    async def test_more_connections_of_one_peer_than_it_may_have(self, node: Node, friend: Node) -> None:
        async with listening(node, limits=Limits(connections_per_peer=2)) as served:
            streams = [await friend.dialler().open(served.address, node.id) for _ in range(2)]
            refusal = await refusal_of(friend, served.address, node.id)
            assert (refusal.key, refusal.detail["reason"]) == ("tls.peer_busy", "tls.busy_peer")
            assert served.listener.connections() == {friend.id: 2}
            await counted(served.listener, "tls.busy_peer")
            for stream in streams:
                await stream.close()

    async def test_the_oldest_of_300_half_open_connections_and_serves_a_member(self, node: Node, friend: Node) -> None:
        limits = Limits()
        async with listening(node, limits=limits) as served:
            idle = [await asyncio.open_connection(HOST, served.address.port) for _ in range(300)]
            await counted(served.listener, "tls.half_open", 300 - limits.half_open)
            stream = await friend.dialler().open(served.address, node.id)
            await stream.send(b"still here")
            assert await stream.receive() == b"still here"
            await stream.close()
            for _, writer in idle:
                writer.close()
