"""`x0t token inspect`: what it says of a token without a daemon, what it checks, and what it draws.

The QR codes are read back with a reader that shares no code with what draws them.
"""

from __future__ import annotations

import base64
import io
import json
import re
import stat
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import zxingcpp
from msgspec.structs import replace

from appliance.cli import qr
from appliance.cli.main import run
from appliance.cli.token_report import report_token, token_rows
from appliance.core.ids import MeshId, NodeId
from appliance.trust.descriptor import seal_descriptor
from appliance.trust.keys import write_public_key
from appliance.trust.tokens import Binding, Ticket, format_pointer, format_token, sign_token, token_id
from tests.token_forge import (
    APPROVER,
    AUTHORITY,
    GATEWAY,
    MESH,
    NOW_MS,
    POINTER,
    SECRET,
    STRANGER,
    TOKEN,
    TOKEN_BLOB,
    node,
)

TEXT = format_token(TOKEN_BLOB, SECRET)
SHORT = format_pointer(POINTER)
TICKET = Ticket(TOKEN_BLOB, SECRET, TOKEN)


def inspect(*arguments: str) -> int:
    """Run the command where no daemon answers."""
    return run(["--socket", "/nonexistent/x0t.sock", "token", "inspect", *arguments])


@pytest.fixture
def invite(tmp_path: Path) -> str:
    """A file with a token, folded as a mail program would."""
    file = tmp_path / "invite.txt"
    file.write_text("\n".join(f"  {TEXT[at : at + 70]}" for at in range(0, len(TEXT), 70)) + "\n")
    return str(file)


def _lines(shown: str) -> dict[str, str]:
    return dict(re.split(r"  +", line, maxsplit=1) for line in shown.splitlines())


def test_it_says_what_a_token_holds(invite: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(invite) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = _lines(shown.out)
    assert lines["token"].startswith("token1")
    assert lines["mesh"] == str(MeshId(MESH))
    assert lines["issuer"] == str(NodeId(node(APPROVER.public_key)))
    assert lines["redeemed by"] == str(NodeId(GATEWAY))
    assert "gateway-1:7330" in shown.out
    assert "[2001:db8::7]:7330" in shown.out
    assert lines["tags"] == "line-1, line-2"
    assert lines["attestation"] == "none"
    assert lines["uses"] == "3"
    assert lines["for"].startswith("the node whose public key has the SHA-256 ")
    assert (lines["from"], lines["until"]) == ("2026-09-21T13:13:20Z", "2026-09-21T15:13:20Z")
    assert lines["signature"].startswith("not checked")
    assert lines["size"] == f"{len(TOKEN_BLOB):,} bytes signed, {len(TEXT):,} characters, 2 QR codes"


@pytest.mark.parametrize("source", ["argument", "file", "standard input"])
def test_a_token_comes_as_an_argument_a_file_or_by_standard_input(
    source: str, invite: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{TEXT}\n".encode())))
    assert inspect({"argument": TEXT, "file": invite, "standard input": "-"}[source], "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "token"
    assert found["uses"] == 3
    assert found["tags"] == ["line-1", "line-2"]
    assert [gateway.partition("@")[2] for gateway in found["gateways"]] == ["gateway-1:7330", "[2001:db8::7]:7330"]
    assert found["size"] == len(TOKEN_BLOB)


def test_it_says_what_a_short_form_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(SHORT) == 0
    lines = _lines(capsys.readouterr().out)
    assert lines["short form"] == "the gateway exchanges it for the token"
    assert lines["gateway"].endswith("@gateway-1.plant.example:7330")
    assert inspect(SHORT, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "short"
    assert found["chars"] == len(SHORT)
    assert found["symbols"] == 1


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["lines", "JSON"])
def test_it_never_shows_the_secret(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    for text, secret in ((TEXT, SECRET), (SHORT, POINTER.code)):
        assert inspect(text, *flags) == 0
        shown = capsys.readouterr()
        for form in (secret.hex(), base64.urlsafe_b64encode(secret).decode()[:20], text[:30]):
            assert form not in shown.out + shown.err


NOWHERE = "0t1." + TEXT[5:]  # a token whose first letter was lost
BAD: list[tuple[str, str, int, str]] = [
    ("half a token", TEXT[:1000], 2, "token.text"),
    ("a token without its first letter", NOWHERE, 2, "token.text"),
    ("a word", "invite", 2, "token.text"),
    ("a directory", "/", 4, "control.file"),
]


@pytest.mark.parametrize("text, code, says", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_no_token_is_refused_and_not_repeated(
    text: str, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(text) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err
    assert TEXT[5:30] not in shown.err


def test_another_file_is_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100_000))
    assert inspect(str(file)) == 2
    assert "token.text" in capsys.readouterr().err


# ---- what it checks


def _key_file(path: Path, public_key: bytes) -> str:
    write_public_key(path, public_key)
    return str(path)


def test_the_issuers_key_checks_the_signature(invite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(invite, "--issuer", _key_file(tmp_path / "a.key", APPROVER.public_key)) == 0
    assert _lines(capsys.readouterr().out)["signature"].startswith("good, by node1")


def test_another_key_and_a_forged_signature_are_refused(
    invite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(invite, "--issuer", _key_file(tmp_path / "s.key", STRANGER.public_key)) == 3
    assert "token.issuer" in capsys.readouterr().err
    forged = format_token(sign_token(TOKEN, STRANGER.sign), SECRET)
    assert inspect(forged, "--issuer", _key_file(tmp_path / "a.key", APPROVER.public_key)) == 6
    assert "token.signature" in capsys.readouterr().err


def test_a_descriptor_tells_whether_the_mesh_is_the_right_one(
    invite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "plant-7.x0t", tmp_path / "plant-8.x0t"
    ours.write_bytes(seal_descriptor(AUTHORITY.public_key, "plant-7", NOW_MS, AUTHORITY.sign))
    theirs.write_bytes(seal_descriptor(STRANGER.public_key, "plant-8", NOW_MS, STRANGER.sign))
    for text in (invite, SHORT):
        assert inspect(text, "--mesh", str(ours)) == 0
        assert _lines(capsys.readouterr().out)["mesh"].endswith(", which is plant-7")
        assert inspect(text, "--mesh", str(theirs)) == 3
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "token.mesh" in shown.err


def test_what_cannot_be_asked_of_a_token_is_a_wrong_use(
    invite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = _key_file(tmp_path / "a.key", APPROVER.public_key)
    for arguments, says in (
        ((SHORT, "--issuer", key), "no signature"),
        ((invite, "--qr", "-", "--json"), "name a file"),
        ((invite, "--qr", str(tmp_path / "invite.jpg")), ".svg or .png"),
    ):
        assert inspect(*arguments) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert says in shown.err


# ---- words


@pytest.mark.parametrize(
    "now_ms, words",
    [
        (NOW_MS, "in its time, for another 1h 0m"),
        (TOKEN.not_after_ms, "in its time, for another a moment"),
        (TOKEN.not_after_ms + 90_061_000, "it ended 1d 1h ago"),
        (TOKEN.not_before_ms - 61_500, "it begins in 1m 1s"),
    ],
)
def test_where_a_token_stands_in_time_is_said_in_words(now_ms: int, words: str) -> None:
    assert report_token(TICKET, now_ms, "").standing == words


@pytest.mark.parametrize(
    "kind, words", [("ek", "the TPM whose"), ("key", "the node whose"), ("serial", "the device whose serial number")]
)
def test_the_device_that_a_token_is_for_is_said_in_words(kind: str, words: str) -> None:
    token = replace(TOKEN, binding=Binding(kind, b"\xab" * 32))  # type: ignore[arg-type]
    shown = report_token(Ticket(sign_token(token, APPROVER.sign), SECRET, token), NOW_MS, "").binding
    assert shown.startswith(words)
    assert shown.endswith("ab" * 32)


def test_what_a_token_leaves_open_is_said_too() -> None:
    token = replace(TOKEN, binding=None, redeemer=None, tags=())
    report = report_token(Ticket(sign_token(token, APPROVER.sign), SECRET, token), NOW_MS, "")
    rows = dict(token_rows(report, ""))
    assert (rows["for"], rows["redeemed by"], rows["tags"]) == ("any device", "any of the gateways", ())
    assert token_id(TOKEN_BLOB) != token_id(sign_token(token, APPROVER.sign))


# ---- pictures


def _read(rows: list[bytes]) -> str:
    """The text of the one QR code in a picture: a byte for each pixel, 0 is black."""
    found = zxingcpp.read_barcodes(memoryview(b"".join(rows)).cast("B", (len(rows), len(rows[0]))))
    assert len(found) == 1
    return found[0].text


def _png(data: bytes) -> list[bytes]:
    """The pixels of a PNG of one bit of grey, with the filters None and Up (W3C PNG, 11.2.1 and 9.2)."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert (data[:8], depth, colour) == (b"\x89PNG\r\n\x1a\n", 1, 0)
    packed, at = b"", 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        packed += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    raw, stride = zlib.decompress(packed), (width + 7) // 8 + 1
    line, pixels = bytes(stride - 1), list[bytes]()
    for row in range(0, height * stride, stride):
        above = {0: bytes(stride - 1), 2: line}[raw[row]]
        line = bytes((a + b) % 256 for a, b in zip(raw[row + 1 : row + stride], above, strict=True))
        pixels.append(bytes(255 if line[x // 8] >> 7 - x % 8 & 1 else 0 for x in range(width)))
    return pixels


def test_a_short_form_is_drawn_as_one_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "invite.png"
    assert inspect(SHORT, "--qr", str(file)) == 0
    shown = capsys.readouterr()
    assert _lines(shown.out)["size"].endswith("one QR code")
    assert str(file) in shown.err
    assert list(tmp_path.iterdir()) == [file]
    assert stat.filemode(file.stat().st_mode) == "-rw-------"
    assert _read(_png(file.read_bytes())) == SHORT


def test_a_token_is_drawn_as_two_codes_whose_texts_make_the_token(
    invite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert inspect(invite, "--qr", str(tmp_path / "code.png"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["symbols"] == 2
    first, second = tmp_path / "code-1.png", tmp_path / "code-2.png"
    assert sorted(tmp_path.glob("code*")) == [first, second]
    assert _read(_png(first.read_bytes())) + _read(_png(second.read_bytes())) == TEXT
    assert {stat.filemode(file.stat().st_mode) for file in (first, second)} == {"-rw-------"}


def test_a_vector_picture_is_well_formed_and_white_behind(tmp_path: Path) -> None:
    file = tmp_path / "invite.svg"
    assert inspect(SHORT, "--qr", str(file)) == 0
    picture = ElementTree.fromstring(file.read_text())  # noqa: S314 - our own
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    background, modules = picture.iter("{http://www.w3.org/2000/svg}path")
    assert background.get("fill") == "#fff"
    assert modules.get("stroke") == "#000"


def _unblock(lines: list[str]) -> list[bytes]:
    """Half blocks as pixels: in the colour of the text is light."""
    rows = []
    for line in lines:
        for light in ("█▀", "█▄"):
            row = b"".join((b"\xff" if char in light else b"\0") * 3 for char in line)
            rows += [row] * 3
    return rows


@pytest.mark.parametrize("text, count", [(SHORT, 1), (TEXT, 2)], ids=["short form", "token"])
def test_codes_are_drawn_as_text(text: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(text, "--qr", "-") == 0
    lines = capsys.readouterr().out.splitlines()
    height = len(lines) // count
    codes = [lines[number * height : (number + 1) * height] for number in range(count)]
    assert "".join(_read(_unblock(code)) for code in codes) == text


def test_on_a_terminal_the_colours_are_given_and_the_width_must_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    for text, code in ((SHORT, 0), (TEXT, 2)):
        screen = Terminal()
        monkeypatch.setattr("sys.stdout", screen)
        assert inspect(text, "--qr", "-") == code
        assert all(line.startswith("\x1b[97;40m") for line in screen.getvalue().splitlines())
        assert bool(screen.getvalue()) == (code == 0)
    assert "columns" in capsys.readouterr().err


@pytest.mark.parametrize("chars, count", [(1, 1), (qr.SYMBOL_CHARS, 1), (qr.SYMBOL_CHARS + 1, 2), (13_400, 5)])
def test_a_text_takes_as_few_codes_as_it_can(chars: int, count: int, tmp_path: Path) -> None:
    assert qr.symbol_count("x" * chars) == count
    assert len(qr.write_symbols("x" * chars, tmp_path / "x.png", "png")) == count


def test_two_codes_may_be_full(tmp_path: Path) -> None:
    text = "x" * (2 * qr.SYMBOL_CHARS)
    assert len(qr.write_symbols(text, tmp_path / "x.png", "png")) == 2
