"""The control API as a client meets it: a real daemon, a real socket."""
# size: every route of the API once, over the same two daemons

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.cli.client import segment
from appliance.core.errors import X0tError
from appliance.core.records import (
    ArchiveAsk,
    ArchiveReport,
    Batch,
    BatchDetail,
    Conflict,
    FileAsk,
    Grant,
    GrantAsk,
    Imported,
    Key,
    LinkAsk,
    Links,
    Mesh,
    MeshCreate,
    MeshJoin,
    Moved,
    NameAsk,
    Node,
    NoEffect,
    Progress,
    Rebuilt,
    Receipt,
    RevokeAsk,
    Status,
    TagsAsk,
    ThawAsk,
    Verified,
    Watch,
)
from appliance.lab.rig import Machine, refusal
from appliance.trust.keys import create_key, format_public_key
from appliance.trust.pqc import provider


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A daemon without a mesh."""
    with Machine("bare", tmp_path_factory.mktemp("bare")) as machine:
        machine.start()
        yield machine


@pytest.fixture(scope="module")
def founder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A daemon that founded a mesh."""
    with Machine("founder", tmp_path_factory.mktemp("founder")) as machine:
        machine.start()
        machine.client.send("POST", "/mesh", MeshCreate(name="plant"), Mesh)
        yield machine


def public_line(tmp_path: Path) -> str:
    return format_public_key(create_key(tmp_path / "other.pem", provider("openssl")).public_key)


def silent(_line: Progress) -> None:
    """Progress that nobody looks at."""


# ---- without a mesh


@pytest.mark.parametrize(
    "path", ["/mesh", "/replica/status", "/replica/batches", "/grants", "/nodes", "/links", "/replica/conflicts"]
)
def test_a_daemon_without_a_mesh_answers_that_it_has_none(bare: Machine, path: str) -> None:
    with pytest.raises(X0tError) as caught:
        bare.client.get(path, dict[str, str])
    assert (caught.value.key, caught.value.exit_code) == ("replica.no_mesh", 4)
    assert "x0t mesh create" in caught.value.hint


def test_a_daemon_without_a_mesh_has_its_key(bare: Machine) -> None:
    key = bare.client.get("/key", Key)
    assert key.node.startswith("node1")
    assert key.public_key.startswith("ml-dsa-65 ")


@pytest.mark.parametrize("descriptor", ["", "AAAA", "%%%"])
def test_what_is_no_descriptor_cannot_be_joined(bare: Machine, descriptor: str) -> None:
    ask = MeshJoin(descriptor=descriptor)
    assert refusal(lambda: bare.client.send("POST", "/mesh/membership", ask, Mesh)) == "mesh.descriptor"


def test_a_descriptor_with_a_flipped_bit_is_refused(bare: Machine, founder: Machine) -> None:
    import base64

    blob = bytearray(base64.b64decode(founder.client.get("/mesh", Mesh).descriptor))
    blob[-1] ^= 1
    ask = MeshJoin(descriptor=base64.b64encode(blob).decode())
    assert refusal(lambda: bare.client.send("POST", "/mesh/membership", ask, Mesh)) == "mesh.descriptor_signature"


# ---- with a mesh


def test_the_founder_is_the_owner_and_is_warned_of_the_authority_key(founder: Machine) -> None:
    mesh = founder.client.get("/mesh", Mesh)
    assert mesh.authority_here
    assert str(founder.data_dir / "authority.pem") in mesh.warning
    assert (founder.data_dir / "authority.pem").stat().st_mode & 0o777 == 0o600
    grant = founder.client.get("/grants", tuple[Grant, ...])[0]
    assert (grant.node, grant.roles, grant.effect) == (founder.key().node, ("owner",), "")


def test_a_second_mesh_is_refused(founder: Machine) -> None:
    ask = MeshCreate(name="another")
    assert refusal(lambda: founder.client.send("POST", "/mesh", ask, Mesh)) == "replica.mesh_exists"


def test_a_grant_and_its_revocation_are_batches_with_effect(founder: Machine, tmp_path: Path) -> None:
    line = public_line(tmp_path)
    ask = GrantAsk(roles=("operator",), public_key=line, lifetime_ms=86_400_000)
    made = founder.client.send("POST", "/grants", ask, Receipt)
    assert made.effects == ("",)
    node = next(n for n in founder.client.get("/nodes", tuple[Node, ...]) if n.node != founder.key().node)
    assert (node.roles, node.member) == (("member", "operator"), True)
    gone = founder.client.send("POST", "/revocations", RevokeAsk(node=node.node), Receipt)
    assert gone.effects == ("",)
    node = next(n for n in founder.client.get("/nodes", tuple[Node, ...]) if n.node == node.node)
    assert (node.roles, node.member) == ((), False)


@pytest.mark.parametrize(
    "ask,key",
    [
        (GrantAsk(roles=("king",), public_key="x"), "control.request"),
        (GrantAsk(roles=("member",), public_key="x"), "key.format"),
        (GrantAsk(roles=("member",), node="node1x"), "id.text"),
        (GrantAsk(roles=("member",), delegate=9, node="SELF"), "grant.widens"),
    ],
)
def test_a_grant_that_cannot_be_given_is_refused_with_its_key(founder: Machine, ask: GrantAsk, key: str) -> None:
    if ask.node == "SELF":
        ask = msgspec.structs.replace(ask, node=founder.key().node)
    assert refusal(lambda: founder.client.send("POST", "/grants", ask, Receipt)) == key


def test_tags_and_names_are_set_and_taken(founder: Machine) -> None:
    node = founder.key().node

    def shown() -> Node:
        return next(n for n in founder.client.get("/nodes", tuple[Node, ...]) if n.node == node)

    founder.client.send("PATCH", f"/nodes/{node}/tags", TagsAsk(add=("line-1", "camera")), Receipt)
    founder.client.send("PATCH", f"/nodes/{node}/tags", TagsAsk(remove=("line-1",)), Receipt)
    founder.client.send("PUT", f"/nodes/{node}/name", NameAsk(name="press 3"), Receipt)
    assert (shown().tags, shown().name) == (("camera",), "press 3")
    again = TagsAsk(add=("camera",))
    assert refusal(lambda: founder.client.send("PATCH", f"/nodes/{node}/tags", again, Receipt)) == "tags.unchanged"
    bad = TagsAsk(add=("Line 1",))
    assert refusal(lambda: founder.client.send("PATCH", f"/nodes/{node}/tags", bad, Receipt)) == "tags.form"
    long = NameAsk(name="x" * 65)
    assert refusal(lambda: founder.client.send("PUT", f"/nodes/{node}/name", long, Receipt)) == "tags.name"


def test_a_node_is_found_by_the_beginning_of_its_id_or_the_name_that_an_admin_gave_but_not_its_own(
    founder: Machine,
) -> None:
    node = founder.key().node

    def tag(text: str, name: str) -> str:
        ask = TagsAsk(add=(name,))
        return refusal(lambda: founder.client.send("PATCH", f"/nodes/{segment(text)}/tags", ask, Receipt))

    assert tag(node[:13], "by-prefix") == ""
    assert tag(node[:12], "too-short") == "id.text"
    assert tag("founder", "own-name") == "id.text"
    founder.client.send("PUT", f"/nodes/{node}/name", NameAsk(name="hall 2/press"), Receipt)
    assert tag("hall 2/press", "by-name") == ""


def test_the_log_shows_each_batch_and_a_batch_shows_its_entries(founder: Machine) -> None:
    lines = founder.client.get("/replica/batches", tuple[Batch, ...], limit=100)
    assert [line.seq for line in lines] == list(range(len(lines), 0, -1))
    first = founder.client.get(f"/replica/batches/{lines[-1].batch}", BatchDetail)
    assert (first.line, first.prev, first.entries[0].kind, first.entries[0].effect) == (lines[-1], "", "grant", "")
    few = founder.client.get("/replica/batches", tuple[Batch, ...], limit=1, author=founder.key().node)
    assert few == lines[:1]
    nothing = "batch1" + "q" * 58
    assert refusal(lambda: founder.client.get(f"/replica/batches/{nothing}", BatchDetail)) == "id.text"


def test_a_quiet_replica_has_no_conflicts_and_nothing_without_effect(founder: Machine) -> None:
    assert founder.client.get("/replica/conflicts", tuple[Conflict, ...]) == ()
    assert founder.client.get("/replica/no-effect", tuple[NoEffect, ...]) == ()


def test_the_log_is_verified_and_the_read_model_rebuilt_to_the_same_digest(founder: Machine) -> None:
    status = founder.client.get("/replica/status", Status)
    sound = founder.client.work("/replica/verify", None, Verified, silent)
    assert (sound.batches, sound.faults, sound.digest) == (status.batches, (), status.digest)
    rebuilt = founder.client.work("/replica/rebuild", None, Rebuilt, silent)
    assert (rebuilt.before, rebuilt.after) == (status.digest, status.digest)


def test_an_export_is_imported_by_a_daemon_that_has_only_the_descriptor(founder: Machine, tmp_path: Path) -> None:
    out = founder.client.work("/replica/export", FileAsk(path=str(tmp_path / "out.x0t")), Moved, silent)
    assert out.batches == founder.status().batches
    with Machine("reader", tmp_path / "reader") as reader:
        reader.start()
        reader.client.send(
            "POST", "/mesh/membership", MeshJoin(descriptor=founder.client.get("/mesh", Mesh).descriptor), Mesh
        )
        moved = reader.client.work("/replica/import", FileAsk(path=str(tmp_path / "out.x0t")), Imported, silent)
        assert (moved.batches, moved.new) == (out.batches, out.batches)
        assert reader.status().digest == founder.status().digest
        again = reader.client.work("/replica/import", FileAsk(path=str(tmp_path / "out.x0t")), Imported, silent)
        assert again.new == 0


def test_an_epoch_is_closed_archived_and_verified_without_a_daemon(tmp_path: Path) -> None:
    with Machine("archivist", tmp_path / "archivist") as machine:
        machine.start()
        machine.x0t("mesh", "create", "plant")
        machine.x0t("mesh", "show", "--export", str(tmp_path / "plant.x0t"))
        node = machine.key().node
        for number in range(3):
            machine.x0t("node", "name", node, f"name {number}")
        machine.x0t("replica", "checkpoint", "--yes")
        file = tmp_path / "epoch-1.x0t"
        before = machine.status()
        moved = msgspec.json.decode(machine.x0t("replica", "archive", str(file), "--yes", "--json"), type=Moved)
        assert moved.batches > 0
        assert (before.epoch, machine.status().digest) == (1, before.digest)
        assert machine.client.work("/replica/verify", None, Verified, silent).faults == ()
        again = ArchiveAsk(path=str(tmp_path / "other.x0t"))
        assert refusal(lambda: machine.client.work("/replica/archive", again, Moved, silent)) == "archive.epoch"
        machine.stop()
        checked = machine.x0t(
            "replica", "verify", "--file", str(file), "--trust", str(tmp_path / "plant.x0t"), "--json"
        )
        report = msgspec.json.decode(checked, type=ArchiveReport)
        assert (report.mesh, report.epoch, report.faults) == (before.mesh, 1, ())
        data = bytearray(file.read_bytes())
        data[-40] ^= 1
        file.write_bytes(data)
        machine.x0t("replica", "verify", "--file", str(file), expect=6)


def test_a_read_model_can_be_discarded_while_no_daemon_runs(tmp_path: Path) -> None:
    with Machine("mender", tmp_path / "mender") as machine:
        machine.start()
        machine.x0t("mesh", "create", "plant")
        digest = machine.status().digest
        discard = ("replica", "rebuild", "--offline", "--data-dir", str(machine.data_dir), "--yes")
        machine.x0t(*discard, expect=4)
        machine.stop()
        machine.x0t(*discard)
        assert not list(machine.data_dir.glob("mesh1*/view.db"))
        machine.start()
        assert machine.status().digest == digest


def test_links_can_be_cut_and_restored(founder: Machine) -> None:
    assert founder.client.send("POST", "/links/cut", LinkAsk(), Links).cut
    assert founder.client.get("/replica/status", Status).cut
    assert not founder.client.send("POST", "/links/restore", LinkAsk(), Links).cut


def test_the_watch_stream_tells_of_each_change(founder: Machine) -> None:
    node = founder.key().node
    stream = founder.client.lines("GET", "/replica/watch?pulse_ms=60000")
    before = msgspec.json.decode(next(stream), type=Watch)
    founder.client.send("PATCH", f"/nodes/{node}/tags", TagsAsk(add=("seen",)), Receipt)
    after = msgspec.json.decode(next(stream), type=Watch)
    assert after.batches == before.batches + 1
    assert after.vector != before.vector
    stream.close()


def test_a_thaw_of_an_author_that_is_not_frozen_says_so(founder: Machine) -> None:
    lines = founder.client.get("/replica/batches", tuple[Batch, ...], limit=1)
    ask = ThawAsk(node=founder.key().node, keep=lines[0].batch)
    made = founder.client.send("POST", "/thaws", ask, Receipt)
    assert made.seq == lines[0].seq + 1


# ---- the socket itself


def raw(machine: Machine, request: bytes) -> tuple[int, dict[str, object]]:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(machine.socket))
    connection.sendall(request)
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = json.loads(response.read())
    connection.close()
    return response.status, body


@pytest.mark.parametrize(
    "request_,status,key",
    [
        (b"GET /v1/none HTTP/1.1\r\nHost: x\r\n\r\n", 404, "control.route"),
        (b"DELETE /v1/mesh HTTP/1.1\r\nHost: x\r\n\r\n", 404, "control.route"),
        (b"GET /v2/mesh HTTP/1.1\r\nHost: x\r\n\r\n", 404, "control.route"),
        (b"POST /v1/mesh HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", 400, "control.request"),
        (b'POST /v1/mesh HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n{"a": 1}', 400, "control.request"),
        (b"GET /v1/replica/batches?limit=0 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "control.request"),
    ],
)
def test_a_bad_request_is_a_problem_with_a_key(bare: Machine, request_: bytes, status: int, key: str) -> None:
    answered, problem = raw(bare, request_)
    assert (answered, problem["key"]) == (status, key)
    assert str(problem["instance"]).startswith("urn:x0t:request:")


def test_a_body_over_the_limit_is_refused_before_it_is_read_whole(bare: Machine) -> None:
    size = 9 << 20
    head = f"POST /v1/mesh HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    answered, problem = raw(bare, head + b"x" * (8 << 20) + b"yy")
    assert (answered, problem["key"]) == (413, "control.body_size")


def test_the_socket_and_all_files_are_the_owners_alone(founder: Machine) -> None:
    assert founder.socket.stat().st_mode & 0o777 == 0o600
    assert founder.data_dir.stat().st_mode & 0o777 == 0o700
    open_files = [path for path in founder.data_dir.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert open_files == []


_AS_NOBODY = """
import os, socket, sys
os.setgid(65534), os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[1])
except PermissionError:
    sys.exit(77)
"""


@pytest.mark.usefixtures("root")
def test_the_file_modes_keep_other_users_out_before_the_daemon_has_to(bare: Machine) -> None:
    knock = [sys.executable, "-c", _AS_NOBODY, str(bare.socket)]
    assert subprocess.run(knock, check=False).returncode == 77
