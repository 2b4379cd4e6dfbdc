"""The mapping file: what it says, what it may not say, and what the translation makes of people and addresses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import InputError
from appliance.core.ids import NodeId
from appliance.core.prefix import Prefix, parse_address
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.model import AnySelector, NodeSelector, Policy, Subject, SubnetSelector, TagSelector
from appliance.policy.parse import parse
from appliance.policy.tailscale import Mapping, mapping_template, read_mapping, survey, translate
from appliance.policy.tailscale.extent import Extent, Span, extent_of
from appliance.policy.tailscale.names import as_tag, is_tag
from appliance.policy.write import write

PRESS = Member(node=b"p" * 32, name="press", address=parse_address("200::70"), tags=frozenset({"press"}))
TWINS = [Member(node=bytes([number]) * 32, name="twin", address=bytes([2, number]) + bytes(14)) for number in (1, 2)]
DIRECTORY = Directory([PRESS, *TWINS], [Subnet(prefix=Prefix.parse("fd00:b::/64"), gateway=PRESS.node)])


def file(**sections: object) -> str:
    return json.dumps({"tagOwners": {"tag:plc": []}, **sections})


def allow(source: str, target: str = "tag:plc:22") -> list[dict[str, object]]:
    return [{"action": "accept", "src": source.split(), "dst": [target]}]


def ends(text: str, mapping: str) -> list[tuple[str, str]]:
    """Sources and targets of the rules."""
    rules = translate(text, DIRECTORY, read_mapping(mapping, DIRECTORY)).policy.rules.values()
    return sorted((" ".join(map(str, rule.sources)), " ".join(map(str, rule.targets))) for rule in rules)


def test_a_mapping_file_names_tags_nodes_and_prefixes() -> None:
    text = """
    members: staff
    users: {ann@x: [tag:ann, fitters]}
    groups:
      "group:ops": ops
    tags: {"tag:PLC": plc}
    hosts:
      old: fd00:b::/64
      10.0.0.1: fd00:b::1
      press: node:press
      press-by-address: "200::70"
      line: [tag:line, any]
      later:
    """
    assert read_mapping(text, DIRECTORY) == Mapping(
        members=("staff",),
        users={"ann@x": ("ann", "fitters")},
        groups={"group:ops": ("ops",)},
        tags={"tag:PLC": ("plc",)},
        hosts={
            "old": (SubnetSelector(Prefix.parse("fd00:b::/64")),),
            "10.0.0.1": (SubnetSelector(Prefix.parse("fd00:b::1")),),
            "press": (NodeSelector(PRESS.node),),
            "press-by-address": (NodeSelector(PRESS.node),),
            "line": (TagSelector("line"), AnySelector()),
        },
    )


def test_a_node_that_is_not_enrolled_yet_is_named_by_its_id() -> None:
    later = NodeId(b"l" * 32)
    mapping = read_mapping(f"hosts: {{h: 'node:{later}'}}", DIRECTORY)
    assert mapping.hosts == {"h": (NodeSelector(later.raw),)}


@pytest.mark.parametrize(
    "text, message",
    [
        ("user: {}", "Line 1, column 1 of the mapping file: user is no section."),
        ("users:\n  ann@x: Ann", "Line 2, column 10 of the mapping file: Ann cannot be a tag."),
        ("users:\n  - ann@x", "Line 1, column 1 of the mapping file: users is no object."),
        ("users:\n  ann@x: [[a]]", "Line 2, column 11 of the mapping file: ann@x is no text."),
        ("users:\n  ann@x: {a: b}", "Line 2, column 10 of the mapping file: ann@x is no list."),
        ("- users", "Line 1, column 1 of the mapping file: the file is no object."),
        ("hosts: {h: 10.0.0.1}", "Line 1, column 12 of the mapping file: 10.0.0.1 is no IPv6 prefix or address"),
        ("hosts: {h: node:pres}", "Line 1, column 12 of the mapping file: pres is the name or the id of no node"),
        ("hosts: {h: node:twin}", "Line 1, column 12 of the mapping file: twin is the name of several nodes."),
    ],
)
def test_a_wrong_line_of_a_mapping_file_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_mapping(text, DIRECTORY)
    assert caught.value.key == "tailscale.mapping"
    assert caught.value.message.startswith(message)
    assert caught.value.hint


@pytest.mark.parametrize(
    "source, mapping, wanted",
    [
        ("ann@x", "users: {ann@x: [fitters, ann], ben@x: fitters}", "tag:ann"),
        ("ann@x ben@x", "users: {ann@x: fitters, ben@x: fitters}", "tag:fitters"),
        ("group:ops", "groups: {'group:ops': ops}", "tag:ops"),
        ("group:ops", "users: {ann@x: ann, ben@x: ben}", "tag:ann tag:ben"),
        ("group:ops", "{users: {ann@x: ann, ben@x: ben}, groups: {'group:ops': ops}}", "tag:ops"),
        ("group:ops ann@x", "{users: {ann@x: ann}, groups: {'group:ops': ops}}", "tag:ann tag:ops"),
        ("group:synced@x", "groups: {'group:synced@x': synced}", "tag:synced"),
        ("autogroup:admin", "groups: {'autogroup:admin': admins}", "tag:admins"),
        ("user:*@x", "groups: {'user:*@x': everybody-at-x}", "tag:everybody-at-x"),
        ("autogroup:member", "users: {ann@x: ann, ben@x: ben, zoe@x: zoe}", "tag:ann tag:ben tag:zoe"),
        ("autogroup:members", "{members: staff, users: {ann@x: ann}}", "tag:staff"),
        ("autogroup:tagged", "tags: {'tag:plc': machines}", "tag:machines"),
        ("autogroup:danger-all", "{}", "any"),
        ("* tag:plc", "{}", "any"),
    ],
)
def test_people_become_the_tags_that_stand_for_them_and_for_nobody_else(source: str, mapping: str, wanted: str) -> None:
    text = file(groups={"group:ops": ["ann@x", "ben@x"]}, acls=allow(source))
    assert [sources for sources, _ in ends(text, mapping)] == [wanted]


def test_a_tag_of_a_user_that_devices_of_the_file_have_as_well_stands_for_neither() -> None:
    text = file(acls=allow("ann@x tag:plc", "*:22"))
    assert ends(text, "users: {ann@x: plc}") == [("tag:plc", "any")]  # together they are all who hold it
    alone = survey(file(acls=allow("ann@x", "*:22")), DIRECTORY, read_mapping("users: {ann@x: plc}", DIRECTORY))
    assert [one.why for one in alone.refused] == [
        "has only tags that others hold as well, who would be let in: tag:plc"
    ]


def test_self_pairs_the_devices_of_each_user_with_one_another() -> None:
    text = file(groups={"group:ops": ["ann@x", "ben@x"]}, acls=allow("group:ops", "autogroup:self:22"))
    mapping = "{users: {ann@x: ann, ben@x: [ben, fitters]}, groups: {'group:ops': ops}}"
    assert ends(text, mapping) == [("tag:ann tag:ben", "self")]


def test_everything_to_self_in_an_acl_means_every_user() -> None:
    text = file(acls=allow("*", "autogroup:self:22"))
    assert ends(text, "users: {ann@x: ann, ben@x: ben}") == [("tag:ann tag:ben", "self")]


def test_a_suggested_tag_is_one_that_nobody_has() -> None:
    text = file(acls=allow("plc@x ann@x ann@y group:ann"), groups={"group:ann": ["zoe@x"]})
    assert {need.key: need.suggestion for need in survey(text, DIRECTORY).needs()} == {
        "ann@x": "ann",
        "ann@y": "ann-user",
        "group:ann": "ann-group",
        "plc@x": "plc-user",
    }


@pytest.mark.parametrize(
    "target, mapping, wanted",
    [
        ("fd00:b::/96", "{}", "subnet:fd00:b::/96"),
        ("[fd00:b::7]", "{}", "subnet:fd00:b::7/128"),
        ("[fd00:b::8]/125", "{}", "subnet:fd00:b::8/125"),
        ("fd00:b::7", "{}", "subnet:fd00:b::7/128"),
        ("200::70", "{}", f"node:{NodeId(PRESS.node)}"),
        ("10.0.0.0/24", "hosts: {10.0.0.0/24: 'fd00:b::/64'}", "subnet:fd00:b::/64"),
        ("10.0.0.9", "hosts: {10.0.0.0/24: 'fd00:b::100/120'}", "subnet:fd00:b::109/128"),
        ("10.0.0.64/26", "hosts: {10.0.0.0/24: 'fd00:b::/120'}", "subnet:fd00:b::40/122"),
        ("10.0.0.9", "hosts: {10.0.0.0/24: 'fd00:b::/120', 10.0.0.8/30: 'fd00:b::f0/126'}", "subnet:fd00:b::f1/128"),
        ("10.0.0.8/31", "hosts: {10.0.0.0/24: 'fd00:b::/120', 10.0.0.9: tag:robot}", "subnet:fd00:b::8/127 tag:robot"),
        ("fd7a:115c:a1e0:b1a::/96", "hosts: {'fd7a:115c:a1e0:b1a::/96': 'fd00:b::/64'}", "subnet:fd00:b::/64"),
        ("oven-2", "hosts: {oven-2: 'fd00:b::2'}", "subnet:fd00:b::2/128"),
        ("press", "hosts: {press: node:press}", f"node:{NodeId(PRESS.node)}"),
        ("10.0.0.5", "hosts: {press: node:press}", f"node:{NodeId(PRESS.node)}"),
        ("svc:web", "hosts: {'svc:web': tag:web}", "tag:web"),
        ("line", "hosts: {line: [tag:line, 'fd00:b::/65', 'fd00:b::8000:0:0:0/65']}", "subnet:fd00:b::/64 tag:line"),
        ("line", "hosts: {line: [any, tag:line]}", "any"),
    ],
)  # fmt: skip
def test_addresses_become_what_took_their_place(target: str, mapping: str, wanted: str) -> None:
    text = file(hosts={"press": "10.0.0.5", "line": "10.0.0.0/28"}, acls=allow("*", f"{target}:22"))
    assert [targets for _, targets in ends(text, mapping)] == [wanted]


def test_a_translated_policy_is_written_and_read_back_unchanged() -> None:
    text = file(
        groups={"group:ops": ["ann@x", "ben@x"]},
        acls=[*allow("group:ops", "fd00:b::/64:80,443"), *allow("ann@x", "autogroup:self:*"), *allow("*", "press:22")],
        hosts={"press": "10.0.0.5"},
        tests=[
            {"src": "ann@x", "accept": ["[fd00:b::1]:80", "press:22"], "deny": ["ben@x:22"]},
            {"src": "tag:plc", "proto": "icmp", "accept": ["press:0"], "deny": ["[fd00:b::1]:0"]},
        ],
    )
    mapping = read_mapping("{users: {ann@x: ann, ben@x: ben}, hosts: {press: node:press}}", DIRECTORY)
    policy = translate(text, DIRECTORY, mapping).policy
    assert policy != Policy()
    assert parse(write(policy, DIRECTORY), DIRECTORY).policy == policy


def test_a_host_that_is_a_tag_here_is_tested_as_a_node_with_that_tag() -> None:
    text = file(
        hosts={"web": "10.0.0.9"}, acls=allow("tag:plc", "web:443"), tests=[{"src": "web", "deny": ["tag:plc:1"]}]
    )
    tests = translate(text, DIRECTORY, read_mapping("hosts: {web: tag:web}", DIRECTORY)).policy.tests.values()
    assert {test.source for test in tests} == {Subject(tags=frozenset({"web"}))}


def test_a_skeleton_is_read_as_a_mapping_file_whatever_the_names() -> None:
    hosts = {"true": "10.0.0.2", "12": "10.0.0.3"}
    text = file(hosts=hosts, acls=allow('"odd"@x é@x true 12 10.0.0.0/30 group:no ann@x'))
    skeleton = mapping_template(text)
    assert set(read_mapping(skeleton, DIRECTORY).users) == {'"odd"@x', "é@x", "ann@x"}


@given(st.text(max_size=80))
def test_every_name_becomes_a_tag(name: str) -> None:
    assert is_tag(as_tag(name))


SPANS = st.lists(st.builds(lambda first, more: Span(first, first + more), st.integers(0, 60), st.integers(0, 9)))


@given(SPANS, SPANS)
def test_extents_join_and_part_like_sets_of_addresses(one: list[Span], other: list[Span]) -> None:
    ours, theirs = extent(one), extent(other)
    mine, their = numbers(one), numbers(other)
    assert held(ours | theirs) == mine | their
    assert held(ours.without(theirs, "a test")) == mine - their
    assert len({prefix for span in ours.spans for prefix in span.prefixes()}) == len(ours.selectors())


def numbers(spans: list[Span]) -> set[int]:
    return {number for span in spans for number in range(span.first, span.last + 1)}


def extent(spans: list[Span]) -> Extent:
    result = Extent()
    for span in spans:
        for prefix in span.prefixes():
            result |= extent_of(SubnetSelector(prefix))
    return result


def held(what: Extent) -> set[int]:
    prefixes = (selector.prefix for selector in what.selectors() if isinstance(selector, SubnetSelector))
    return numbers([Span.of(prefix) for prefix in prefixes])
