"""Reading archives: into a replica, and files that are forged, incomplete, damaged or of any other bytes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.core.errors import DeniedError, IntegrityError, StateError, X0tError
from appliance.replica.archive import archive, export
from appliance.replica.archive_check import import_, verify_files
from appliance.replica.archive_format import MAGIC, ArchiveReader, ArchiveWriter, Header
from appliance.replica.entries import CheckpointEntry
from appliance.replica.queries import state_digest
from appliance.replica.reports import ArchiveReport, Imported, Progress
from appliance.replica.service import Replica, Writer
from appliance.replica.stores import START
from appliance.storage.archive_file import ArchiveFile
from appliance.trust.grants import Role
from tests.mesh_rig import Member, Mesh, result


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> ArchiveFile:
    return ArchiveFile(tmp_path / "one.x0t")


@pytest.fixture
def busy(mesh: Mesh) -> Member:
    """A founder and a member that wrote."""
    a, b = mesh.founder("a"), mesh.member("b")
    a.give(b, Role.MEMBER)
    b.pull(a)
    for number in range(5):
        b.say(f"robot {number}")
    a.pull(b)
    b.engine.close()
    return a


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
    busy.close_epoch()
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
    assert busy.engine.authority.epoch() == 0
    assert [row.reason for row in busy.view.without_effect(9)] == ["checkpoint.digest"]
    result(export(busy.engine, file))
    blobs = [blob for _, blob in ArchiveReader(io.BytesIO(file.path.read_bytes()))]
    assert "closes the epoch 1" in report_of(busy.mesh, made(busy.mesh, blobs, epoch=1)).faults[0]


def test_the_chain_of_trust_begins_at_the_key_that_a_person_names(busy: Member, file: ArchiveFile) -> None:
    result(export(busy.engine, file))
    mesh, data = busy.mesh, file.path.read_bytes()
    assert result(verify_files([io.BytesIO(data)], mesh.by.mldsa_verify, mesh.authority.public_key)).faults == ()
    with pytest.raises(DeniedError) as failed:
        result(verify_files([io.BytesIO(data)], mesh.by.mldsa_verify, mesh.key("somebody else").public_key))
    assert failed.value.key == "archive.mesh"
    with pytest.raises(DeniedError):
        report_of(mesh, made(mesh, [], authority_key=mesh.key("somebody else").public_key))


@pytest.mark.parametrize(
    "change, key",
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


# -- into a replica


async def taken_in(replica: Replica, file: ArchiveFile) -> Progress | Imported:
    async with aclosing(import_(replica, file)) as work:
        return [step async for step in work][-1]


async def test_an_import_brings_a_fresh_replica_to_the_same_state(busy: Member, file: ArchiveFile, mesh: Mesh) -> None:
    digest = state_digest(busy.view)
    batches = busy.view.size()
    await asyncio.to_thread(result, export(busy.engine, file))
    busy.engine.close()
    fresh = await asyncio.to_thread(mesh.member, "fresh")
    async with Replica(fresh.engine, Writer(fresh.id, fresh.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        assert await taken_in(replica, file) == Imported(
            path=file.name, batches=batches, new=batches, waiting=0, refused={}
        )
        assert await replica.run(lambda engine: state_digest(engine.view)) == digest
        assert await taken_in(replica, file) == Imported(path=file.name, batches=batches, new=0, waiting=0, refused={})


async def test_the_file_of_another_mesh_is_refused_whole(
    busy: Member, file: ArchiveFile, mesh: Mesh, tmp_path: Path
) -> None:
    await asyncio.to_thread(result, export(busy.engine, file))
    busy.engine.close()
    elsewhere = Mesh(tmp_path, by=mesh.by, authority="another authority")
    node = await asyncio.to_thread(elsewhere.founder, "x")
    async with Replica(node.engine, Writer(node.id, node.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        with pytest.raises(DeniedError) as failed:
            await taken_in(replica, file)
        assert failed.value.key == "archive.mesh"
        assert await replica.run(lambda engine: engine.view.size()) == 1


async def test_a_later_archive_alone_says_which_one_is_needed_first(
    busy: Member, file: ArchiveFile, mesh: Mesh, tmp_path: Path
) -> None:
    busy.close_epoch()
    await asyncio.to_thread(result, archive(busy.engine, file, 1, mesh.by.mldsa_verify))
    busy.say("next epoch")
    busy.close_epoch()
    second = ArchiveFile(tmp_path / "two.x0t")
    await asyncio.to_thread(result, archive(busy.engine, second, 2, mesh.by.mldsa_verify))
    digest = state_digest(busy.view)
    busy.engine.close()
    fresh = await asyncio.to_thread(mesh.member, "fresh")
    async with Replica(fresh.engine, Writer(fresh.id, fresh.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        with pytest.raises(StateError) as failed:
            await taken_in(replica, second)
        assert failed.value.key == "archive.earlier"
        for one in (file, second):
            await taken_in(replica, one)
        assert await replica.run(lambda engine: state_digest(engine.view)) == digest
