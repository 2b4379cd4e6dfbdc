"""Laws of compile: what both ends enforce is what `evaluate` allows, for any policy, directory and flow."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from random import Random

from hypothesis import event, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from appliance.core.prefix import Prefix
from appliance.policy.compile import Compiler, compile_filter, next_change_ms
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.evaluate import Flow, evaluate
from appliance.policy.filter_check import Direction, key, permits
from appliance.policy.model import EMPTY, Policy, Rule
from tests.policy_law import broken, crossing
from tests.policy_worlds import (
    ADDRESSES,
    NODES,
    NOW_MS,
    directories,
    member,
    policies,
    policy_of,
    prefixes,
    rules,
    tags,
    worlds,
)

World = tuple[Policy, Directory, list[Flow]]
chances = st.randoms(use_true_random=False)


@given(worlds())
def test_sender_and_receiver_permit_exactly_what_evaluate_allows_and_no_other_node_permits_anything(
    world: World,
) -> None:
    policy, directory, drawn = world
    for flow in drawn:
        event(f"reason: {evaluate(policy, directory, flow, NOW_MS).reason}")
    filters = partial(compile_filter, policy, directory, now_ms=NOW_MS)
    assert broken(policy, directory, drawn, NOW_MS, filters) == []


@given(worlds())
def test_the_entry_that_permits_a_flow_names_the_rules_that_evaluate_names(
    world: World,
) -> None:
    policy, directory, drawn = world
    for flow, source, target in crossing(directory, drawn):
        wanted = evaluate(policy, directory, flow, NOW_MS)
        if wanted.allowed:
            sender, receiver = (compile_filter(policy, directory, node, NOW_MS) for node in (source, target))
            outbound, inbound = key(sender, Direction.OUTBOUND, flow), key(receiver, Direction.INBOUND, flow)
            assert outbound is not None
            assert inbound is not None
            assert sender.outbound[outbound].rules == receiver.inbound[inbound].rules == wanted.allows


@given(worlds(), st.integers(0, 6))
def test_a_filter_that_grew_old_is_never_wider_than_the_policy_and_is_exact_until_the_next_change(
    world: World, age_ms: int
) -> None:
    policy, directory, drawn = world
    later = NOW_MS + age_ms
    change = next_change_ms(policy, NOW_MS)
    for flow, source, target in crossing(directory, drawn):
        wanted = evaluate(policy, directory, flow, later).allowed
        sender, receiver = (compile_filter(policy, directory, node, NOW_MS) for node in (source, target))
        found = {permits(sender, Direction.OUTBOUND, flow, later), permits(receiver, Direction.INBOUND, flow, later)}
        assert found <= {wanted, False}
        if change is None or later < change:
            assert found == {wanted}


@given(policies(), directories())
def test_the_tables_are_disjoint_and_hold_only_what_can_be_looked_up(policy: Policy, directory: Directory) -> None:
    for node in directory.members:
        made = compile_filter(policy, directory, node, NOW_MS)
        others = {address for address, member in directory.by_address.items() if member.node != node}
        assert set(made.peers) == others
        for table in (made.peer_nets, made.locals):
            assert all(first <= last for first, last in table)
            assert all(before[1] < after[0] for before, after in pairwise(sorted(table)))
        peers = {*made.peers.values(), *made.peer_nets.values()}
        assert all(0 <= number < 1 << 32 for number in peers)
        for entry, grant in {**made.inbound, **made.outbound}.items():
            assert entry.peer in peers
            assert entry.local in made.locals.values()
            assert entry.service in made.services.values()
            assert 0 not in entry
            assert grant.rules
            assert grant.until_ms is None or grant.until_ms > NOW_MS


@given(st.lists(rules, max_size=7), directories(), chances)
def test_the_order_of_rules_members_and_subnets_does_not_show(
    drawn: list[Rule], directory: Directory, chance: Random
) -> None:
    shuffled, members, subnets = list(drawn), list(directory.members.values()), list(directory.subnets)
    for each in (shuffled, members, subnets):
        chance.shuffle(each)
    for node in directory.members:
        first = compile_filter(policy_of(*drawn), directory, node, NOW_MS)
        assert compile_filter(policy_of(*shuffled), Directory(members, subnets), node, NOW_MS) == first


@given(worlds(), st.integers(1, 3))
def test_numbers_that_collide_change_no_verdict(world: World, number_bits: int) -> None:
    policy, directory, drawn = world
    compiler = Compiler(number_bits=number_bits)
    compiler.set_directory(directory)
    compiler.set_policy(policy, NOW_MS)
    assert broken(policy, directory, drawn, NOW_MS, compiler.filter) == []


class Increments(RuleBasedStateMachine):
    """A compiler that lives through changes gives at each step what a new one gives, also where numbers collide."""

    def __init__(self) -> None:
        super().__init__()
        self.number_bits = 32
        self.compiler = Compiler()
        self.members: dict[bytes, Member] = {}
        self.subnets: list[Subnet] = []
        self.policy = EMPTY
        self.now_ms = NOW_MS

    @initialize(number_bits=st.sampled_from([2, 4, 32]), directory=directories(), policy=policies())
    def begin(self, number_bits: int, directory: Directory, policy: Policy) -> None:
        self.number_bits = number_bits
        self.compiler = Compiler(number_bits=number_bits)
        self.members, self.subnets = dict(directory.members), list(directory.subnets)
        self.policy = policy
        self.compiler.set_policy(policy, self.now_ms)

    @rule(number=st.integers(0, 4), held=tags)
    def join_or_change_tags(self, number: int, held: frozenset[str]) -> None:
        before = self.members.get(NODES[number], member(number))
        self.members[before.node] = replace(before, tags=held)

    @rule(number=st.integers(0, 4))
    def evict(self, number: int) -> None:
        self.members.pop(NODES[number], None)

    @rule(number=st.integers(0, 4), address=st.sampled_from(ADDRESSES))
    def move(self, number: int, address: bytes) -> None:
        before = self.members.get(NODES[number], member(number))
        self.members[before.node] = replace(before, address=address)

    @rule(prefix=prefixes, number=st.integers(0, 4))
    def declare_a_subnet(self, prefix: Prefix, number: int) -> None:
        self.subnets.append(Subnet(prefix=prefix, gateway=NODES[number]))

    @rule()
    def withdraw_a_subnet(self) -> None:
        del self.subnets[:1]

    @rule(added=rules)
    def add_a_rule(self, added: Rule) -> None:
        self.policy = policy_of(*self.policy.rules.values(), added)
        self.compiler.set_policy(self.policy, self.now_ms)

    @rule()
    def drop_a_rule(self) -> None:
        self.policy = policy_of(*list(self.policy.rules.values())[1:])
        self.compiler.set_policy(self.policy, self.now_ms)

    @rule(later_ms=st.integers(1, 3))
    def wait(self, later_ms: int) -> None:
        self.now_ms += later_ms
        self.compiler.set_policy(self.policy, self.now_ms)

    @invariant()
    def the_increment_is_the_whole(self) -> None:
        directory = Directory(self.members.values(), self.subnets)
        self.compiler.set_directory(directory)
        fresh = Compiler(number_bits=self.number_bits)
        fresh.set_directory(directory)
        fresh.set_policy(self.policy, self.now_ms)
        given_out = [self.compiler.filter(node) for node in directory.members]
        assert given_out == [fresh.filter(node) for node in directory.members]
        for node in sorted(directory.members)[:1]:  # the view that is left behind is that of one node for many steps
            assert self.compiler.filter(node) == fresh.filter(node)


TestIncrements = Increments.TestCase
TestIncrements.settings = settings(stateful_step_count=20, deadline=None)
