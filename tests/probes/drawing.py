"""Random meshes and policies for real packets, from a seed: what a round is about, and the probes to try it with.

Everything is drawn from few values, so that rules overlap, deny what others allow, and probes hit the borders. The
hosts of `ground` are the same in every round; who of them is a member, with which tags, and which prefix is behind whom
changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from appliance.core.prefix import Prefix, parse_address
from appliance.core.yggdrasil import node_address, node_subnet
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.model import (
    MAX_PORT,
    Action,
    AnySelector,
    NodeSelector,
    Policy,
    Protocol,
    Rule,
    Selector,
    SelfSelector,
    Service,
    SubnetSelector,
    TagSelector,
)
from tests.policy_worlds import TAGS, normal, ordered, policy_of
from tests.probes.packets import GRE, ICMPV6, PLAIN, SCTP, TCP, UDP, Kind, Probe

GATEWAYS: Final = ("north", "south", "west")  # each with a network behind it
NODES: Final = (*GATEWAYS, "robot")
OUTLAW: Final = "outlaw"  # at every mesh's wire, member of none, without a firewall
MESHES: Final[dict[str, tuple[str, ...]]] = {"a": NODES, "b": GATEWAYS}
PORTS: Final = (0, 1, 79, 80, 81, 443, 502, 503, MAX_PORT - 1, MAX_PORT)
NO_ECHO_TYPES: Final = (1, 2, 3, 4, 129, 130, 133, 134, 135, 136, 137, 139, 140, 143, 200)
_HOUR_MS: Final = 3_600_000
_FIRST_SPORT: Final = 20_000  # far from PORTS, so that no probe looks like the answer to another
_NEAR: Final = [port for base in PORTS for port in (base - 1, base, base + 1) if 0 <= port <= MAX_PORT]


class Mesh(msgspec.Struct, frozen=True, kw_only=True):
    """What of a mesh stays: its interface, its nodes' ids and addresses, the prefixes that may be behind them."""

    name: str
    interface: str
    nodes: dict[str, bytes]
    addresses: dict[str, bytes]
    outlaw: bytes  # the address of a stranger
    prefixes: tuple[Prefix, ...]


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force at one mesh."""

    mesh: Mesh
    policy: Policy
    directory: Directory


def mesh(name: str) -> Mesh:
    """A mesh by name; robot's address, where it is a node, is in the middle of the others' prefixes."""
    keys = {node: hashlib.sha256(f"{name}/{node}".encode()).digest() for node in (*MESHES[name], OUTLAW)}
    net = f"fd0{name}:0"
    texts = ("::/32", "::/64", "::/120", "::/124", "::4/126", "::8/128", "::10/124", ":1::/48", ":1:0:8000::/66")
    return Mesh(
        name=name,
        interface=f"mesh-{name}",
        nodes={node: hashlib.sha256(keys[node]).digest() for node in MESHES[name]},
        addresses={
            node: parse_address(f"{net}::9") if node == "robot" else node_address(keys[node]) for node in MESHES[name]
        },
        outlaw=node_address(keys[OUTLAW]),
        prefixes=(*(Prefix.parse(net + text) for text in texts), node_subnet(keys["north"])),
    )


def draw_round(chance: Random, of: Mesh, now_ms: int) -> Round:
    """Who is who, and a policy."""
    members = [
        Member(
            node=of.nodes[name],
            name=name,
            address=of.addresses[name],
            tags=frozenset(chance.sample(TAGS, chance.randrange(4))),
        )
        for name in of.nodes
        if chance.random() < 0.95
    ]
    held = [prefix for prefix in of.prefixes for _ in range(2) if chance.random() < 0.45]  # some behind two gateways
    subnets = [Subnet(prefix=prefix, gateway=of.nodes[chance.choice(GATEWAYS)]) for prefix in held]
    rules = [_rule(chance, of, now_ms) for _ in range(chance.choice((1, 2, 3, 5, 8, 13)))]
    if chance.random() < 0.6:  # something to deny, and to answer
        rules.append(_wide(chance))
    return Round(mesh=of, policy=policy_of(*rules), directory=Directory(members, subnets))


def draw_probes(chance: Random, rounds: Sequence[Round], count: int, first: int) -> list[Probe]:
    """Probes of a round, numbered from `first`.

    What has no source port of its own is tried once between two addresses, or one probe would belong to the
    conversation of another.
    """
    places = {at.mesh.name: _addresses(at) for at in rounds}
    tried: set[frozenset[object]] = set()
    found: list[Probe] = []
    while len(found) < count:
        to = chance.choice(list(places))
        source = chance.choice(places[chance.choice(list(places)) if chance.random() < 0.1 else to])
        target = chance.choice(places[to])
        kind, protocol, port = _service(chance)
        if protocol in {*PLAIN, GRE} or kind in {Kind.NO_ECHO, Kind.BIG}:  # without a source port of their own
            key = frozenset((source, target, protocol, port))
            if key in tried:
                continue
            tried.add(key)
        found.append(
            Probe(
                number=first + len(found),
                mesh=to,
                kind=kind,
                source=source,
                target=target,
                protocol=protocol,
                port=port,
                sport=_FIRST_SPORT + len(found),
            )
        )
    return found


def _rule(chance: Random, of: Mesh, now_ms: int) -> Rule:
    targets: list[Selector] = [_selector(chance, of) for _ in range(chance.choice((1, 1, 2, 3)))]
    if chance.random() < 0.15:
        targets.append(SelfSelector())
    return Rule(
        action=Action.DENY if chance.random() < 0.3 else Action.ALLOW,
        sources=ordered(_selector(chance, of) for _ in range(chance.choice((1, 1, 2, 3)))),
        targets=ordered(targets),
        services=normal(_offer(chance) for _ in range(chance.choice((1, 2, 3)))),
        until_ms=chance.choice((None, None, None, now_ms - 1, now_ms - _HOUR_MS, now_ms + _HOUR_MS)),
    )


def _wide(chance: Random) -> Rule:
    offers = [(Service(Protocol.ANY),), (Service(Protocol.TCP), Service(Protocol.UDP, 1, 502))]
    return Rule(action=Action.ALLOW, sources=(AnySelector(),), targets=(AnySelector(),), services=chance.choice(offers))


def _selector(chance: Random, of: Mesh) -> Selector:
    kind = chance.random()
    if kind < 0.35:
        return TagSelector(chance.choice(TAGS))
    if kind < 0.5:
        return NodeSelector(of.nodes[chance.choice(list(of.nodes))])
    if kind < 0.75:
        return SubnetSelector(chance.choice((of.prefixes[0], *of.prefixes)))
    return AnySelector()


def _offer(chance: Random) -> Service:
    if chance.random() < 0.4:
        return Service(chance.choice((Protocol.ANY, Protocol.ICMPV6, Protocol.TCP, Protocol.UDP, Protocol.SCTP)))
    ends = chance.choice(PORTS), chance.choice(PORTS)
    return Service(chance.choice((Protocol.TCP, Protocol.UDP, Protocol.UDP, Protocol.SCTP)), min(ends), max(ends))


def _addresses(at: Round) -> list[bytes]:
    """Nodes more than once, hosts at the borders of prefixes, and strangers beside them."""
    beside = [
        (int.from_bytes(edge, "big") + step).to_bytes(16, "big")
        for prefix in at.mesh.prefixes
        for edge in (prefix.first, prefix.last)
        for step in (-1, 0, 1)
    ]
    hosts = sorted({address for address in beside if at.directory.place(address) is not None})
    strangers = sorted({*beside, at.mesh.outlaw} - set(hosts))
    nodes = sorted(at.mesh.addresses.values())
    return nodes * 10 + hosts + strangers[:2] + [at.mesh.outlaw]


def _service(chance: Random) -> tuple[Kind, int, int]:
    kind = chance.random()
    if kind < 0.05:
        return Kind.NO_ECHO, ICMPV6, chance.choice(NO_ECHO_TYPES)
    protocol = chance.choice((TCP, TCP, TCP, UDP, UDP, UDP, ICMPV6, ICMPV6, SCTP, chance.choice((*PLAIN, GRE))))
    port = chance.choice(_NEAR) if protocol in {TCP, UDP, SCTP} else 0
    if kind < 0.1:
        return Kind.OPTIONS, protocol, port
    if kind < 0.25 and protocol in {TCP, UDP, ICMPV6}:
        return Kind.FRAGMENTS, protocol, port
    if kind < 0.35 and protocol == UDP and port:
        return Kind.BIG, protocol, port
    return Kind.PLAIN, protocol, port
