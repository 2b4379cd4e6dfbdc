"""Archiving when something changes underneath it: nothing is freed that the file does not prove."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.core.errors import X0tError
from appliance.replica import archive as archive_module
from appliance.replica.archive import archive, export
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
