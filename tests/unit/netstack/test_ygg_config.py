"""The daemon's configuration and the keys in it; its admin client against a daemon that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import X0tError
from appliance.core.limits import Limits
from appliance.netstack.yggdrasil.admin import Admin, Peer
from appliance.netstack.yggdrasil.config import Config, peer_password, peer_uri, to_json
from appliance.netstack.yggdrasil.key import create_key, generate_key, load_key
from appliance.netstack.yggdrasil.records import Wanted
from appliance.trust.attachment import verify_attachment

MESH, NODE = bytes(range(32)), bytes(range(1, 33))
KEY = generate_key()
OTHER_KIND = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
CONFIG = Config(
    key=KEY.secret_text(), password="pass-word", interface="x0t0", mtu=65_535, admin_socket="/run/a.sock",
    listen=("tls://[::]:7331",), discovery=("eth1", "br.lan"), allowed=frozenset((b"\x02" * 32, b"\x01" * 32)),
)  # fmt: skip


def test_every_field_whose_default_is_open_is_written_out() -> None:
    assert json.loads(to_json(CONFIG)) == {
        "PrivateKey": KEY.secret_text(),
        "Listen": ["tls://[::]:7331?password=pass-word"],
        "Peers": [],
        "InterfacePeers": {},
        "AllowedPublicKeys": ["01" * 32, "02" * 32],
        "MulticastInterfaces": [
            {"Regex": "^br\\.lan$", "Beacon": True, "Listen": True, "Port": 0, "Password": "pass-word"},
            {"Regex": "^eth1$", "Beacon": True, "Listen": True, "Port": 0, "Password": "pass-word"},
        ],
        "AdminListen": "unix:///run/a.sock",
        "IfName": "x0t0",
        "IfMTU": 65_535,
        "LogLookups": False,
        "NodeInfo": {},
        "NodeInfoPrivacy": True,
    }


def test_nobody_allowed_is_not_everybody_allowed() -> None:
    alone = Config(
        key=KEY.secret_text(), password="", interface="x", mtu=1280, admin_socket="", listen=(), discovery=(),
        allowed=frozenset(),
    )  # fmt: skip
    assert json.loads(to_json(alone))["AllowedPublicKeys"] == [KEY.public.hex()]


def test_a_peer_is_pinned_to_its_key() -> None:
    uri = peer_uri("tls://host:1", b"\x0a" * 32, "p")
    assert uri == f"tls://host:1?key={'0a' * 32}&password=p&maxbackoff=30s"


def test_secrets_do_not_print() -> None:
    shown = f"{CONFIG!r} {KEY!r} {Wanted(members=(), password='pass-word')!r}"
    assert KEY.secret_text()[:64] not in shown
    assert "pass-word" not in shown


sources = st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(0, 2**53))


@given(sources, sources)
def test_a_password_is_of_one_secret_one_mesh_and_one_epoch(
    one: tuple[bytes, bytes, int], other: tuple[bytes, bytes, int]
) -> None:
    first, second = peer_password(*one), peer_password(*other)
    assert (first == second) == (one == other)
    assert len(first) == 44  # the daemon takes 64 at most
    assert set(first) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def test_the_password_of_a_known_secret() -> None:
    """A vector: whoever changes the derivation parts the mesh."""
    assert peer_password(bytes(32), MESH, 1) == "qVBvDCjSYJnwYqOMk5AxLonespLPWSeANkEqD97mchCz"


def test_a_key_file_is_private_and_comes_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "ygg.key"
    made = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).public == made.public
    with pytest.raises(X0tError, match=r"key\.exists"):
        create_key(path)
    path.chmod(0o640)
    with pytest.raises(X0tError, match=r"key\.permissions"):
        load_key(path)


@pytest.mark.parametrize("content", [b"", b"nonsense", OTHER_KIND])
def test_a_file_with_another_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ygg.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(X0tError, match=r"yggdrasil\.key"):
        load_key(path)


def test_the_proof_of_possession_is_of_this_node_in_this_mesh() -> None:
    proof = KEY.attach(MESH, NODE)
    assert verify_attachment(MESH, NODE, KEY.public, proof)
    assert not verify_attachment(NODE, MESH, KEY.public, proof)
    assert not verify_attachment(MESH, NODE, generate_key().public, proof)


# ---- the admin socket


@contextlib.asynccontextmanager
async def daemon(folder: Path, *answers: bytes | None) -> AsyncIterator[tuple[Admin, list[object]]]:
    """A socket that gives these answers, one a connection (None: none at all), and keeps what was asked."""
    asked: list[object] = []
    rest = iter(answers)
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(json.loads(await reader.read(65_536)))
        answer = next(rest)
        if answer is None:
            await done.wait()
        else:
            writer.write(answer)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, folder / "s")
    try:
        yield Admin(folder / "s", Limits(yggdrasil_answer_bytes=1_000, yggdrasil_answer_s=1)), asked
    finally:
        done.set()
        server.close()
        await server.wait_closed()


def success(response: object) -> bytes:
    return json.dumps({"status": "success", "request": {}, "response": response}).encode()


def refusal(reason: str) -> bytes:
    return json.dumps({"status": "error", "error": reason, "response": None}).encode()


async def test_what_a_newer_daemon_adds_is_passed_over(tmp_path: Path) -> None:
    peer = {"remote": "tls://h:1", "up": True, "inbound": True, "key": "0a" * 32, "latency": 5, "novelty": {"x": 1}}
    async with daemon(tmp_path, success({"peers": [peer], "more": 1})) as (admin, asked):
        found = await admin.peers()
    assert found == (Peer(remote="tls://h:1", up=True, inbound=True, key="0a" * 32, latency=5),)
    assert asked == [{"request": "getpeers", "arguments": {}, "keepalive": False}]


@pytest.mark.parametrize(
    "answer, key",
    [
        pytest.param(b"", "yggdrasil.answer", id="nothing"),
        pytest.param(b"{", "yggdrasil.answer", id="no JSON"),
        pytest.param(success({"peers": [{"key": "zz"}]}), "yggdrasil.answer", id="no key"),
        pytest.param(success({"peers": [{"cost": -1}]}), "yggdrasil.answer", id="a negative count"),
        pytest.param(success({"peers": "x" * 2_000}), "yggdrasil.answer", id="too long"),
        pytest.param(refusal("unknown action"), "yggdrasil.refused", id="refused"),
        pytest.param(None, "yggdrasil.unavailable", id="silence"),
    ],
)
async def test_a_bad_answer_is_an_error_of_ours(tmp_path: Path, answer: bytes | None, key: str) -> None:
    async with daemon(tmp_path, answer) as (admin, _):
        with pytest.raises(X0tError) as caught:
            await admin.peers()
    assert caught.value.key == key


async def test_a_socket_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(X0tError, match=r"yggdrasil\.unavailable"):
        await Admin(tmp_path / "none").self_()


async def test_a_peer_that_is_there_already_is_no_error(tmp_path: Path) -> None:
    async with daemon(tmp_path, success({}), refusal("peer is already configured")) as (admin, asked):
        assert [await admin.add_peer("tls://h:1?key=aa") for _ in range(2)] == [True, False]
    assert asked[0] == {"request": "addpeer", "arguments": {"uri": "tls://h:1?key=aa"}, "keepalive": False}


async def test_an_inbound_link_is_never_removed_because_that_would_crash_the_daemon(tmp_path: Path) -> None:
    inbound = success({"peers": [{"remote": "tls://h:1", "up": True, "inbound": True}]})
    nothing, absent = success({"peers": []}), refusal("peer is not configured")
    async with daemon(tmp_path, inbound, nothing, absent) as (admin, _):
        with pytest.raises(X0tError, match=r"yggdrasil\.inbound"):
            await admin.remove_peer("tls://h:1?key=aa")
        assert await admin.remove_peer("tls://h:1") is False
