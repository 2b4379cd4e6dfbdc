"""What a preview shows to a person, and what a node is told that would cut itself off."""

from __future__ import annotations

from appliance.core.prefix import Prefix
from appliance.policy.directory import Directory, Member
from appliance.policy.filter import ServiceRange
from appliance.policy.model import EMPTY, MAX_PORT, Policy, Protocol, Service
from appliance.policy.preview import CutOff, Preview, Span, State, cuts_off, joined, preview
from appliance.policy.preview_rows import rows
from tests.unit.policy.cells import ADDRESSES, NODES, NOW_MS, TAGS, allow, cell, deny, policy

UDP = Service(Protocol.UDP)
OPEN = policy(allow("any", "any", Service(Protocol.ANY)))


def shown(before: Policy, after: Policy, *directories: Directory) -> list[tuple[str, ...]]:
    one, other = State(before, (directories or (cell(),))[0]), State(after, (directories or (cell(),))[-1])
    return [
        (row.change, ", ".join(row.sources), ", ".join(row.targets), ", ".join(row.services))
        for row in rows(preview(one, other, NOW_MS), one, other)
    ]


def test_a_new_rule_is_a_row_with_tags_in_place_of_all_who_hold_them() -> None:
    assert shown(EMPTY, policy(allow("tag:robot", "tag:plc"))) == [("gains", "tag:robot (2)", "plc", "tcp/502")]


def test_what_another_rule_allowed_before_is_not_gained() -> None:
    before = policy(allow("node:robot-1", "tag:plc"))
    assert shown(before, policy(*before.rules.values(), allow("tag:robot", "tag:plc"))) == [
        ("gains", "robot-2", "plc", "tcp/502")
    ]


def test_a_narrower_range_loses_what_lies_outside_it() -> None:
    before = policy(allow("tag:robot", "tag:plc", Service(Protocol.TCP)))
    assert shown(before, policy(allow("tag:robot", "tag:plc"))) == [
        ("loses", "tag:robot (2)", "plc", "tcp/0-501, tcp/503-65535")
    ]


def test_a_new_tag_shows_what_its_node_gains_and_loses() -> None:
    rules = policy(allow("tag:robot", "tag:plc"), allow("tag:hmi", "tag:plc", UDP))
    assert shown(rules, rules, cell(), cell({"robot-2": {"hmi"}})) == [
        ("loses", "robot-2", "plc", "tcp/502"),
        ("gains", "robot-2", "plc", "udp"),
    ]


def test_a_node_that_leaves_takes_its_flows_along() -> None:
    rules = policy(allow("tag:robot", "tag:plc"))
    assert shown(rules, rules, cell(), cell(without=["robot-1"])) == [("loses", "robot-1", "plc", "tcp/502")]


def test_hosts_are_shown_with_their_gateway() -> None:
    assert shown(EMPTY, policy(allow("node:hmi", "subnet:fd00::/124"))) == [
        ("gains", "hmi", "fd00::-fd00::f behind gateway", "tcp/502")
    ]
    assert shown(EMPTY, policy(allow("subnet:fd00::5/128", "node:hmi"))) == [
        ("gains", "fd00::5 behind gateway", "hmi", "tcp/502")
    ]


def test_everybody_is_named_as_such() -> None:
    assert shown(EMPTY, OPEN) == [
        (
            "gains",
            "every node (5), fd00::-fd00::ff behind gateway",
            "every node (5), fd00::-fd00::ff behind gateway",
            "any",
        )
    ]


def test_flows_within_a_node_are_no_row() -> None:
    assert shown(EMPTY, policy(allow("node:gateway", "subnet:fd00::/120"), allow("node:plc", "self"))) == []


def test_names_beyond_a_bound_are_a_number() -> None:
    members = [
        Member(
            node=bytes([number]) * 32,
            name=f"n-{number:02}",
            address=bytes([2, number]) + bytes(14),
            tags=frozenset({f"tag-{number}", "even" if number % 2 == 0 else "odd"}),
        )
        for number in range(24)
    ]
    directory = Directory(members)
    state = State(EMPTY, directory)
    fewer = State(policy(allow(" ".join(f"tag:tag-{number}" for number in range(1, 21)), "tag:tag-0")), directory)
    (row,) = rows(preview(state, fewer, NOW_MS), state, fewer)
    assert row.sources == ("n-01", "n-02", "n-03", "n-04", "n-05", "n-06", "n-07", "13 more")


def test_changes_beyond_the_bound_are_counted() -> None:
    rules = [allow("tag:robot", "tag:plc", UDP), allow("tag:hmi", "tag:plc"), allow("tag:plc", "tag:hmi")]
    before, after = State(EMPTY, cell()), State(policy(*rules), cell())
    whole, cut = preview(before, after, NOW_MS), preview(before, after, NOW_MS, most=1)
    assert len(whole.gained) == 3
    assert cut == Preview(whole.gained[:1], (), left_out=2)
    assert len(cut.gained[0].sources) == 2, "the widest comes first"


def test_expired_rules_count_neither_before_nor_after() -> None:
    assert shown(EMPTY, policy(allow("any", "any", until_ms=NOW_MS))) == []


def spans(*names: str) -> tuple[Span, ...]:
    return tuple(sorted(Span(ADDRESSES[name], ADDRESSES[name], NODES[name], host=False) for name in names))


def test_a_node_that_is_denied_everything_is_cut_off_from_all() -> None:
    after = policy(
        *OPEN.rules.values(),
        deny("node:hmi", "any", Service(Protocol.ANY)),
        deny("any", "node:hmi", Service(Protocol.ANY)),
    )
    found = cuts_off(State(OPEN, cell()), State(after, cell()), NODES["hmi"], NOW_MS)
    subnet = Prefix.parse("fd00::/120")
    whole = (ServiceRange(0, 255, 0, MAX_PORT),)
    assert found == CutOff(
        peers=tuple(
            sorted(
                (
                    *spans("gateway", "plc", "robot-1", "robot-2"),
                    Span(subnet.first, subnet.last, NODES["gateway"], host=True),
                )
            )
        ),
        used=whole,
        offered=whole,
    )


def test_who_can_still_exchange_anything_is_not_cut_off() -> None:
    before = policy(allow("tag:robot", "tag:plc"), allow("tag:hmi", "tag:plc", UDP))
    after = policy(allow("tag:plc", "node:robot-1"), allow("tag:hmi", "tag:plc", UDP))
    found = cuts_off(State(before, cell()), State(after, cell()), NODES["plc"], NOW_MS)
    assert found == CutOff(peers=spans("robot-2"), offered=(ServiceRange(6, 6, 502, 502),))


def test_a_node_that_is_no_member_any_more_loses_everything() -> None:
    rules = policy(allow("tag:robot", "tag:plc"))
    found = cuts_off(State(rules, cell()), State(rules, cell(without=["plc"])), NODES["plc"], NOW_MS)
    assert found == CutOff(peers=spans("robot-1", "robot-2"), offered=(ServiceRange(6, 6, 502, 502),))


def test_nobody_is_cut_off_by_a_tag_that_changes_nothing() -> None:
    moved = cell({"plc": TAGS["plc"] | {"new"}})
    assert cuts_off(State(OPEN, cell()), State(OPEN, moved), NODES["plc"], NOW_MS) == CutOff()


def test_neighbouring_ranges_are_joined() -> None:
    parts = [
        ServiceRange(0, 5, 0, MAX_PORT),
        ServiceRange(6, 6, 0, 79),
        ServiceRange(6, 6, 80, MAX_PORT),
        ServiceRange(7, 7, 0, MAX_PORT),
        ServiceRange(17, 17, 5, 9),
        ServiceRange(17, 17, 11, 12),
    ]
    assert joined(parts) == (ServiceRange(0, 7, 0, MAX_PORT), ServiceRange(17, 17, 5, 9), ServiceRange(17, 17, 11, 12))
