"""Archives: what a file holds and proves, what is freed here, and what any other bytes in its place are answered."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Callable, Generator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import IO, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.errors import DeniedError, IntegrityError, StateError, UnavailableError, X0tError
from appliance.replica import archive as archive_module
from appliance.replica.archive import archive, export
from appliance.replica.archive_check import import_, verify_files
from appliance.replica.archive_format import MAGIC, ArchiveReader, ArchiveWriter, Header
from appliance.replica.entries import CheckpointEntry
from appliance.replica.epochs import covered_digest
from appliance.replica.maintenance import rebuild, verify
from appliance.replica.queries import state_digest
from appliance.replica.reports import ArchiveReport, Imported, Moved, Progress
from appliance.replica.service import Replica, Writer
from appliance.replica.stores import START
from appliance.storage.archive_file import ArchiveFile
from appliance.trust.grants import Role
from tests.mesh_rig import Member, Mesh

class Knows:
    """A peer that has nothing."""

    gaps = None

    def __call__(self, _author: bytes, _seq: int, _digest: bytes) -> bool:
        return False


R = TypeVar("R")


def result(work: Generator[Progress | R, None, None]) -> R:
    *_, last = work
    assert not isinstance(last, Progress)
    return last


def checkpoint(node: Member, horizon: int | None = None) -> None:
    horizon = node.engine.max_hlc if horizon is None else horizon
    covered = node.engine.covered(horizon)
    entry = CheckpointEntry(
        epoch=node.engine.epoch() + 1, horizon=horizon, count=len(covered), digest=covered_digest(covered.values())
    )
    assert [effect.reason for effect in node.write(entry)] == [None]


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
    checkpoint(busy)
    busy.say("after the epoch")
    moved = result(archive(busy.engine, file, 1, busy.mesh.by.mldsa_verify))
    assert moved.batches == covered + 1  # and the checkpoint itself
    report = checked(busy.mesh, file)
    assert (report.epoch, report.after, report.batches, report.faults) == (1, 0, covered + 1, ())


def test_only_what_is_in_the_file_and_gives_no_authority_is_freed(busy: Member, file: ArchiveFile) -> None:
    checkpoint(busy)
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
    checkpoint(busy)
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
    checkpoint(busy)
    result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    busy.restart()
    page = busy.engine.page(START, Knows(), 1 << 30)
    assert page.archived_epoch == 1
    assert len(page.blobs) == busy.view.size() - 20
    fresh = mesh.member("fresh")
    taken = fresh.take(page.blobs)
    assert taken.refused == ()
    missing = taken.wanted
    assert missing
    assert {blob for _, blob in busy.engine.blobs(missing)} == {None}  # these cannot be had from this peer
    reader = ArchiveReader(io.BytesIO(file.path.read_bytes()))
    fresh.take([blob for _, blob in reader])
    assert len(fresh.engine.parking) == 0
    assert state_digest(fresh.view) == state_digest(busy.view)
    assert fresh.engine.page(START, Knows(), 1 << 30).archived_epoch is None


def test_a_second_archive_follows_on_the_first(busy: Member, file: ArchiveFile, mesh: Mesh, tmp_path: Path) -> None:
    checkpoint(busy)
    result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    for number in range(5):
        busy.say(f"next epoch {number}")
    checkpoint(busy)
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
    checkpoint(b)
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
    checkpoint(busy, horizon)
    moved = result(archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    assert moved.removed == 20
    assert checked(mesh, file).faults == ()


def test_nothing_is_freed_if_the_file_does_not_read_back(busy: Member, file: ArchiveFile, mesh: Mesh) -> None:
    """A disk that lies, or a batch that was damaged in the log before it came to be archived."""
    checkpoint(busy)
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
    checkpoint(busy)
    work = archive(busy.engine, file, 1, mesh.by.mldsa_verify)
    while busy.log.archived_epoch() == 0:
        next(work)
    work.close()
    busy.restart()
    left = 20 - (busy.log.last_arrival() - busy.log.signed_up_to(1000))
    assert 0 < left < 20
    assert result(archive(busy.engine, file, 1, mesh.by.mldsa_verify)).removed == left
    assert result(archive(busy.engine, file, 1, mesh.by.mldsa_verify)).removed == 0


# -- import


async def test_an_import_brings_a_fresh_replica_to_the_same_state(busy: Member, file: ArchiveFile, mesh: Mesh) -> None:
    digest = state_digest(busy.view)
    batches = busy.view.size()
    await asyncio.to_thread(result, export(busy.engine, file))
    busy.engine.close()
    fresh = await asyncio.to_thread(mesh.member, "fresh")
    async with Replica(fresh.engine, Writer(fresh.id, fresh.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        async with aclosing(import_(replica, file)) as work:
            steps = [step async for step in work]
        assert steps[-1] == Imported(path=file.name, batches=batches, new=batches, waiting=0, refused={})
        assert await replica.run(lambda engine: state_digest(engine.view)) == digest
        async with aclosing(import_(replica, file)) as work:
            again = [step async for step in work][-1]
        assert again == Imported(path=file.name, batches=batches, new=0, waiting=0, refused={})


async def test_the_file_of_another_mesh_is_refused_whole(
    busy: Member, file: ArchiveFile, mesh: Mesh, tmp_path: Path
) -> None:
    await asyncio.to_thread(result, export(busy.engine, file))
    busy.engine.close()
    elsewhere = Mesh(tmp_path, by=mesh.by, authority="another authority")
    node = await asyncio.to_thread(elsewhere.founder, "x")
    async with Replica(node.engine, Writer(node.id, node.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        with pytest.raises(DeniedError) as failed:
            async with aclosing(import_(replica, file)) as work:
                async for _ in work:
                    pass
        assert failed.value.key == "archive.mesh"
        assert await replica.run(lambda engine: engine.view.size()) == 1


async def test_a_later_archive_alone_says_which_one_is_needed_first(
    busy: Member, file: ArchiveFile, mesh: Mesh, tmp_path: Path
) -> None:
    checkpoint(busy)
    await asyncio.to_thread(result, archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    busy.say("next epoch")
    checkpoint(busy)
    second = ArchiveFile(tmp_path / "two.x0t")
    await asyncio.to_thread(result, archive(busy.engine, second, 2, mesh.by.mldsa_verify))
    digest = state_digest(busy.view)
    busy.engine.close()
    fresh = await asyncio.to_thread(mesh.member, "fresh")
    async with Replica(fresh.engine, Writer(fresh.id, fresh.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        with pytest.raises(StateError) as failed:
            async with aclosing(import_(replica, second)) as work:
                async for _ in work:
                    pass
        assert failed.value.key == "archive.earlier"
        for one in (file, second):
            async with aclosing(import_(replica, one)) as work:
                async for _ in work:
                    pass
        assert await replica.run(lambda engine: state_digest(engine.view)) == digest


# -- files that are not what they say


def made(mesh: Mesh, blobs: list[bytes], **changes: object) -> bytes:
    """An archive of these blobs, whatever they are, with a true digest."""
    fields: dict[str, object] = {
        "mesh": mesh.id,
        "authority_key": mesh.authority.public_key,
        "channel": "control",
        "epoch": 0,
        "after": 0,
        "count": len(blobs),
    }
    out = io.BytesIO()
    writer = ArchiveWriter(out, Header(**(fields | changes)))  # type: ignore[arg-type]  # tests give wrong ones too
    for blob in blobs:
        writer.add(blob)
    writer.finish()
    return out.getvalue()


def report_of(mesh: Mesh, data: bytes) -> ArchiveReport:
    return result(verify_files([io.BytesIO(data)], mesh.by.mldsa_verify))


def test_a_batch_that_is_forged_left_out_or_out_of_order_is_a_fault(busy: Member) -> None:
    blobs = [busy.log.blob(row.arrival) or b"" for row in busy.view.from_position(START, 1000)]
    mesh = busy.mesh
    assert report_of(mesh, made(mesh, blobs)).faults == ()
    forged = blobs[5][:-1] + bytes([blobs[5][-1] ^ 1])
    cases: list[tuple[list[bytes], str]] = [
        ([*blobs[:5], forged, *blobs[6:]], "batch number 6: Batch"),
        ([*blobs[:5], *blobs[6:]], "replica.not_found"),
        ([*blobs[1:]], "batch number 1"),
        ([blobs[1], blobs[0], *blobs[2:]], "batch number 1"),
        ([b"\x80", *blobs], "batch.malformed"),
    ]
    for wrong, named in cases:
        assert named in report_of(mesh, made(mesh, wrong)).faults[0]


def test_an_archive_without_its_checkpoint_or_with_a_changed_content_is_a_fault(
    busy: Member, file: ArchiveFile
) -> None:
    checkpoint(busy)
    result(archive(busy.engine, file, 1, busy.mesh.by.mldsa_verify))
    blobs = [blob for _, blob in ArchiveReader(io.BytesIO(file.path.read_bytes()))]
    mesh = busy.mesh
    assert report_of(mesh, made(mesh, blobs, epoch=1)).faults == ()
    assert "closes the epoch 1" in report_of(mesh, made(mesh, blobs[:-1], epoch=1)).faults[0]
    assert "closes the epoch 2" in report_of(mesh, made(mesh, blobs, epoch=2)).faults[0]


def test_a_checkpoint_whose_digest_is_wrong_closes_nothing(busy: Member, file: ArchiveFile) -> None:
    entry = CheckpointEntry(epoch=1, horizon=busy.engine.max_hlc, count=busy.view.size(), digest=bytes(32))
    assert [effect.reason for effect in busy.write(entry)] == ["checkpoint.digest"]
    busy.restart()
    assert busy.engine.epoch() == 0
    assert [row.reason for row in busy.view.without_effect(9)] == ["checkpoint.digest"]
    result(export(busy.engine, file))
    blobs = [blob for _, blob in ArchiveReader(io.BytesIO(file.path.read_bytes()))]
    assert "closes the epoch 1" in report_of(busy.mesh, made(busy.mesh, blobs, epoch=1)).faults[0]


def test_the_chain_of_trust_begins_at_the_key_that_a_person_names(busy: Member, file: ArchiveFile) -> None:
    result(export(busy.engine, file))
    mesh = busy.mesh
    assert checked(mesh, file, key=mesh.authority.public_key).faults == ()
    with pytest.raises(DeniedError) as failed:
        checked(mesh, file, key=mesh.key("somebody else").public_key)
    assert failed.value.key == "archive.mesh"
    with pytest.raises(DeniedError):
        report_of(mesh, made(mesh, [], authority_key=mesh.key("somebody else").public_key))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda data: b"", "archive.form"),
        (lambda data: b"x0t-archive/2\n" + data[14:], "archive.form"),
        (lambda data: data[: len(MAGIC)] + b"\xff\xff\xff\xff" + data[18:], "archive.damaged"),
        (lambda data: data[:18] + b"\x80" + data[19:], "archive.form"),
        (lambda data: data[:-1], "archive.truncated"),
        (lambda data: data[:-50], "archive.truncated"),
        (lambda data: data + b"more", "archive.damaged"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "archive.damaged"),
    ],
    ids=["empty", "version", "length", "header", "cut by one", "cut by more", "longer", "digest"],
)
def test_a_file_that_is_not_of_the_form_has_a_coded_error(
    busy: Member, change: Callable[[bytes], bytes], key: str
) -> None:
    data = made(busy.mesh, busy.blobs())
    with pytest.raises(X0tError) as failed:
        report_of(busy.mesh, change(data))
    assert failed.value.key == key


def test_a_count_that_is_wrong_is_found(busy: Member) -> None:
    with pytest.raises(StateError) as failed:
        made(busy.mesh, busy.blobs(), count=1)
    assert failed.value.key == "archive.changed"
    whole = made(busy.mesh, [])
    with pytest.raises(IntegrityError):
        report_of(busy.mesh, whole.replace(b"\x00\x00\x00\x00" + whole[-32:], b"\x00\x00\x00\x01x" + whole[-36:]))


@settings(max_examples=300)
@given(data=st.data())
def test_any_flipped_bit_is_caught_and_nothing_but_coded_errors_comes_out(
    small_file: tuple[Mesh, bytes], data: st.DataObject
) -> None:
    mesh, whole = small_file
    at = data.draw(st.integers(0, len(whole) * 8 - 1))
    flipped = bytearray(whole)
    flipped[at // 8] ^= 1 << at % 8
    try:
        faults = report_of(mesh, bytes(flipped)).faults
    except X0tError as err:
        faults = (err.key,)
    assert faults


@given(junk=st.binary(max_size=200))
def test_any_bytes_after_the_beginning_give_a_coded_error(small_file: tuple[Mesh, bytes], junk: bytes) -> None:
    mesh, whole = small_file
    for data in (junk, MAGIC + junk, whole[:2100] + junk):
        with pytest.raises(X0tError):
            report_of(mesh, data)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mesh, bytes]:
    mesh = Mesh(tmp_path_factory.mktemp("small"))
    a = mesh.founder("a")
    a.say("one")
    data = made(mesh, a.blobs())
    a.engine.close()
    return mesh, data
