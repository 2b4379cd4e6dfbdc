"""Entries: what the bodies of each kind may hold."""

from __future__ import annotations

import pytest

from appliance.core import canonical
from appliance.core.errors import X0tError
from appliance.replica.entries import (
    AnnounceEntry,
    ChangeEntry,
    CheckpointEntry,
    EntryBody,
    GrantEntry,
    RevokeEntry,
    ThawEntry,
    make,
    parse,
)
from appliance.trust.grants import Role

A, B = b"a" * 32, b"b" * 32


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
    ],
)
def test_what_does_not_have_the_form_of_its_kind_is_malformed(kind: str, fields: object) -> None:
    with pytest.raises(X0tError) as caught:
        parse(kind, canonical.encode(fields))  # type: ignore[arg-type]
    assert caught.value.key == "entry.malformed"


@pytest.mark.parametrize("raw", [b"", b"\xff", b"\x83\x61x\x80", b"\x9f\xff"])
def test_what_is_not_canonical_is_malformed(raw: bytes) -> None:
    with pytest.raises(X0tError) as caught:
        parse("announce", raw)
    assert caught.value.key == "entry.malformed"
