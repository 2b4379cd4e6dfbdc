"""A site's network as its engineers use it: real daemons, real Yggdrasil, real nf_tables, and real traffic."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.lab.network_rig import Plant, plant
from appliance.lab.rig import RigError

pytestmark = pytest.mark.timeout(240)  # three daemons with three Yggdrasils come up, and restart for admissions

POLICY = """version: 1
groups: {machines: [robot, plc]}
services: {modbus: tcp/502}
rules:
  - allow: [tcp/443, icmpv6]
    from: tag:robot
    to: tag:gateway
  - allow: modbus
    from: tag:gateway
    to: tag:plc
tests:
  - {from: tag:robot, to: tag:gateway, allow: tcp/443}
  - {from: tag:robot, to: tag:plc, deny: modbus}
"""
SOON_S = 20.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, root: None) -> Iterator[Plant]:
    with plant(tmp_path_factory.mktemp("plant"), ("gateway", "robot", "plc")) as made:
        made.ready()
        for name in ("gateway", "robot", "plc"):
            made["gateway"].x0t("tag", "set", made[name].key().node, name)
        (made["gateway"].directory / "site.yaml").write_text(POLICY)
        yield made


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = SOON_S) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, f"{what} did not come about in {timeout_s:.0f} s"
        time.sleep(0.05)


def connects(site: Plant, source: str, target: str, port: int, timeout_s: float = 1.0) -> bool:
    with site.hosts[source].socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect((site.address(target), port))
        except OSError:
            return False
        return True


def listener(site: Plant, name: str, port: int) -> socket.socket:
    sock = site.hosts[name].socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    sock.listen()
    return sock


def apply(site: Plant, text: str, *options: str, expect: int = 0) -> str:
    file = site["gateway"].directory / "next.yaml"
    file.write_text(text)
    return site["gateway"].x0t("policy", "apply", str(file), *options, expect=expect)


def entries(site: Plant, name: str) -> int:
    return site.state(name).entries


def test_without_a_policy_nothing_passes(site: Plant) -> None:
    with listener(site, "gateway", 443):
        assert not connects(site, "robot", "gateway", 443)
    assert json.loads(site["gateway"].x0t("policy", "history", "--json")) == []


def test_a_policy_reaches_every_kernel_and_says_who_may_reach_whom(site: Plant) -> None:
    apply(site, POLICY, "--yes")
    eventually(lambda: entries(site, "robot") > 0 and entries(site, "plc") > 0, "the policy on the others")
    with listener(site, "gateway", 443), listener(site, "plc", 502):
        eventually(lambda: connects(site, "robot", "gateway", 443), "the allowed flow")
        eventually(lambda: connects(site, "gateway", "plc", 502), "the other allowed flow")
        assert not connects(site, "robot", "plc", 502)
        assert not connects(site, "plc", "gateway", 443)
    said = site["robot"].x0t("policy", "explain", "robot", "plc", "tcp/502")
    assert "no rule lets robot (tags robot) reach plc (tags plc) on tcp/502" in said
    said = site["robot"].x0t("policy", "explain", "robot", "gateway", "tcp/443")
    assert "signed by gateway, in force since" in said
    assert "packets" in said


def died_at(site: Plant, target: str, service: str) -> str:
    try:
        return str(json.loads(site["robot"].x0t("net", "probe", target, service, "--json"))["died_at"])
    except RigError:
        return str(json.loads(site["robot"].x0t("net", "probe", target, service, "--json", expect=4))["died_at"])


def test_a_probe_says_where_it_died(site: Plant) -> None:
    with listener(site, "gateway", 443):  # Yggdrasil may restart once for the admissions
        eventually(lambda: died_at(site, "gateway", "tcp/443") == "", "the probe that arrives")
    eventually(lambda: died_at(site, "gateway", "tcp/443") == "no-listener", "the probe that nobody awaits")
    eventually(lambda: died_at(site, "plc", "tcp/502") == "sender-rule", "the probe that no rule lets out")


def test_drops_are_shown_with_their_reason(site: Plant) -> None:
    assert not connects(site, "robot", "plc", 502)
    shown = json.loads(site["robot"].x0t("net", "drops", "--json"))
    assert any(
        line["reason"] == "no rule lets robot (tags robot) reach plc (tags plc) on tcp/502"
        and line["service"] == "tcp/502"
        for line in shown
    )


def test_a_policy_that_fails_its_tests_changes_nothing(site: Plant) -> None:
    before = json.loads(site["gateway"].x0t("policy", "show", "--json"))
    worse = POLICY.replace("from: tag:gateway\n    to: tag:plc", "from: any\n    to: tag:plc")
    with pytest.raises(RigError, match=r"policy\.tests"):
        apply(site, worse, "--yes")
    apply(site, worse, "--yes", expect=2)
    assert json.loads(site["gateway"].x0t("policy", "show", "--json")) == before


def test_a_mistake_in_the_text_is_told_with_its_place(site: Plant) -> None:
    with pytest.raises(RigError, match=r"5:13: tcp/444x is no service"):
        apply(site, POLICY.replace("tcp/443, icmpv6", "tcp/444x, icmpv6"), "--yes")


def test_a_revoked_flow_stops_also_when_it_is_established(site: Plant) -> None:
    without = POLICY.replace("allow: [tcp/443, icmpv6]", "allow: icmpv6").replace(
        "  - {from: tag:robot, to: tag:gateway, allow: tcp/443}\n", ""
    )
    with (
        listener(site, "gateway", 443) as awaited,
        site.hosts["robot"].socket(socket.AF_INET6, socket.SOCK_STREAM) as sock,
    ):
        sock.settimeout(5)
        sock.connect((site.address("gateway"), 443))
        served, _ = awaited.accept()
        with served:
            sock.sendall(b"before")
            assert served.recv(16) == b"before"
            apply(site, without, "--yes", "--confirm-within", "0s")
            served.settimeout(1.5)
            sock.sendall(b"after")
            with pytest.raises(TimeoutError):
                served.recv(16)
    apply(site, POLICY, "--yes")


def test_a_change_that_nobody_confirms_is_undone(site: Plant) -> None:
    wider = POLICY + "  - {from: tag:robot, to: tag:gateway, deny: tcp/80}\n"
    apply(site, wider, "--yes", "--confirm-within", "1s")
    assert json.loads(site["gateway"].x0t("policy", "show", "--json"))["tests"] == 3
    eventually(lambda: json.loads(site["gateway"].x0t("policy", "show", "--json"))["tests"] == 2, "the undoing")
    apply(site, wider, "--yes", "--confirm-within", "1m")
    site["gateway"].x0t("policy", "confirm")
    site["gateway"].x0t("policy", "confirm", expect=4)
    revision = json.loads(site["gateway"].x0t("policy", "history", "--json"))[1]["revision"]
    site["gateway"].x0t("policy", "revert", revision[:16], "--yes")
    assert json.loads(site["gateway"].x0t("policy", "show", "--json"))["tests"] == 2


def test_the_doctor_names_a_failed_check_and_what_mends_it(site: Plant) -> None:
    found = {check["check"]: check for check in json.loads(_doctor(site, "gateway"))}
    assert all(found[name]["ok"] for name in ("membership", "table", "enforcement", "readback", "yggdrasil", "policy"))
    site.hosts["gateway"].run(["nft", "flush", "ruleset"])
    eventually(lambda: site.hosts["gateway"].run(["nft", "list", "ruleset"]).stdout.count("chain") > 3, "the repair", 5)
    found = {check["check"]: check for check in json.loads(_doctor(site, "gateway"))}
    assert found["readback"]["ok"]
    assert (found["tampering"]["ok"], found["tampering"]["code"]) == (False, "firewall.disturbed")


def _doctor(site: Plant, name: str) -> str:
    try:
        return site[name].x0t("net", "doctor", "--json")
    except RigError as err:
        return str(err).partition("\n")[2].partition("\nx0t:")[0]


def test_a_killed_daemon_leaves_the_verified_policy_in_force(site: Plant) -> None:
    with listener(site, "gateway", 443), listener(site, "plc", 502):
        eventually(lambda: connects(site, "robot", "gateway", 443), "the allowed flow")
        site["robot"].kill()
        address, denied = site.address("gateway"), site.address("plc")
        with site.hosts["robot"].socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect((address, 443))
        with site.hosts["robot"].socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.settimeout(1)
            with pytest.raises(OSError, match=r"timed out|not permitted|unreachable"):
                sock.connect((denied, 502))
        site["robot"].start()
        site.ready()


def test_an_evicted_node_loses_its_links_and_its_rights_at_once(site: Plant) -> None:
    robot = site["robot"].key().node
    with listener(site, "gateway", 443):
        eventually(lambda: connects(site, "robot", "gateway", 443), "the allowed flow")
        site["gateway"].x0t("role", "revoke", robot, "--yes")
        eventually(lambda: not connects(site, "robot", "gateway", 443, 0.5), "the end of its rights", 3)
    eventually(lambda: not any(peer.up and peer.node in {robot, ""} for peer in site.peers("gateway")), "no link", 5)
    assert site.state("gateway").members == 2


def test_a_capture_is_a_file_that_other_tools_read(site: Plant, tmp_path: Path) -> None:
    file = tmp_path / "mesh.pcapng"
    site["gateway"].x0t("net", "capture", str(file), "--time", "1s")
    shown = site.hosts["gateway"].run(["tcpdump", "-n", "-r", str(file)])
    assert shown.returncode == 0
