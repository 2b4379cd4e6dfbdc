"""What a site promises to those who test with it, on the real kernel: hosts, segments, and an end without leavings."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.lab.namespaces import ours
from appliance.lab.site import Cable, Host, LabError, Shape, Site
from tests.lab_rig import BOTH, SHORT_S, pair

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


def test_two_linked_hosts_reach_one_another_at_once_by_ipv4_and_ipv6(site: Site) -> None:
    one, other, link = pair(site)
    assert one.ping(link.end(other).v6) is not None
    assert other.ping(link.end(one).v4) is not None
    assert (link.end(one).interface, link.end(one).v4, link.end(other).v6) == ("other", "10.9.0.1", "fd09::2")


def test_every_host_of_a_bridge_reaches_every_other(site: Site) -> None:
    hosts = site.hosts("a", "b", "c", "d")
    wan = site.bridge("wan", hosts, prefixes=BOTH)
    unreached = [(a, b) for a in hosts for b in hosts if a.ping(wan.end(b).v6) is None or a.ping(wan.end(b).v4) is None]
    assert unreached == []
    assert {wan.end(host).interface for host in hosts} == {"wan"}


def test_a_cable_joins_two_hosts_with_nothing_between(site: Site) -> None:
    one, other = site.hosts("one", "other")
    cable = site.cable(one, other, names=("left", "right"), prefixes=BOTH)
    assert one.ping(cable.end(other).v6) is not None
    assert type(cable) is Cable


def test_hosts_without_a_link_do_not_reach_one_another(site: Site) -> None:
    _, _, link = pair(site)
    stranger = site.host("stranger")
    site.link(stranger, site.host("friend"), prefixes=("fd08::/64",))
    assert stranger.ping(link.end(site["one"]).v6, SHORT_S) is None


def test_two_sites_of_one_process_may_have_hosts_of_the_same_name(site: Site) -> None:
    with Site() as second:
        assert site.host("one").netns != second.host("one").netns


def test_a_host_routes_for_others_once_it_is_told_to(site: Site) -> None:
    left, router, right = site.hosts("left", "router", "right")
    near = site.link(left, router, prefixes=("10.1.0.0/24", "fd01::/64"))
    far = site.link(right, router, prefixes=("10.2.0.0/24", "fd02::/64"))
    left.ip(f"route add default via {near.end(router).v4}", f"route add default via {near.end(router).v6}")
    right.ip(f"route add default via {far.end(router).v4}", f"route add default via {far.end(router).v6}")
    assert left.ping(far.end(right).v6, SHORT_S) is None
    assert left.ping(far.end(right).v4, SHORT_S) is None
    router.forward()
    assert left.ping(far.end(right).v6) is not None
    assert left.ping(far.end(right).v4) is not None


def test_a_host_configures_nothing_by_itself_and_its_loopback_is_up(site: Site) -> None:
    host = site.host("quiet")
    settings = ["accept_ra", "autoconf", "accept_dad", "forwarding"]
    assert [host.sysctl(f"net.ipv6.conf.default.{setting}") for setting in settings] == ["0"] * 4
    assert host.ping("::1") is not None
    assert host.ping("127.0.0.1") is not None


@pytest.mark.parametrize("name", ["", "Gateway", "a b", "-a", "a-", "wiring", "sixteen-letters1", "taken", "../x"])
def test_a_name_that_no_host_can_have_is_refused(site: Site, name: str) -> None:
    site.host("taken")
    with pytest.raises(LabError, match="cannot be the name"):
        site.host(name)


def test_a_command_that_the_kernel_refuses_is_an_error_that_says_why(site: Site) -> None:
    host = site.host("one")
    with pytest.raises(LabError, match="Cannot find device"):
        host.ip("link set dev nothing up")


# ---- the end


def test_nothing_is_left_when_the_block_ends_even_by_an_error() -> None:
    daemon = "setsid sh -c 'echo $$ ; exec sleep 1000' &"
    names, seen = list[str](), list[int]()

    def work() -> None:
        with Site() as site:
            one, other, _ = pair(site, Shape(delay_ms=1))
            names.extend([one.netns, other.netns])
            program = one.start(["sh", "-c", f"{daemon} echo up; wait"])
            program.wait_for("up")
            other.start(["sleep", "1000"])
            seen.extend(pid for pid in pids_inside(one) + pids_inside(other))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        work()
    assert len(seen) >= 3
    assert [pid for pid in seen if Path(f"/proc/{pid}").exists() and not ended(pid)] == []
    assert set(names) & set(ours()) == set()
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert [name for name in names if name in mounts] == []


def pids_inside(host: Host) -> list[int]:
    return [
        int(pid)
        for pid in host.run(["ip", "netns", "pids", host.netns]).stdout.split()
        if Path(f"/proc/{pid}").exists()
    ]


def ended(pid: int) -> bool:
    """Whether a process is gone, or goes within a second: somebody else reaps an orphan."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], 1)[0])
    finally:
        os.close(pidfd)


def test_twelve_hosts_on_one_network(record_property: Callable[[str, object], None]) -> None:
    names = [f"host-{number}" for number in range(12)]
    began_s = time.monotonic()
    with Site() as site:
        hosts = site.hosts(*names)
        wan = site.bridge("wan", hosts, prefixes=BOTH)
        up_s = time.monotonic() - began_s
        assert [host for host in hosts if hosts[0].ping(wan.end(host).v6) is None] == []
        began_s = time.monotonic()
    down_s = time.monotonic() - began_s
    record_property("counts", f"twelve hosts on one network: up in {up_s:.2f} s, down in {down_s:.2f} s")
