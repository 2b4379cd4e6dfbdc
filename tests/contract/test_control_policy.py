"""The routes of policy and network as a client meets them: a real daemon without the mesh network, a real socket."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.core.network_records import (
    CaptureAsk,
    Captured,
    Explanation,
    FlowAsk,
    ImportAsk,
    PolicyAsk,
    PolicyContent,
    PolicyDone,
    PolicyImported,
    PolicyRevision,
    PolicyState,
    PolicyTried,
    Preview,
    ProbeAsk,
    Probed,
    SubnetsAsk,
)
from appliance.core.records import Mesh, MeshCreate, Receipt, TagsAsk
from appliance.lab.rig import Machine, refusal

FIRST = """version: 1
rules:
  - {allow: tcp/443, from: tag:robot, to: tag:gate}
tests:
  - {from: tag:robot, to: tag:gate, allow: tcp/443}
"""
SECOND = FIRST.replace("allow: tcp/443", "allow: [tcp/443, icmpv6]", 1)
FAILING = FIRST.replace("allow: tcp/443}", "deny: tcp/443}")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A daemon without a mesh."""
    with Machine("bare", tmp_path_factory.mktemp("bare")) as machine:
        machine.start()
        yield machine


@pytest.fixture
def founder(tmp_path: Path) -> Iterator[Machine]:
    """A daemon that founded a mesh, with a tag of a policy; its mesh network is off."""
    with Machine("founder", tmp_path / "founder") as machine:
        machine.start()
        machine.client.send("POST", "/mesh", MeshCreate(name="plant"), Mesh)
        machine.client.send("PATCH", f"/nodes/{machine.key().node}/tags", TagsAsk(add=("gate",)), Receipt)
        yield machine


def apply(machine: Machine, text: str, if_revision: str = "", confirm_s: int | None = None) -> PolicyDone:
    ask = PolicyAsk(text=text, if_revision=if_revision, confirm_s=confirm_s)
    return machine.client.send("POST", "/policy", ask, PolicyDone)


def state(machine: Machine) -> PolicyState:
    return machine.client.get("/policy", PolicyState)


def history(machine: Machine) -> tuple[PolicyRevision, ...]:
    return machine.client.get("/policy/revisions", tuple[PolicyRevision, ...])


# ---- without a mesh, and without a network


@pytest.mark.parametrize("path", ["/policy", "/policy/revisions", "/network", "/network/peers", "/network/checks"])
def test_a_daemon_without_a_mesh_answers_that_it_has_none(bare: Machine, path: str) -> None:
    assert refusal(lambda: bare.client.get(path, dict[str, str])) == "replica.no_mesh"


def test_every_route_of_the_network_says_that_it_is_off(founder: Machine, tmp_path: Path) -> None:
    for path in ("", "/peers", "/routes", "/flows", "/drops", "/checks"):
        assert refusal(lambda: founder.client.get(f"/network{path}", dict[str, str])) == "network.off"  # noqa: B023
    probe = ProbeAsk(target="founder", service="tcp/443")
    assert refusal(lambda: founder.client.send("POST", "/network/probes", probe, Probed)) == "network.off"
    capture = CaptureAsk(path=str(tmp_path / "x.pcapng"))
    assert refusal(lambda: founder.client.work("/network/captures", capture, Captured, print)) == "network.off"
    assert not (tmp_path / "x.pcapng").exists()


# ---- what is no request


BODIES = [
    ("POST", "/policy", {}),
    ("POST", "/policy", {"text": 1}),
    ("POST", "/policy", {"text": "", "more": 1}),
    ("POST", "/policy", {"text": "", "confirm_s": -1}),
    ("POST", "/policy", {"text": "", "confirm_s": 3_601}),
    ("POST", "/policy", {"text": "x" * ((1 << 20) + 1)}),
    ("POST", "/policy/tests", []),
    ("POST", "/policy/preview", None),
    ("POST", "/policy/explanation", {"source": "a", "target": "b"}),
    ("POST", "/policy/imports/tailscale", {"text": "", "template": "yes"}),
    ("POST", "/network/probes", {"target": "a", "service": "tcp/1", "size_bytes": 65_001}),
    ("POST", "/network/probes", {"target": "a", "service": "tcp/1", "timeout_s": 0}),
    ("POST", "/network/captures", {"path": "relative"}),
    ("POST", "/network/captures", {"path": "/x", "max_s": 3_601}),
    ("PATCH", "/nodes/self/subnets", {"add": "fd00::/64"}),
]


@pytest.mark.parametrize("method, path, body", BODIES)
def test_a_bad_body_is_a_problem_and_nothing_is_done(bare: Machine, method: str, path: str, body: object) -> None:
    status, kind, problem = raw(bare, method, path, json.dumps(body).encode())
    assert (status, kind, problem["key"]) == (400, "application/problem+json", "control.request")


@pytest.mark.parametrize("path", ["/policy", "/policy/tests", "/policy/preview", "/network/probes"])
def test_a_body_that_is_no_json_is_a_problem(bare: Machine, path: str) -> None:
    status, kind, problem = raw(bare, "POST", path, b"version: 1\n\xff")
    assert (status, kind, problem["key"]) == (400, "application/problem+json", "control.request")


def raw(machine: Machine, method: str, path: str, body: bytes) -> tuple[int, str, dict[str, object]]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(machine.socket))
        head = f"{method} /v1{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.headers.get_content_type(), json.loads(response.read())


# ---- a policy, from the first edit on


def test_before_the_first_edit_there_is_no_policy_and_everything_is_denied(founder: Machine) -> None:
    found = state(founder)
    assert (found.revision, found.head, found.rules, found.blocked, found.confirm_by) == ("", "", 0, None, "")
    assert history(founder) == ()


def test_a_policy_is_put_in_force_and_shown_as_a_text_that_says_the_same(founder: Machine) -> None:
    done = apply(founder, FIRST)
    assert len(done.batches) == 1
    assert any("robot" in warning for warning in done.warnings)  # no node has that tag
    shown = state(founder)
    assert (shown.revision, shown.head, shown.rules, shown.tests) == (done.revision, done.revision, 1, 1)
    assert shown.author == founder.key().node
    assert refusal(lambda: apply(founder, shown.text)) == "policy.unchanged"
    (revision,) = history(founder)
    assert (revision.revision, revision.standing, revision.added, revision.removed) == (done.revision, "in force", 1, 0)


def test_what_was_changed_meanwhile_is_not_written_over(founder: Machine) -> None:
    first = apply(founder, FIRST)
    apply(founder, SECOND, if_revision=first.revision[:16])
    assert refusal(lambda: apply(founder, FIRST, if_revision=first.revision)) == "policy.changed"
    assert refusal(lambda: apply(founder, FIRST, if_revision="ffff")) == "policy.no_revision"


def test_a_policy_is_judged_and_previewed_without_being_written(founder: Machine) -> None:
    tried = founder.client.send("POST", "/policy/tests", PolicyAsk(text=FAILING), PolicyTried)
    assert (tried.rules, tried.tests, len(tried.failures)) == (1, 1, 1)
    seen = founder.client.send("POST", "/policy/preview", PolicyAsk(text=FIRST), Preview)
    assert (len(seen.added), seen.removed, seen.failures, seen.cuts_off) == (1, (), (), ())
    assert refusal(lambda: apply(founder, FAILING)) == "policy.tests"
    assert refusal(lambda: apply(founder, FIRST + "more: 1\n")) == "policy.text"
    assert state(founder).head == ""


def test_an_earlier_revision_is_brought_back(founder: Machine) -> None:
    first = apply(founder, FIRST)
    apply(founder, SECOND)
    was = founder.client.get(f"/policy/revisions/{first.revision[:12]}", PolicyContent)
    assert was.revision == first.revision
    back = apply(founder, was.text)
    assert [revision.standing for revision in history(founder)] == ["in force", "superseded", "superseded"]
    assert (history(founder)[0].revision, state(founder).rules) == (back.revision, 1)
    assert refusal(lambda: founder.client.get("/policy/revisions/zz", PolicyContent)) == "policy.no_revision"


def test_a_policy_is_applied_only_beside_what_was_looked_at(founder: Machine) -> None:
    def apply_beside(head: str, text: str) -> str:
        ask = PolicyAsk(text=text, if_revision=head)
        return refusal(lambda: founder.client.send("POST", "/policy", ask, PolicyDone))

    seen = founder.client.send("POST", "/policy/preview", PolicyAsk(text=FIRST), Preview)
    assert seen.head == ""
    assert apply_beside("none", FIRST) == ""
    assert apply_beside("none", SECOND) == "policy.changed"
    seen = founder.client.send("POST", "/policy/preview", PolicyAsk(text=SECOND), Preview)
    assert apply_beside(seen.head, SECOND) == ""
    assert apply_beside(seen.head, FIRST) == "policy.changed"


def test_a_change_waits_to_be_confirmed_once_and_survives_a_restart(founder: Machine) -> None:
    def confirm() -> PolicyState:
        return founder.client.send("POST", "/policy/confirmation", {}, PolicyState)

    assert refusal(confirm) == "policy.no_confirmation"
    assert apply(founder, FIRST, confirm_s=3_600).confirm_by == state(founder).confirm_by != ""
    assert refusal(lambda: apply(founder, SECOND, confirm_s=60)) == "policy.waiting"
    founder.kill()
    founder.start()
    assert confirm().confirm_by == ""
    assert refusal(confirm) == "policy.no_confirmation"
    assert state(founder).rules == 1


def test_only_the_change_that_waits_is_told_when_it_is_undone(founder: Machine) -> None:
    assert apply(founder, FIRST, confirm_s=3_600).confirm_by
    assert apply(founder, SECOND, confirm_s=0).confirm_by == ""
    assert state(founder).confirm_by


@pytest.mark.parametrize(
    "ends, key",
    [(("nobody", "200::1", "tcp/1"), "network.unknown"), (("200::1", "200::2", "tcp"), "network.service")],
)
def test_a_flow_of_nobody_or_of_no_service_cannot_be_explained(
    founder: Machine, ends: tuple[str, str, str], key: str
) -> None:
    ask = FlowAsk(*ends)
    assert refusal(lambda: founder.client.send("POST", "/policy/explanation", ask, Explanation)) == key


def test_a_flow_between_strangers_is_explained_as_denied(founder: Machine) -> None:
    ask = FlowAsk("200::1", "200::2", "tcp/443")
    found = founder.client.send("POST", "/policy/explanation", ask, Explanation)
    assert not found.allowed
    assert "200::1" in found.sentence


def test_a_policy_of_tailscale_is_translated_and_not_applied(founder: Machine) -> None:
    def translated(text: str, *, template: bool = False) -> PolicyImported:
        ask = ImportAsk(text=text, template=template)
        return founder.client.send("POST", "/policy/imports/tailscale", ask, PolicyImported)

    acls = '"acls": [{"action": "accept", "src": ["tag:robot"], "dst": ["tag:gate:443"]}]'
    found = translated('{"tagOwners": {"tag:robot": [], "tag:gate": []}, ' + acls + "}")
    assert (found.rules, found.refused) == (1, ())
    assert state(founder).head == ""
    assert apply(founder, found.text).revision
    undefined = translated("{" + acls + "}")
    assert (undefined.rules, undefined.text) == (0, "")
    assert "tagOwners" in undefined.refused[0]
    assert translated('{"groups": {"group:a": ["a@b.example"]}}', template=True).template


# ---- subnets and secrets


def test_subnets_are_set_and_taken_and_a_secret_follows_another(founder: Machine) -> None:
    path = f"/nodes/{founder.key().node}/subnets"

    def change(ask: SubnetsAsk) -> str:
        return refusal(lambda: founder.client.send("PATCH", path, ask, Receipt))

    assert change(SubnetsAsk(add=("fd00::/64",))) == ""
    assert change(SubnetsAsk(add=("fd00::/64",))) == "subnet.unchanged"
    assert change(SubnetsAsk(add=("200::/7",))) == "subnet.form"
    assert change(SubnetsAsk(remove=("fd00::/64",))) == ""
    assert founder.client.send("POST", "/mesh/secrets", {}, Receipt).effects == ("",)
