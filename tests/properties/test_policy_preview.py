"""Laws of preview: a flow is gained or lost exactly if the semantics say so, and what is cut off is what is gone."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from appliance.policy.directory import Directory
from appliance.policy.evaluate import Flow, evaluate
from appliance.policy.model import Policy, Rule
from appliance.policy.preview import State, cuts_off, preview
from appliance.policy.preview_rows import rows
from tests.policy_worlds import ADDRESSES, BORDER_PORTS, NODES, NOW_MS, directories, flows_of, policy_of, rules, worlds

World = tuple[Policy, Directory, list[Flow]]


def crosses(flow: Flow, *states: State) -> bool:
    """True if the ends are at two nodes, in each state that knows both, and also as the newest state knows them."""
    newest: list[bytes | None] = [None, None]
    for state in states:
        places = [state.directory.place(address) for address in (flow.source, flow.target)]
        newest = [place.node if place else before for place, before in zip(places, newest, strict=True)]
        if places[0] and places[1] and places[0].node == places[1].node:
            return False
    return newest[0] != newest[1]


def check(before: State, after: State, flows: list[Flow]) -> None:
    found = preview(before, after, NOW_MS)
    assert found.left_out == 0
    for flow in flows:
        if not crosses(flow, before, after):
            continue
        was, will = (evaluate(state.policy, state.directory, flow, NOW_MS).allowed for state in (before, after))
        assert [flow in change for change in found.gained].count(True) == (will and not was)
        assert [flow in change for change in found.lost].count(True) == (was and not will)


@given(worlds(), st.lists(rules, max_size=2), st.integers(0, 3))
def test_a_change_of_rules_shows_exactly_the_flows_whose_verdict_changes(
    world: World, added: list[Rule], dropped: int
) -> None:
    policy, directory, flows = world
    changed = policy_of(*list(policy.rules.values())[dropped:], *added)
    check(State(policy, directory), State(changed, directory), flows)


@given(worlds(), directories(), st.integers(0, 1 << 32))
def test_a_change_of_members_shows_exactly_the_flows_whose_verdict_changes(
    world: World, changed: Directory, seed: int
) -> None:
    policy, directory, flows = world
    check(State(policy, directory), State(policy, changed), flows + flows_of(policy, changed, Random(seed), 30))


@given(worlds(), worlds())
def test_two_states_that_have_nothing_in_common_are_compared_exactly(one: World, other: World) -> None:
    check(State(*one[:2]), State(*other[:2]), one[2] + other[2])


@given(worlds())
def test_a_state_compared_with_itself_shows_nothing(world: World) -> None:
    state = State(*world[:2])
    found = preview(state, state, NOW_MS)
    assert (found.gained, found.lost, found.left_out) == ((), (), 0)
    assert rows(found, state, state) == ()


@given(worlds(), worlds())
def test_what_one_direction_gains_the_other_loses(one: World, other: World) -> None:
    before, after = State(one[0], one[1]), State(other[0], one[1])
    there, back = preview(before, after, NOW_MS), preview(after, before, NOW_MS)
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert len(rows(there, before, after)) == len(there.gained) + len(there.lost)


@given(worlds(), st.lists(rules, max_size=2), st.integers(0, 3), st.sampled_from(range(len(NODES))))
def test_a_node_is_cut_off_from_exactly_those_with_whom_it_could_exchange_something_and_cannot_any_more(
    world: World, added: list[Rule], dropped: int, number: int
) -> None:
    policy, directory, _ = world
    changed = policy_of(*list(policy.rules.values())[dropped:], *added)
    own = directory.by_address.get(ADDRESSES[number])
    if own is None:
        return
    found = cuts_off(State(policy, directory), State(changed, directory), own.node, NOW_MS)
    lost = {span.node for span in found.peers if not span.host}
    for member in directory.by_address.values():
        if member.node == own.node:
            continue
        was, will = (
            any(
                evaluate(rules_of, directory, Flow(source=a, target=b, protocol=protocol, port=port), NOW_MS).allowed
                for a, b in ((own.address, member.address), (member.address, own.address))
                for protocol in (0, 6, 17, 58, 132)
                for port in BORDER_PORTS[:: 1 if protocol in (6, 17, 132) else len(BORDER_PORTS)]
            )
            for rules_of in (policy, changed)
        )
        assert (member.node in lost) == (was and not will)
