"""Small random meshes and policies for the laws: few tags, nested subnets, port ranges whose borders meet.

Everything is drawn from few values, so that rules overlap, deny what others allow, and flows hit the borders.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import msgspec
from hypothesis import strategies as st
from msgspec.structs import replace

from appliance.core.prefix import Prefix
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.evaluate import Flow, selects
from appliance.policy.model import (
    MAX_PORT,
    NUMBERS,
    WITH_PORTS,
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

NOW_MS = 1_000
TAGS = ("cell", "hmi", "plc", "robot")
NODES = tuple(bytes([number]) * 32 for number in range(1, 6))
ADDRESSES = tuple(bytes([2, number]) + bytes(14) for number in range(1, 6))
INSIDE = Prefix.parse("fd00::8").address  # an address that a member may have in the middle of somebody's subnet
PREFIXES = tuple(
    map(Prefix.parse, ("::/0", "fd00::/16", "fd00::/120", "fd00::/124", "fd00::4/126", "fd00::8/128", "fd00::10/124"))
)
PORTS = (0, 79, 80, 502, 503, MAX_PORT)

ENDS_MS = (None, None, None, NOW_MS - 1, NOW_MS, NOW_MS + 1, NOW_MS + 5)

tags = st.frozensets(st.sampled_from(TAGS), max_size=3)
prefixes = st.sampled_from(PREFIXES)
selectors: st.SearchStrategy[Selector] = st.one_of(
    st.builds(TagSelector, st.sampled_from(TAGS)),
    st.builds(TagSelector, st.sampled_from(TAGS)),
    st.builds(NodeSelector, st.sampled_from(NODES)),
    st.builds(SubnetSelector, prefixes),
    st.just(AnySelector()),
)
ported = st.builds(
    lambda protocol, ends: Service(protocol, min(ends), max(ends)),
    st.sampled_from([Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP]),
    st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)),
)
services = ported | ported | st.builds(Service, st.sampled_from([Protocol.ICMPV6, Protocol.ANY, Protocol.TCP]))


def normal(found: Iterable[Service]) -> tuple[Service, ...]:
    """Services in canonical form: sorted, ranges of a protocol merged."""
    merged: list[Service] = []
    for service in sorted(set(found)):
        if merged and merged[-1].protocol is service.protocol and service.first <= merged[-1].last + 1:
            merged[-1] = Service(service.protocol, merged[-1].first, max(merged[-1].last, service.last))
        else:
            merged.append(service)
    return tuple(merged)


def ordered(found: Iterable[Selector]) -> tuple[Selector, ...]:
    """Selectors in one order, each once."""
    return tuple(sorted(set(found), key=lambda selector: (type(selector).__name__, msgspec.msgpack.encode(selector))))


actions = st.sampled_from([Action.ALLOW, Action.ALLOW, Action.DENY])
ends_ms = st.sampled_from(ENDS_MS)
rules = st.builds(
    lambda action, sources, targets, served, until_ms: Rule(
        action=action, sources=ordered(sources), targets=ordered(targets), services=normal(served), until_ms=until_ms
    ),
    actions,
    st.lists(selectors, min_size=1, max_size=3),
    st.lists(selectors | selectors | st.just(SelfSelector()), min_size=1, max_size=3),
    st.lists(services, min_size=1, max_size=3),
    ends_ms,
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Up to seven rules; some have a twin that differs in what it does and when it ends, so that rules meet."""
    found = draw(st.lists(rules, max_size=5))
    twins = [replace(rule, action=draw(actions), until_ms=draw(ends_ms)) for rule in found[:2]]
    return policy_of(*found, *twins)


def policy_of(*found: Rule) -> Policy:
    """A policy of these rules."""
    return Policy(rules={rule.id: rule for rule in found})


World = tuple[Policy, Directory, list[Flow]]


def member(number: int, held: frozenset[str] = frozenset(), address: bytes | None = None) -> Member:
    """The node with a number, from 0."""
    return Member(node=NODES[number], name=f"node-{number}", address=address or ADDRESSES[number], tags=held)


@st.composite
def directories(draw: st.DrawFn) -> Directory:
    """Up to five nodes; at times two claim one address, or one has an address inside a subnet."""
    numbers = draw(st.sets(st.integers(0, len(NODES) - 1), min_size=1))
    places = st.sampled_from([None] * 8 + [ADDRESSES[0], INSIDE])
    members = [member(number, draw(tags), draw(places)) for number in sorted(numbers)]
    subnets = draw(st.lists(st.builds(Subnet, prefix=prefixes, gateway=st.sampled_from(NODES)), max_size=4))
    return Directory(members, subnets)


def near(addresses: Iterable[bytes]) -> list[bytes]:
    """Addresses and their neighbours."""
    numbers = {int.from_bytes(address, "big") + step for address in addresses for step in (-1, 0, 1)}
    return [number.to_bytes(16, "big") for number in sorted(numbers) if 0 <= number < 1 << 128]


BORDERS = near(edge for prefix in PREFIXES for edge in (prefix.first, prefix.last))
BORDER_PORTS = sorted({beside for port in PORTS for beside in (port - 1, port, port + 1) if 0 <= beside <= MAX_PORT})
PROTOCOLS = (6, 6, 6, 17, 132, 58, 0, 5, 7, 57, 59, 131, 133, 255)


def flows_of(policy: Policy, directory: Directory, chance: Random, count: int) -> list[Flow]:
    """Flows: most aimed at a rule and the borders of its services, others anywhere, now and then a stranger's."""
    members = list(directory.by_address)
    hosts = [address for address in BORDERS if directory.place(address)] if directory.subnets else []
    anywhere = members * 3 + hosts + chance.sample(BORDERS, 2) + near(members[:1])
    known = [(address, place.subject) for address in members + hosts if (place := directory.place(address))]
    pieces = [(rule, *piece) for rule in policy.rules.values() for piece in rule.pieces()]
    aimed = [
        (rule, sources, targets)
        for rule, *sides in pieces
        for sources, targets in [[[at for at, who in known if any(selects(s, who) for s in side)] for side in sides]]
        if sources and targets
    ]
    found = []
    for _ in range(count):
        protocol, port = chance.choice(PROTOCOLS), chance.choice(BORDER_PORTS)
        source, target = chance.choice(anywhere), chance.choice(anywhere)
        if aimed and chance.random() < 0.8:
            rule, sources, targets = chance.choice(aimed)
            source, target = chance.choice(sources), chance.choice(targets)
            service = chance.choice(rule.services)
            protocol = NUMBERS.get(service.protocol, protocol)
            port = chance.choice([at for at in BORDER_PORTS if service.first - 1 <= at <= service.last + 1])
        found.append(Flow(source=source, target=target, protocol=protocol, port=port))
    return found


@st.composite
def worlds(draw: st.DrawFn, count: int = 30) -> World:
    """A policy, a directory and flows."""
    policy, directory = draw(policies()), draw(directories())
    return policy, directory, flows_of(policy, directory, Random(draw(st.integers(0, 1 << 32))), count)


def world_of(chance: Random, count: int = 40) -> World:
    """The same from plain chance: no shrinking, but every world another one, and sooner made than drawn."""
    found = [_rule_of(chance) for _ in range(chance.randint(1, 5))]
    twins = [
        replace(rule, action=chance.choice(list(Action)), until_ms=chance.choice(ENDS_MS))
        for rule in found
        if chance.random() < 0.5
    ]
    places = [None] * 6 + [ADDRESSES[0], INSIDE]
    members = [
        member(number, frozenset(chance.sample(TAGS, chance.randint(0, 3))), chance.choice(places))
        for number in chance.sample(range(len(NODES)), chance.randint(2, len(NODES)))
    ]
    subnets = [
        Subnet(prefix=chance.choice(PREFIXES), gateway=chance.choice(members).node) for _ in range(chance.randint(0, 4))
    ]
    policy, directory = policy_of(*found, *twins), Directory(members, subnets)
    return policy, directory, flows_of(policy, directory, chance, count)


def _rule_of(chance: Random) -> Rule:
    return Rule(
        action=chance.choice([Action.ALLOW, Action.ALLOW, Action.DENY]),
        sources=ordered(_selector_of(chance) for _ in range(chance.randint(1, 2))),
        targets=ordered(
            SelfSelector() if chance.random() < 0.15 else _selector_of(chance) for _ in range(chance.randint(1, 2))
        ),
        services=normal(_service_of(chance) for _ in range(chance.randint(1, 3))),
        until_ms=chance.choice(ENDS_MS),
    )


def _selector_of(chance: Random) -> Selector:
    found: list[Selector] = [
        TagSelector(chance.choice(TAGS)),
        TagSelector(chance.choice(TAGS)),
        NodeSelector(chance.choice(NODES)),
        SubnetSelector(chance.choice(PREFIXES)),
        AnySelector(),
    ]
    return chance.choice(found)


def _service_of(chance: Random) -> Service:
    protocol = chance.choice([Protocol.TCP, Protocol.TCP, Protocol.UDP, *Protocol])
    if protocol not in WITH_PORTS or chance.random() < 0.1:
        return Service(protocol)
    return Service(protocol, *sorted((chance.choice(PORTS), chance.choice(PORTS))))
