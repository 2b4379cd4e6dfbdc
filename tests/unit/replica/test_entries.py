"""Entries: what the bodies of each kind may hold."""

from __future__ import annotations

import pytest

from appliance.core import canonical
from appliance.core.errors import X0tError
from appliance.replica.entries import (
    Action,
    AnnounceEntry,
    AttachEntry,
    CertifyEntry,
    ChangeEntry,
    CheckpointEntry,
    DecideEntry,
    EnrolEntry,
    EntryBody,
    GrantEntry,
    RetireEntry,
    RevokeEntry,
    SecretEntry,
    ThawEntry,
    TokenEntry,
    make,
    parse,
)
from appliance.trust.grants import Role

A, B = b"a" * 32, b"b" * 32
PROOF = b"p" * 64


@pytest.mark.parametrize(
    "body",
    [
        GrantEntry(b"signed"),
        RevokeEntry(A, (Role.ADMIN, Role.OWNER), 3, B, "lost laptop"),
        RevokeEntry(A, (), 0, None, ""),
        ThawEntry(A, B, ""),
        AnnounceEntry("gateway", ("10.0.0.1:7443",), "0.1"),
        ChangeEntry("nodes", 0, b"chunk"),
        CheckpointEntry(1, 9, 2, A),
        AttachEntry(A, PROOF, (), relay=False),
        AttachEntry(A, PROOF, ("tls://gate-1.plant.example:7331", "quic://[fd00::1]:1"), relay=True),
        SecretEntry(1, A),
        SecretEntry(2**53, B),
        TokenEntry(b"signed", "for line 1"),
        RetireEntry(A, ""),
        EnrolEntry(b"signed", b"signed, too"),
        DecideEntry(A, Action.SUSPEND, "too noisy", "quiet-hours"),
        CertifyEntry(b"signed", ""),
    ],
)
def test_a_body_reads_back_as_it_was_made(body: EntryBody) -> None:
    assert parse(*make(body)) == body


def test_a_kind_of_a_newer_release_is_none_of_ours() -> None:
    assert parse("vote", b"\x80") is None


@pytest.mark.parametrize(
    "kind, fields",
    [
        pytest.param("announce", {"name": "gateway"}, id="a map"),
        pytest.param("announce", ["", [], ""], id="an empty name"),
        pytest.param("announce", ["x" * 257, [], ""], id="a long name"),
        pytest.param("announce", ["x", ["h:1"] * 9, ""], id="too many endpoints"),
        pytest.param("announce", ["x", [], "", 0], id="a field more"),
        pytest.param("announce", ["x", []], id="a field less"),
        pytest.param("revoke", [A, ["emperor"], 0, None, ""], id="a role that is none"),
        pytest.param("revoke", [A, [], -1, None, ""], id="a cut before the beginning"),
        pytest.param("revoke", ["YWFh" * 10 + "YWE=", [], 0, None, ""], id="base64 text for an id"),
        pytest.param("change", ["nodes", 0, b""], id="an empty chunk"),
        pytest.param("change", ["nodes", 2**32, b"x"], id="an epoch too large"),
        pytest.param("checkpoint", [0, 9, 2, A], id="epoch 0"),
        pytest.param("checkpoint", [1, 9, 2, b""], id="a digest too short"),
        pytest.param("thaw", [A, None, ""], id="a decision for nothing"),
        pytest.param("grant", ["text"], id="a text for bytes"),
        pytest.param("attach", [A, PROOF, ["tls://h:1"] * 9, False], id="too many peers"),
        pytest.param("attach", [A, PROOF[:-1], [], False], id="a proof too short"),
        pytest.param("attach", [A[:-1], PROOF, [], False], id="a key too short"),
        pytest.param("attach", [A, PROOF, [], 1], id="a number for yes"),
        pytest.param("secret", [0, A], id="a secret of epoch 0"),
        pytest.param("secret", [1, A + A], id="a secret too long"),
        pytest.param("secret", [1, b""], id="no secret"),
        pytest.param("token", [b"x", "n" * 257], id="a long note"),
        pytest.param("token", ["x", ""], id="a token as text"),
        pytest.param("retire", [A[:-1], ""], id="a token's id too short"),
        pytest.param("enrol", [b"x"], id="no request"),
        pytest.param("decide", [A, "approve", "", ""], id="an action that is none"),
        pytest.param("decide", [A, "ban", "", "r" * 257], id="a long rule"),
        pytest.param("certify", [b"x", None], id="a rule that is no text"),
    ],
)
def test_what_does_not_have_the_form_of_its_kind_is_malformed(kind: str, fields: object) -> None:
    with pytest.raises(X0tError) as caught:
        parse(kind, canonical.encode(fields))  # type: ignore[arg-type]
    assert caught.value.key == "entry.malformed"


@pytest.mark.parametrize(
    "uri",
    [
        "tls://10.0.0.1:7331",
        "quic://gate:65535",
        "tls://[fd00::1]:1",
        "tls://a.b-c.d:10",
    ],
)
def test_a_peer_is_named_by_scheme_host_and_port(uri: str) -> None:
    body = AttachEntry(A, PROOF, (uri,), relay=False)
    assert parse(*make(body)) == body


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("tcp://10.0.0.1:7331", id="a scheme without encryption"),
        pytest.param("unix:///run/ygg.sock", id="a socket"),
        pytest.param("socks://10.0.0.1:1080/host:1", id="a proxy"),
        pytest.param("tls://10.0.0.1", id="no port"),
        pytest.param("tls://10.0.0.1:0", id="port 0"),
        pytest.param("tls://10.0.0.1:65536", id="a port too large"),
        pytest.param("tls://10.0.0.1:07331", id="a port with a zero before it"),
        pytest.param("tls://:7331", id="no host"),
        pytest.param("tls://Gate:7331", id="capitals"),
        pytest.param("tls://-gate:7331", id="a host that begins with a hyphen"),
        pytest.param("tls://[fe80::1%eth0]:7331", id="a zone"),
        pytest.param("tls://10.0.0.1:7331?password=x", id="an option"),
        pytest.param("tls://10.0.0.1:7331/", id="a path"),
        pytest.param("tls://user@10.0.0.1:7331", id="a user"),
        pytest.param("tls://10.0.0.1:7331\n", id="a line break"),
        pytest.param("x tls://10.0.0.1:7331", id="something before it"),
        pytest.param(f"tls://{'a' * 256}:7331", id="a host too long"),
    ],
)
def test_nothing_else_names_a_peer(uri: str) -> None:
    with pytest.raises(X0tError) as caught:
        parse(*make(AttachEntry(A, PROOF, (uri,), relay=False)))
    assert caught.value.key == "entry.malformed"


def test_a_secret_does_not_show_when_its_entry_is_printed() -> None:
    assert repr(SecretEntry(3, b"hush" * 8)) == "SecretEntry(epoch=3, secret=***)"


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x83\x61x\x80", b"\x9f\xff"])
def test_what_is_not_canonical_is_malformed(raw: bytes) -> None:
    with pytest.raises(X0tError) as caught:
        parse("announce", raw)
    assert caught.value.key == "entry.malformed"
