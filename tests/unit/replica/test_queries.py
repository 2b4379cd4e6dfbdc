"""Queries: what people see of a replica, with identifiers that they can read and reasons that say what to do."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import InputError
from appliance.core.ids import BatchHash, GrantId, MeshId, NodeId
from appliance.replica import membership, queries
from appliance.replica.entries import AnnounceEntry, CheckpointEntry, RevokeEntry, ThawEntry, make
from appliance.replica.queries import NEWEST, Queries, state_digest
from appliance.replica.reports import ConflictView, NodeView
from appliance.replica.rows import TABLES
from appliance.replica.service import Replica, Writer
from appliance.trust.grants import Role, grant_id
from tests.mesh_rig import START_MS, YEAR_MS, Member, Mesh


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def a(mesh: Mesh) -> Iterator[Member]:
    node = mesh.founder("a")
    yield node
    node.engine.close()


@pytest.fixture
def b(mesh: Mesh) -> Iterator[Member]:
    node = mesh.member("b")
    yield node
    node.engine.close()


def text(node: Member) -> str:
    return str(NodeId(node.id))


# -- the digest


def test_the_digest_is_over_every_row_of_every_table(a: Member) -> None:
    a.say("gateway")
    digest = hashlib.sha256()
    for row in TABLES:
        for values in a.view.dump(row):
            digest.update(msgspec.msgpack.encode((row.TABLE, *values)))
    assert state_digest(a.view) == digest.digest()


def test_equal_batches_in_another_order_give_an_equal_digest(mesh: Mesh, a: Member, b: Member) -> None:
    a.give(b, Role.ADMIN)
    b.pull(a)
    a.say("one")
    b.say("two")
    assert state_digest(a.view) != state_digest(b.view)
    a.pull(b)
    b.pull(a)
    assert state_digest(a.view) == state_digest(b.view)


# -- log and show


def test_the_log_reads_newest_first_in_pages(a: Member, b: Member) -> None:
    a.give(b, Role.MEMBER)
    b.pull(a)
    b.say("robot")
    a.pull(b)
    a.say("gateway")
    lines = queries.log(a.engine, None, NEWEST, 10)
    assert [line.kinds for line in lines] == [("announce",), ("announce",), ("grant",), ("grant",)]
    assert [line.arrival for line in lines] == [4, 3, 2, 1]
    assert queries.log(a.engine, None, lines[1].arrival, 1) == [lines[2]]
    assert [line.author for line in queries.log(a.engine, b.id, NEWEST, 10)] == [b.id]
    assert lines[0].bytes == len(a.last().blob)


def test_a_batch_is_shown_by_its_hash_or_the_beginning_of_its_text(a: Member) -> None:
    a.say("gateway")
    digest = a.last().hash
    shown = queries.show(a.engine, digest)
    assert shown is not None
    assert shown.line.hash == digest
    for name in (
        str(BatchHash(digest)),
        str(BatchHash(digest))[:16],
        digest.hex(),
        digest.hex()[:9],
        digest.hex().upper(),
    ):
        assert queries.show(a.engine, name) == shown
    assert queries.show(a.engine, bytes(32)) is None
    assert queries.show(a.engine, "0000000000") is None


@pytest.mark.parametrize("name", ["", "abc", "batch1", "batch1b", "batch1bbbbbb", "node1qqqqqq", "xyz12345", "0" * 66])
def test_what_cannot_be_a_batch_is_refused(a: Member, name: str) -> None:
    with pytest.raises(InputError) as failed:
        queries.show(a.engine, name)
    assert failed.value.key == "id.text"


def test_a_beginning_of_several_batches_is_refused(a: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    a.say("gateway")
    monkeypatch.setattr(queries, "_HEX_MIN", 0)
    with pytest.raises(InputError) as failed:
        queries.show(a.engine, "batch1")
    assert failed.value.key == "replica.ambiguous"


def test_entries_are_shown_with_names_and_readable_ids(mesh: Mesh, a: Member, b: Member) -> None:
    a.give(b, Role.ADMIN, delegate=1)
    grant = shown(a)[0]
    assert grant == {
        "grant": str(GrantId(grant_id(b.grant))),
        "issuer": text(a),
        "subject": text(b),
        "roles": ["admin"],
        "scope": "mesh",
        "delegate": 1,
        "not_before_ms": START_MS - 1000,
        "not_after_ms": START_MS + YEAR_MS,
        "parent": str(GrantId(a.parent)),
    }
    first = queries.show(a.engine, queries.log(a.engine, None, NEWEST, 9)[-1].hash)
    assert first is not None
    assert msgspec.json.decode(first.entries[0].body)["issuer"] == str(MeshId(mesh.id))
    cut = a.last()
    a.write(
        AnnounceEntry("gateway", ("10.0.0.1:7700",), "x0t 1"),
        RevokeEntry(a.id, (Role.BILLING,), cut.batch.seq, cut.hash, "not needed"),
        CheckpointEntry(epoch=1, horizon=START_MS << 16, count=0, digest=bytes(32)),
        ThawEntry(b.id, cut.hash, "why"),
        raw=[("future", b"\x82\x01\x41\xff"), ("future", b"\xff"), ("grant", b"\x80")],
    )
    assert shown(a) == [
        {"name": "gateway", "endpoints": ["10.0.0.1:7700"], "software": "x0t 1"},
        {
            "target": text(a),
            "roles": ["billing"],
            "cut_seq": cut.batch.seq,
            "cut": str(BatchHash(cut.hash)),
            "reason": "not needed",
        },
        {"epoch": 1, "horizon": "2023-11-14T22:13:20.000Z#0", "batches": 0, "digest": "00" * 32},
        {"author": text(b), "keep": str(BatchHash(cut.hash)), "reason": "why"},
        [1, "ff"],
        {"unreadable": "ff"},
        {"unreadable": "80"},
    ]
    a.tag(b, "robot")
    change = shown(a)[0]
    assert isinstance(change, dict)
    assert (change["document"], change["set"], change["delete"]) == ("nodes", {f"{text(b)}/tag/robot": True}, [])


def shown(node: Member) -> list[object]:
    view = queries.show(node.engine, node.last().hash)
    assert view is not None
    return [msgspec.json.decode(entry.body) for entry in view.entries]


def test_an_entry_says_why_it_has_no_effect(a: Member, b: Member) -> None:
    a.give(b, Role.MEMBER)
    b.pull(a)
    b.write(RevokeEntry(a.id, (), 0, None, ""), AnnounceEntry("robot", (), ""))
    a.pull(b)
    view = queries.show(a.engine, b.last().hash)
    assert view is not None
    assert [entry.reason for entry in view.entries] == ["grant.role", None]
    assert [(row.kind, row.reason) for row in queries.no_effect(a.engine, 9)] == [("revoke", "grant.role")]
    assert queries.no_effect(a.engine, 0) == []


# -- nodes and grants


def test_members_have_the_roles_that_are_in_force_now(mesh: Mesh, a: Member, b: Member) -> None:
    a.give(b, Role.ADMIN, Role.OPERATOR)
    a.say("gateway")
    a.tag(b, "red")
    a.tag(b, "blue")
    a.edit({f"{text(b)}/name": "arm"})
    every = tuple(sorted(role.value for role in Role))
    expected = [
        NodeView(a.id, "gateway", every, (), ("10.0.0.1:7700",), "x0t 1", False),
        NodeView(b.id, "arm", ("admin", "member", "operator"), ("blue", "red"), (), "", False),
    ]
    assert membership.members(a.engine, mesh.now_ms) == sorted(expected, key=lambda view: view.node)
    assert {node: held.tags for node, held in membership.settings(a.engine).items()} == {b.id: ("blue", "red")}
    assert membership.names(a.engine) == {b.id: "arm"}
    assert [row.name for row in membership.nodes(a.engine)] == ["gateway"]
    assert [row.reason for row in queries.grants(a.engine, mesh.now_ms) if row.subject == b.id] == [""]
    assert {row.reason for row in queries.grants(a.engine, mesh.now_ms + YEAR_MS)} == {"expired"}
    a.revoke(b)
    assert [view.roles for view in membership.members(a.engine, mesh.now_ms) if view.node == b.id] == [()]
    assert [row.reason for row in queries.grants(a.engine, mesh.now_ms) if row.subject == b.id] == ["revoked"]


# -- conflicts


def test_a_replica_without_trouble_has_no_conflicts(a: Member) -> None:
    a.say("gateway")
    assert queries.conflicts(a.engine, a.id) == []


def test_concurrent_values_show_what_won_and_what_lost(a: Member, b: Member) -> None:
    a.give(b, Role.ADMIN)
    b.pull(a)
    a.edit({f"{text(b)}/name": "arm"})
    b.edit({f"{text(b)}/name": "leg"})
    a.pull(b)
    (found,) = queries.conflicts(a.engine, a.id)
    assert (found.kind, found.subject) == ("value", f"nodes {text(b)}/name")
    assert sorted([found.winner, *found.losers]) == ['"arm"', '"leg"']
    assert "concurrently" in found.reason
    b.pull(a)
    assert queries.conflicts(b.engine, b.id) == [found]
    a.edit({f"{text(b)}/name": "settled"})
    assert queries.conflicts(a.engine, a.id) == []


def test_a_forked_log_says_what_to_do_and_how_it_was_decided(mesh: Mesh, a: Member, b: Member) -> None:
    """A clone of b's disk went on writing."""
    a.give(b, Role.MEMBER)
    b.pull(a)
    clone = mesh.member("clone")
    clone.key, clone.id = b.key, b.id
    clone.pull(a)
    b.say("the real one")
    clone.say("the clone")
    kept, other = b.last().hash, clone.last().hash
    a.pull(b, clone)
    b.pull(clone)
    proofs = tuple(str(BatchHash(digest)) for digest in sorted([kept, other]))
    (seen,) = queries.conflicts(a.engine, a.id)
    assert seen == ConflictView("fork", text(b), "", proofs, queries.FORK_REASON.format(seq=1))
    (own,) = queries.conflicts(b.engine, b.id)
    assert "A restored backup or a cloned disk looks like this: stop the other copy" in own.reason
    assert [view.frozen for view in membership.members(a.engine, mesh.now_ms) if view.node == b.id] == [True]
    a.write(ThawEntry(b.id, kept, "the one in hall 2"))
    (decided,) = queries.conflicts(a.engine, a.id)
    assert (decided.winner, decided.losers) == (str(BatchHash(kept)), proofs)
    assert "an owner decided" in decided.reason
    clone.engine.close()


def test_a_revocation_that_lost_shows_what_stands_against_it(mesh: Mesh, a: Member, b: Member) -> None:
    a.give(b, Role.OWNER, delegate=1)
    b.pull(a)
    a.revoke(b)
    b.revoke(a)
    lost, won = b.last().hash, a.last().hash
    a.pull(b)
    (found,) = queries.conflicts(a.engine, a.id)
    assert (found.kind, found.subject) == ("revocation", text(a))
    assert (found.winner, found.losers) == (str(BatchHash(won)), (str(BatchHash(lost)),))
    assert found.reason


# -- on the event loop


async def test_queries_answer_beside_the_writer(mesh: Mesh) -> None:
    a = await asyncio.to_thread(mesh.founder, "a")
    async with Replica(a.engine, Writer(a.id, a.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        ask = Queries(replica)
        before = await ask.status()
        assert (before.mesh, before.batches, before.authors, before.epoch) == (mesh.id, 1, 1, 0)
        assert before.vector == replica.vector.digest()
        assert before.log_bytes > 4096
        assert (await ask.status()).digest == before.digest
        receipt = await replica.append([make(AnnounceEntry("gateway", (), "")), ("future", b"\x80")])
        await replica.receive([b"garbage"])
        after = await ask.status()
        assert after.digest != before.digest
        assert (after.batches, after.no_effect, after.refused) == (2, 1, {"batch.malformed": 1})
        assert [line.hash for line in await ask.log(None, 1)] == [receipt.hash]
        shown = await ask.show(receipt.hash)
        assert shown is not None
        assert [row.reason for row in await ask.no_effect()] == ["unknown"]
        assert await ask.conflicts() == []
        assert [row.name for row in await ask.nodes()] == ["gateway"]
        assert [view.node for view in await ask.members()] == [a.id]
        assert len(await ask.grants()) == 1
        assert await ask.names() == {}
