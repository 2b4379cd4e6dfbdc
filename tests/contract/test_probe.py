"""Probes that die at each place where one can, with real firewalls at both ends."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Thread

import pytest
from msgspec.structs import replace

from appliance.core.errors import X0tError
from appliance.core.prefix import address_text, parse_address
from appliance.netstack.finding import Answer, Order, Seen
from appliance.netstack.probe import observe
from appliance.policy.model import EMPTY, Policy, Protocol, Service
from tests.probes.packets import ICMPV6, SCTP, TCP, UDP
from tests.probes.scene import GATEWAY, HOST, LAN, MESH, OUT, OUTSIDE, PEER, Scene, allowing

QUIET_S = 0.15  # long enough for two hosts on one machine
SECOND_SYN_S = 2.0  # the kernel sends it after 1 s (RFC 6298)
PORT = 502
UNREACHABLE, PROHIBITED = parse_address("fd01::99"), parse_address("fd01::98")
NOWHERE = parse_address("300::1")
ALL = allowing(Service(Protocol.ANY))


@pytest.fixture(scope="module")
def built() -> Iterator[Scene]:
    with Scene() as made:
        made[PEER].ip("route add fd01::/64 via 200::1 dev mesh0", "route add blackhole 300::/8")
        made[GATEWAY].ip("route add unreachable fd01::99", "route add prohibit fd01::98")
        yield made


@pytest.fixture
def scene(root: None, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made: Scene = request.getfixturevalue("built")
    made.stand_open()
    yield made
    made.stand_open()


def order(protocol: int, target: bytes = MESH[GATEWAY], size_bytes: int = 56, source: str = PEER) -> Order:
    port = 0 if protocol == ICMPV6 else PORT
    return Order(
        source=MESH[source],
        target=target,
        protocol=protocol,
        port=port,
        size_bytes=size_bytes,
        timeout_s=QUIET_S,
    )


def probe(scene: Scene, asked: Order, sender: str = PEER) -> Seen:
    return asyncio.run(observe(asked, scene[sender].socket))


@contextmanager
def listening(scene: Scene, kind: int) -> Iterator[None]:
    """A program of the gateway that takes connections, or sends datagrams back."""
    with scene[GATEWAY].socket(socket.AF_INET6, kind) as door:
        door.bind((address_text(MESH[GATEWAY]), PORT))
        if kind == socket.SOCK_STREAM:
            door.listen()
            yield
            return
        answerer = Thread(target=lambda: door.sendto(b"", door.recvfrom(64)[1]), name="answerer")
        answerer.start()
        yield
        answerer.join()


@pytest.mark.parametrize("policy", [None, ALL], ids=["no firewall", "allowed"])
@pytest.mark.parametrize("protocol, kind", [(TCP, socket.SOCK_STREAM), (UDP, socket.SOCK_DGRAM), (ICMPV6, None)])
def test_a_probe_that_is_answered_has_a_round_trip(
    scene: Scene, protocol: int, kind: int | None, policy: Policy | None
) -> None:
    if policy is not None:
        scene.enforce(policy)
    with listening(scene, kind) if kind is not None else nullcontext():
        seen = probe(scene, order(protocol))
    assert (seen.answer, seen.by) == (Answer.REPLIED, None)
    assert seen.round_trip_ms is not None
    assert 0 < seen.round_trip_ms < QUIET_S * 1000


@pytest.mark.parametrize("policy", [None, ALL], ids=["no firewall", "allowed"])
@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP])
def test_where_nobody_listens_the_target_says_so(scene: Scene, protocol: int, policy: Policy | None) -> None:
    if policy is not None:
        scene.enforce(policy)
    seen = probe(scene, order(protocol))
    assert seen.answer is Answer.CLOSED
    assert seen.by == (None if protocol == TCP else MESH[GATEWAY]), "a reset needs no ICMPv6"


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMPV6, SCTP])
def test_the_receivers_firewall_is_silent(scene: Scene, protocol: int) -> None:
    scene.enforce(EMPTY)
    assert probe(scene, order(protocol)) == Seen(answer=Answer.SILENCE)


@pytest.mark.parametrize("protocol", [UDP, ICMPV6, SCTP])
def test_the_senders_own_kernel_refuses_what_its_firewall_drops(scene: Scene, protocol: int) -> None:
    asked = order(protocol, target=MESH[PEER], source=GATEWAY)
    assert probe(scene, asked, GATEWAY).answer in {Answer.REPLIED, Answer.CLOSED}
    scene.enforce(EMPTY)
    assert probe(scene, asked, GATEWAY) == Seen(answer=Answer.NOT_SENT)


def test_a_tcp_syn_that_the_senders_firewall_drops_is_silence(scene: Scene) -> None:
    """The kernel tries again and tells nobody: the filter's own verdict says why."""
    scene.enforce(EMPTY)
    assert probe(scene, order(TCP, target=MESH[PEER], source=GATEWAY), GATEWAY) == Seen(answer=Answer.SILENCE)


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMPV6, SCTP])
def test_without_a_route_nothing_is_sent(scene: Scene, protocol: int) -> None:
    assert probe(scene, order(protocol, target=NOWHERE)) == Seen(answer=Answer.NO_ROUTE)


def test_what_would_leave_by_another_interface_is_not_sent(scene: Scene) -> None:
    seen = probe(scene, order(UDP, target=OUTSIDE, source=GATEWAY), GATEWAY)
    assert seen == Seen(answer=Answer.OTHER_WAY, by=OUT)


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMPV6])
@pytest.mark.parametrize(
    "target, wanted", [(UNREACHABLE, Answer.UNREACHABLE), (PROHIBITED, Answer.PROHIBITED)], ids=["off", "forbidden"]
)
def test_a_gateways_error_is_told_with_who_sent_it(scene: Scene, target: bytes, wanted: Answer, protocol: int) -> None:
    scene.enforce(ALL)
    asked = order(protocol, target=target)
    if protocol == TCP:  # over a veth the error is back before connect() has let go of its socket: the second SYN
        asked = replace(asked, timeout_s=SECOND_SYN_S)
    seen = probe(scene, asked)
    assert seen.answer is wanted
    assert seen.by == (None if protocol == TCP else MESH[GATEWAY])


def test_a_datagram_that_the_network_behind_the_gateway_does_not_take_is_too_big(scene: Scene) -> None:
    scene.enforce(ALL)
    scene[GATEWAY].ip(f"link set dev {LAN} mtu 1280")
    try:
        seen = probe(scene, order(UDP, target=HOST, size_bytes=1_400))
    finally:
        scene[GATEWAY].ip(f"link set dev {LAN} mtu 1500")
    assert (seen.answer, seen.by) == (Answer.TOO_BIG, MESH[GATEWAY])


def test_of_other_protocols_no_probe_is_made(scene: Scene) -> None:
    with pytest.raises(X0tError, match="protocol 47"):
        probe(scene, order(47))


def test_scapy_is_loaded_for_sctp_alone() -> None:
    words = "import sys, appliance.netstack.probe, appliance.netstack.capture; sys.exit('scapy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0
