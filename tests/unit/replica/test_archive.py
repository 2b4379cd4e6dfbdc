"""Archives: what a file holds and proves, what is freed here, and how another node takes it in."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from appliance.core.errors import IntegrityError, StateError, UnavailableError, X0tError
from appliance.replica import archive as archive_module
from appliance.replica.archive import archive, export
from appliance.replica.archive_check import verify_files
from appliance.replica.archive_format import ArchiveReader
from appliance.replica.maintenance import rebuild, verify
from appliance.replica.paging import read_batches, read_page
from appliance.replica.queries import state_digest
from appliance.replica.reports import ArchiveReport, Moved
from appliance.replica.stores import START
from appliance.storage.archive_file import ArchiveFile
from appliance.trust.grants import Role
from tests.mesh_rig import Member, Mesh, result


class Knows:
    """A peer that has nothing."""

    gaps = None

    def __call__(self, _author: bytes, _seq: int, _digest: bytes) -> bool:
        return False


def checked(mesh: Mesh, *files: ArchiveFile, key: bytes | None = None) -> ArchiveReport:
    return result(verify_files([io.BytesIO(file.path.read_bytes()) for file in files], mesh.by.mldsa_verify, key))


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> ArchiveFile:
    return ArchiveFile(tmp_path / "one.x0t")


@pytest.fixture
def busy(mesh: Mesh) -> Member:
    """A founder, two members that wrote, a tag, and no checkpoint yet."""
    a, b, c = mesh.founder("a"), mesh.member("b"), mesh.member("c")
    a.give(b, Role.ADMIN, delegate=1)
    a.give(c, Role.MEMBER)
    for node in (b, c):
        node.pull(a)
    for number in range(10):
        c.say(f"robot {number}")
        b.say(f"gateway {number}")
    b.tag(c, "red")
    a.pull(b, c)
    for node in (b, c):
        node.engine.close()
    return a


# -- export


def test_an_export_holds_every_batch_in_fold_order_and_verifies(busy: Member, file: ArchiveFile) -> None:
    moved = result(export(busy.engine, file))
    size = file.path.stat().st_size
    assert moved == Moved(path=file.name, batches=busy.view.size(), size_bytes=size, removed=0)
    assert file.path.stat().st_mode & 0o777 == 0o600
    reader = ArchiveReader(io.BytesIO(file.path.read_bytes()))
    order = [busy.log.blob(row.arrival) for row in busy.view.from_position(START, 1000)]
    assert [blob for _, blob in reader] == order
    report = checked(busy.mesh, file)
    assert report == ArchiveReport(
        mesh=busy.mesh.id,
        authority_key=busy.mesh.authority.public_key,
        epoch=0,
        after=0,
        batches=busy.view.size(),
        authors=3,
        digest=hashlib.sha256(file.path.read_bytes()[:-32]).digest(),
        faults=(),
    )


def test_the_same_log_gives_the_same_file(busy: Member, file: ArchiveFile, tmp_path: Path) -> None:
    other = ArchiveFile(tmp_path / "two.x0t")
    result(export(busy.engine, file))
    result(export(busy.engine, other))
    assert file.path.read_bytes() == other.path.read_bytes()


def test_what_arrives_during_an_export_is_not_in_it(
    busy: Member, file: ArchiveFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "STEP", 4)
    batches = busy.view.size()
    for number, _ in enumerate(export(busy.engine, file)):
        if number < 3:
            busy.say(f"meanwhile {number}")
    assert busy.view.size() == batches + 3
    assert checked(busy.mesh, file).batches == batches


def test_a_file_is_never_overwritten_and_half_a_file_never_appears(busy: Member, file: ArchiveFile) -> None:
    work = export(busy.engine, file)
    next(work)
    assert not file.exists()
    work.close()
    assert list(file.path.parent.glob("*.x0t*")) == []
    result(export(busy.engine, file))
    with pytest.raises(StateError) as failed:
        result(export(busy.engine, file))
    assert failed.value.key == "archive.exists"


def test_a_place_that_cannot_be_written_is_a_coded_error(busy: Member, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as failed:
        result(export(busy.engine, ArchiveFile(tmp_path / "nowhere" / "x.x0t")))
    assert failed.value.key == "archive.write"
    with pytest.raises(X0tError) as wrong, ArchiveFile(tmp_path).open():
        pass
    assert wrong.value.key == "archive.write"


def test_two_writers_never_share_a_file(busy: Member, file: ArchiveFile) -> None:
    first = export(busy.engine, file)
    next(first)
    with pytest.raises(UnavailableError):
        result(export(busy.engine, file))
    assert result(first).batches == busy.view.size()
    assert checked(busy.mesh, file).faults == ()


# -- archive


def test_an_archive_holds_what_the_checkpoint_covers_and_its_proof(busy: Member, file: ArchiveFile) -> None:
    covered = busy.view.size()
    busy.close_epoch()
    busy.say("after the epoch")
    moved = result(archive(busy.engine, file, 1, busy.mesh.by.mldsa_verify))
    assert moved.batches == covered + 1  # and the checkpoint itself
    report = checked(busy.mesh, file)
    assert (report.epoch, report.after, report.batches, report.faults) == (1, 0, covered + 1, ())


def test_only_what_is_in_the_file_and_gives_no_authority_is_freed(busy: Member, file: ArchiveFile) -> None:
    busy.close_epoch()
    busy.say("after the epoch")
    before = busy.dump()
    moved = result(archive(busy.engine, file, 1, busy.mesh.by.mldsa_verify))
    kept = {
        kind
        for row in busy.view.from_position(START, 1000)
        if busy.log.blob(row.arrival) is not None
        for kind, _ in busy.engine.read(row.arrival).batch.entries
    }
    freed = [row for row in busy.view.from_position(START, 1000) if busy.log.blob(row.arrival) is None]
    assert len(freed) == moved.removed == 20  # what the two members announced
    assert kept == {"grant", "change", "checkpoint", "announce"}
    assert busy.dump() == before


def test_a_replica_that_archived_works_on_as_before(busy: Member, file: ArchiveFile, mesh: Mesh) -> None:
    """Start, rebuild, verify, and a batch that lands in the past: all of these read archived batches again."""
    busy.close_epoch()
    digest = state_digest(busy.view)
    result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    before = busy.dump()
    busy.restart()
    assert busy.dump() == before
    assert result(rebuild(busy.engine)).after == digest
    assert busy.dump() == before
    found = result(verify(busy.engine, mesh.by.mldsa_verify))
    assert (found.archived, found.faults) == (20, ())
    for path in (mesh.directory / "a").glob("view.db*"):
        busy.engine.close()
        path.unlink(missing_ok=True)
    busy.start()
    assert busy.dump() == before
    c = mesh.member("c")  # wrote this long ago, beyond what the checkpoint's author had seen
    now, mesh.now_ms = mesh.now_ms, mesh.now_ms - 60
    c.say("late")
    mesh.now_ms = now
    busy.pull(c)
    assert [row.reason for row in busy.view.without_effect(9)] == ["late"]
    assert result(verify(busy.engine, mesh.by.mldsa_verify)).faults == ()
    assert [effect.ok for effect in busy.say("goes on")] == [True]


def test_a_fresh_replica_needs_the_archive_and_then_is_equal(busy: Member, file: ArchiveFile, mesh: Mesh) -> None:
    busy.close_epoch()
    result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    busy.restart()
    page = read_page(busy.engine.log, busy.engine.view, START, Knows(), 1 << 30)
    assert page.archived_epoch == 1
    assert len(page.blobs) == busy.view.size() - 20
    fresh = mesh.member("fresh")
    taken = fresh.take(page.blobs)
    assert taken.refused == ()
    missing = taken.wanted
    assert missing
    found = read_batches(busy.engine.log, busy.engine.view, missing)
    assert {blob for _, blob in found} == {None}  # these cannot be had from this peer
    reader = ArchiveReader(io.BytesIO(file.path.read_bytes()))
    fresh.take([blob for _, blob in reader])
    assert len(fresh.engine.parking) == 0
    assert state_digest(fresh.view) == state_digest(busy.view)
    assert read_page(fresh.engine.log, fresh.engine.view, START, Knows(), 1 << 30).archived_epoch is None


def test_a_second_archive_follows_on_the_first(busy: Member, file: ArchiveFile, mesh: Mesh, tmp_path: Path) -> None:
    busy.close_epoch()
    result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    for number in range(5):
        busy.say(f"next epoch {number}")
    busy.close_epoch()
    second = ArchiveFile(tmp_path / "two.x0t")
    moved = result(archive(busy.engine, second, 2, mesh.by.mldsa_verify))
    assert moved.removed == 5
    with pytest.raises(StateError) as failed:
        checked(mesh, second)
    assert failed.value.key == "archive.earlier"
    report = checked(mesh, file, second)
    assert (report.epoch, report.after, report.faults) == (2, 1, ())
    with pytest.raises(StateError) as again:
        result(archive(busy.engine, ArchiveFile(tmp_path / "three.x0t"), 1, mesh.by.mldsa_verify))
    assert again.value.key == "archive.epoch"


def test_an_epoch_that_no_checkpoint_closed_is_not_archived(busy: Member, file: ArchiveFile) -> None:
    with pytest.raises(StateError) as failed:
        result(archive(busy.engine, file, 1, busy.mesh.by.mldsa_verify))
    assert (failed.value.key, file.exists()) == ("archive.checkpoint", False)


def test_a_checkpoint_that_lost_its_force_is_not_archived(busy: Member, file: ArchiveFile, mesh: Mesh) -> None:
    b = mesh.member("o")
    busy.give(b, Role.OWNER)
    b.pull(busy)
    b.close_epoch()
    busy.revoke(b, reason="before it was seen")
    busy.pull(b)
    with pytest.raises(StateError) as failed:
        result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    assert failed.value.key == "archive.checkpoint"


def test_a_checkpoint_with_an_older_horizon_archives_only_what_is_older(
    busy: Member, file: ArchiveFile, mesh: Mesh
) -> None:
    horizon = busy.engine.max_hlc
    for number in range(4):
        busy.say(f"younger {number}")
    busy.close_epoch(horizon)
    moved = result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    assert moved.removed == 20
    assert checked(mesh, file).faults == ()


def test_nothing_is_freed_if_the_file_does_not_read_back(busy: Member, file: ArchiveFile, mesh: Mesh) -> None:
    """A disk that lies, or a batch that was damaged in the log before it came to be archived."""
    busy.close_epoch()
    before = busy.blobs()
    with pytest.raises(IntegrityError) as failed:
        result(archive(busy.engine, file, 1, lambda *_: False))
    assert failed.value.key == "archive.unverified"
    file.path.unlink()

    class Lying(ArchiveFile):
        @contextmanager
        def open(self) -> Iterator[IO[bytes]]:
            data = bytearray(self.path.read_bytes())
            data[-40] ^= 1
            yield io.BytesIO(bytes(data))

    with pytest.raises(IntegrityError):
        result(archive(busy.engine, Lying(file.path), 1, mesh.by.mldsa_verify))
    assert busy.blobs() == before
    assert busy.log.archived_epoch() == 0


def test_an_interrupted_pruning_goes_on_with_the_same_file(
    busy: Member, file: ArchiveFile, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "PRUNE_STEP", 6)
    busy.close_epoch()
    work = archive(busy.engine, file, 1, mesh.by.mldsa_verify)
    while busy.log.archived_epoch() == 0:
        next(work)
    work.close()
    busy.restart()
    left = 20 - (busy.log.last_arrival() - busy.log.signed_up_to(1000))
    assert 0 < left < 20
    assert result(archive(busy.engine, file, 1, mesh.by.mldsa_verify)).removed == left
    assert result(archive(busy.engine, file, 1, mesh.by.mldsa_verify)).removed == 0
