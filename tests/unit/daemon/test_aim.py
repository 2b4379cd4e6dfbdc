from __future__ import annotations

from appliance.core.ids import NodeId
from appliance.daemon.aim import PATIENCE, Aim, target_of
from appliance.daemon.links import Dialling
from appliance.replica.rows import NodeRow


def member(number: int, *endpoints: str) -> NodeRow:
    return NodeRow(node=bytes([number]) * 32, name="", endpoints=endpoints, software="", batch=b"")


MEMBERS = [member(number, f"h{number}:1") for number in range(1, 9)]
OWN = NodeId(bytes([4]) * 32)


def numbers(aim: Aim) -> list[int]:
    return [target.node.raw[0] for target in aim.choose(MEMBERS, lambda _node: True) if target.node]


def test_the_nearest_ids_are_chosen_up_to_the_limit() -> None:
    assert numbers(Aim(OWN, 3)) == [4, 5, 6]
    assert numbers(Aim(OWN, 0)) == []


def test_different_nodes_choose_differently() -> None:
    assert numbers(Aim(NodeId(bytes([1]) * 32), 2)) == [1, 3]


def test_whoever_did_not_answer_makes_room_for_the_next() -> None:
    aim = Aim(OWN, 2)
    target = target_of(MEMBERS[3])
    assert target is not None
    dialling = Dialling(target)
    dialling.failures = PATIENCE - 1
    aim.note([dialling])
    assert numbers(aim) == [4, 5]
    dialling.failures = PATIENCE
    aim.note([dialling])
    assert numbers(aim) == [5, 6]


def test_a_member_that_announces_no_address_or_nonsense_is_not_dialled() -> None:
    members = [member(1), member(2, "nonsense"), member(3, "h:1")]
    assert Aim(OWN, 9).choose(members, lambda _node: True) == [target_of(member(3, "h:1"))]


def test_a_member_that_is_no_longer_permitted_is_not_dialled() -> None:
    assert Aim(OWN, 9).choose(MEMBERS, lambda node: node[0] == 7) == [target_of(MEMBERS[6])]
