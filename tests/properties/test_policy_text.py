"""Laws of a policy as text: what is written reads as the same policy, and no text makes the reader fail otherwise."""

from __future__ import annotations

import json

import msgspec
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix
from appliance.policy.canonical_rule import canonical, canonical_services, fault
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.document import from_keys, to_keys
from appliance.policy.model import (
    MAX_PORT,
    WITH_PORTS,
    Action,
    AnySelector,
    NodeSelector,
    Policy,
    PolicyTest,
    Protocol,
    Rule,
    Selector,
    SelfSelector,
    Service,
    Subject,
    SubnetSelector,
    TagSelector,
    content_id,
    encode_test,
)
from appliance.policy.moments import moment_text, parse_moment
from appliance.policy.parse import parse
from appliance.policy.text import Mapping, Node, Scalar, Sequence, read
from appliance.policy.write import to_json, write
from tests.unit.policy.cells import cell

LAST_MS = 253_402_300_799_999
NODES = [bytes([number]) * 32 for number in range(4)]
printable = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=40)
tricky = st.sampled_from(
    ["", "null", "~", "no", "12:30", "a: b", "a #b", "- x", "'", '"', "\\", "{}", "a  b", " a", "a:"]
)
notes = (printable | tricky).filter(str.isprintable)
tags = st.sampled_from(["a", "b", "robot", "null", "0", "1-2", "y"])
names = st.sampled_from(["a", "all", "null", "no", "7", "web", "modbus"])
prefixes = st.builds(
    lambda address, length: Prefix((address >> 128 - length << 128 - length).to_bytes(16, "big"), length),
    st.integers(0, (1 << 128) - 1) | st.sampled_from([0, 0xFD << 120]),
    st.integers(0, 128),
)
selectors: st.SearchStrategy[Selector] = (
    st.builds(TagSelector, tags)
    | st.builds(NodeSelector, st.sampled_from(NODES))
    | st.builds(SubnetSelector, prefixes)
    | st.just(AnySelector())
)
ports = st.integers(0, MAX_PORT) | st.sampled_from([0, 1, 2, 3, MAX_PORT])


@st.composite
def services(draw: st.DrawFn) -> Service:
    protocol = draw(st.sampled_from(Protocol))
    if protocol not in WITH_PORTS:
        return Service(protocol)
    first, last = sorted((draw(ports), draw(ports)))
    return Service(protocol, first, last)


rules = st.builds(
    Rule,
    action=st.sampled_from(Action),
    sources=st.lists(selectors, min_size=1, max_size=4).map(tuple),
    targets=st.lists(selectors | st.just(SelfSelector()), min_size=1, max_size=4).map(tuple),
    services=st.lists(services(), min_size=1, max_size=4).map(tuple),
    note=notes,
    until_ms=st.none() | st.integers(0, LAST_MS),
).map(canonical)
subjects = st.builds(
    Subject, node=st.none() | st.sampled_from(NODES), tags=st.frozensets(tags, max_size=3)
) | st.builds(Subject, host=st.binary(min_size=16, max_size=16))
tests = st.builds(
    PolicyTest, source=subjects, target=subjects, service=services(), expect=st.sampled_from(Action), note=notes
)
service_lists = st.lists(services(), min_size=1, max_size=3).map(canonical_services)
policies = st.builds(
    lambda rules, tests, groups, services: Policy(
        rules={rule.id: rule for rule in rules if not fault(rule)},
        tests={content_id(encode_test(test)): test for test in tests},
        groups=groups,
        services=services,
    ),
    st.lists(rules, max_size=4),
    st.lists(tests, max_size=4),
    st.dictionaries(names, st.sets(tags, min_size=1, max_size=3).map(lambda found: tuple(sorted(found))), max_size=3),
    st.dictionaries(names, service_lists, max_size=3),
)
node_names = printable | st.sampled_from([*map(str, map(NodeId, NODES)), "twin", "node1qqqqqqqq", "a: b", "any"])
directories = st.lists(
    st.builds(
        Member,
        node=st.sampled_from(NODES),
        name=node_names,
        address=st.binary(min_size=16, max_size=16),
        tags=st.frozensets(tags, max_size=3),
    ),
    max_size=4,
    unique_by=lambda member: member.node,
).map(lambda members: Directory(members, [Subnet(prefix=Prefix.parse("fd00::/16"), gateway=NODES[0])]))


@given(policies, directories)
def test_what_is_written_reads_as_the_same_policy(policy: Policy, directory: Directory) -> None:
    assert parse(write(policy, directory), directory).policy == policy
    assert parse(to_json(policy, directory), directory).policy == policy


@given(policies, directories)
def test_what_is_read_is_what_the_document_of_the_mesh_can_hold(policy: Policy, directory: Directory) -> None:
    """So nothing that the parser takes is refused, or changed, when it is put in force."""
    read_again = parse(write(policy, directory), directory).policy
    assert from_keys(to_keys(read_again)) == read_again


@given(policies, directories)
def test_every_other_reader_of_yaml_sees_the_same_texts(policy: Policy, directory: Directory) -> None:
    """The texts of the YAML are those of the JSON; which of them are numbers or moments is for readers with types."""
    loaded = yaml.load(write(policy, directory), Loader=yaml.BaseLoader)  # noqa: S506 - it makes texts only
    assert loaded == _texts(msgspec.json.decode(to_json(policy, directory)))


def _texts(value: object) -> object:
    match value:
        case dict():
            return {key: _texts(item) for key, item in value.items()}
        case list():
            return [_texts(item) for item in value]
        case _:
            return str(value)


@given(policies, directories)
def test_a_text_is_the_same_whatever_the_order_of_the_sets(policy: Policy, directory: Directory) -> None:
    reversed_ = Policy(
        rules=dict(reversed(policy.rules.items())),
        tests=dict(reversed(policy.tests.items())),
        groups=dict(reversed(policy.groups.items())),
        services=dict(reversed(policy.services.items())),
    )
    assert write(reversed_, directory) == write(policy, directory)


@given(st.integers(0, LAST_MS))
def test_a_moment_reads_as_it_was_written(at_ms: int) -> None:
    assert parse_moment(moment_text(at_ms)) == at_ms


# -- no text makes the reader fail

FRAGMENTS = [
    *[
        "version: 1",
        "groups:",
        "services:",
        "rules:",
        "tests:",
        "allow",
        "deny",
        "from",
        "to",
        "until",
        "note",
        "\n",
        "  ",
    ],
    *[
        ": ",
        ", ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        "#",
        "//",
        "/*",
        "*/",
        "&a",
        "*a",
        "!!str",
        "|",
        ">",
        "%",
        "@",
        "\t",
    ],
    *["any", "self", "tag:a", "group:a", "node:plc", "node:", "subnet:fd00::/64", "host:fd00::1", "untagged", "tcp/80"],
    *["tcp/9-3", "udp", "2026-12-01T00:00:00Z", "\\ud83d\\ude00", "\\ud83d", "\\", "\x00", "\ud800", "\x85", "\u2028"],
    *["~", "null", "?", "---", "...", "<<", "é", "\ufeff", "0", "1" * 30],
]
fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)
values: st.SearchStrategy[object] = st.recursive(
    st.sampled_from([fragment for fragment in FRAGMENTS if fragment.isprintable()]) | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["allow", "deny", "from", "to", "until", "note", "a"]), inner, max_size=6)
        | st.fixed_dictionaries({"from": inner, "to": inner, "allow": inner})
    ),
    max_leaves=20,
)
documents = st.fixed_dictionaries(
    {"version": st.sampled_from([1, 2])},
    optional={
        "groups": values,
        "services": values,
        "rules": values | st.lists(values),
        "tests": values | st.lists(values),
    },
)


def only_known_errors(text: str) -> None:
    try:
        parse(text, cell())
    except X0tError as err:
        assert err.key == "policy.text"  # noqa: PT017 - or none at all


@given(st.text(st.characters(exclude_categories=[])) | fragments)
@example("{a: &a [*a]}")
@example("version: 1\ntests: [{from: node:" + str(NodeId(b"\x77" * 32)) + ", to: untagged, deny: any}]")
def test_no_text_makes_the_reader_fail_otherwise_than_by_an_error_of_the_policy(text: str) -> None:
    only_known_errors(text)


@given(documents)
def test_no_tree_makes_the_parser_fail_otherwise_than_by_an_error_of_the_policy(tree: object) -> None:
    only_known_errors(msgspec.json.encode(tree).decode())


@given(st.data())
def test_a_policy_with_a_mistake_anywhere_is_read_or_refused_with_a_place(data: st.DataObject) -> None:
    text = write(data.draw(policies), cell())
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    only_known_errors(text[:at] + data.draw(st.sampled_from(FRAGMENTS)) + text[at + cut :])


json_values: st.SearchStrategy[object] = st.recursive(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufffe\uffff"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/*'", max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(json_values.filter(lambda value: not isinstance(value, str)), st.booleans())
def test_every_json_of_texts_is_read_as_json_reads_it(value: object, ascii_only: bool) -> None:
    """Also as Python's encoder writes it, with pairs of surrogates for what is not ASCII."""
    assert _outline(read(json.dumps(value, ensure_ascii=ascii_only))) == value


def _outline(node: Node) -> object:
    match node:
        case Scalar():
            return node.text
        case Sequence():
            return [_outline(item) for item in node.items]
        case Mapping():
            return {field.key.text: _outline(field.value) for field in node.fields}
