"""Verify and rebuild: every kind of damage is named, nothing is half done, what is made anew is the same bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from appliance.core.errors import IntegrityError
from appliance.replica.entries import AnnounceEntry, RevokeEntry, ThawEntry, make
from appliance.replica.maintenance import rebuild, stepped, verify
from appliance.replica.queries import state_digest
from appliance.replica.reports import Progress, Rebuilt, Verified
from appliance.replica.service import Replica, Writer
from appliance.storage.log import LogStore
from appliance.storage.migrations import transaction
from appliance.storage.view import ViewStore
from appliance.trust.grants import Role
from tests.mesh_rig import Member, Mesh, result


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def lively(mesh: Mesh) -> Member:
    """A replica in which everything happened: grants, tags, rivals, revocations, a fork and a decision, no effect."""
    a, b, c = mesh.founder("a"), mesh.member("b"), mesh.member("c")
    a.give(b, Role.OWNER, delegate=2)
    a.give(c, Role.MEMBER)
    b.pull(a)
    c.pull(a)
    a.say("first")
    c.say("robot")
    twin = mesh.member("d", lambda: mesh.stores("c-clone"))
    twin.key, twin.id = c.key, c.id
    twin.pull(a)
    twin.say("clone")
    b.tag(c, "red")
    a.tag(c, "blue")
    a.edit({f"{_name(c)}": "one"})
    b.edit({f"{_name(c)}": "two"})
    b.revoke(a, reason="mutual")
    a.revoke(b, reason="mutual")
    a.pull(b, c, twin)
    a.write(ThawEntry(c.id, c.last().hash, "the real one"), raw=[("future", b"\x80"), ("grant", b"\x80")])
    for other in (b, c, twin):
        other.engine.close()
    return a


def _name(node: Member) -> str:
    from appliance.core.ids import NodeId

    return f"{NodeId(node.id)}/name"


def test_a_sound_replica_has_no_faults(lively: Member) -> None:
    found = result(verify(lively.engine, lively.mesh.by.mldsa_verify))
    assert found == Verified(batches=lively.view.size(), archived=0, faults=(), digest=state_digest(lively.view))
    assert found.batches == lively.log.last_arrival()


def test_a_rebuild_gives_the_same_view_bit_by_bit(lively: Member) -> None:
    before = lively.dump()
    found = result(rebuild(lively.engine))
    assert lively.dump() == before
    assert found == Rebuilt(batches=lively.view.size(), before=found.after, after=found.after)
    assert [effect.ok for effect in lively.say("goes on")] == [True]


def test_a_rebuild_mends_what_was_changed_behind_our_back(lively: Member) -> None:
    before = lively.dump()
    tamper(lively, "DELETE FROM no_effect", "UPDATE grants SET roles = '[\"owner\"]'", "DELETE FROM undo")
    assert lively.dump() != before
    result(rebuild(lively.engine))
    assert lively.dump() == before


@pytest.mark.parametrize(
    "statement, named",
    [
        ("UPDATE grants SET roles = '[\"owner\"]'", "grants"),
        ("DELETE FROM no_effect", "no_effect"),
        ("UPDATE batches SET hlc = hlc + 1 WHERE arrival = 2", "batches"),
        ("UPDATE document_values SET value = '\"three\"'", "document_values"),
        ("DELETE FROM undo", "undo"),
    ],
)
def test_a_view_that_does_not_follow_from_the_log_is_found(lively: Member, statement: str, named: str) -> None:
    tamper(lively, statement)
    found = result(verify(lively.engine, lively.mesh.by.mldsa_verify))
    assert named in found.faults[0]
    assert "the view differs from the log" in found.faults[0]


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


@pytest.mark.parametrize(
    "damage, named",
    [
        (lambda blob: flipped(blob, len(blob) - 1), "valid signature"),
        (lambda blob: flipped(blob, 60), "batch"),
        (lambda blob: blob[:-1], "not well formed"),
        (lambda blob: b"", "not well formed"),
    ],
    ids=["signature", "payload", "cut short", "empty"],
)
def test_a_damaged_batch_is_named(lively: Member, damage: Callable[[bytes], bytes], named: str) -> None:
    blob = lively.log.blob(3)
    assert blob is not None
    log = lively.log
    assert isinstance(log, LogStore)
    with transaction(log._db):
        log._db.execute("UPDATE batches SET blob = ? WHERE arrival = 3", (damage(blob),))
    found = result(verify(lively.engine, lively.mesh.by.mldsa_verify))
    assert found.faults
    assert "number 3" in found.faults[0]
    assert named in found.faults[0]


def test_a_batch_that_is_filed_under_another_hash_is_named(lively: Member) -> None:
    log = lively.log
    assert isinstance(log, LogStore)
    with transaction(log._db):
        log._db.execute("UPDATE batches SET hash = ? WHERE arrival = 2", (bytes(32),))
    assert "under another batch's hash" in result(verify(lively.engine, lively.mesh.by.mldsa_verify)).faults[0]


def test_a_batch_that_is_missing_in_the_log_shows_in_what_follows(lively: Member) -> None:
    log = lively.log
    assert isinstance(log, LogStore)
    with transaction(log._db):
        log._db.execute("DELETE FROM batches WHERE arrival = 2")
    assert "does not follow" in result(verify(lively.engine, lively.mesh.by.mldsa_verify)).faults[0]
    with pytest.raises(IntegrityError):
        result(rebuild(lively.engine))
    assert lively.view.size() == lively.log.last_arrival()  # the view is as it was


def test_batches_that_come_meanwhile_are_folded_too(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.replica.maintenance.STEP", 2)
    a = mesh.founder("a")
    for number in range(9):
        a.say(f"name {number}")
    work = rebuild(a.engine)
    for number, step in enumerate(work):
        if isinstance(step, Rebuilt):
            assert step.batches == a.log.last_arrival()
            assert step.before == step.after, "both are of the same batches"
        elif number < 3:
            a.say(f"meanwhile {number}")
    assert a.view.size() == a.log.last_arrival() == 13
    check = verify(a.engine, mesh.by.mldsa_verify)
    next(check)
    a.say("while verifying")
    assert result(check).faults == ()


def test_work_that_is_given_up_leaves_nothing(lively: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.replica.maintenance.STEP", 2)
    before = lively.dump()
    for work in (rebuild(lively.engine), verify(lively.engine, lively.mesh.by.mldsa_verify)):
        next(iter(work))
        assert list(lively.mesh.directory.rglob("*.scratch"))
        work.close()
    assert not list(lively.mesh.directory.rglob("*.scratch*"))
    assert lively.dump() == before


def test_a_view_that_was_lost_is_made_anew_at_the_start(lively: Member) -> None:
    before = lively.dump()
    lively.engine.close()
    for path in lively.mesh.directory.rglob("a/view.db*"):
        path.unlink()
    lively.start()
    assert lively.dump() == before


def test_a_rebuild_replaces_a_view_whose_pages_are_damaged(lively: Member) -> None:
    before = lively.dump()
    view = lively.view
    assert isinstance(view, ViewStore)
    root = view._db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'no_effect'").get
    size = view._db.pragma("page_size")
    assert isinstance(root, int)
    assert isinstance(size, int)
    lively.engine.close()
    with (lively.mesh.directory / "a" / "view.db").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    lively.start()
    assert "damaged" in result(verify(lively.engine, lively.mesh.by.mldsa_verify)).faults[0]
    found = result(rebuild(lively.engine))
    assert (found.before, lively.dump()) == (b"", before)
    assert result(verify(lively.engine, lively.mesh.by.mldsa_verify)).faults == ()


def test_a_log_from_a_backup_beside_a_newer_view_is_folded_anew(mesh: Mesh, tmp_path: Path) -> None:
    a = mesh.founder("a")
    for number in range(3):
        a.say(f"before {number}")
    wanted = a.dump()
    a.engine.close()
    backup = (tmp_path / "a" / "log.db").read_bytes()
    a.start()
    for number in range(3):
        a.say(f"after {number}")
    a.engine.close()
    (tmp_path / "a" / "log.db").write_bytes(backup)
    a.start()
    assert a.dump() == wanted
    assert [effect.ok for effect in a.say("other")] == [True]
    a.restart()
    assert result(verify(a.engine, mesh.by.mldsa_verify)).faults == ()


def test_members_stay_members_while_the_engine_loads_again(
    mesh: Mesh, lively: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild or a recovery must not make this node turn its peers away."""
    seen: list[tuple[bool, bool]] = []
    read = lively.view.marks

    def ask_meanwhile() -> object:
        holds = lively.engine.holds(lively.id, Role.OWNER, mesh.now_ms)
        seen.append((holds, lively.engine.key_of(lively.id) == lively.key.public_key))
        return read()

    monkeypatch.setattr(lively.view, "marks", ask_meanwhile)
    result(rebuild(lively.engine))
    assert seen == [(True, True)]


async def test_long_work_runs_in_steps_beside_the_writer(
    mesh: Mesh, lively: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.replica.maintenance.STEP", 2)
    writer = Writer(lively.id, lively.key.sign, mesh.tick)
    async with Replica(lively.engine, writer, mesh.by.mldsa_verify) as replica:
        steps: list[Progress | Rebuilt] = []
        async with aclosing(stepped(replica, rebuild)) as work:
            async for step in work:
                steps.append(step)
                if len(steps) == 1:
                    receipt = await replica.append([make(AnnounceEntry("between", (), ""))])
                    assert [effect.ok for effect in receipt.effects] == [True]
        done = steps[-1]
        assert isinstance(done, Rebuilt)
        assert done.batches == await replica.run(lambda engine: engine.log.last_arrival())
        async with aclosing(stepped(replica, lambda engine: verify(engine, mesh.by.mldsa_verify))) as check:
            async for progress in check:
                assert isinstance(progress, Progress)
                break
        left = await replica.run(lambda _engine: list(mesh.directory.rglob("*.scratch")))
        assert left == []


def tamper(node: Member, *statements: str) -> None:
    view = node.view
    assert isinstance(view, ViewStore)
    for statement in statements:
        with transaction(view._db):
            view._db.execute(statement)


def test_a_revocation_of_an_empty_log_is_no_trouble(mesh: Mesh) -> None:
    """A cut of nothing, and a log of one batch."""
    a = mesh.founder("a")
    b = mesh.member("b")
    a.give(b, Role.MEMBER)
    a.write(RevokeEntry(b.id, (), 0, None, ""))
    assert result(verify(a.engine, mesh.by.mldsa_verify)).faults == ()
