"""Entries for people: names in place of positions, ids in their checked form, and nothing that cannot be shown."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from appliance.core import canonical
from appliance.core.ids import BatchHash, CertificateId, EnrolmentId, GrantId, MeshId, NodeId, TokenId
from appliance.core.prefix import address_text
from appliance.core.yggdrasil import node_address
from appliance.replica.entries import (
    Action,
    AttachEntry,
    CertifyEntry,
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
)
from appliance.replica.entry_text import entry_json
from appliance.trust.certificates import certificate_id
from appliance.trust.grants import Role, grant_id
from appliance.trust.tokens import Binding, token_id
from tests.attach_rig import public
from tests.sim import papers
from tests.sim.world import FAR_MS, START_MS
from tests.unit.replica.admission_site import open_door
from tests.unit.replica.site import HELLO, Site

A, B = bytes(32), b"b" * 32


def shown(entry: EntryBody | tuple[str, bytes]) -> object:
    return msgspec.json.decode(entry_json(*(entry if isinstance(entry, tuple) else make(entry))))


@pytest.mark.parametrize(
    "entry, expected",
    [
        (HELLO, {"name": "hello", "endpoints": [], "software": ""}),
        (
            RevokeEntry(A, (Role.ADMIN,), 3, B, "lost"),
            {"target": str(NodeId(A)), "roles": ["admin"], "cut_seq": 3, "cut": str(BatchHash(B)), "reason": "lost"},
        ),
        (
            RevokeEntry(A, (), 0, None, ""),
            {"target": str(NodeId(A)), "roles": "all", "cut_seq": 0, "cut": None, "reason": ""},
        ),
        (ThawEntry(A, B, "mine"), {"author": str(NodeId(A)), "keep": str(BatchHash(B)), "reason": "mine"}),
        (
            CheckpointEntry(1, START_MS << 16, 9, B),
            {"epoch": 1, "horizon": "2023-11-14T22:13:20.000Z#0", "batches": 9, "digest": B.hex()},
        ),
        (
            AttachEntry(B, bytes(64), ("tls://h:1",), relay=True),
            {"key": B.hex(), "address": "201:7676:7676:7676:7676:7676:7676:7676", "uris": ["tls://h:1"], "relay": True},
        ),
        (SecretEntry(4, B), {"epoch": 4, "secret": "***"}),
        (RetireEntry(B, "lost"), {"token": str(TokenId(B)), "reason": "lost"}),
        (
            DecideEntry(A, Action.BAN, "stolen", "r1"),
            {"node": str(NodeId(A)), "action": "ban", "reason": "stolen", "rule": "r1"},
        ),
    ],
    ids=["announce", "revoke some", "revoke all", "thaw", "checkpoint", "attach", "secret", "retire", "decide"],
)
def test_a_known_entry_is_shown_with_its_names(entry: EntryBody, expected: dict[str, object]) -> None:
    assert shown(entry) == expected


def test_a_grant_is_shown_with_who_gives_what_to_whom(site: Site) -> None:
    by_bert = shown(GrantEntry(site.grants["dora"]))
    assert by_bert == {
        "grant": str(GrantId(grant_id(site.grants["dora"]))),
        "issuer": str(NodeId(site.bert.id)),
        "subject": str(NodeId(site.dora.id)),
        "roles": ["admin"],
        "scope": "mesh",
        "delegate": 1,
        "not_before_ms": START_MS,
        "not_after_ms": FAR_MS,
        "parent": str(GrantId(grant_id(site.grants["bert"]))),
    }
    by_authority = shown(GrantEntry(site.grants["anna"]))
    assert isinstance(by_authority, dict)
    assert (by_authority["issuer"], by_authority["parent"]) == (str(MeshId(site.mesh.id)), None)


def test_the_papers_of_an_admission_are_shown_without_anything_that_admits() -> None:
    door = open_door()
    secret = Binding("key", B)
    token = papers.token(
        door.mesh, door.bert, door.grants["bert"], (door.gate,), tags=("robot",), binding=secret, redeemer=door.gate
    )
    gate, rolf = str(NodeId(door.gate.id)), str(NodeId(door.rolf.id))
    assert shown(TokenEntry(token, "line 1")) == {
        "token": str(TokenId(token_id(token))),
        "issuer": str(NodeId(door.bert.id)),
        "grant": str(GrantId(grant_id(door.grants["bert"]))),
        "gateways": [f"{gate}@10.0.0.1:7443"],
        "redeemer": gate,
        "tags": ["robot"],
        "level": "none",
        "uses": 1,
        "binding": f"key:{B.hex()}",
        "not_before_ms": START_MS,
        "not_after_ms": FAR_MS,
        "note": "line 1",
    }
    asked = papers.enrolment(token, door.rolf)
    keys = {
        "address": address_text(node_address(public("rolf"))),
        "mesh_key": public("rolf").hex(),
        "tunnel_key": hashlib.sha256(b"tunnel" + door.rolf.id).hexdigest(),
    }
    assert shown(EnrolEntry(token, papers.request(door.mesh, door.rolf, token))) == {
        "enrolment": str(EnrolmentId(asked)),
        "token": str(TokenId(token_id(token))),
        "node": rolf,
        "name": "rolf",
        "created_ms": START_MS,
        **keys,
    }
    blob = papers.certificate(door.mesh, door.bert, door.grants["bert"], door.rolf, enrolment=asked, tags=("robot",))
    assert shown(CertifyEntry(blob, "by-night")) == {
        "certificate": str(CertificateId(certificate_id(blob))),
        "issuer": str(NodeId(door.bert.id)),
        "subject": rolf,
        "name": "rolf",
        "tags": ["robot"],
        "level": "none",
        "not_before_ms": START_MS,
        "not_after_ms": FAR_MS,
        "grant": str(GrantId(grant_id(door.grants["bert"]))),
        "enrolment": str(EnrolmentId(asked)),
        "rule": "by-night",
        **keys,
    }


def test_a_change_is_shown_with_what_it_sets(site: Site) -> None:
    change = shown(site.change(site.dora, site.emil, "red"))
    assert isinstance(change, dict)
    assert (change["document"], change["epoch"], change["delete"]) == ("nodes", 0, [])
    assert change["set"] == {f"{NodeId(site.emil.id)}/tag/red": True}


@pytest.mark.parametrize(
    "body, expected",
    [
        (["text", 7, None, True, b"\xff"], ["text", 7, None, True, "ff"]),
        ({1: "one", b"\x02": [{}], "key": -1}, {"1": "one", "02": [{}], "key": -1}),
        ([(1 << 64) - 1, -(1 << 64)], [(1 << 64) - 1, -(1 << 64)]),
        ("\0\n", "\0\n"),
    ],
)
def test_an_entry_of_an_unknown_kind_is_shown_as_it_is(body: canonical.Encodable, expected: object) -> None:
    assert shown(("of next year", canonical.encode(body))) == expected


@pytest.mark.parametrize("kind", ["announce", "grant", "change", "token", "enrol", "certify", "of next year"])
def test_what_cannot_be_read_is_shown_as_hex_with_a_bound(kind: str) -> None:
    assert shown((kind, b"\xff\x01")) == {"unreadable": "ff01"}
    assert shown((kind, b"\xff" * 65)) == {"unreadable": "ff" * 64 + "..."}


def test_a_grant_or_change_that_is_none_inside_is_shown_as_hex() -> None:
    for entry in (("grant", canonical.encode([b"x"])), ("change", canonical.encode(["nodes", 0, b"x"]))):
        assert shown(entry) == {"unreadable": entry[1].hex()}


@pytest.mark.parametrize("body", [canonical.encode([1, b"hush" * 9]), canonical.encode(["one", b"hush" * 8]), b"hush"])
def test_a_secret_that_cannot_be_read_is_not_shown_either(body: bytes) -> None:
    assert shown(("secret", body)) == {"unreadable": "***"}
