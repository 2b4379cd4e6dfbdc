"""Upgrade: what an older release kept as unknown has effect once a release that knows it has started."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from appliance.core.ids import NodeId, node_id
from appliance.replica import document_kinds, entries, intake
from appliance.replica.admissions import Admissions
from appliance.replica.approvals import certifiable
from appliance.replica.document_kinds import NODES, POLICY
from appliance.replica.entries import (
    Action,
    CertifyEntry,
    DecideEntry,
    EnrolEntry,
    RetireEntry,
    SecretEntry,
    TokenEntry,
    make,
)
from appliance.replica.queries import state_digest
from appliance.replica.rows import (
    AdmissionRow,
    AttachmentRow,
    CertificateRow,
    DocumentRow,
    EnrolmentRow,
    NoEffectRow,
    SecretRow,
)
from appliance.storage import view as storage
from appliance.storage.migrations import VIEW
from appliance.trust.certificates import sign_certificate
from appliance.trust.enrolment import Request, enrolment_id, sign_request
from appliance.trust.pqc import SigningKey
from appliance.trust.tokens import Endpoint, Token, sign_token, token_id
from tests.attach_rig import attach, public
from tests.mesh_rig import Member, Mesh

NEW = {2: ("attach", "secret"), 3: ("token", "retire", "enrol", "decide", "certify")}  # kinds of entries, by schema


def as_release(release: int, patch: pytest.MonkeyPatch) -> None:
    """This program without what later schemas brought."""
    patch.setattr(storage, "VIEW", VIEW[:release])
    for schema, kinds in NEW.items():
        for kind in kinds if schema > release else ():
            patch.delitem(entries.BODIES, kind)
    patch.setattr(intake, "AUTHORITY_KINDS", entries.AUTHORITY_KINDS - {"certify"})
    patch.setattr(Admissions, "load", lambda _self: None)
    if release < 2:
        patch.delitem(document_kinds.DOCUMENTS, POLICY)


def written(mesh: Mesh, node: Member) -> None:
    """What this release writes, and a change that release 1 knows."""
    rule = b"a rule"
    key = f"rule/{hashlib.sha256(rule).hexdigest()[:32]}"
    node.say("gateway")
    node.write(attach(mesh.id, node.id, "anna", "tls://10.0.0.1:7331"))
    node.write(SecretEntry(1, b"s" * 32))
    node.edit({key: rule}, POLICY)
    node.edit({f"{NodeId(node.id)}/tag/gate": True}, NODES)
    admit(mesh, node, mesh.key("robot"))


def admit(mesh: Mesh, node: Member, robot: SigningKey) -> None:
    """A token, a node that asks with it, and its certificate."""
    times = (mesh.now_ms, mesh.now_ms + 60_000)
    identity = node_id(robot.public_key).raw
    token = sign_token(
        Token(
            mesh=mesh.id,
            issuer=node.id,
            grant=node.parent,
            lock=bytes(32),
            endpoints=(Endpoint("10.0.0.1:7443", node.id),),
            tags=(),
            level="none",
            uses=1,
            binding=None,
            redeemer=None,
            not_before_ms=times[0],
            not_after_ms=times[1],
        ),
        node.key.sign,
    )
    request = Request(
        mesh=mesh.id,
        token=token_id(token),
        node_key=robot.public_key,
        kem_key=bytes(1184),
        mesh_key=public("robot"),
        mesh_proof=attach(mesh.id, identity, "robot").proof,
        tunnel_key=bytes(32),
        name="robot",
        created_ms=times[0],
        binding=bytes(32),
    )
    certificate = msgspec.structs.replace(
        certifiable(request, (), "none"),
        issuer=node.id,
        not_before_ms=times[0],
        not_after_ms=times[1],
        parent=node.parent,
        enrolment=enrolment_id(token_id(token), identity),
        nonce=bytes(16),
    )
    node.write(TokenEntry(token, ""))
    node.write(EnrolEntry(token, sign_request(request, robot.sign)))
    node.write(CertifyEntry(sign_certificate(certificate, node.key.sign), ""))
    node.write(RetireEntry(token_id(token), ""), DecideEntry(identity, Action.SUSPEND, "", ""))


UNKNOWN = {
    1: ["attach unknown", "certify unknown", "change document.unknown", "decide unknown", "enrol unknown",
        "retire unknown", "secret unknown", "token unknown"],
    2: ["certify unknown", "decide unknown", "enrol unknown", "retire unknown", "token unknown"],
}  # fmt: skip


@pytest.mark.parametrize("release", [1, 2])
def test_an_old_view_is_folded_anew_and_its_rows_are_those_of_a_new_node(tmp_path: Path, release: int) -> None:
    mesh = Mesh(tmp_path)
    new = mesh.founder("anna")
    written(mesh, new)
    blobs, wanted = new.blobs(), new.dump()
    with pytest.MonkeyPatch.context() as patch:
        as_release(release, patch)
        old = mesh.member("anna", lambda: mesh.stores("old"))
        old.take(blobs)
        unknown = [f"{row.kind} {row.reason}" for row in old.view.rows(NoEffectRow) if isinstance(row, NoEffectRow)]
        assert sorted(unknown) == UNKNOWN[release]
        old.engine.close()
    old.start()
    assert old.dump() == wanted
    assert state_digest(old.view) == state_digest(new.view)
    counted = (AttachmentRow, SecretRow, NoEffectRow, DocumentRow, EnrolmentRow, CertificateRow, AdmissionRow)
    assert [old.view.count(row) for row in counted] == [1, 1, 0, 2, 1, 1, 1]
    old.restart()
    assert old.dump() == wanted
    for node in (old, new):
        node.engine.close()


@pytest.mark.parametrize("release", [1, 2])
def test_what_was_written_before_the_upgrade_is_built_upon_after_it(tmp_path: Path, release: int) -> None:
    mesh = Mesh(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        as_release(release, patch)
        node = mesh.founder("anna")
        node.tag(node, "gate")
        node.write(raw=[make(SecretEntry(1, b"s" * 32))])
        node.engine.close()
    node.start()
    node.tag(node, "robot")
    assert [row.value for row in node.view.rows(DocumentRow) if isinstance(row, DocumentRow)] == ["true", "true"]
    assert node.view.count(SecretRow) == 1
    node.engine.close()
