"""Whom a dialling node refuses before it sends a byte, and what it learns when it is refused itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.transport.address import Address
from tests.unit.transport.manners import BAD_CERTIFICATES, BAD_TLS, UNPARSED, Manners
from tests.unit.transport.rig import (
    Node,
    RawTls,
    counted,
    listening,
    plain_server,
    raw_server,
    refusal_of,
)


class TestTheDiallerRefuses:
    @pytest.mark.parametrize("name", BAD_TLS)
    async def test_bad_tls(self, node: Node, tmp_path: Path, name: str) -> None:
        manners, key = BAD_TLS[name]
        async with raw_server(manners.context(tmp_path), never) as address:
            assert (await refusal_of(node, address)).key == key

    @pytest.mark.parametrize("name", BAD_CERTIFICATES)
    async def test_a_bad_certificate_without_sending_a_byte(self, node: Node, tmp_path: Path, name: str) -> None:
        manners, key = BAD_CERTIFICATES[name]
        got: list[bytes] = []

        async def collect(end: RawTls) -> None:
            got.append(await end.receive())

        async with raw_server(manners.context(tmp_path), collect) as address:
            assert (await refusal_of(node, address)).key == key
        assert b"".join(got) == b""

    async def test_a_certificate_that_only_openssl_can_read(self, node: Node, tmp_path: Path) -> None:
        async with raw_server(UNPARSED.context(tmp_path), never) as address:
            assert (await refusal_of(node, address)).key == "tls.certificate"

    async def test_another_key_than_expected_even_if_permitted(self, node: Node, friend: Node) -> None:
        async with listening(friend) as served:
            refusal = await refusal_of(node, served.address, expected=bytes(32))
            assert refusal.key == "tls.peer_key"
            assert await is_reachable(node, served.address, expected=friend.id)
            assert await is_reachable(node, served.address, expected=None)

    async def test_a_server_that_speaks_first_and_plainly(self, node: Node) -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            await reader.read()

        async with plain_server(greet) as address:
            assert (await refusal_of(node, address)).key == "tls.plain"

    async def test_a_server_that_says_nothing(self, node: Node) -> None:
        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(65536):
                pass

        async with plain_server(wait) as address:
            assert (await refusal_of(node, address)).key == "tls.handshake_timeout"

    async def test_a_server_that_hangs_up(self, node: Node) -> None:
        async with plain_server(ignore) as address:
            assert (await refusal_of(node, address)).key == "tls.unreachable"

    async def test_an_address_where_nobody_listens(self, node: Node) -> None:
        async with plain_server(ignore) as address:
            pass
        refusal = await refusal_of(node, address)
        assert (refusal.key, refusal.detail["address"]) == ("tls.unreachable", str(address))

    @pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".org", "ho st", "a/b", "::g", "%", "a\0b", "\u202ehost"])
    async def test_an_address_that_cannot_be_one(self, node: Node, host: str) -> None:
        assert (await refusal_of(node, Address(host, 7330))).key == "tls.unreachable"

    @pytest.mark.parametrize(
        "answer, reason",
        [
            (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", "HTTP status 302"),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP status 404"),
            (b"HTTP/1.1 403 No\r\nX0t-Refusal: tls.peer_unknown\r\nContent-Length: 0\r\n\r\n", "tls.peer_unknown"),
        ],
    )
    async def test_an_answer_that_is_no_stream(
        self, node: Node, friend: Node, tmp_path: Path, answer: bytes, reason: str
    ) -> None:
        async def say(end: RawTls) -> None:
            await end.receive()
            await end.send(answer)
            await end.receive()

        async with raw_server(Manners(friend.key()).context(tmp_path), say) as address:
            refusal = await refusal_of(node, address, friend.id)
        assert (refusal.key, refusal.detail["reason"]) == ("tls.refused", reason)

    async def test_to_misunderstand_the_refusal_of_a_node(self, node: Node, friend: Node) -> None:
        """What the other side counts is what the dialler learns."""
        friend.strangers.add(node.id)
        async with listening(friend) as served:
            refusal = await refusal_of(node, served.address, friend.id)
            await counted(served.listener, "tls.peer_unknown")
        assert (refusal.key, refusal.detail["reason"]) == ("tls.refused", "tls.peer_unknown")


async def never(_: RawTls) -> None:
    raise AssertionError("the handshake ended well")


async def ignore(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    return


async def is_reachable(node: Node, address: Address, expected: bytes | None) -> bool:
    stream = await node.dialler().open(address, expected)
    await stream.send(b"?")
    answer = await stream.receive()
    await stream.close()
    return answer == b"?"
