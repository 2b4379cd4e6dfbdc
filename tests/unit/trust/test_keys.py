"""Key files: round trips, what is refused and why, the order of syncs, and a kill at every step."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL

from appliance.core.errors import X0tError
from appliance.core.ids import node_id
from appliance.trust.keys import (
    PRIVATE_FILE_BYTES,
    create_key,
    format_public_key,
    load_key,
    parse_public_key,
    read_public_key,
    write_public_key,
)
from appliance.trust.pqc import Provider

SEED = bytes(range(32))


def _pem(
    key: mldsa.MLDSA65PrivateKey | mldsa.MLDSA44PrivateKey | ec.EllipticCurvePrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


GOOD = _pem(mldsa.MLDSA65PrivateKey.from_seed_bytes(SEED))


def _write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_created_key_is_private_and_loads_again_for_both_providers(tmp_path: Path, each: Provider) -> None:
    path = tmp_path / "node.key"
    made = create_key(path, each)
    loaded = load_key(path, each)
    assert stat.filemode(path.stat().st_mode) == "-rw-------"
    assert list(tmp_path.iterdir()) == [path]
    assert (loaded.public_key, loaded.id) == (made.public_key, node_id(made.public_key))
    assert each.mldsa_verify(made.public_key, b"message", loaded.sign(b"message", b"context"), b"context")


def test_two_keys_differ(tmp_path: Path) -> None:
    assert create_key(tmp_path / "a").public_key != create_key(tmp_path / "b").public_key


def test_the_umask_neither_opens_nor_spoils_a_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_key(tmp_path / "open")
        os.umask(0o777)
        create_key(tmp_path / "shut")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o7777 for path in tmp_path.iterdir()} == {0o600}


def test_openssl_loads_the_file_for_tls(tmp_path: Path) -> None:
    create_key(tmp_path / "node.key")
    SSL.Context(SSL.TLS_METHOD).use_privatekey_file(str(tmp_path / "node.key"))


def _known_answer() -> tuple[bytes, bytes]:
    case = json.loads((Path(__file__).parent / "kat" / "ml_dsa_65_keygen.json").read_bytes())[0]
    return bytes.fromhex(case["seed"]), bytes.fromhex(case["sk"])


def _der(tag: int, value: bytes) -> bytes:
    length = len(value).to_bytes(2) if len(value) > 255 else len(value).to_bytes(1)
    return bytes([tag]) + (b"\x82" if len(length) == 2 else b"") + length + value


def _seed_and_expanded() -> bytes:
    """The form that `openssl genpkey` writes (RFC 9881, section 6): `cryptography` does not read it."""
    seed, expanded = _known_answer()
    both = _der(0x30, _der(0x04, seed) + _der(0x04, expanded))
    der = _der(0x30, bytes.fromhex("020100300b0609608648016503040312") + _der(0x04, both))
    return b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = _write(tmp_path / "node.key", b"something")
    with pytest.raises(X0tError) as caught:
        create_key(path)
    assert caught.value.key == "key.exists"
    assert path.read_bytes() == b"something"
    assert list(tmp_path.iterdir()) == [path]


def test_a_wiped_key_signs_no_more_and_its_text_never_shows_it(tmp_path: Path) -> None:
    key = create_key(tmp_path / "node.key")
    assert repr(key) == f"NodeKey({key.id}, ***)"
    key.wipe()
    with pytest.raises(X0tError) as caught:
        key.sign(b"message")
    assert caught.value.key == "key.wiped"


def _linked(path: Path) -> None:
    path.symlink_to(_write(path.with_suffix(".real"), GOOD))


def _owned_by_another(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(_write(path, GOOD), 65534, -1)


def _mode(mode: int) -> Callable[[Path], object]:
    return lambda path: _write(path, GOOD, mode)


def _content(data: bytes) -> Callable[[Path], object]:
    return lambda path: _write(path, data)


REFUSED: list[tuple[str, str, Callable[[Path], object]]] = [
    ("readable by the group", "key.permissions", _mode(0o640)),
    ("writable by the group", "key.permissions", _mode(0o620)),
    ("executable by the group", "key.permissions", _mode(0o610)),
    ("readable by others", "key.permissions", _mode(0o604)),
    ("writable by others", "key.permissions", _mode(0o602)),
    ("open to all", "key.permissions", _mode(0o777)),
    ("owned by another", "key.permissions", _owned_by_another),
    ("missing", "key.file", lambda path: None),
    ("a symbolic link", "key.file", _linked),
    ("a dangling link", "key.file", lambda path: path.symlink_to("nowhere")),
    ("a directory", "key.file", lambda path: path.mkdir()),
    ("a pipe", "key.file", lambda path: os.mkfifo(path, 0o600)),
    ("one byte too long", "key.file", _content(GOOD.ljust(PRIVATE_FILE_BYTES + 1, b"\n"))),
    ("a gigabyte, sparse", "key.file", lambda path: os.truncate(_write(path, GOOD), 1 << 30)),
    ("empty", "key.format", _content(b"")),
    ("half a file", "key.format", _content(GOOD[: len(GOOD) // 2])),
    ("zeros", "key.format", _content(bytes(200))),
    (
        "encrypted",
        "key.format",
        _content(_pem(mldsa.MLDSA65PrivateKey.generate(), BestAvailableEncryption(b"x"))),
    ),
    ("an ECDSA key", "key.algorithm", _content(_pem(ec.generate_private_key(ec.SECP256R1())))),
    ("an ML-DSA-44 key", "key.algorithm", _content(_pem(mldsa.MLDSA44PrivateKey.generate()))),
]


@pytest.mark.parametrize("key, make", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_private_key_file_is_refused_that_is(key: str, make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    make(path)
    with pytest.raises(X0tError) as caught:
        load_key(path)
    assert caught.value.key == key
    assert "PRIVATE" not in str(caught.value)


def test_a_file_of_exactly_the_limit_loads(tmp_path: Path) -> None:
    path = _write(tmp_path / "node.key", GOOD.ljust(PRIVATE_FILE_BYTES, b"\n"))
    assert len(load_key(path).public_key) == 1952


def test_where_no_file_can_be_made_the_error_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "node.key", Path("/proc/node.key")):
        with pytest.raises(X0tError) as caught:
            create_key(path)
        assert caught.value.key == "key.file"


STEPS = ["open", "write", "fchmod", "fsync", "close", "link", "unlink", "fsync", "close"]


def _publish_and_die(path: Path, step: int) -> list[str]:
    """Publish a key in a child that dies before its system call *step*; the calls, the last not done.

    It dies without running a `finally`. Step 0 lets it finish.
    """
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), str(step)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode in {0, 9}, child.stderr
    return child.stdout.split()


_CHILD = """
import os, sys
from pathlib import Path
from appliance.trust import keys
seen, cut = [], int(sys.argv[2])
def watch(frame, event, function):
    if event != "c_call" or frame.f_globals["__name__"] != "appliance.trust.keys": return
    name = function.__name__
    if function.__module__ != "posix" or name in {"readv", "fstat", "geteuid"}: return
    seen.append(name)
    if len(seen) == cut:
        sys.setprofile(None)
        print(*seen, flush=True)
        os._exit(9)
sys.setprofile(watch)
keys.publish_file(Path(sys.argv[1]), bytearray(b"PRIVATE" * 100), 0o600)
sys.setprofile(None)
print(*seen)
"""


def test_the_content_is_synced_before_it_gets_its_name_and_the_name_after(tmp_path: Path) -> None:
    assert _publish_and_die(tmp_path / "node.key", 0) == ["open", "open", *STEPS[1:]]


@pytest.mark.parametrize("step", range(1, len(STEPS) + 2))
def test_a_kill_at_any_step_leaves_the_whole_key_or_none(step: int, tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    done = _publish_and_die(path, step)[:-1]
    assert len(done) == step - 1
    assert path.exists() == ("link" in done)
    if path.exists():
        assert path.read_bytes() == b"PRIVATE" * 100
    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} <= {0}


PUBLIC = bytes(range(256)) * 7 + bytes(160)
LINE = format_public_key(PUBLIC)


def test_a_public_key_reads_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "node.pub"
    write_public_key(path, PUBLIC)
    assert path.read_text() == f"{LINE}\n"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert read_public_key(path) == PUBLIC
    with pytest.raises(X0tError) as caught:
        write_public_key(path, PUBLIC)
    assert caught.value.key == "key.exists"


def test_a_public_key_is_written_only_whole() -> None:
    with pytest.raises(X0tError) as caught:
        format_public_key(PUBLIC[:-1])
    assert caught.value.key == "key.length"


@pytest.mark.parametrize("text", [LINE, f"{LINE}\n"])
def test_a_line_with_or_without_its_end_is_a_public_key(text: str) -> None:
    assert parse_public_key(text) == PUBLIC


NO_KEYS = [
    ("nothing", ""),
    ("a name alone", "ml-dsa-65"),
    ("another algorithm", LINE.replace("ml-dsa-65", "ml-dsa-87")),
    ("upper case", LINE.upper()),
    ("no space", LINE.replace(" ", "")),
    ("two spaces", LINE.replace(" ", "  ")),
    ("a space in front", f" {LINE}"),
    ("a space behind", f"{LINE} "),
    ("a second line", f"{LINE}\n{LINE}\n"),
    ("two line ends", f"{LINE}\n\n"),
    ("a carriage return", f"{LINE}\r\n"),
    ("one digit less", LINE[:-1]),
    ("four digits less", LINE[:-4]),
    ("a digit that is none", LINE[:-1] + "!"),
    ("a digit beyond ASCII", LINE[:-1] + "\N{FULLWIDTH DIGIT ONE}"),
    ("a padding too many", LINE[:-2] + "=="),
    ("bits that base64 ignores", LINE[:-2] + "B="),
    ("url-safe base64", LINE.replace("+", "-").replace("/", "_")),
    ("a megabyte", "ml-dsa-65 " + "A" * (1 << 20)),
]


@pytest.mark.parametrize("text", [row[1] for row in NO_KEYS], ids=[row[0] for row in NO_KEYS])
def test_no_public_key_is(text: str) -> None:
    with pytest.raises(X0tError) as caught:
        parse_public_key(text)
    assert caught.value.key == "key.format"
    assert len(caught.value.message) < 300


FILES: list[tuple[str, str, Callable[[Path], object]]] = [
    ("missing", "key.file", lambda path: None),
    (
        "a symbolic link",
        "key.file",
        lambda path: path.symlink_to(_write(path.with_suffix(".x"), LINE.encode())),
    ),
    ("too long", "key.file", _content(f"{LINE}\n\n".encode())),
    ("not ASCII", "key.format", _content(b"\xff" * 100)),
]


@pytest.mark.parametrize("key, make", [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_a_public_key_file_is_refused_that_is(key: str, make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "node.pub")
    with pytest.raises(X0tError) as caught:
        read_public_key(tmp_path / "node.pub")
    assert caught.value.key == key
