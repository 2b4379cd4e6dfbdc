"""Upgrade: what an older release kept as unknown has effect once a release that knows it has started."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from appliance.core.ids import NodeId
from appliance.replica import document_kinds, entries
from appliance.replica.document_kinds import NODES, POLICY
from appliance.replica.entries import SecretEntry, make
from appliance.replica.queries import state_digest
from appliance.replica.rows import AttachmentRow, DocumentRow, NoEffectRow, SecretRow
from appliance.storage import view as storage
from appliance.storage.migrations import VIEW
from tests.attach_rig import attach
from tests.mesh_rig import Member, Mesh


def as_release_1(patch: pytest.MonkeyPatch) -> None:
    """This program without what schema 2 brought."""
    patch.setattr(storage, "VIEW", VIEW[:1])
    for kind in ("attach", "secret"):
        patch.delitem(entries.BODIES, kind)
    patch.delitem(document_kinds.DOCUMENTS, POLICY)


def written(mesh: Mesh, node: Member) -> None:
    """What a release 2 writes, and a change that release 1 knows."""
    rule = b"a rule"
    key = f"rule/{hashlib.sha256(rule).hexdigest()[:32]}"
    node.say("gateway")
    node.write(attach(mesh.id, node.id, "anna", "tls://10.0.0.1:7331"))
    node.write(SecretEntry(1, b"s" * 32))
    node.edit({key: rule}, POLICY)
    node.edit({f"{NodeId(node.id)}/tag/gate": True}, NODES)


def test_an_old_view_is_folded_anew_and_its_rows_are_those_of_a_new_node(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    new = mesh.founder("anna")
    written(mesh, new)
    blobs, wanted = new.blobs(), new.dump()
    with pytest.MonkeyPatch.context() as patch:
        as_release_1(patch)
        old = mesh.member("anna", lambda: mesh.stores("old"))
        old.take(blobs)
        unknown = [(row.kind, row.reason) for row in old.view.rows(NoEffectRow) if isinstance(row, NoEffectRow)]
        assert sorted(unknown) == [("attach", "unknown"), ("change", "document.unknown"), ("secret", "unknown")]
        old.engine.close()
    old.start()
    assert old.dump() == wanted
    assert state_digest(old.view) == state_digest(new.view)
    assert [old.view.count(row) for row in (AttachmentRow, SecretRow, NoEffectRow, DocumentRow)] == [1, 1, 0, 2]
    old.restart()
    assert old.dump() == wanted
    for node in (old, new):
        node.engine.close()


def test_what_was_written_before_the_upgrade_is_built_upon_after_it(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        as_release_1(patch)
        node = mesh.founder("anna")
        node.tag(node, "gate")
        node.write(raw=[make(SecretEntry(1, b"s" * 32))])
        node.engine.close()
    node.start()
    node.tag(node, "robot")
    assert [row.value for row in node.view.rows(DocumentRow) if isinstance(row, DocumentRow)] == ["true", "true"]
    assert node.view.count(SecretRow) == 1
    node.engine.close()
