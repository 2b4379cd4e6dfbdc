"""Enrolment as people meet it: real daemons, the real command line, from a token to a member and out again."""
# size: one story; its scenes share the daemons

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.core.admission_records import (
    Admission,
    AdmissionEvent,
    ApproveAsk,
    DecideAsk,
    Token,
    TokenAsk,
    TokenMade,
)
from appliance.core.ids import NodeId
from appliance.core.records import Node, Receipt
from appliance.lab.rig import COMMAND, Machine, mesh_of, refusal
from appliance.trust.pqc import provider
from appliance.trust.tokens import Endpoint, format_token, parse_token, sign_token
from tests.enrol_rig import WAIT_S, approve, ask, enrolment, make_token, member, stands, until


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The founder: gateway, issuer and approver."""
    with Machine("gate", tmp_path_factory.mktemp("gate")) as machine:
        machine.start()
        machine.x0t("mesh", "create", "plant")
        yield machine


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[Machine]:
    with Machine("robot", tmp_path / "robot") as machine:
        machine.start()
        yield machine


def decide(gate: Machine, node: str, action: str, reason: str = "") -> None:
    gate.client.send("POST", f"/admissions/{node}/decisions", DecideAsk(action=action, reason=reason), Receipt)


def known(gate: Machine, node: str) -> Node:
    return next(found for found in gate.client.get("/nodes", tuple[Node, ...]) if found.node == node)


def events(gate: Machine, node: str) -> list[str]:
    return [event.event for event in gate.client.get(f"/admissions/{node}/events", tuple[AdmissionEvent, ...])]


def test_a_token_makes_a_member_with_its_tags_once_an_approver_says_so(gate: Machine, robot: Machine) -> None:
    made = make_token(gate, tags=("press", "robot"), note="for hall 2")
    node = ask(robot, made.text)
    stands(robot, "pending")
    waiting = gate.client.get("/admissions", tuple[Admission, ...])
    assert [(a.node, a.name, a.tags, a.token) for a in waiting if a.state == "pending"] == [
        (node, "robot", ("press", "robot"), made.token)
    ]
    approve(gate, node)
    seen = member(robot)
    assert (seen.node, seen.tries) == (node, 1)
    found = known(gate, node)
    assert (found.tags, found.member) == (("press", "robot"), True)
    shown = gate.client.get(f"/tokens/{made.token[:20]}", Token)
    assert (shown.state, shown.used, shown.nodes, shown.note) == ("spent", 1, (node,), "for hall 2")
    assert events(gate, node) == ["enrol", "certify"]
    assert not (robot.data_dir / "enrolment.json").exists()


def test_asking_again_changes_nothing_before_and_after_the_approval(gate: Machine, robot: Machine) -> None:
    made = make_token(gate)
    node = ask(robot, made.text)
    stands(robot, "pending")
    assert ask(robot, f"  {made.text[:50]}\n{made.text[50:]}\n") == node
    other = make_token(gate)
    assert refusal(lambda: ask(robot, other.text)) == "admission.exists"
    approve(gate, node)
    member(robot)
    assert ask(robot, made.text) == node
    assert events(gate, node) == ["enrol", "certify"]
    robot.stop()
    robot.start()
    assert member(robot).state == "approved"


def test_the_short_form_is_exchanged_for_the_token_until_that_is_used(gate: Machine, robot: Machine) -> None:
    made = make_token(gate, short=True)
    assert made.short.startswith("x0tj1.")
    assert len(made.short) < 200
    node = ask(robot, made.short)
    stands(robot, "pending")
    approve(gate, node)
    member(robot)
    kept = next(gate.data_dir.glob("mesh1*")) / "codes.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    end_s = time.monotonic() + WAIT_S
    while json.loads(kept.read_bytes()) and time.monotonic() < end_s:
        time.sleep(0.02)
    assert json.loads(kept.read_bytes()) == {}


def test_a_rejection_is_told_with_its_reason_and_can_be_taken_back(gate: Machine, robot: Machine) -> None:
    made = make_token(gate)
    node = ask(robot, made.text)
    stands(robot, "pending")
    decide(gate, node, "reject", "wrong hall")
    seen = stands(robot, "rejected")
    assert (seen.over, seen.note, seen.reason) == (True, "wrong hall", "admission.rejected")
    assert node in seen.explanation
    decide(gate, node, "resume")
    ask(robot, made.text)
    stands(robot, "pending")
    approve(gate, node)
    member(robot)
    assert events(gate, node) == ["enrol", "reject", "resume", "certify"]


def test_a_suspension_is_waited_for(gate: Machine, robot: Machine) -> None:
    node = ask(robot, make_token(gate).text)
    stands(robot, "pending")
    decide(gate, node, "suspend", "until monday")
    seen = stands(robot, "suspended")
    assert (seen.over, seen.note) == (False, "until monday")
    decide(gate, node, "resume")
    stands(robot, "pending")
    approve(gate, node)
    member(robot)


@pytest.mark.parametrize(
    "action,state,back",
    [
        ("suspend", "suspended", "resume"),
        ("revoke", "revoked", "approve"),
        ("evict", "evicted", "token"),
        ("ban", "banned", "unban"),
    ],
)
def test_a_member_is_cut_off_and_comes_back_as_it_may(
    gate: Machine, robot: Machine, action: str, state: str, back: str
) -> None:
    node = ask(robot, make_token(gate).text)
    stands(robot, "pending")
    approve(gate, node)
    member(robot)
    decide(gate, node, action, "because")
    robot.wait(lambda watch: watch.links_up == 0, WAIT_S)
    assert not known(gate, node).member
    shown = gate.client.get(f"/admissions/{node}", Admission)
    assert (shown.state, shown.note, shown.name) == (state, "because", "robot")
    match back:
        case "approve":
            approve(gate, node)
        case "token":
            assert refusal(lambda: approve(gate, node)) == "admission.state"
            return
        case "unban":
            decide(gate, node, "unban")
            assert gate.client.get(f"/admissions/{node}", Admission).state == "evicted"
            return
        case _:
            decide(gate, node, back)
    robot.wait(lambda watch: watch.links_up == 1, WAIT_S)
    assert known(gate, node).member


def test_a_banned_node_is_told_and_then_finds_the_door_shut(gate: Machine, robot: Machine) -> None:
    made = make_token(gate, uses=2)
    node = ask(robot, made.text)
    stands(robot, "pending")
    decide(gate, node, "ban", "a thief")
    seen = stands(robot, "banned")
    assert (seen.over, seen.reason, seen.note) == (True, "admission.banned", "a thief")
    ask(robot, made.text)
    seen = until(robot, lambda seen: seen.reason == "tls.refused")
    assert (seen.state, seen.over, seen.detail["reason"]) == ("asking", False, "tls.peer_unknown")


def test_an_approver_far_from_the_gateway_is_heard_through_it(gate: Machine, robot: Machine, tmp_path: Path) -> None:
    with Machine("office", tmp_path / "office") as office:
        office.start()
        key = tmp_path / "office.key"
        office.x0t("key", "show", "--export", str(key))
        gate.x0t("role", "grant", "--key", str(key), "approver")
        descriptor = tmp_path / "plant.x0t"
        gate.x0t("mesh", "show", "--export", str(descriptor))
        office.x0t("mesh", "join", str(descriptor), "--peer", gate.address)
        office.wait(lambda watch: watch.links_up == 1, WAIT_S)
        made = office.client.send(
            "POST", "/tokens", TokenAsk(tags=("robot",), gateways=(f"{gate.key().node}@{gate.address}",)), TokenMade
        )
        node = ask(robot, made.text)
        stands(robot, "pending")
        end_s = time.monotonic() + WAIT_S
        while refusal(lambda: approve(office, node)) and time.monotonic() < end_s:
            time.sleep(0.02)  # until the request has come to the office
        assert member(robot).state == "approved"
        assert gate.client.get(f"/admissions/{node}", Admission).actor == office.key().node


def test_a_gateway_that_is_away_leaves_it_to_the_next(gate: Machine, robot: Machine, tmp_path: Path) -> None:
    with Machine("second", tmp_path / "second") as second:
        second.start()
        descriptor, key = tmp_path / "plant.x0t", tmp_path / "second.key"
        gate.x0t("mesh", "show", "--export", str(descriptor))
        second.x0t("key", "show", "--export", str(key))
        gate.x0t("role", "grant", "--key", str(key), "member")
        second.x0t("mesh", "join", str(descriptor), "--peer", gate.address)
        second.wait(lambda watch: watch.links_up == 1, WAIT_S)
        gateways = tuple(f"{machine.key().node}@{machine.address}" for machine in (second, gate))
        made = make_token(gate, gateways=gateways)
        second.stop()
        node = ask(robot, made.text)
        stands(robot, "pending")
        approve(gate, node)
        seen = member(robot)
        assert (seen.gateway, seen.tries > 1) == (gate.address, True)


def test_a_withdrawn_token_is_refused_with_a_way_forward(gate: Machine, robot: Machine) -> None:
    made = make_token(gate, uses=3)
    gate.x0t("token", "revoke", made.token, "--yes", "--reason", "lost")
    ask(robot, made.text)
    seen = stands(robot, "refused")
    assert (seen.over, seen.reason) == (True, "token.retired")
    assert "new one" in seen.hint
    assert gate.client.get(f"/tokens/{made.token}", Token).state == "retired"


def test_what_was_begun_can_be_given_up(gate: Machine, robot: Machine) -> None:
    assert refusal(lambda: enrolment(robot)) == "admission.none"
    ask(robot, make_token(gate).text)
    stands(robot, "pending")
    robot.x0t("mesh", "enrolment", "--give-up")
    assert refusal(lambda: enrolment(robot)) == "admission.none"
    assert not (robot.data_dir / "enrolment.json").exists()


def test_a_certificate_is_renewed_with_the_same_keys_and_tags(gate: Machine, robot: Machine) -> None:
    node = ask(robot, make_token(gate).text)
    stands(robot, "pending")
    approve(gate, node, tags=("press",), lifetime_ms=3_600_000)
    member(robot)
    first = gate.client.get(f"/admissions/{node}", Admission)
    gate.client.send("PUT", f"/admissions/{node}/certificates", ApproveAsk(lifetime_ms=7_200_000), Receipt)
    second = gate.client.get(f"/admissions/{node}", Admission)
    assert (second.tags, second.state) == (first.tags, "approved") == (("press",), "approved")
    assert second.until > first.until
    assert second.certificate != first.certificate


class TestTheCommandLine:
    def test_join_waits_and_ends_well(self, gate: Machine, robot: Machine, tmp_path: Path) -> None:
        file = tmp_path / "robot.token"
        gate.x0t("token", "create", "--tag", "robot", "--out", str(file))
        assert file.stat().st_mode & 0o777 == 0o600
        command = [*COMMAND, "--socket", str(robot.socket), "join", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as joining:
            end_s = time.monotonic() + WAIT_S
            while robot.key().node not in gate.x0t("node", "pending") and time.monotonic() < end_s:
                time.sleep(0.05)
            gate.x0t("node", "approve", robot.key().node)
            said = joining.communicate(timeout=WAIT_S)
        assert joining.returncode == 0, said
        assert said[0] == ""
        assert "pending" in said[1]
        assert f"{robot.key().node} is a member of mesh1" in said[1]

    def test_join_ends_with_the_code_of_what_the_mesh_said(self, gate: Machine, robot: Machine) -> None:
        text = gate.x0t("token", "create", "--tag", "robot", "--uses", "2").strip()
        robot.x0t("join", text, "--no-wait", "--name", "press 3")
        stands(robot, "pending")
        gate.x0t("node", "reject", robot.key().node, "--reason", "no")
        stands(robot, "rejected")
        done = robot.x0t("join", text, "--name", "press 3", "--json", expect=3)
        shown = json.loads(done)
        assert (shown["state"], shown["name"], shown["note"]) == ("rejected", "press 3", "no")

    def test_who_is_to_be_cut_off_is_asked_about(self, gate: Machine, robot: Machine) -> None:
        node = ask(robot, make_token(gate).text)
        stands(robot, "pending")
        approve(gate, node)
        member(robot)
        for action in ("suspend", "revoke", "evict", "ban"):
            gate.x0t("node", action, node, expect=2)
        gate.x0t("node", "suspend", node, "--yes")
        assert "suspended" in gate.x0t("node", "show", node)
        assert "suspend" in gate.x0t("node", "history", node)
        assert node in gate.x0t("node", "admissions")

    def test_a_token_on_standard_input_is_never_repeated(self, robot: Machine) -> None:
        command = [*COMMAND, "--socket", str(robot.socket), "join", "-"]
        done = subprocess.run(command, input="x0t1.secretsecret", capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "token.text" in done.stderr
        assert "secretsecret" not in done.stderr + done.stdout


class TestTheDoor:
    def test_is_shut_where_no_token_names_the_node(self, tmp_path: Path) -> None:
        with Machine("lone", tmp_path / "lone") as lone, Machine("robot", tmp_path / "robot") as robot:
            lone.start()
            robot.start()
            mesh_of(lone)
            foreign = lone.client.send(
                "POST", "/tokens", TokenAsk(gateways=(f"{robot.key().node}@{lone.address}",)), TokenMade
            )
            assert foreign.text
            text = retargeted(foreign.text, lone)
            ask(robot, text)
            seen = until(robot, lambda seen: seen.reason != "")
            assert (seen.state, seen.reason, seen.detail["reason"]) == ("asking", "tls.refused", "tls.peer_unknown")
            assert set(lone.status().turned_away) == {"tls.peer_unknown"}

    def test_is_shut_where_the_settings_say_so(self, tmp_path: Path) -> None:
        shut = Machine("shut", tmp_path / "shut", "admission = { enabled = false }")
        with shut, Machine("robot", tmp_path / "robot") as robot:
            shut.start()
            robot.start()
            mesh_of(shut)
            ask(robot, make_token(shut).text)
            seen = until(robot, lambda seen: seen.reason != "")
            assert (seen.state, seen.reason) == ("asking", "tls.refused")
            asked = TokenAsk(short=True)
            assert refusal(lambda: shut.client.send("POST", "/tokens", asked, TokenMade)) == "admission.closed"


def retargeted(text: str, gate: Machine) -> str:
    """A token that names this gateway, as nobody of the mesh signed it."""
    ticket = parse_token(text)
    there = Endpoint(gate.address, NodeId.parse(gate.key().node).raw)
    forged = msgspec.structs.replace(ticket.token, endpoints=(there,))
    return format_token(sign_token(forged, provider().mldsa_keypair(bytes(32)).sign), ticket.secret)


def test_nothing_of_a_token_s_secret_is_in_any_file_of_a_gateway_or_a_log(gate: Machine, robot: Machine) -> None:
    made = make_token(gate)
    secret = parse_token(made.text).secret
    node = ask(robot, made.text)
    stands(robot, "pending")
    approve(gate, node)
    member(robot)
    gate.x0t("replica", "verify")
    for machine in (gate, robot):
        for file in [path for path in machine.directory.rglob("*") if path.is_file()]:
            data = file.read_bytes()
            assert secret not in data, file
            assert made.text.encode() not in data, file
