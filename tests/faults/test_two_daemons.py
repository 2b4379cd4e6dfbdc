"""Two daemons where there should be one: the second is refused, and nothing of the first one's is changed."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.core.errors import StateError
from appliance.core.network_records import NetworkState
from appliance.lab.host import Host
from appliance.lab.rig import Machine, RigError, mesh_of, refusal
from appliance.lab.site import Site
from appliance.netstack.nft.channel import connect
from appliance.netstack.nft.claim import Claim

SETTINGS = '[network]\nenabled = true\ninterface = "{interface}"\nlisten = ["tls://127.0.0.1:{port}"]\n'
SOON_S = 20.0

HOLDER = """
import sys
from appliance.netstack.nft.claim import Claim
held = Claim(("x0t0",))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def site(root: None) -> Iterator[Site]:
    with Site() as made:
        yield made


def claim(host: Host, *names: str) -> Claim:
    with host.enter():
        return Claim(names, connect)


def refusal_of(host: Host, *names: str) -> str:
    """The error key; empty where the names were free, which they are again then."""
    return refusal(lambda: claim(host, *names).release())


def test_a_name_is_held_once_in_a_network_and_with_others_all_or_none(site: Site) -> None:
    one, two = site.hosts("one", "two")
    first = claim(one, "x0t0", "x0t-red")
    assert refusal_of(one, "x0t0", "x0t-blue") == "firewall.held"
    assert refusal_of(one, "x0t1", "x0t-red") == "firewall.held"
    assert refusal_of(one, "x0t1", "x0t-blue") == "", "it was left held by who was refused"
    assert refusal_of(two, "x0t0", "x0t-red") == ""
    first.release()
    assert refusal_of(one, "x0t0", "x0t-red") == ""


def test_nobody_takes_a_claim_away(site: Site) -> None:
    one = site.host("one")
    first = claim(one, "x0t0")
    one.run(["nft", "flush", "ruleset"])
    one.run(["nft", "delete", "table", "inet", "x0t-holds-x0t0"], check=False)
    assert refusal_of(one, "x0t0") == "firewall.held"
    first.release()


def test_a_table_that_somebody_made_under_its_name_is_not_taken_for_a_claim_of_ours(site: Site) -> None:
    one = site.host("one")
    one.run(["nft", "add", "table", "inet", "x0t-holds-x0t0"])
    with pytest.raises(StateError, match="by another program"):
        claim(one, "x0t0")


def test_a_claim_ends_with_its_process(site: Site) -> None:
    one = site.host("one")
    command = ["nsenter", f"--net={one.netns_path}", sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match=str(holder.pid)):
            claim(one, "x0t0")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    claim(one, "x0t0").release()


# ---- real daemons


class Pair:
    """Two machines' worth of daemons in one network; the first runs a mesh."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.host = site.host("one")
        self.folder = folder
        self._ports = itertools.count(7331)
        self.first = self.machine("first")

    def machine(self, name: str, interface: str = "x0t0") -> Machine:
        """Another daemon; of the same name it has the same data directory."""
        settings = SETTINGS.format(interface=interface, port=next(self._ports))
        made = Machine(name, self.folder / name, settings, host="127.0.0.1", within=self.host.netns_path)
        made.port = next(self._ports)
        return made

    def stands(self) -> bool:
        """True once the first one is a member in force, after which nothing moves by itself."""
        state = self.first.client.get("/network", NetworkState)
        return state.phase == "running" and state.members == 1 and not state.blocked

    def shown(self) -> dict[str, str]:
        """All that the kernel has of the first one, and its Yggdrasil."""
        told = {
            what: self.host.run(line.split()).stdout
            for what, line in {
                "tables": "nft -s list ruleset",
                "interface": "ip -d addr show dev x0t0",
                "routes": "ip -6 route show table all",
            }.items()
        }
        state = next(self.first.data_dir.glob("x0t-*/running.json")).read_text()
        return {**told, "yggdrasil": state}


def eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + SOON_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Site() as site, (made := Pair(site, tmp_path_factory.mktemp("pair"))).first:
        made.first.start()
        mesh_of(made.first)
        eventually(made.stands)
        yield made


@pytest.fixture
def pair(root: None, request: pytest.FixtureRequest) -> Pair:
    made: Pair = request.getfixturevalue("built")
    return made


def refused_start(machine: Machine) -> str:
    with pytest.raises(RigError, match="ended with code 4") as caught:
        machine.start()
    return str(caught.value)


def test_a_second_daemon_on_the_same_interface_is_refused_and_changes_nothing(pair: Pair) -> None:
    before = pair.shown()
    with pair.machine("rival") as second:
        second.start()
        with pytest.raises(RigError, match=r"exit 4\n.*The name x0t0 is in use .* by x0td \(process \d+\)"):
            second.x0t("mesh", "create", "lab")
    assert pair.shown() == before


def test_a_second_daemon_of_the_same_mesh_is_refused_and_changes_nothing(pair: Pair) -> None:
    before = pair.shown()
    descriptor = pair.folder / "mesh.x0t"
    pair.first.x0t("mesh", "show", "--export", str(descriptor))
    with pair.machine("twin", "x0t1") as second:
        second.start()
        with pytest.raises(RigError, match=r"exit 4\n.*The name x0t-\w+ is in use .* by x0td \(process \d+\)"):
            second.x0t("mesh", "join", str(descriptor), "--peer", pair.first.address)
    assert pair.shown() == before


def test_a_daemon_that_has_a_mesh_does_not_start_beside_another_one_on_its_interface(pair: Pair) -> None:
    with pair.machine("other", "x0t1") as second:
        second.start()
        mesh_of(second)
    before = pair.shown()
    with pair.machine("other") as second:
        assert re.search(r"The name x0t0 is in use .* by x0td \(process \d+\)", refused_start(second))
        assert pair.shown() == before


def test_a_second_daemon_on_one_data_directory_is_refused_and_changes_nothing(pair: Pair) -> None:
    before = pair.shown()
    second = pair.machine("double", "x0t1")
    second.data_dir = pair.first.data_dir
    with second:
        assert "replica.locked" in refused_start(second)
    assert pair.shown() == before
