"""Archiving when something changes underneath it: nothing is freed that the file does not prove."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.core.errors import X0tError
from appliance.replica import archive as archive_module
from appliance.replica import archive_check
from appliance.replica.archive import archive, export
from appliance.replica.archive_check import import_, verify_files
from appliance.replica.archive_format import ArchiveWriter, Header
from appliance.replica.reports import Imported
from appliance.replica.service import Replica, Writer
from appliance.storage.archive_file import ArchiveFile
from appliance.trust.grants import Role
from tests.mesh_rig import Member, Mesh, result


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture
def anna(mesh: Mesh) -> Member:
    founder = mesh.founder("anna")
    for number in range(10):
        founder.say(f"robot {number}")
    return founder


def test_an_archive_goes_on_with_its_own_file_only(anna: Member, tmp_path: Path) -> None:
    check = anna.mesh.by.mldsa_verify
    anna.close_epoch()
    result(archive(anna.engine, ArchiveFile(tmp_path / "one.x0t"), 1, check))
    other = ArchiveFile(tmp_path / "two.x0t")
    result(export(anna.engine, other))
    before = anna.blobs()
    with pytest.raises(X0tError) as refused:
        result(archive(anna.engine, other, 1, check))
    assert refused.value.key == "archive.unverified"
    assert anna.blobs() == before


def test_a_checkpoint_that_another_one_replaces_frees_nothing_more(
    anna: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A more senior owner had closed the same epoch before it was heard of here; its file is the one that counts."""
    monkeypatch.setattr(archive_module, "PRUNE_STEP", 2)
    bert = anna.mesh.member("bert")
    anna.give(bert, Role.OWNER)
    bert.pull(anna)
    anna.close_epoch()
    bert.close_epoch()
    work = archive(bert.engine, ArchiveFile(tmp_path / "bert.x0t"), 1, anna.mesh.by.mldsa_verify)
    while bert.log.archived_epoch() == 0:
        next(work)
    bert.pull(anna)
    with pytest.raises(X0tError) as stopped:
        result(work)
    assert stopped.value.key == "archive.checkpoint"
    freed = bert.log.last_arrival() - bert.log.signed_up_to(1 << 30)
    assert freed == 2


def file_of(path: Path, mesh: Mesh, blobs: list[bytes], channel: str = "control") -> ArchiveFile:
    """A file with a true digest, whatever it holds."""
    file = ArchiveFile(path)
    with file.create() as out:
        key, count = mesh.authority.public_key, len(blobs)
        header = Header(mesh=mesh.id, authority_key=key, channel=channel, epoch=0, after=0, count=count)
        writer = ArchiveWriter(out, header)
        for blob in blobs:
            writer.add(blob)
        writer.finish()
    return file


@pytest.fixture
def spoilt(anna: Member, tmp_path: Path) -> ArchiveFile:
    """One batch of ten has another signature, one comes twice, and one is none."""
    blobs = anna.blobs()
    blobs[4] = blobs[4][:-1] + bytes([blobs[4][-1] ^ 1])
    return file_of(tmp_path / "spoilt.x0t", anna.mesh, [*blobs[:6], blobs[5], b"\x80", *blobs[6:]])


@pytest.fixture
def eve(anna: Member) -> Member:
    return anna.mesh.member("eve")


async def test_an_import_takes_what_is_sound_in_steps_and_counts_what_is_not(
    anna: Member, eve: Member, spoilt: ArchiveFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_check, "CHUNK_BYTES", 8_000)
    mesh = anna.mesh
    async with Replica(eve.engine, Writer(eve.id, eve.key.sign, mesh.tick), mesh.by.mldsa_verify) as replica:
        *steps, last = [report async for report in import_(replica, spoilt)]
    assert len(steps) > 3
    assert last == Imported(
        path=spoilt.name,
        batches=13,
        new=4,
        waiting=6,
        refused={"batch.malformed": 1, "batch.signature": 1},
    )


def test_a_batch_of_another_channel_than_the_file_says_is_a_fault(anna: Member, tmp_path: Path) -> None:
    file = file_of(tmp_path / "ledger.x0t", anna.mesh, anna.blobs(), channel="ledger")
    with file.open() as opened:
        report = result(verify_files([opened], anna.mesh.by.mldsa_verify))
    assert len(report.faults) == len(anna.blobs())
    assert all("batch.channel" in fault for fault in report.faults)


def test_a_batch_that_comes_twice_is_no_fault_and_each_other_is_named_once(anna: Member, spoilt: ArchiveFile) -> None:
    with spoilt.open() as opened:
        faults = result(verify_files([opened], anna.mesh.by.mldsa_verify)).faults
    assert ["batch.signature" in faults[0], any("batch.malformed" in fault for fault in faults)] == [True, True]
    doubled = file_of(spoilt.path.with_name("doubled.x0t"), anna.mesh, [blob for blob in anna.blobs() for _ in (1, 2)])
    with doubled.open() as opened:
        assert result(verify_files([opened], anna.mesh.by.mldsa_verify)).faults == ()
