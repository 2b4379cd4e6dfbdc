"""What a policy looks like as a file: every line is one that a person would have written."""

from __future__ import annotations

import msgspec
import pytest

from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS
from appliance.core.prefix import parse_address
from appliance.policy.directory import Directory, Member
from appliance.policy.model import Policy
from appliance.policy.parse import parse
from appliance.policy.write import HEAD, to_json, write
from tests.unit.policy.cells import NODES, cell

EXAMPLE = """version: 1

groups:
  fleet: [hmi, robot]
  machines: [plc, robot]

services:
  modbus: tcp/502
  web: [tcp/80, tcp/443]

rules:
  - allow: [modbus, icmpv6]
    from: [group:fleet, group:machines, node:hmi]
    to: [self, tag:gateway]
    until: 2026-12-01T00:00:00Z
    note: remote maintenance, by the vendor
  - allow: web
    from: tag:robot
    to: subnet:fd00::/120
  - deny: any
    from: any
    to: node:plc
    note: "until: #7 is solved"

tests:
  - allow: web
    from: [tag:cell-3, tag:robot]
    to: host:fd00::5
  - deny: [modbus, udp/1]
    from: node:hmi
    to: untagged
    note: nobody
"""


def read(text: str, directory: Directory | None = None) -> Policy:
    return parse(text, directory or cell()).policy


def rules_of(text: str, directory: Directory | None = None) -> str:
    """The section of rules of a policy that has one rule with this, as it is written again."""
    policy = read(f"version: 1\n{text}", directory)
    return write(policy, directory or cell()).partition("rules:\n")[2]


def test_a_policy_is_written_as_a_person_would() -> None:
    assert write(read(EXAMPLE), cell()) == HEAD + EXAMPLE


def test_an_empty_policy_is_its_version() -> None:
    assert write(Policy(), cell()) == f"{HEAD}version: 1\n"


def test_json_says_the_same_in_the_same_order() -> None:
    text = to_json(read(EXAMPLE), cell())
    assert list(msgspec.json.decode(text)) == ["version", "groups", "services", "rules", "tests"]
    assert read(text) == read(EXAMPLE)
    assert text.startswith('{\n  "version": 1,\n  "groups": {\n    "fleet": [\n')


def test_the_order_of_a_text_does_not_matter() -> None:
    backwards = (
        "version: 1\nrules:\n- {deny: tcp, from: any, to: tag:b}\n- {allow: udp, from: [tag:b, tag:a], to: any}\n"
    )
    forwards = (
        "version: 1\nrules:\n- {allow: udp, from: [tag:a, tag:b], to: any}\n- {deny: tcp, from: any, to: tag:b}\n"
    )
    assert write(read(backwards), cell()) == write(read(forwards), cell())


def test_a_group_stands_only_where_all_of_its_tags_do() -> None:
    text = "groups: {two: [a, b], none: [c]}\nrules: [{allow: any, from: [tag:a, tag:b, tag:d], to: [tag:a, tag:d]}]"
    assert rules_of(text) == "  - allow: any\n    from: [group:two, tag:d]\n    to: [tag:a, tag:d]\n"


def test_a_service_has_its_name_only_where_all_of_its_ranges_are_ranges_of_the_rule() -> None:
    text = "services: {web: [tcp/80, tcp/443]}\nrules: [{allow: %s, from: any, to: any}]"
    assert "- allow: [web, udp/1]\n" in rules_of(text % "[tcp/443, udp/1, tcp/80]")
    assert "- allow: [tcp/80-81, tcp/443]\n" in rules_of(text % "[web, tcp/81]")


@pytest.mark.parametrize(
    "names,written",
    [
        (("arm", "leg"), "node:arm"),
        (("arm", "arm"), f"node:{NodeId(b'1' * 32)}"),
        (("", "leg"), f"node:{NodeId(b'1' * 32)}"),
        ((str(NodeId(b"2" * 32)), "leg"), f"node:{NodeId(b'1' * 32)}"),  # a name made to look like another's id
        (("left arm", "leg"), "node:left arm"),
        (("arm: left", "leg"), '"node:arm: left"'),
        (("#1", "leg"), '"node:#1"'),
        (("плечо", "leg"), "node:плечо"),
    ],
)
def test_a_node_has_its_name_if_that_names_it_alone(names: tuple[str, str], written: str) -> None:
    first, second = (
        Member(node=digit * 32, name=name, address=parse_address(f"200::{digit.decode()}"))
        for digit, name in zip((b"1", b"2"), names, strict=True)
    )
    text = f"rules: [{{allow: any, from: 'node:{NodeId(b'1' * 32)}', to: any}}]"
    assert f"    from: {written}\n" in rules_of(text, Directory([first, second]))


@pytest.mark.parametrize(
    "note,written",
    [
        *[(plain, plain) for plain in ("a", "see the plan, page 7", "http://x/y", "12:30", "é (ü)", "a; b, c")],
        *[
            (other, f'"{other}"')
            for other in ("null", "No", "a: b", "a #b", "- a", "[a]", " a", "a ", "a  b", "*", "!x")
        ],
        *[(other, f'"{other}"') for other in ("a:", "@a", "%a", "&a", "a?", "~", "---", "'a'")],
        ('say "no"', '"say \\"no\\""'),
        ("a\\b", '"a\\\\b"'),
    ],
)
def test_a_text_is_plain_only_if_no_reader_takes_it_for_something_else(note: str, written: str) -> None:
    quoted = msgspec.json.encode(note).decode()
    assert rules_of(f"rules: [{{allow: any, from: any, to: any, note: {quoted}}}]").endswith(f"    note: {written}\n")


def test_a_long_list_has_a_line_for_each_item() -> None:
    tags = [f"tag:a-rather-long-name-{number:02}" for number in range(20)]
    whole = rules_of(f"rules: [{{allow: any, from: [{', '.join(tags)}], to: any}}]")
    lines = "".join(f"      - {tag}\n" for tag in tags)
    assert whole == f"  - allow: any\n    from:\n{lines}    to: any\n"
    text = f"version: 1\ngroups: {{all: [{', '.join(tags)}]}}"
    assert f"  all:\n    - {tags[0][4:]}\n" in write(read(text), cell())


def test_tests_whose_ranges_would_become_one_stand_apart() -> None:
    ends = "from: untagged, to: untagged"
    text = f"version: 1\ntests:\n- {{allow: tcp/80, {ends}}}\n- {{allow: tcp/81, {ends}}}\n"
    written = write(read(text), cell())
    assert written.count("- allow: tcp/8") == 2
    assert read(written) == read(text)


def test_a_node_of_a_test_keeps_the_tags_that_it_had() -> None:
    policy = read("version: 1\ntests: [{allow: any, from: node:plc, to: [node:hmi, tag:x]}]")
    later = cell({"plc": set(), "hmi": {"x"}})
    assert "    from: [node:plc, tag:cell-3, tag:plc]\n    to: node:hmi\n" in write(policy, later)
    assert read(write(policy, later), later) == policy


def test_a_node_that_is_gone_is_written_by_its_id() -> None:
    policy = read("version: 1\nrules: [{allow: any, from: node:plc, to: any}]")
    written = write(policy, cell(without=["plc"]))
    assert f"    from: node:{NodeId(NODES['plc'])}\n" in written
    assert read(written, cell(without=["plc"])) == policy


def test_the_largest_policy_has_room_in_a_text() -> None:
    """Of 5,000 rules with 64 characters of notes; names make it shorter than ids would."""
    line = "- {{allow: [tcp/{0}, udp/{0}-{3}], from: [tag:cell-{1}, tag:robot], to: tag:plc-{1}, note: '{2}'}}\n"
    rules = "".join(
        line.format(number, number % 50, f"{number:064}", number + 99) for number in range(LIMITS.policy_rules)
    )
    policy = read(f"version: 1\nrules:\n{rules}")
    written = write(policy, cell())
    assert len(written) <= LIMITS.policy_text_bytes
    assert read(written) == policy
