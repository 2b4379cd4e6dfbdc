"""Key agreement keys: made once, loaded after, refused where a file is not private or holds something else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from appliance.core.errors import X0tError
from appliance.trust import agreement_keys
from appliance.trust.agreement_keys import ensure_kem_key, ensure_tunnel_key
from appliance.trust.keys import create_key, write_private_key
from appliance.trust.pqc import Provider

SEED = bytes(range(64))


def _public_kem(path: Path) -> bytes:
    return ensure_kem_key(path).public_key


def _public_tunnel(path: Path) -> bytes:
    return ensure_tunnel_key(path).public_key


BOTH: list[tuple[Callable[[Path], bytes], int]] = [(_public_kem, 1184), (_public_tunnel, 32)]
both = pytest.mark.parametrize("ensure, length", BOTH, ids=["ML-KEM-768", "X25519"])


@both
def test_a_key_is_made_when_it_is_first_needed_and_loaded_after(
    ensure: Callable[[Path], bytes], length: int, tmp_path: Path
) -> None:
    path = tmp_path / "node-agreement.pem"
    made = ensure(path)
    assert len(made) == length
    assert stat.filemode(path.stat().st_mode) == "-rw-------"
    assert list(tmp_path.iterdir()) == [path]
    content = path.read_bytes()
    assert ensure(path) == made
    assert path.read_bytes() == content
    assert ensure(tmp_path / "another.pem") != made


def test_a_stored_kem_key_agrees_with_who_has_its_public_half(tmp_path: Path, each: Provider) -> None:
    path = tmp_path / "kem.pem"
    public = ensure_kem_key(path, each).public_key
    secret, ciphertext = each.mlkem_encapsulate(public)
    assert ensure_kem_key(path, each).decapsulate(ciphertext) == secret


def test_both_providers_load_the_same_kem_key(tmp_path: Path, liboqs: Provider, openssl: Provider) -> None:
    path = tmp_path / "kem.pem"
    write_private_key(path, MLKEM768PrivateKey.from_seed_bytes(SEED))
    keys = {by.mlkem_keypair(SEED).public_key for by in (liboqs, openssl)}
    assert {ensure_kem_key(path, by).public_key for by in (liboqs, openssl)} == keys
    assert len(keys) == 1


def test_a_stored_tunnel_key_is_the_one_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tunnel.pem"
    key = X25519PrivateKey.from_private_bytes(SEED[:32])
    write_private_key(path, key)
    assert ensure_tunnel_key(path).public_key == key.public_key().public_bytes_raw()


def test_no_representation_shows_a_secret(tmp_path: Path, each: Provider) -> None:
    tunnel = ensure_tunnel_key(tmp_path / "tunnel.pem")
    assert repr(tunnel) == f"TunnelKey({tunnel.public_key.hex()}, ***)"
    write_private_key(tmp_path / "kem.pem", MLKEM768PrivateKey.from_seed_bytes(SEED))
    shown = repr(ensure_kem_key(tmp_path / "kem.pem", each))
    assert SEED.hex()[:16] not in shown
    assert repr(SEED)[2:20] not in shown


@both
def test_a_key_that_is_there_is_only_read(
    ensure: Callable[[Path], bytes], length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ensure(tmp_path / "key.pem")
    monkeypatch.delattr(agreement_keys, "write_private_key")
    assert ensure(tmp_path / "key.pem") == made


@both
def test_who_comes_second_takes_the_key_of_the_first(
    ensure: Callable[[Path], bytes], length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.pem"
    first: list[bytes] = []
    write = write_private_key

    def write_late(target: Path, key: MLKEM768PrivateKey | X25519PrivateKey) -> None:
        monkeypatch.setattr(agreement_keys, "write_private_key", write)
        first.append(ensure(target))
        write(target, key)

    monkeypatch.setattr(agreement_keys, "write_private_key", write_late)
    assert [ensure(path)] == first


def _pem(key: Ed25519PrivateKey | MLKEM768PrivateKey | X25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _content(data: bytes, mode: int = 0o600) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        path.write_bytes(data)
        path.chmod(mode)

    return make


REFUSED: list[tuple[str, str, Callable[[Path], object]]] = [
    ("readable by others", "key.permissions", _content(_pem(MLKEM768PrivateKey.from_seed_bytes(SEED)), 0o604)),
    ("empty", "key.format", _content(b"")),
    ("half a file", "key.format", _content(_pem(X25519PrivateKey.generate())[:60])),
    ("a key of the mesh network", "key.algorithm", _content(_pem(Ed25519PrivateKey.generate()))),
    ("the node's own key", "key.algorithm", create_key),
    ("a directory", "key.file", lambda path: path.mkdir()),
    ("a dangling link", "key.file", lambda path: path.symlink_to("nowhere")),
    ("in no directory", "key.file", lambda path: path.parent.rmdir()),
    ("a pipe", "key.file", lambda path: os.mkfifo(path, 0o600)),
]


@both
@pytest.mark.parametrize("key, make", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_file_is_refused_that_is(
    ensure: Callable[[Path], bytes], length: int, key: str, make: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "keys" / "key.pem"
    path.parent.mkdir()
    make(path)
    with pytest.raises(X0tError) as caught:
        ensure(path)
    assert caught.value.key == key


def test_each_key_is_refused_in_the_place_of_the_other(tmp_path: Path) -> None:
    kem, tunnel = tmp_path / "kem.pem", tmp_path / "tunnel.pem"
    ensure_kem_key(kem)
    ensure_tunnel_key(tunnel)
    for ensure, path in ((ensure_kem_key, tunnel), (ensure_tunnel_key, kem)):
        with pytest.raises(X0tError) as caught:
            ensure(path)
        assert caught.value.key == "key.algorithm"
