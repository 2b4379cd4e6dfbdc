"""What a link of the bench does to frames, on the real kernel: only bounds that hold however busy the machine is."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.lab.site import Host, LabError, Shape, Site
from tests.lab_rig import BOTH, PATIENT_S, SHORT_S, pair

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


def transfer(sender: Host, receiver: Host, address: str, data: bytes) -> tuple[bytes, float]:
    """Send over TCP; returns what arrived, and the seconds from the first byte sent to the last received."""
    with receiver.socket(socket.AF_INET6, socket.SOCK_STREAM) as door, ExitStack() as stack:
        door.bind((address, 0))
        door.listen()
        out = stack.enter_context(sender.socket(socket.AF_INET6, socket.SOCK_STREAM))
        out.settimeout(PATIENT_S)
        out.connect(door.getsockname()[:2])
        into = stack.enter_context(door.accept()[0])
        into.settimeout(60)
        began_s = time.monotonic()
        thread = threading.Thread(target=_send_all, args=(out, data))
        thread.start()
        arrived = b"".join(iter(lambda: into.recv(65_536), b""))
        thread.join()
        return arrived, time.monotonic() - began_s


def _send_all(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def test_a_round_trip_takes_at_least_the_delay_of_both_ways(site: Site) -> None:
    one, other, link = pair(site, Shape(delay_ms=30, jitter_ms=3))
    trip_ms = one.ping(link.end(other).v6, PATIENT_S)
    assert trip_ms is not None
    assert trip_ms >= 60


def test_delay_can_be_for_one_sender_and_changes_while_the_link_is_in_use(site: Site) -> None:
    one, other, link = pair(site, Shape(pumped=True))
    trips = []
    for delay_ms in (0.0, 40.0, 80.0):
        link.shape(Shape(delay_ms=delay_ms), one)
        trips.append(one.ping(link.end(other).v4, PATIENT_S) or 0.0)
    assert [trip >= least for trip, least in zip(trips, (0, 40, 80), strict=True)] == [True] * 3


def test_on_a_bridge_each_host_delays_what_it_sends(site: Site) -> None:
    hosts = site.hosts("a", "b", "c")
    wan = site.bridge("wan", hosts, prefixes=BOTH, shape=Shape(delay_ms=20))
    trips = [hosts[0].ping(wan.end(host).v6, PATIENT_S) or 0.0 for host in hosts[1:]]
    assert [trip >= 40 for trip in trips] == [True, True]


def test_some_datagrams_are_lost_and_the_pump_counts_them(site: Site) -> None:
    one, other, link = pair(site, Shape(pumped=True))
    assert one.ping(link.end(other).v6) is not None
    with (
        one.socket(socket.AF_INET6, socket.SOCK_DGRAM) as out,
        other.socket(socket.AF_INET6, socket.SOCK_DGRAM) as into,
    ):
        into.bind((link.end(other).v6, 0))
        into.settimeout(PATIENT_S)
        link.shape(Shape(loss=0.3, seed=11), one)
        for number in range(300):
            out.sendto(str(number).encode(), into.getsockname())
        link.shape(Shape(), one)
        out.sendto(b"last", into.getsockname())
        arrived = list(iter(lambda: into.recv(64), b"last"))
    counts = link.counts(one)
    assert 100 < len(arrived) < 300
    assert counts.lost >= 300 - len(arrived)
    assert arrived == sorted(arrived, key=int)


def test_nothing_passes_at_full_loss(site: Site) -> None:
    one, other, link = pair(site, Shape(loss=1.0))
    assert one.ping(link.end(other).v6, SHORT_S) is None


@pytest.mark.parametrize("shape", [Shape(), Shape(pumped=True), Shape(delay_ms=2, jitter_ms=2, loss=0.01, seed=5)])
def test_a_stream_arrives_whole_whatever_the_link(site: Site, shape: Shape) -> None:
    one, other, link = pair(site, shape)
    data = os.urandom(2_000_000)
    arrived, _ = transfer(one, other, link.end(other).v6, data)
    assert hashlib.sha256(arrived).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("shape", [Shape(rate="4mbit"), Shape(rate="4mbit", delay_ms=1)])
def test_nothing_is_quicker_than_its_rate(site: Site, shape: Shape) -> None:
    one, other, link = pair(site, shape)
    data = bytes(300_000)
    arrived, took_s = transfer(one, other, link.end(other).v6, data)
    assert len(arrived) == len(data)
    assert took_s >= (len(data) - 16_384) * 8 / 4_000_000


def test_a_rate_can_be_taken_away(site: Site) -> None:
    one, other, link = pair(site, Shape(rate="1mbit"))
    assert "tbf" in one.run(["tc", "qdisc"]).stdout
    link.shape(Shape(), one)
    assert "tbf" not in one.run(["tc", "qdisc"]).stdout
    assert "tbf" in other.run(["tc", "qdisc"]).stdout


@pytest.mark.parametrize("shape", [Shape(), Shape(pumped=True)])
def test_a_cut_link_is_silent_and_a_restored_one_works(site: Site, shape: Shape) -> None:
    one, other, link = pair(site, shape)
    assert one.ping(link.end(other).v6) is not None
    link.cut()
    assert one.ping(link.end(other).v6, SHORT_S) is None
    assert "LOWER_UP" in one.run(["ip", "link", "show", "dev", "other"]).stdout
    link.restore()
    assert one.ping(link.end(other).v6, PATIENT_S) is not None


def test_one_end_of_a_bridge_can_be_cut_alone(site: Site) -> None:
    a, b, c = site.hosts("a", "b", "c")
    wan = site.bridge("wan", [a, b, c], prefixes=BOTH)
    wan.cut(c)
    assert a.ping(wan.end(c).v4, SHORT_S) is None
    assert c.ping(wan.end(b).v4, SHORT_S) is None
    assert a.ping(wan.end(b).v4) is not None


def test_a_link_without_a_pump_says_how_to_get_one(site: Site) -> None:
    one, _, link = pair(site)
    with pytest.raises(LabError, match="pumped=True"):
        link.shape(Shape(delay_ms=1))
    with pytest.raises(LabError, match="no pump"):
        link.counts(one)


def test_the_death_of_the_pump_is_noticed_by_the_next_order(site: Site) -> None:
    _, _, link = pair(site, Shape(pumped=True))
    pump = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and _is_pump_of(int(entry.name), os.getpid())
    )
    os.kill(pump, signal.SIGKILL)
    with pytest.raises(LabError, match="pump"):
        link.shape(Shape())


def _is_pump_of(pid: int, parent: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return f"PPid:\t{parent}\n" in status and b"appliance.lab.pump" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
