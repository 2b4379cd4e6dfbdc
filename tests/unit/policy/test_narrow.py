"""A filter that outlives its policy gives nobody more than they have, and nothing to who has changed."""

from __future__ import annotations

import msgspec

from appliance.core.prefix import Prefix, parse_address
from appliance.policy.compile import compile_filter
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.filter import Filter
from appliance.policy.model import Action, AnySelector, Protocol, Rule, Service
from appliance.policy.narrow import narrowed
from tests.policy_worlds import policy_of

GATE, ROBOT, PLC = (
    Member(node=bytes([number]) * 32, name=name, address=parse_address(f"200::{number}"), tags=frozenset({name}))
    for number, name in enumerate(("gate", "robot", "plc"), 1)
)
HALL = Subnet(prefix=Prefix.parse("300:2::/64"), gateway=ROBOT.node)
YARD = Subnet(prefix=Prefix.parse("300:1::/64"), gateway=GATE.node)
THEN = Directory([GATE, ROBOT, PLC], [HALL, YARD])
OPEN = policy_of(
    Rule(action=Action.ALLOW, sources=(AnySelector(),), targets=(AnySelector(),), services=(Service(Protocol.ANY),))
)
HELD = compile_filter(OPEN, THEN, GATE.node, 0)


def after(*members: Member, subnets: tuple[Subnet, ...] = (HALL, YARD)) -> Filter:
    return narrowed(HELD, THEN, Directory(members, subnets), GATE.node)


def test_where_nobody_has_changed_it_stays_as_it_is() -> None:
    assert after(GATE, ROBOT, PLC) == after(GATE, msgspec.structs.replace(ROBOT, name="r2"), PLC) == HELD


def test_who_is_no_member_any_more_has_no_right_nor_have_the_hosts_behind_it() -> None:
    found = after(GATE, PLC)
    assert set(found.peers) == {PLC.address}
    assert found.peers[PLC.address] == HELD.peers[PLC.address] != 0
    assert not found.peer_nets
    assert found.locals == HELD.locals


def test_who_holds_other_tags_or_has_another_address_has_no_right_until_there_is_a_new_filter() -> None:
    demoted = msgspec.structs.replace(ROBOT, tags=frozenset())
    moved = msgspec.structs.replace(ROBOT, address=parse_address("200::9"))
    assert after(GATE, demoted, PLC).peers == {**HELD.peers, ROBOT.address: 0}
    assert set(after(GATE, moved, PLC).peers) == {PLC.address}
    other = msgspec.structs.replace(PLC, address=ROBOT.address)
    assert after(GATE, other).peers == {ROBOT.address: 0}


def test_a_node_that_has_changed_itself_lets_nothing_pass() -> None:
    found = after(msgspec.structs.replace(GATE, tags=frozenset()), ROBOT, PLC)
    assert found == Filter(own=GATE.address, peers={ROBOT.address: 0, PLC.address: 0})


def test_a_subnet_that_is_gone_or_behind_another_node_has_no_right() -> None:
    assert not after(GATE, ROBOT, PLC, subnets=(YARD,)).peer_nets
    assert not after(GATE, ROBOT, PLC, subnets=(msgspec.structs.replace(HALL, gateway=PLC.node), YARD)).peer_nets
    found = after(GATE, ROBOT, PLC, subnets=(HALL,))
    assert set(found.locals) == {(GATE.address, GATE.address)}
    assert found.peer_nets == HELD.peer_nets != {}
