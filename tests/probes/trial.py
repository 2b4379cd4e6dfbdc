"""Holds real packets against `evaluate`: each probe leaves, arrives and is answered exactly when the policy says so.

A round draws policies and members for both meshes, lets every node enforce what is compiled for it, and sends probes:
most from where they claim to come, some from the outlaw, so that the receiver alone decides. What disagrees is reported
with all that is needed to see it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from time import time_ns
from typing import Final

import msgspec

from appliance.core.prefix import address_text
from appliance.policy.compile import compile_filter
from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow, Verdict, evaluate
from appliance.policy.filter import Filter
from appliance.policy.model import Policy
from tests.probes.drawing import OUTLAW, Round, draw_probes, draw_round
from tests.probes.ground import NETWORKS, Ground, Sighting, network
from tests.probes.packets import ICMPV6, TCP, UDP, Kind, Probe

Compile = Callable[[Policy, Directory, bytes, int], Filter]
_SPOOFED: Final = 0.25  # of the probes the outlaw sends in the name of others


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to try."""

    seed: int
    probes: int
    each: int = 320  # probes for one policy of each mesh
    enough: int = 20  # disagreements


class Outcome(msgspec.Struct):
    """What a trial saw."""

    seed: int
    policies: int = 0
    probes: int = 0
    allowed: int = 0
    forwarded: int = 0  # with a host behind a gateway at one end at least
    spoofed: int = 0
    answered: int = 0
    kinds: Counter[str] = msgspec.field(default_factory=Counter)
    disagreements: list[str] = msgspec.field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{self.probes:,} probes over {self.policies:,} policies (seed {self.seed}): {self.allowed:,} allowed, "
            f"{self.answered:,} of them answered, {self.forwarded:,} through gateways, {self.spoofed:,} past the "
            f"sender's firewall; {kinds}; {len(self.disagreements):,} disagreements"
        )


class _Trip(msgspec.Struct, frozen=True):
    """A probe, who sends it, and what must become of it."""

    probe: Probe
    sender: str
    origin: str  # the host that has the source address
    receiver: str
    verdict: Verdict
    at: Round

    @property
    def passes(self) -> bool:
        return self.verdict.allowed and self.probe.kind not in {Kind.OPTIONS, Kind.NO_ECHO}

    @property
    def is_answered(self) -> bool:
        """True if it arrives, nobody listens, and the target's kernel says so to who sent it.

        A network says that a port is unreachable with the address of its interface, which is nobody's of the mesh.
        """
        says_so = {TCP, ICMPV6} if self.receiver in NETWORKS else {TCP, ICMPV6, UDP}
        return self.passes and self.sender == self.origin and self.probe.protocol in says_so


def run(ground: Ground, plan: Plan, compile_: Compile = compile_filter) -> Outcome:
    """Carry out a plan; ends early with enough disagreements."""
    chance, outcome = Random(plan.seed), Outcome(plan.seed)
    while outcome.probes < plan.probes and len(outcome.disagreements) < plan.enough:
        now_ms = time_ns() // 1_000_000
        rounds = [draw_round(chance, of, now_ms) for of in ground.meshes.values()]
        drawn = draw_probes(chance, rounds, 2 * plan.each, first=1 + 4 * outcome.probes)
        trips = list(islice(_trips(chance, rounds, drawn, now_ms), min(plan.each, plan.probes - outcome.probes)))
        _put_in_force(ground, rounds, now_ms, compile_)
        seen = ground.send((trip.sender, trip.probe) for trip in trips)
        outcome.policies += len(rounds)
        for trip in trips:
            _count(trip, seen, outcome)
    return outcome


def _put_in_force(ground: Ground, rounds: Sequence[Round], now_ms: int, compile_: Compile) -> None:
    behind, reached, filters = {}, {}, {}
    for at in rounds:
        mesh, members = at.mesh, at.directory.members
        names = {node: name for name, node in mesh.nodes.items()}
        behind[mesh.name] = {subnet.prefix: names[subnet.gateway] for subnet in reversed(at.directory.subnets)}
        reached[mesh.name] = [
            name for name, own in mesh.addresses.items() if _host([at], own) == name
        ]  # also who is no member, so that probes are not lost on the way
        for name, node in mesh.nodes.items():
            filters[mesh.name, name] = (
                compile_(at.policy, at.directory, node, now_ms) if node in members else Filter(own=mesh.addresses[name])
            )
    ground.route(behind, reached)
    ground.enforce(filters)


def _trips(chance: Random, rounds: Sequence[Round], drawn: Sequence[Probe], now_ms: int) -> Iterator[_Trip]:
    """The probes that cross a mesh, with what must become of them."""
    by_name = {at.mesh.name: at for at in rounds}
    for probe in drawn:
        at = by_name[probe.mesh]
        origin, receiver = _host(rounds, probe.source), _host([at], probe.target)
        near, far = (host.partition("-")[0] for host in (origin, receiver))
        is_foreign = near not in {*at.mesh.nodes, OUTLAW}  # it has no interface of that mesh
        if near == far or (is_foreign and receiver == OUTLAW):
            continue
        spoofed = is_foreign or (receiver != OUTLAW and chance.random() < _SPOOFED)
        port = 0 if probe.kind is Kind.NO_ECHO else probe.port
        flow = Flow(source=probe.source, target=probe.target, protocol=probe.protocol, port=port)
        verdict = evaluate(at.policy, at.directory, flow, now_ms)
        yield _Trip(
            probe=probe,
            sender=OUTLAW if spoofed else origin,
            origin=origin,
            receiver=receiver,
            verdict=verdict,
            at=at,
        )


def _host(rounds: Sequence[Round], address: bytes) -> str:
    """The host at an address: as the directory says, else the node that has it, else the outlaw."""
    for at in rounds:
        if (place := at.directory.place(address)) is not None:
            name = next(name for name, node in at.mesh.nodes.items() if node == place.node)
            return name if place.subject.host is None else network(name)
    for at in rounds:
        for name, own in at.mesh.addresses.items():
            if own == address:
                return name
    return OUTLAW


def _count(trip: _Trip, seen: Sighting, outcome: Outcome) -> None:
    """Compare what must be with what was, and add to the outcome."""
    probe, passes, honest = trip.probe, trip.passes, trip.sender != OUTLAW
    wanted = _Fate(
        left=passes if honest else None,
        arrived=frozenset({trip.receiver} if passes else ()),
        answered=trip.is_answered,
    )
    found = _Fate(
        left=(probe.source, probe.number) in seen.left if honest else None,
        arrived=frozenset(seen.arrived.get(probe.number, set()) - {trip.origin}),  # there it is the echo
        answered=(trip.origin, probe.number) in seen.answered,
    )
    outcome.probes += 1
    outcome.allowed += passes
    outcome.answered += found.answered
    outcome.forwarded += "-" in trip.origin + trip.receiver
    outcome.spoofed += not honest
    outcome.kinds[probe.kind] += 1
    if wanted != found:
        outcome.disagreements.append(_report(trip, wanted, found, outcome))


class _Fate(msgspec.Struct, frozen=True):
    """What becomes of a probe."""

    left: bool | None  # the sender's firewall let it go; None: it has none
    arrived: frozenset[str]
    answered: bool


def _report(trip: _Trip, wanted: _Fate, found: _Fate, outcome: Outcome) -> str:
    """All that is needed to see it again."""
    probe, directory = trip.probe, trip.at.directory
    rules = [
        f"    {rule.action} {_words(rule.sources)} -> {_words(rule.targets)}: {_words(rule.services)}"
        + (f" until {rule.until_ms}" if rule.until_ms is not None else "")
        for rule in trip.at.policy.rules.values()
    ]
    members = [
        f"    {member.name} {address_text(member.address)} {member.node.hex()[:8]} {_words(sorted(member.tags))}"
        for member in directory.members.values()
    ]
    subnets = [f"    {subnet.prefix} behind {directory.members[subnet.gateway].name}" for subnet in directory.subnets]
    return "\n".join(
        (
            f"seed {outcome.seed}, probe {outcome.probes}: {probe.kind} {probe.protocol}/{probe.port} "
            f"{address_text(probe.source)} -> {address_text(probe.target)}, mesh {probe.mesh}",
            f"  {trip.sender} sends what is from {trip.origin} to {trip.receiver}; evaluate: {trip.verdict.reason}",
            f"  wanted {wanted}",
            f"  found  {found}",
            *("  rules", *rules, "  members", *members, "  subnets", *subnets),
        )
    )


def _words(found: Sequence[object]) -> str:
    return " ".join(map(str, found))
