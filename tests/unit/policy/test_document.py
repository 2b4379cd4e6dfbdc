"""A policy as keys of a document: one form, strictly read, and edits in parts that a change can carry."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from appliance.core import canonical
from appliance.core.errors import IntegrityError
from appliance.core.limits import LIMITS
from appliance.core.prefix import Prefix
from appliance.policy.canonical_rule import canonical as canonical_rule
from appliance.policy.document import PART_BYTES, PART_KEYS, Part, Reader, edit, from_keys, is_open, parts, to_keys
from appliance.policy.model import (
    EMPTY,
    Action,
    NodeSelector,
    Policy,
    PolicyTest,
    Protocol,
    Rule,
    Service,
    Subject,
    SubnetSelector,
    TagSelector,
    content_id,
    encode_rule,
    encode_test,
)
from appliance.replica.change_codec import Scalar
from tests.policy_past import policy_of
from tests.unit.policy.cells import MODBUS, NODES, allow, deny

MARKER = b"\x01" * 8
ROBOT = Subject(tags=frozenset({"robot", "cell-3"}))
PLC = Subject(node=NODES["plc"], tags=frozenset({"plc"}))
HOST = Subject(host=Prefix.parse("fd00::5").address)
WEB = Service(Protocol.TCP, 80, 90)
RULE = canonical_rule(allow("tag:robot node:hmi subnet:fd00::/120", "tag:plc self", MODBUS, WEB, until_ms=5, note="ä"))
TEST = PolicyTest(source=ROBOT, target=PLC, service=WEB, expect=Action.ALLOW, note="cell")
WHOLE = Policy(
    rules={rule.id: rule for rule in (RULE, deny("any", "tag:gateway"))},
    tests={
        content_id(encode_test(test)): test
        for test in (TEST, PolicyTest(source=HOST, target=ROBOT, service=Service(Protocol.ANY), expect=Action.DENY))
    },
    groups={"machines": ("plc", "robot")},
    services={"web": (WEB, Service(Protocol.UDP, 443, 443)), "ping": (Service(Protocol.ICMPV6),)},
)


def refused(mapping: Mapping[str, Scalar]) -> str:
    with pytest.raises(IntegrityError) as caught:
        from_keys(mapping)
    assert caught.value.key == "policy.document"
    return caught.value.message


def named(kind: str, value: bytes) -> dict[str, Scalar]:
    return {f"{kind}/{content_id(value).hex()}": value}


def many(count: int) -> Policy:
    return policy_of(
        Rule(
            action=Action.ALLOW,
            sources=(TagSelector(f"from-{number}"),),
            targets=(TagSelector("plc"),),
            services=(MODBUS,),
            note=f"the robot number {number} may write to the controllers of its cell",
        )
        for number in range(count)
    )


def size(put: tuple[str, Scalar]) -> int:
    return len(put[0]) + (len(put[1]) if isinstance(put[1], bytes) else 1)


def applied(content: Mapping[str, Scalar], made: tuple[Part, ...]) -> dict[str, Scalar]:
    after = dict(content)
    for part in made:
        after.update(part.puts)
        for key in part.deletes:
            del after[key]
    return after


def test_a_policy_is_read_back_as_it_was_written() -> None:
    keys = to_keys(WHOLE)
    assert from_keys(keys) == WHOLE
    assert sorted({key.partition("/")[0] for key in keys}) == ["group", "rule", "service", "test"]
    assert canonical.decode(keys["service/web"]) == ["tcp/80-90", "udp/443"]
    assert from_keys({}) == EMPTY


def test_the_empty_policy_is_not_touched_by_reading() -> None:
    from_keys(to_keys(WHOLE))
    assert Policy(rules={}, tests={}, groups={}, services={}) == EMPTY


def test_one_reader_reads_many_states() -> None:
    reader = Reader()
    first = reader.read(to_keys(WHOLE))
    again = reader.read(to_keys(WHOLE))
    assert first == again
    assert first.rules[RULE.id] is again.rules[RULE.id]


def test_a_part_key_opens_a_document_and_says_nothing_of_its_policy() -> None:
    keys: dict[str, Scalar] = {**to_keys(WHOLE), f"part/{MARKER.hex()}": True}
    assert is_open(keys)
    assert not is_open(to_keys(WHOLE))
    assert from_keys(keys) == WHOLE


@pytest.mark.parametrize(
    "rule, reason",
    [
        (replace(RULE, sources=RULE.sources[::-1]), "canonical form"),
        (replace(RULE, sources=()), "needs sources"),
        (replace(RULE, services=(Service(Protocol.TCP, 9, 1),)), "ports run"),
        (replace(RULE, services=(Service(Protocol.ICMPV6, 1, 1),)), "no ports"),
        (replace(RULE, sources=(TagSelector("Robot"),)), "no tag"),
        (replace(RULE, sources=(NodeSelector(b"short"),)), "no node"),
        (replace(RULE, sources=(SubnetSelector(Prefix(b"\x01" * 16, 8)),)), "no IPv6 prefix"),
        (replace(RULE, sources=(SubnetSelector(Prefix(bytes(16), 129)),)), "no IPv6 prefix"),
        (replace(RULE, sources=(SubnetSelector(Prefix(bytes(4), 8)),)), "no IPv6 prefix"),
        (replace(RULE, until_ms=-1), "1970"),
        (replace(RULE, until_ms=1 << 60), "9999"),
        (replace(RULE, note="two\nlines"), "one line"),
    ],
)
def test_a_rule_that_means_nothing_is_neither_read_nor_written(rule: Rule, reason: str) -> None:
    assert reason in refused(named("rule", encode_rule(rule)))
    with pytest.raises(IntegrityError, match=reason):
        to_keys(policy_of([rule]))


@pytest.mark.parametrize(
    "test",
    [
        replace(TEST, service=Service(Protocol.ANY, 1, 1)),
        replace(TEST, note="\x1b[2J"),
        replace(TEST, note="x" * 257),
        replace(TEST, source=Subject(host=b"short")),
        replace(TEST, source=Subject(host=bytes(16), tags=frozenset({"plc"}))),
        replace(TEST, source=Subject(node=b"short")),
        replace(TEST, target=Subject(tags=frozenset({"A b"}))),
    ],
)
def test_a_test_that_means_nothing_is_neither_read_nor_written(test: PolicyTest) -> None:
    refused(named("test", encode_test(test)))
    with pytest.raises(IntegrityError):
        to_keys(policy_of(tests=[test]))


def test_a_record_has_one_form() -> None:
    fields = canonical.decode(encode_rule(RULE))
    assert isinstance(fields, dict)
    more = canonical.encode({**fields, "priority": 1})
    assert "canonical form" in refused(named("rule", more))
    empty = canonical.encode({**fields, "note": ""})
    assert "canonical form" in refused(named("rule", empty))
    assert "cbor" not in refused(named("rule", encode_rule(RULE) + b"\x00"))
    assert "Expected" in refused(named("rule", canonical.encode({**fields, "until_ms": "5"})))
    assert "Invalid" in refused(named("rule", canonical.encode({**fields, "action": "log"})))


def test_a_record_is_named_by_its_content() -> None:
    wrong = hashlib.sha256(b"another").hexdigest()[:32]
    assert "named by its content" in refused({f"rule/{wrong}": encode_rule(RULE)})


@pytest.mark.parametrize(
    "key, value",
    [
        ("group/Big", canonical.encode(["plc"])),
        ("group/machines", canonical.encode([])),
        ("group/machines", canonical.encode(["robot", "plc"])),
        ("group/machines", canonical.encode(["plc", "plc"])),
        ("group/machines", canonical.encode(["no tag"])),
        ("group/machines", canonical.encode([1])),
        ("group/machines", "plc"),
        ("group/machines", b"\xff"),
        ("service/tcp", canonical.encode(["tcp/443"])),
        ("service/web", canonical.encode([])),
        ("service/web", canonical.encode(["tcp/443-443"])),
        ("service/web", canonical.encode(["tcp/443", "tcp/444"])),
        ("service/web", canonical.encode(["tcp/70000"])),
        ("service/web", canonical.encode(["telnet"])),
        ("zone/web", canonical.encode(["tcp/443"])),
        ("rule", b"\xa0"),
        ("rule/xyz", b"\xa0"),
    ],
)
def test_what_is_not_in_its_form_is_refused(key: str, value: Scalar) -> None:
    assert refused({key: value}).startswith(key)


def test_of_several_keys_that_cannot_be_read_the_first_is_told_whatever_came_first() -> None:
    bad: dict[str, Scalar] = {f"group/{name}": b"\xff" for name in ("c", "a", "b")}
    for keys in (bad, dict(reversed(bad.items()))):
        assert refused(keys).startswith("group/a ")


def test_a_small_edit_is_one_change_and_no_edit_is_none() -> None:
    made = parts(*edit({}, WHOLE), MARKER)
    assert made == (Part(dict(to_keys(WHOLE))),)
    assert parts(*edit(to_keys(WHOLE), WHOLE), MARKER) == ()


def test_five_thousand_rules_go_in_parts_of_which_only_the_last_closes() -> None:
    policy = many(LIMITS.policy_rules)
    made = parts(*edit({}, policy), MARKER)
    assert len(made) > 1
    for count in range(1, len(made)):
        assert is_open(applied({}, made[:count]))
    assert applied({}, made) == to_keys(policy)
    assert PART_BYTES / 2 < max(sum(map(size, part.puts.items())) for part in made) < PART_BYTES
    assert max(len(part.puts) + len(part.deletes) for part in made) < PART_KEYS


def test_taking_five_thousand_rules_away_goes_in_parts_too() -> None:
    old = to_keys(many(LIMITS.policy_rules))
    made = parts(*edit(old, WHOLE), MARKER)
    assert applied(old, made) == to_keys(WHOLE)
    assert all(is_open(applied(old, made[:count])) for count in range(1, len(made)))


def test_an_edit_closes_what_another_left_open_and_does_so_last() -> None:
    stale = "part/" + "ab" * 8
    old: dict[str, Scalar] = {**to_keys(WHOLE), stale: True}
    assert parts(*edit(old, WHOLE), MARKER) == (Part({}, (stale,)),)
    made = parts(*edit(old, many(1_000)), MARKER)
    assert [stale in part.deletes for part in made] == [False] * (len(made) - 1) + [True]
    assert not is_open(applied(old, made))
