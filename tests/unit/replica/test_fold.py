"""Fold: from entries to rows; an arrival in the past is as if it had come in time."""

from __future__ import annotations

import pytest

from appliance.core.ids import NodeId
from appliance.replica.document_kinds import NODES
from appliance.replica.entries import AnnounceEntry, ChangeEntry, GrantEntry, RevokeEntry, ThawEntry
from appliance.replica.fold import REASONS, Effect
from appliance.replica.rows import (
    ChangeRow,
    DocumentRow,
    FrozenRow,
    GrantRow,
    NodeRow,
    NoEffectRow,
    RevocationRow,
    Row,
    ThawRow,
)
from appliance.trust.grants import Role, grant_id
from tests.sim.world import FAR_MS, START_MS, Member, Replica
from tests.unit.replica.site import HELLO, Site, cut, fork, revoke


def rows(replica: Replica, table: type[Row]) -> list[Row]:
    return list(replica.view.rows(table))


def tag(replica: Replica, author: Member, node: Member, name: str, *, off: bool = False) -> ChangeEntry:
    key = f"{NodeId(node.id)}/tag/{name}"
    chunk = replica.engine.documents.edit(NODES, {} if off else {key: True}, [key] if off else [], author.id, 0)
    return ChangeEntry(*NODES, chunk)


def values(replica: Replica) -> dict[str, str]:
    found = [row for row in rows(replica, DocumentRow) if isinstance(row, DocumentRow)]
    return {row.key.split("/", 1)[1]: row.value for row in found}


def test_every_entry_of_a_batch_has_an_effect_or_a_reason(site: Site) -> None:
    replica = site.replica()
    batch = site.write(site.emil, HELLO, ("vote", b"\x80"), ("announce", b"\x80"), revoke(site.anna))
    replica.engine.take([(batch, True)], replica.now_ms)
    replica.engine.commit()
    assert replica.engine.fold().effects == {
        batch.hash: (
            Effect(0, "announce", None),
            Effect(1, "vote", "unknown"),
            Effect(2, "announce", "malformed"),
            Effect(3, "revoke", "grant.role"),
        )
    }
    assert [effect.ok for effect in (Effect(0, "vote", None), Effect(0, "vote", "role"))] == [True, False]


def test_what_has_no_effect_is_kept_with_its_place_and_reason(site: Site) -> None:
    batch = site.write(site.emil, revoke(site.anna))
    meta = batch.batch
    assert rows(site.replica(), NoEffectRow) == [
        NoEffectRow(
            batch=batch.hash, entry=0, author=site.emil.id, seq=1, hlc=meta.hlc, kind="revoke", reason="grant.role"
        )
    ]


def test_reasons_that_are_not_errors_are_explained() -> None:
    used = {"conflict", "epoch", "expired", "frozen", "late", "malformed", "revoked", "role", "unknown"}
    assert set(REASONS) == used


def test_the_latest_announcement_of_a_member_stands(site: Site) -> None:
    site.write(site.emil, AnnounceEntry("old", (), ""))
    new = site.write(site.emil, AnnounceEntry("arm", ("10.0.0.2:7443",), "0.1"))
    assert rows(site.replica(), NodeRow) == [
        NodeRow(node=site.emil.id, name="arm", endpoints=("10.0.0.2:7443",), software="0.1", batch=new.hash)
    ]


def test_a_grant_is_a_row_with_its_chain_and_its_limits(site: Site) -> None:
    row = next(r for r in rows(site.replica(), GrantRow) if isinstance(r, GrantRow) and r.subject == site.dora.id)
    assert row == GrantRow(
        batch=site.start[3].hash,
        entry=0,
        grant_id=grant_id(site.grants["dora"]),
        subject=site.dora.id,
        issuer=site.bert.id,
        roles=("admin",),
        scope=(),
        delegate=1,
        depth=2,
        not_before_ms=START_MS,
        not_after_ms=FAR_MS,
        reason="",
    )


def test_a_revocation_is_a_row_and_so_is_one_that_has_no_effect(site: Site) -> None:
    good = site.write(site.anna, RevokeEntry(site.bert.id, (Role.ADMIN,), *cut(site.start[3]), "moved"))
    bad = site.write(site.emil, RevokeEntry(site.anna.id, (), 0, None, "spite"))
    assert sorted(rows(site.replica(), RevocationRow), key=lambda row: getattr(row, "reason", "")) == [
        RevocationRow(good.hash, 0, site.bert.id, site.anna.id, ("admin",), 1, "moved", ""),
        RevocationRow(bad.hash, 0, site.anna.id, site.emil.id, (), 0, "spite", "grant.role"),
    ]


def test_a_frozen_log_is_a_row_with_its_proof_and_a_decision_is_one_too(site: Site) -> None:
    left, right = fork(site, site.emil)
    proof = sorted((left.hash, right.hash))
    assert rows(site.replica(), FrozenRow) == [FrozenRow(site.emil.id, 1, proof[0], proof[1], 0)]
    thaw = site.write(site.anna, ThawEntry(site.emil.id, left.hash, "the clone is on the bench"))
    assert rows(site.replica(), FrozenRow) == [FrozenRow(site.emil.id, 1, proof[0], proof[1], 1)]
    assert rows(site.replica(), ThawRow) == [
        ThawRow(thaw.hash, 0, site.emil.id, site.anna.id, left.hash, "the clone is on the bench", "")
    ]


# -- the past


def test_an_announcement_that_comes_late_does_not_replace_a_later_one(site: Site) -> None:
    replica = site.replica()
    old = site.write(site.emil, AnnounceEntry("old", (), ""), at_ms=10)
    new = site.write(site.emil, AnnounceEntry("new", (), ""), at_ms=5000)
    other = site.write(site.anna, HELLO, at_ms=9000)
    replica.take(other)
    replica.take(new)
    replica.take(old)
    names = {row.node: row.name for row in rows(replica, NodeRow) if isinstance(row, NodeRow)}
    assert names == {site.emil.id: "new", site.anna.id: "hello"}


def test_a_revocation_takes_back_what_was_folded_long_before_it(site: Site) -> None:
    replica = site.replica()
    beyond = site.write(site.dora, tag(replica, site.dora, site.emil, "robot"))
    replica.take(beyond)
    follows = site.write(site.anna, tag(replica, site.anna, site.emil, "gate"), after=[beyond], at_ms=9000)
    replica.take(follows)
    assert values(replica) == {"tag/robot": "true", "tag/gate": "true"}
    replica.take(site.write(site.bert, revoke(site.dora)))
    assert "tag/robot" not in values(replica)
    assert replica.reason(beyond) == "revoked"


def test_when_a_revocation_loses_its_effect_what_it_took_comes_back(site: Site) -> None:
    replica = site.replica()
    change = site.write(site.dora, tag(replica, site.dora, site.emil, "robot"))
    gone = site.write(site.bert, revoke(site.dora))
    replica.take(change, gone)
    assert values(replica) == {}
    replica.take(site.write(site.anna, revoke(site.bert, site.start[3])))
    assert (values(replica), replica.reason(gone)) == ({"tag/robot": "true"}, "revoked")


def test_two_values_set_side_by_side_leave_a_winner_and_a_rival(site: Site) -> None:
    replica = site.replica()
    key = f"{NodeId(site.emil.id)}/name"
    chunks = [
        replica.engine.documents.edit(NODES, {key: name}, [], who.id, 0)
        for name, who in (("left", site.anna), ("right", site.bert))
    ]
    replica.take(site.write(site.anna, ChangeEntry(*NODES, chunks[0])))
    replica.take(site.write(site.bert, ChangeEntry(*NODES, chunks[1])))
    (row,) = rows(replica, DocumentRow)
    assert isinstance(row, DocumentRow)
    assert {row.value, *row.rivals} == {'"left"', '"right"'}


def test_a_deleted_key_has_no_row(site: Site) -> None:
    replica = site.replica()
    replica.take(site.write(site.anna, tag(replica, site.anna, site.emil, "robot")))
    replica.take(site.write(site.anna, tag(replica, site.anna, site.emil, "robot", off=True)))
    assert values(replica) == {}
    assert len(rows(replica, ChangeRow)) == 2


@pytest.mark.parametrize(
    "key, value",
    [
        ("policy", True),
        ("NODE/tag/robot", False),
        ("NODE/tag/ROBOT", True),
        ("NODE/name", ""),
        ("NODE/name", "x" * 65),
        ("NODE/name", 7),
        ("NODE/colour", "red"),
    ],
)
def test_a_document_holds_only_what_it_is_for(site: Site, key: str, value: bool | str | int) -> None:
    replica = site.replica()
    full = key.replace("NODE", str(NodeId(site.emil.id)))
    chunk = replica.engine.documents.edit(NODES, {full: value}, [], site.anna.id, 0)
    batch = site.write(site.anna, ChangeEntry(*NODES, chunk))
    replica.take(batch)
    assert replica.reason(batch) == "document.schema"


def test_a_document_that_nobody_knows_takes_no_change(site: Site) -> None:
    batch = site.write(site.anna, ChangeEntry("policy", 3, b"chunk"))
    assert site.reason(batch) == "document.unknown"


def test_what_one_grant_brings_the_same_batch_may_use_only_if_the_authority_signed_it(site: Site) -> None:
    fred = site.mesh.member("fred")
    grant = site.mesh.grant(site.anna, fred, Role.MEMBER, parent=site.grants["anna"])
    granted = site.write(site.anna, GrantEntry(grant))
    own = site.mesh.grant(site.anna, site.anna, Role.ADMIN, parent=site.grants["anna"])
    batch = site.write(fred, HELLO, GrantEntry(own), after=[granted])
    assert (site.reason(batch, 0), site.reason(batch, 1)) == (None, "grant.issuer")


def test_a_log_that_forks_over_a_document_keeps_one_side_of_it(site: Site) -> None:
    """Both clones count on from the same change; Automerge would take only one, and the loser may come first."""
    replica = site.replica()
    before = site.dora.head
    left_change, right_change = (tag(replica, site.dora, site.emil, name) for name in ("left", "right"))
    left = site.write(site.dora, left_change, at_ms=1000)
    replica.take(left)
    replica.take(site.write(site.dora, right_change, prev=before, at_ms=500))
    right = site.dora.head
    assert right is not None
    assert values(replica) == {}
    replica.take(site.write(site.anna, ThawEntry(site.dora.id, right.hash, "")))
    assert values(replica) == {"tag/right": "true"}
    dump = replica.dump()
    replica.rebuild()
    assert replica.dump() == dump
