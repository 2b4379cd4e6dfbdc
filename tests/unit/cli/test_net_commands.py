"""`x0t net`, and the subnets and secrets of a mesh, against prepared answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.core.errors import error
from appliance.core.network_records import (
    Captured,
    Check,
    Conversation,
    DropLine,
    MeshPeer,
    MeshRoute,
    NetworkState,
    Probed,
)
from tests.unit.cli.answers import Daemon, answering

STATE = NetworkState(
    "x0t0", "200::1", "300::/64", "aa", "running", "2026", "", "enforcing since 2026", 3, 2, 9, 1, 0, ""
)
PEER = MeshPeer("node1a", "plc", "tls://h:1", "out", True, 1.25, 2, 10, 20, 30, "")
GOOD = Check("table", True, "", "the table is there", "", "")
BAD = Check("peers", False, "yggdrasil.alone", "this node has no link", "tls://h:1: refused", "x0t net peers")
CAPTURED = Captured("/tmp/mesh.pcapng", 1_000, 2_000, 0, "time")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with answering(tmp_path / "sock") as made:
        made.answers = {
            ("GET", "/network"): STATE,
            ("GET", "/network/peers"): (PEER,),
            ("GET", "/network/routes"): (MeshRoute("node1a", "plc", "200::2", ("fd00::/64",), "1 2", True),),
            ("GET", "/network/flows"): (Conversation("a", "b", "tcp/1", "replied", 3, 4),),
            ("GET", "/network/drops"): (DropLine("2026", "a", "b", "tcp/1", "inbound", "no rule lets a reach b"),),
            ("GET", "/network/checks"): (GOOD,),
            ("POST", "/network/probes"): Probed(True, "", 1.5, "reached plc in 1.5 ms", ""),
        }
        made.streams = {"/network/captures": [{"event": "result", "result": CAPTURED}]}
        yield made


@pytest.mark.parametrize(
    "command, says",
    [
        ("show", "enforcing since 2026"),
        ("peers", "1.2 ms"),
        ("routes", "fd00::/64"),
        ("flows", "replied"),
        ("drops", "no rule lets a reach b"),
        ("doctor", "the table is there"),
        ("probe plc tcp/1", "reached plc in 1.5 ms"),
    ],
)
def test_each_command_prints_for_people_and_one_document_for_machines(
    daemon: Daemon, command: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon.x0t("net", *command.split()) == 0
    assert says in " ".join(capsys.readouterr().out.split())
    assert daemon.x0t("net", *command.split(), "--json") == 0
    shown = capsys.readouterr()
    json.loads(shown.out)
    assert shown.err == ""


@pytest.mark.parametrize("command", ["peers", "routes", "flows", "drops"])
def test_an_empty_list_is_said_and_is_no_data(daemon: Daemon, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["GET", f"/network/{command}"] = ()
    assert daemon.x0t("net", command) == 0
    shown = capsys.readouterr()
    assert (shown.out, bool(shown.err)) == ("", True)


def test_where_the_network_is_off_each_command_says_how_to_turn_it_on(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers = dict.fromkeys(daemon.answers, error("network.off"))
    for command in ("show", "peers", "routes", "flows", "drops", "doctor", "probe plc tcp/1"):
        assert daemon.x0t("net", *command.split()) == 4
        shown = capsys.readouterr()
        assert (shown.out, "network.enabled = true" in shown.err) == ("", True)


def test_a_probe_that_did_not_arrive_says_where_it_ended_and_what_helps(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Probed(False, "sender-rule", None, "this node let nothing out", "x0t policy explain")
    daemon.answers["POST", "/network/probes"] = lost
    assert daemon.x0t("net", "probe", "plc", "udp/5", "--size", "100", "--timeout", "100ms", "--json") == 4
    shown = capsys.readouterr()
    assert msgspec.json.decode(shown.out, type=Probed) == lost
    assert "udp/5 did not reach plc: sender-rule" in shown.err
    assert "x0t net doctor" in shown.err
    (body,) = daemon.bodies("/network/probes")
    assert (body["size_bytes"], body["timeout_s"]) == (100, 1)


def test_the_doctor_fails_with_the_codes_of_what_is_wrong_and_the_commands_that_help(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answers["GET", "/network/checks"] = (GOOD, BAD)
    assert daemon.x0t("net", "doctor") == 4
    shown = capsys.readouterr()
    assert "x0t net peers" in shown.out
    assert "1 checks failed: yggdrasil.alone" in shown.err
    assert daemon.x0t("net", "doctor", "--json") == 4
    assert [check["ok"] for check in json.loads(capsys.readouterr().out)] == [True, False]


def test_a_capture_names_a_whole_path_and_its_bounds(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert daemon.x0t("net", "capture", "mesh.pcapng", "--time", "1m", "--size", "64MiB") == 0
    wanted = {"path": str(tmp_path / "mesh.pcapng"), "max_bytes": 64 << 20, "max_s": 60}
    assert daemon.bodies("/network/captures") == [wanted]
    shown = capsys.readouterr()
    assert (shown.out, "1,000 packets" in shown.err) == ("", True)
    assert daemon.x0t("net", "capture", "mesh.pcapng", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ended"] == "time"


@pytest.mark.parametrize("option", [("--time", "soon"), ("--size", "much")])
def test_a_bound_that_is_no_amount_is_refused_before_anything_is_asked(daemon: Daemon, option: tuple[str, str]) -> None:
    assert daemon.x0t("net", "capture", "mesh.pcapng", *option) == 2
    assert daemon.asked == []
