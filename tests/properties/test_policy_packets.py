"""The law on real packets: what leaves, arrives and is answered is what `evaluate` allows. And it catches a liar.

`./test bench policy-packets --probes 100000` does the same for longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import time_ns

import pytest

from appliance.policy.compile import compile_filter
from appliance.policy.directory import Directory, Member
from appliance.policy.filter import Filter
from appliance.policy.model import Action, AnySelector, Policy, Protocol, Rule, Service
from tests.policy_worlds import policy_of
from tests.probes.ground import Ground
from tests.probes.packets import UDP, Kind, Probe
from tests.probes.trial import Plan, run
from tests.properties.test_policy_mutants import CHAIN, MUTANTS, modules

PROBES = 5_000
TRIED = 1_920  # until a mutant must have been found out; most are in the first round of 320
LASTS_MS = 2_500  # of which the firewalls take up to a second on a busy machine
SLACK_MS = 50  # the kernel counts in ticks, and we look at the clock a little after the packet
FOUND_OUT = (
    "a deny is dropped",
    "a deny counts as an allow",
    "ends are swapped",
    "a port range is one too wide below",
    "a subnet reaches one address too far",
    "expired rules count",
    "hosts have the rights of their gateway",
    "hosts behind the node are forgotten",
)

pytestmark = pytest.mark.leaves_threads  # the firewalls of the ground, which serves all tests here, have one each


@pytest.fixture(scope="module")
def built() -> Iterator[Ground]:
    with Ground() as made:
        yield made


@pytest.fixture
def ground(root: None, request: pytest.FixtureRequest) -> Ground:
    made: Ground = request.getfixturevalue("built")
    return made


def test_each_probe_leaves_arrives_and_is_answered_exactly_when_the_policy_says_so(
    ground: Ground, record_property: Callable[[str, object], None]
) -> None:
    outcome = run(ground, Plan(seed=4, probes=PROBES))
    record_property("counts", outcome)
    assert not outcome.disagreements, "\n\n".join(outcome.disagreements)
    assert outcome.probes == PROBES
    assert PROBES * 0.15 < outcome.allowed < PROBES * 0.85, "neither verdict is rare"
    assert len(outcome.kinds) == len(Kind)


@pytest.mark.parametrize("what", FOUND_OUT)
def test_packets_find_out_a_compiler_that_is_wrong(ground: Ground, what: str) -> None:
    (mutant,) = [row for row in MUTANTS if row[0] == what]
    compiler = modules(*mutant[1:])[CHAIN[-1]]
    outcome = run(ground, Plan(seed=1, probes=TRIED, enough=1), compiler.compile_filter)
    assert outcome.disagreements, f"{outcome.probes} probes saw nothing"


def test_what_expires_ends_in_the_kernel_with_nobody_acting_and_cuts_what_runs(ground: Ground) -> None:
    mesh = ground.meshes["a"]
    until_ms = time_ns() // 1_000_000 + LASTS_MS
    rule = Rule(
        action=Action.ALLOW,
        sources=(AnySelector(),),
        targets=(AnySelector(),),
        services=(Service(Protocol.UDP),),
        until_ms=until_ms,
    )
    filters = _filters(ground, policy_of(rule), until_ms - LASTS_MS)
    ground.route({"a": {}, "b": {}}, {"a": [*mesh.addresses], "b": []})
    ground.enforce(filters)
    ends = {"source": mesh.addresses["north"], "target": mesh.addresses["south"]}
    fates: dict[int, tuple[int, bool]] = {}
    while time_ns() // 1_000_000 < until_ms + 500:
        probe = Probe(number=len(fates) + 1, mesh="a", kind=Kind.PLAIN, protocol=UDP, port=502, sport=20_000, **ends)
        seen = ground.send([("north", probe)])
        fates[probe.number] = time_ns() // 1_000_000, probe.number in seen.arrived
    early = {arrived for at_ms, arrived in fates.values() if at_ms < until_ms - SLACK_MS}
    late = {arrived for at_ms, arrived in fates.values() if at_ms > until_ms + SLACK_MS}
    assert (early, late) == ({True}, {False})


def _filters(ground: Ground, policy: Policy, now_ms: int) -> dict[tuple[str, str], Filter]:
    """The policy for the members of mesh a; nothing for those of mesh b."""
    one, other = ground.meshes.values()
    directory = Directory(Member(node=node, name=name, address=one.addresses[name]) for name, node in one.nodes.items())
    return {(one.name, name): compile_filter(policy, directory, node, now_ms) for name, node in one.nodes.items()} | {
        (other.name, name): Filter(own=own) for name, own in other.addresses.items()
    }
