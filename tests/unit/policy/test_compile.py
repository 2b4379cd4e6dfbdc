"""What a filter looks like: few entries, numbers that stay, and a bound instead of a wider rule."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from appliance.core.errors import StateError
from appliance.core.limits import LIMITS, Limits
from appliance.core.prefix import Prefix
from appliance.policy import compile as compile_module
from appliance.policy.compile import Compiler, compile_filter, next_change_ms
from appliance.policy.directory import Directory, Subnet
from appliance.policy.filter import Filter, Grant, ServiceRange
from appliance.policy.model import EMPTY, MAX_PORT, Policy, Protocol, Rule, SelfSelector, Service
from appliance.policy.pieces import Pieces
from appliance.policy.territory import Stretch
from appliance.policy.view import View, entries, numbered
from tests.unit.policy.cells import ADDRESSES, MODBUS, NODES, NOW_MS, allow, cell, deny, policy

HTTPS = Service(Protocol.TCP, 443, 443)
BASIC = policy(allow("tag:robot", "tag:plc"), allow("tag:hmi", "tag:plc", HTTPS))


def made(rules: Policy, name: str = "plc", directory: Directory | None = None, now_ms: int = NOW_MS) -> Filter:
    return compile_filter(rules, directory or cell(), NODES[name], now_ms)


def changed(before: Filter, after: Filter) -> int:
    """How many elements a kernel must add, remove or replace."""
    return sum(
        len(getattr(before, name).items() ^ getattr(after, name).items())
        for name in ("peers", "peer_nets", "locals", "services", "inbound", "outbound")
    )


def test_without_rules_a_filter_holds_the_members_without_rights_and_no_entry() -> None:
    others = {ADDRESSES[name]: 0 for name in NODES if name != "plc"}
    own = ADDRESSES["plc"]
    assert made(EMPTY) == Filter(own=own, peers=others, locals={(own, own): 0})


def test_members_that_the_same_rules_speak_of_share_a_class() -> None:
    filtered = made(policy(allow("tag:robot", "tag:plc")))
    assert filtered.peers[ADDRESSES["robot-1"]] == filtered.peers[ADDRESSES["robot-2"]] != 0
    assert filtered.peers[ADDRESSES["hmi"]] == 0
    assert len(filtered.inbound) == len(filtered.services) == 1
    assert not filtered.outbound


def test_an_entry_holds_its_rules_and_ends_with_the_last_of_them() -> None:
    rules = [allow("tag:robot", "tag:plc", until_ms=NOW_MS + ms) for ms in (5, 9)]
    (grant,) = made(policy(*rules)).inbound.values()
    assert grant == Grant(tuple(sorted(rule.id for rule in rules)), NOW_MS + 9)


def test_one_rule_without_end_keeps_the_entry_without_end() -> None:
    rules = policy(allow("tag:robot", "tag:plc", until_ms=NOW_MS + 5), allow("tag:robot", "node:plc"))
    assert {grant.until_ms for grant in made(rules).inbound.values()} == {None}


def test_rules_of_others_leave_no_trace() -> None:
    assert made(BASIC, "gateway") == made(EMPTY, "gateway")


def test_any_is_one_range_over_all_protocols() -> None:
    filtered = made(policy(allow("any", "any", Service(Protocol.ANY))))
    assert list(filtered.services) == [ServiceRange(0, 255, 0, MAX_PORT)]


def test_a_denied_service_is_cut_out_of_what_is_allowed() -> None:
    filtered = made(policy(allow("any", "any", Service(Protocol.TCP)), deny("any", "any")), "hmi")
    allowed = {
        served for served, number in filtered.services.items() if number in {key.service for key in filtered.inbound}
    }
    assert allowed == {ServiceRange(6, 6, 0, 501), ServiceRange(6, 6, 503, MAX_PORT)}


def test_a_gateway_enforces_for_the_hosts_behind_it_and_others_against_them() -> None:
    rules = policy(allow("tag:hmi", "subnet:fd00::/124"))
    gateway, hmi = made(rules, "gateway"), made(rules, "hmi")
    inside, rest = (Prefix.parse("fd00::/124"), Prefix.parse("fd00::/120"))
    (number,) = {key.local for key in gateway.inbound}
    assert gateway.locals[inside.first, inside.last] == number
    assert {interval: held for interval, held in gateway.locals.items() if held == 0} == {
        (ADDRESSES["gateway"], ADDRESSES["gateway"]): 0,
        (Prefix.parse("fd00::10/128").first, rest.last): 0,
    }
    assert list(hmi.peer_nets) == [(inside.first, inside.last)]


def test_compiling_again_gives_the_same_numbers() -> None:
    assert made(BASIC) == made(Policy(rules=dict(reversed(BASIC.rules.items()))))


@pytest.mark.parametrize(
    "what, rules, directory, most",
    [
        (
            "one more port between the same ends",
            policy(*BASIC.rules.values(), allow("tag:robot", "tag:plc", HTTPS)),
            cell(),
            5,
        ),
        ("another port", policy(allow("tag:robot", "tag:plc", HTTPS), *list(BASIC.rules.values())[1:]), cell(), 8),
        ("a rule about others", policy(*BASIC.rules.values(), allow("tag:hmi", "tag:robot")), cell(), 0),
        ("a tag that no rule names", BASIC, cell({"hmi": {"hmi", "new"}}), 0),
        ("a node without its tag", BASIC, cell({"robot-2": set()}), 2),
        ("a node that is gone", BASIC, cell(without=["robot-2"]), 1),
    ],
)
def test_a_small_change_changes_few_entries(what: str, rules: Policy, directory: Directory, most: int) -> None:
    assert changed(made(BASIC), made(rules, directory=directory)) <= most


def test_who_does_not_collide_keeps_its_number_whoever_comes() -> None:
    contents = [bytes([number]) * 32 for number in range(0, 250, 10)]
    few, many = numbered(contents[::2], 6), numbered(contents, 6)
    assert len(set(many.values())) == len(many)
    assert 0 not in many.values()
    alone = {content for content in contents if [c[0] >> 2 for c in contents].count(content[0] >> 2) == 1}
    assert all(few[content] == many[content] for content in few.keys() & alone)


def test_numbers_that_are_used_up_go_on_from_the_beginning() -> None:
    last = b"\xff" * 32
    assert sorted(numbered([last, last[:-1] + b"\x00", last[:-1] + b"\x01"]).values()) == [1, 2, 0xFFFFFFFF]


def test_a_filter_beyond_the_bound_is_refused_and_not_widened() -> None:
    size = entries(made(BASIC))
    assert compile_filter(BASIC, cell(), NODES["plc"], NOW_MS, replace(LIMITS, filter_entries=size)) == made(BASIC)
    for bound in (0, 1, 2, size - 1):
        with pytest.raises(StateError) as caught:
            compile_filter(BASIC, cell(), NODES["plc"], NOW_MS, replace(LIMITS, filter_entries=bound))
        assert caught.value.key == "policy.too_large"


def test_a_refusal_leaves_nothing_behind() -> None:
    compiler = Compiler(replace(LIMITS, filter_entries=8))
    compiler.set_policy(policy(allow("any", "any")), NOW_MS)
    alone = cell(without=["gateway", "hmi", "robot-1", "robot-2"])
    compiler.set_directory(cell(without=["gateway"]))
    assert compiler.filter(NODES["plc"]).inbound
    compiler.set_policy(policy(allow("any", "any"), allow("tag:robot", "any", HTTPS)), NOW_MS)
    compiler.set_directory(cell())
    with pytest.raises(StateError):
        compiler.filter(NODES["plc"])
    compiler.set_directory(alone)
    assert not compiler.filter(NODES["plc"]).inbound


def test_a_node_that_is_no_member_has_no_filter() -> None:
    with pytest.raises(StateError) as caught:
        compile_filter(BASIC, cell(without=["plc"]), NODES["plc"], NOW_MS)
    assert caught.value.key == "policy.not_member"


def test_the_next_change_is_the_first_expiry_that_is_still_to_come() -> None:
    rules = policy(*(allow("any", "any", until_ms=NOW_MS + ms) for ms in (-5, 0, 7, 9)), allow("any", "any"))
    assert next_change_ms(rules, NOW_MS) == NOW_MS + 7
    assert next_change_ms(rules, NOW_MS + 7) == NOW_MS + 9
    assert next_change_ms(rules, NOW_MS + 9) is None


def test_a_compiler_keeps_the_tables_that_a_change_does_not_touch() -> None:
    compiler = Compiler()
    compiler.set_directory(cell())
    compiler.set_policy(BASIC, NOW_MS)
    first = compiler.filter(NODES["plc"])
    compiler.set_policy(BASIC, NOW_MS + 1)
    compiler.set_directory(cell({"robot-2": {"hmi"}}))
    second = compiler.filter(NODES["plc"])
    assert second.inbound is first.inbound
    assert second.peers != first.peers


def test_what_is_remembered_is_bounded() -> None:
    compiler = Compiler(replace(LIMITS, filter_entries=20))
    compiler.set_policy(
        policy(allow("tag:robot", "tag:plc"), allow("tag:hmi", "tag:plc"), allow("tag:new", "tag:plc")), NOW_MS
    )
    for tags in [{"robot"}, {"hmi"}, {"new"}, {"robot", "hmi"}, {"robot", "new"}, {"hmi", "new"}, set[str]()] * 3:
        directory = cell({"robot-1": tags})
        compiler.set_directory(directory)
        assert entries(compiler.filter(NODES["plc"])) <= 20


def test_of_two_members_with_one_address_only_the_lower_id_has_it() -> None:
    members = [*cell().members.values()]
    twin = replace(members[4], address=ADDRESSES["plc"])
    directory = Directory([*members[:4], twin], [Subnet(prefix=Prefix.parse("fd01::/64"), gateway=twin.node)])
    rules = policy(allow("any", "any"))
    loser = compile_filter(rules, directory, twin.node, NOW_MS)
    assert list(loser.locals) == [(Prefix.parse("fd01::/64").first, Prefix.parse("fd01::/64").last)]
    assert set(loser.peers) == {ADDRESSES[name] for name in NODES if name != "robot-2"}


def test_self_as_a_source_is_a_fault_of_who_made_the_rule() -> None:
    rule = Rule(
        action=allow("any", "any").action,
        sources=(SelfSelector(),),
        targets=allow("any", "any").targets,
        services=(MODBUS,),
    )
    with pytest.raises(ValueError, match="self has no meaning"):
        Pieces({rule.id: rule})


def test_a_filter_that_takes_too_many_steps_is_refused_and_at_the_bound_it_is_made() -> None:
    steps = next(steps for steps in range(1_000) if made_within(steps) is not None)
    assert steps > len(BASIC.rules)
    assert made_within(steps) == made(BASIC)
    assert made_within(steps - 1) is None


def made_within(steps: int) -> Filter | None:
    try:
        return compile_filter(BASIC, cell(), NODES["plc"], NOW_MS, replace(LIMITS, filter_steps=steps))
    except StateError as err:
        if err.key == "policy.too_large" and "steps on this node" in err.message:
            return None
        raise


def test_steps_grow_with_the_pairs_of_classes_and_not_with_what_they_allow() -> None:
    """Rules that deny make no entries, and cost no less."""
    rules = policy(*(deny(f"tag:{tag}", "any") for tag in ("hmi", "plc", "robot")), allow("any", "any", HTTPS))
    assert entries(made(rules)) < 20
    with pytest.raises(StateError, match="steps"):
        compile_filter(rules, cell(), NODES["plc"], NOW_MS, replace(LIMITS, filter_steps=30))


def test_a_place_at_which_a_policy_is_too_large_is_not_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Limits] = []

    def look(pieces: Pieces, near: list[Stretch[int]], limits: Limits, number_bits: int) -> View:
        looks.append(limits)
        return View(pieces, near, limits, number_bits)

    monkeypatch.setattr(compile_module, "View", look)
    compiler = Compiler(replace(LIMITS, filter_steps=0))
    compiler.set_policy(BASIC, NOW_MS)
    for directory, count in ((cell(), 1), (cell({"hmi": {"new"}}), 1), (cell({"plc": {"plc", "robot"}}), 2)):
        compiler.set_directory(directory)
        with pytest.raises(StateError, match="steps"):
            compiler.filter(NODES["plc"])
        assert len(looks) == count


def test_the_next_policy_is_looked_at_again_from_the_same_place() -> None:
    compiler = Compiler(replace(LIMITS, filter_steps=1))
    compiler.set_directory(cell(without=["gateway", "hmi", "robot-1", "robot-2"]))
    compiler.set_policy(policy(*(allow("tag:hmi", "tag:plc", note=note) for note in ("one", "two"))), NOW_MS)
    with pytest.raises(StateError, match="steps"):
        compiler.filter(NODES["plc"])
    compiler.set_policy(policy(allow("tag:hmi", "tag:plc", note="one")), NOW_MS)
    assert len(compiler.filter(NODES["plc"]).locals) == 1
