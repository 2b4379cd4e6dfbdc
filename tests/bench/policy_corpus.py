"""A factory for the benchmarks of policy: nodes in cells with roles, hosts behind gateways, and rules among them.

Made from a seed, so that every run measures the same. Tags are a site, a cell, one or two roles; rules join tags, some
name a node or a subnet, one in ten denies and one in twenty expires.
"""

from __future__ import annotations

from random import Random

from appliance.core.prefix import Prefix
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.model import (
    Action,
    AnySelector,
    NodeSelector,
    Policy,
    Protocol,
    Rule,
    Selector,
    Service,
    SubnetSelector,
    TagSelector,
)

NOW_MS = 1_800_000_000_000
ROLES = tuple(f"role-{number}" for number in range(24))


def node(number: int) -> bytes:
    """The id of a node."""
    return number.to_bytes(32, "big")


def factory(nodes: int, *, seed: int = 4) -> Directory:
    """Members with tags, one in fifty of which is the gateway of a /64."""
    chance = Random(seed)
    members = [
        Member(
            node=node(number),
            name=f"node-{number}",
            address=b"\x02" + bytes(7) + number.to_bytes(8, "big"),
            tags=frozenset(
                {f"site-{number % 5}", f"cell-{number % 200}", *chance.sample(ROLES, chance.choice((1, 1, 2)))}
            ),
        )
        for number in range(nodes)
    ]
    subnets = [Subnet(prefix=_net(number), gateway=node(number)) for number in range(0, nodes, 50)]
    return Directory(members, subnets)


def book(rules: int, nodes: int, *, seed: int = 4, dense: bool = False) -> Policy:
    """A policy of that many rules for that many nodes. Dense: more rules about roles, sites, everybody, every port."""
    chance = Random(seed)
    made: dict[bytes, Rule] = {}
    while len(made) < rules:
        rule = Rule(
            action=Action.DENY if chance.random() < 0.1 else Action.ALLOW,
            sources=_side(chance, nodes, dense=dense),
            targets=_side(chance, nodes, dense=dense),
            services=tuple(sorted({_service(chance, dense=dense) for _ in range(chance.choice((1, 1, 2, 3)))})),
            until_ms=NOW_MS + chance.randrange(1, 10**9) if chance.random() < 0.05 else None,
        )
        made[rule.id] = rule
    return Policy(rules=made)


def _side(chance: Random, nodes: int, *, dense: bool) -> tuple[Selector, ...]:
    everybody, cell, site = (
        (2, 45, 10) if dense else (1, 54, 5)
    )  # in a hundred; 5 name a node, 5 a subnet, others roles
    match chance.choices(range(6), (everybody, 5, 5, cell, site, 90 - everybody - cell - site))[0]:
        case 0:
            return (AnySelector(),)
        case 1:
            return (NodeSelector(node(chance.randrange(nodes))),)
        case 2:
            return (SubnetSelector(_net(chance.randrange(0, nodes, 50))),)
        case 3:
            return (TagSelector(f"cell-{chance.randrange(200)}"),)
        case 4:
            return (TagSelector(f"site-{chance.randrange(5)}"),)
        case _:
            return tuple(TagSelector(name) for name in sorted(chance.sample(ROLES, chance.choice((1, 1, 2)))))


def _service(chance: Random, *, dense: bool) -> Service:
    kind = chance.random()
    if kind < 0.1:
        return Service(Protocol.ICMPV6)
    if kind < (0.12 if dense else 0.105):
        return Service(Protocol.ANY)
    first = chance.choice((22, 80, 102, 443, 502, 1883, 4840, 5353, 8883, 44_818, chance.randrange(1024, 60_000)))
    last = first + chance.choice((0, 0, 0, 1, 10, 1000))
    return Service(chance.choice((Protocol.TCP, Protocol.TCP, Protocol.UDP)), first, last)


def _net(number: int) -> Prefix:
    return Prefix(b"\xfd" + bytes(5) + number.to_bytes(2, "big") + bytes(8), 64)
