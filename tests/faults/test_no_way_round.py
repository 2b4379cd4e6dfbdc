"""Ways round the firewall, with real packets. Each gets through where there is no table, and not where there is one.

Unless a row says otherwise the policy in force allows everything, so that what is dropped is dropped for its form or
its way.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from appliance.core.prefix import address_text, parse_address
from appliance.policy.model import EMPTY, Policy, Protocol, Service
from tests.probes.packets import (
    DESTINATION_OPTIONS,
    ECHO_REPLY,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTING,
    UDP,
    fragment,
    fragments,
    ipv6,
)
from tests.probes.scene import (
    GATEWAY,
    HOST,
    IPV4,
    LAN,
    LINK_LOCAL,
    MESH,
    OPEN,
    OTHER,
    OUT,
    OUTSIDE,
    PEER,
    SHUT,
    STRANGER,
    STREET,
    V4,
    V4_HOST,
    Scene,
    allowing,
    datagram,
    icmpv6,
    ipv4,
    udp,
)

Attack = Callable[[Scene, bytes], None]
ALL_NODES = parse_address("ff02::1")
MAPPED = parse_address("::ffff:10.9.0.2")
PAD_N = bytes((1, 4, 0, 0, 0, 0))
TO_GATEWAY = MESH[PEER], MESH[GATEWAY]
CUT_S = 1.0  # issue: a revoked flow stops within 1 s


ALL = allowing(Service(Protocol.ANY))
ONE_PORT = allowing(Service(Protocol.UDP, OPEN, OPEN))


# ---- attacks


def framed(make: Callable[[bytes], bytes], sender: str = PEER) -> Attack:
    """A packet in a frame that is addressed to the gateway."""
    return lambda scene, mark: scene.frame(sender, make(mark))


def flow(source: bytes, target: bytes, sender: str = PEER) -> Attack:
    """A datagram to a port that the policy allows."""
    return framed(lambda mark: datagram(source, target, mark), sender)


def flow_ipv4(source: bytes, target: bytes, sender: str = PEER) -> Attack:
    return lambda scene, mark: scene.frame(sender, ipv4(source, target, mark), kind=IPV4)


def ipv4_from_the_node(scene: Scene, mark: bytes) -> None:
    with scene[GATEWAY].socket(socket.AF_INET, socket.SOCK_DGRAM) as talk, suppress(PermissionError):
        talk.sendto(mark, (socket.inet_ntoa(V4[PEER]), OPEN))


def pieces(size: int, *, backwards: bool = False) -> Attack:
    """A datagram to a port that no rule opens, cut."""

    def send(scene: Scene, mark: bytes) -> None:
        found = fragments(TO_GATEWAY, UDP, udp(TO_GATEWAY, SHUT, mark + bytes(64)), scene.count, size)
        for piece in reversed(found) if backwards else found:
            scene.frame(PEER, piece)

    return send


def two_heads(second: int) -> Attack:
    """The first head names a port that no rule opens, the second head, of so many bytes, one that a rule opens."""

    def send(scene: Scene, mark: bytes) -> None:
        shut, opened = (udp(TO_GATEWAY, port, mark + bytes(64)) for port in (SHUT, OPEN))
        for piece, at in ((shut[:40], 0), (opened[:second], 0), (shut[40:], 40)):
            scene.frame(PEER, fragment(TO_GATEWAY, UDP, piece, (scene.count, at, at == 0)))

    return send


def atomic(scene: Scene, mark: bytes) -> None:
    """A fragment that is the whole packet (RFC 6946)."""
    scene.frame(PEER, fragment(TO_GATEWAY, UDP, udp(TO_GATEWAY, SHUT, mark), (scene.count, 0, False)))


def behind(header: int, body: bytes) -> Attack:
    """A datagram behind an extension header of eight bytes."""
    return framed(lambda mark: ipv6(TO_GATEWAY, header, bytes((UDP, 0)) + body + udp(TO_GATEWAY, OPEN, mark)))


def header_then_fragment(scene: Scene, mark: bytes) -> None:
    for piece in fragments(TO_GATEWAY, UDP, udp(TO_GATEWAY, OPEN, mark + bytes(64)), scene.count):
        scene.frame(PEER, ipv6(TO_GATEWAY, HOP_BY_HOP, bytes((FRAGMENT, 0)) + PAD_N + piece[40:]))


def fragment_then_header(scene: Scene, mark: bytes) -> None:
    payload = bytes((UDP, 0)) + PAD_N + udp(TO_GATEWAY, OPEN, mark + bytes(64))
    for piece in fragments(TO_GATEWAY, DESTINATION_OPTIONS, payload, scene.count):
        scene.frame(PEER, piece)


def error_about_nothing(kind: int, code: int, info: int = 0) -> Attack:
    """An ICMPv6 error about a datagram that the gateway never sent."""
    inner = datagram(MESH[GATEWAY], MESH[PEER], bytes(16), SHUT)
    return framed(lambda mark: icmpv6(TO_GATEWAY, struct.pack("!BBI", kind, code, info) + inner, mark))


def neighbour_talk(kind: int, body: bytes, source: bytes, target: bytes) -> Attack:
    """What routers and neighbours say on a link (RFC 4861), with a hop limit of 255."""
    return framed(lambda mark: icmpv6((source, target), bytes((kind, 0)) + body, mark, hop_limit=255))


BAD = parse_address("fe80::bad")
ADVERTISEMENT = struct.pack("!BBHII", 64, 0, 1_800, 0, 0)

# What is tried, how, and where it would be seen.
FORMS: list[tuple[str, Attack, str]] = [
    ("IPv4 from the mesh to the node", flow_ipv4(V4[PEER], V4[GATEWAY]), GATEWAY),
    ("IPv4 from the mesh to a host behind the node", flow_ipv4(V4[PEER], V4_HOST), LAN),
    ("IPv4 from the node to the mesh", ipv4_from_the_node, PEER),
    ("IPv4 from a host behind the node to the mesh", flow_ipv4(V4_HOST, V4[PEER], LAN), PEER),
    ("a hop-by-hop header", behind(HOP_BY_HOP, PAD_N), GATEWAY),
    ("a routing header", behind(ROUTING, bytes(6)), GATEWAY),
    ("a destination options header", behind(DESTINATION_OPTIONS, PAD_N), GATEWAY),
    ("a header before the fragment header", header_then_fragment, GATEWAY),
    ("a header behind the fragment header", fragment_then_header, GATEWAY),
    ("a destination unreachable about nothing", error_about_nothing(1, 4), GATEWAY),
    ("a packet too big about nothing", error_about_nothing(2, 0, 1280), GATEWAY),
    ("a time exceeded about nothing", error_about_nothing(3, 0), GATEWAY),
    ("a parameter problem about nothing", error_about_nothing(4, 1), GATEWAY),
    ("an echo reply that nobody asked for",
     framed(lambda mark: icmpv6(TO_GATEWAY, struct.pack("!BBI", ECHO_REPLY, 0, 7), mark)), GATEWAY),
    ("a router solicitation", neighbour_talk(133, bytes(4), BAD, LINK_LOCAL), GATEWAY),
    ("a router advertisement", neighbour_talk(134, ADVERTISEMENT, BAD, ALL_NODES), GATEWAY),
    ("a neighbour solicitation", neighbour_talk(135, bytes(4) + MESH[GATEWAY], *TO_GATEWAY), GATEWAY),
    ("a neighbour advertisement", neighbour_talk(136, bytes(4) + MESH[PEER], *TO_GATEWAY), GATEWAY),
    ("a redirect", neighbour_talk(137, bytes(4) + STRANGER + MESH[OTHER], BAD, MESH[GATEWAY]), GATEWAY),
    ("a query of multicast listeners", neighbour_talk(130, bytes(20), BAD, ALL_NODES), GATEWAY),
]  # fmt: skip
WAYS: list[tuple[str, Attack, str]] = [
    ("a stranger's source", flow(STRANGER, MESH[GATEWAY]), GATEWAY),
    ("a stranger through the node to a host behind it", flow(STRANGER, HOST), LAN),
    ("a source behind the node itself", flow(HOST, MESH[GATEWAY]), GATEWAY),
    ("an IPv4-mapped source", flow(MAPPED, MESH[GATEWAY]), GATEWAY),
    ("a link-local source", flow(BAD, MESH[GATEWAY]), GATEWAY),
    ("a link-local target", flow(MESH[PEER], LINK_LOCAL), GATEWAY),
    ("a multicast target", flow(MESH[PEER], ALL_NODES), GATEWAY),
    ("the node's address on the street as target", flow(MESH[PEER], OUT), GATEWAY),
    ("through the node to the street", flow(MESH[PEER], OUTSIDE), STREET),
    ("from the mesh back to the mesh", flow(MESH[PEER], MESH[OTHER]), OTHER),
    ("a member's source from the street", flow(MESH[PEER], OUT, STREET), GATEWAY),
    ("a member's source from the street to a host behind the node", flow(MESH[PEER], HOST, STREET), LAN),
    ("a member's source from behind the node to the street", flow(MESH[PEER], OUTSIDE, LAN), STREET),
    ("the node's mesh address from the street", flow(OUTSIDE, MESH[GATEWAY], STREET), GATEWAY),
    ("through the node from the street to a member", flow(OUTSIDE, MESH[PEER], STREET), PEER),
    ("a source behind the node from the street to a member", flow(HOST, MESH[PEER], STREET), PEER),
    ("the node's own source from behind it to a member", flow(MESH[GATEWAY], MESH[PEER], LAN), PEER),
]
CUT: list[tuple[str, Attack, str]] = [
    ("fragments", pieces(40), GATEWAY),
    ("a first fragment that ends with the ports", pieces(8), GATEWAY),
    ("fragments that arrive backwards", pieces(40, backwards=True), GATEWAY),
    ("a single fragment that is whole", atomic, GATEWAY),
    ("a second head that lies within the first", two_heads(32), GATEWAY),
]
ROWS = [(*row, ALL) for row in FORMS + WAYS] + [(*row, ONE_PORT) for row in CUT]


# ---- the proof

ordinary = flow(*TO_GATEWAY)


@pytest.fixture(scope="module")
def built() -> Iterator[Scene]:
    with Scene() as made:
        yield made


@pytest.fixture
def scene(root: None, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made: Scene = request.getfixturevalue("built")
    made.stand_open()
    yield made
    made.stand_open()


@pytest.mark.parametrize("what, attack, at, policy", ROWS, ids=[row[0] for row in ROWS])
def test_it_gets_through_without_the_table_and_not_with_it(
    scene: Scene, what: str, attack: Attack, at: str, policy: Policy
) -> None:
    assert at in scene.watch(attack), "it proves nothing: it is lost without a firewall, too"
    scene.enforce(policy)
    assert GATEWAY in scene.watch(ordinary), "the policy lets nothing in at all"
    assert at not in scene.watch(attack)


def test_before_there_is_a_filter_nothing_passes(scene: Scene) -> None:
    assert GATEWAY in scene.watch(ordinary)
    scene.prepare()
    assert not scene.watch(ordinary)


@pytest.mark.parametrize(
    "attack",
    [two_heads(48), flow(ALL_NODES, MESH[GATEWAY])],
    ids=["fragments that overlap (RFC 5722)", "a multicast source"],
)
def test_the_kernel_itself_refuses_it_with_and_without_the_table(scene: Scene, attack: Attack) -> None:
    assert GATEWAY in scene.watch(pieces(40)), "fragments that do not overlap are put together"
    assert not scene.watch(attack)
    scene.enforce(ALL)
    assert not scene.watch(attack)


@pytest.mark.parametrize(
    "send",
    [
        lambda scene, mark: scene.send(datagram(MESH[GATEWAY], MESH[PEER], mark)),
        flow(HOST, MESH[PEER], LAN),
    ],
    ids=["from the node", "from a host behind it"],
)
def test_while_the_mesh_interface_is_down_what_is_for_members_does_not_leave_by_the_default_route(
    scene: Scene, send: Attack
) -> None:
    scene[GATEWAY].ip("link set dev mesh0 down")
    try:
        assert STREET in scene.watch(send), "it proves nothing: there is no other route"
        scene.enforce(ALL)
        assert not scene.watch(send)
    finally:
        scene[GATEWAY].ip("link set dev mesh0 up")
        scene.join()


@pytest.mark.parametrize("opener, opened", [(PEER, GATEWAY), (GATEWAY, PEER)], ids=["inbound", "outbound"])
@pytest.mark.parametrize(
    "revoke", [lambda scene: scene.enforce(EMPTY), lambda scene: scene.enforce(ALL, without=(PEER,))],
    ids=["the rule is gone", "the member is gone"],
)  # fmt: skip
def test_a_connection_that_runs_is_cut_within_a_second_of_its_revocation(
    scene: Scene, opener: str, opened: str, revoke: Callable[[Scene], object]
) -> None:
    scene.enforce(ALL)
    with (
        scene[opened].socket(socket.AF_INET6, socket.SOCK_STREAM) as door,
        scene[opener].socket(socket.AF_INET6, socket.SOCK_STREAM) as near,
    ):
        door.settimeout(CUT_S)
        near.settimeout(CUT_S)
        door.bind((address_text(MESH[opened]), 0))
        door.listen()
        near.connect(door.getsockname()[:2])
        with door.accept()[0] as far:
            assert crosses(scene, near, far)
            assert crosses(scene, far, near)
            begun = time.monotonic()
            revoke(scene)
            assert not crosses(scene, near, far)
            assert not crosses(scene, far, near)
            assert time.monotonic() - begun < CUT_S


def crosses(scene: Scene, sender: socket.socket, receiver: socket.socket) -> bool:
    """True if the kernel at the other end has what was written into a connection."""
    receiver.setblocking(False)
    scene.watch(lambda _, mark: sender.sendall(mark))
    try:
        return receiver.recv(64) != b""
    except BlockingIOError:
        return False


def test_a_packet_too_big_from_the_gateway_about_a_real_conversation_gets_out(scene: Scene) -> None:
    """What must get through does: the mesh carries larger packets than the network behind the gateway."""
    scene[GATEWAY].ip(f"link set dev {LAN} mtu 1280")
    try:
        scene.enforce(ALL)
        seen = scene.watch(framed(lambda mark: datagram(MESH[PEER], HOST, mark + bytes(1_300))))
        assert seen == {PEER}, "the error quotes the packet"
    finally:
        scene[GATEWAY].ip(f"link set dev {LAN} mtu 1500")
