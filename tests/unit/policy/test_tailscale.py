"""A whole policy file of a bottling plant as a policy of ours."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from appliance.core.errors import InputError
from appliance.core.ids import NodeId
from appliance.core.limits import LIMITS
from appliance.core.prefix import Prefix, parse_address
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.evaluate import judge
from appliance.policy.model import Action, Policy, PolicyTest, Subject
from appliance.policy.tailscale import Translation, mapping_template, read_mapping, survey, translate, trials

FILES = Path(__file__).parent / "tailscale"
FACTORY = (FILES / "factory.hujson").read_text()
JUMP = Member(node=b"j" * 32, name="jump", address=parse_address("200::6a"), tags=frozenset({"jump-host"}))
DIRECTORY = Directory(
    [JUMP],
    [
        Subnet(prefix=Prefix.parse("fd20:1::/64"), gateway=JUMP.node),
        Subnet(prefix=Prefix.parse("fd20:2::/64"), gateway=JUMP.node),
    ],
)
MAPPING = read_mapping((FILES / "factory.yaml").read_text(), DIRECTORY)
LINE_1 = "subnet:fd20:1::10/124 subnet:fd20:1::20/123 subnet:fd20:1::40/122 subnet:fd20:1::80/121 subnet:fd20:1::a/128"


@pytest.fixture(scope="module")
def factory() -> Translation:
    return translate(FACTORY, DIRECTORY, MAPPING)


def shown(policy: Policy) -> list[tuple[str, ...]]:
    """Rules as text: note, sources, targets, services."""
    rows = [
        (rule.note, *(" ".join(map(str, part)) for part in (rule.sources, rule.targets, rule.services)))
        for rule in policy.rules.values()
        if rule.action is Action.ALLOW
    ]
    return sorted(rows)


def test_every_entry_becomes_rules_for_the_same_people_machines_and_ports(factory: Translation) -> None:
    """The line keeps its hosts without the switches; the removed PLC is back; ping goes with every rule."""
    assert shown(factory.policy) == [
        ("acls[0], line 39", "tag:fitters", f"{LINE_1} subnet:fd20:2::/64", "icmpv6 tcp/102 tcp/502"),
        ("acls[0], line 39", "tag:fitters", "tag:hmi", "icmpv6 tcp/5900-5910"),
        (
            "acls[1], line 40",
            "tag:hmi tag:line-pc",
            "subnet:fd20:1::15/128 subnet:fd20:1::a/128",
            "icmpv6 tcp/502 udp/502",
        ),
        ("acls[1], line 40", "tag:hmi tag:line-pc", "tag:historian", "icmpv6 tcp/8086 udp/8086"),
        ("acls[2], line 41", "tag:eve tag:lena tag:omar tag:vendor", "self", "icmpv6 tcp udp"),
        ("acls[3], line 42", "any", "tag:historian", "icmpv6 udp/123"),
        ("grants[0], line 47", "tag:engineers", f"{LINE_1} subnet:fd20:2::/64", "icmpv6 tcp udp"),
        ("grants[1], line 48", "tag:lena", "tag:robot", "icmpv6 sctp tcp/22 udp/7400-7500"),
        ("grants[2], line 49", "tag:vendor", f"node:{NodeId(JUMP.node)}", "icmpv6 tcp/3389"),
        (
            "grants[3], line 55",
            "tag:historian tag:hmi tag:line-pc tag:robot",
            "tag:historian",
            "icmpv6 tcp/443 tcp/8086 udp/8086",
        ),
    ]


def test_its_own_tests_are_ours_now_and_hold(factory: Translation) -> None:
    tests = factory.policy.tests.values()
    assert len(tests) == 19
    eve = Subject(tags=frozenset({"eve", "fitters"}))
    filler = Subject(host=parse_address("fd20:1::a"))
    mine = [test for test in tests if test.source == eve]
    assert {(str(test.service), test.expect) for test in mine if test.target == filler} == {("tcp/502", Action.ALLOW)}
    assert not [test for test in tests if not holds(factory.policy, test)]


def holds(policy: Policy, test: PolicyTest) -> bool:
    number = {"tcp": 6, "udp": 17, "icmpv6": 58}[test.service.protocol.value]
    verdict = judge(policy, test.source, test.target, number, test.service.first, 0)
    return verdict.allowed == (test.expect is Action.ALLOW)


def test_a_test_without_a_protocol_asks_for_tcp_or_udp(factory: Translation) -> None:
    """Accepted is the one of the two that a rule allows; denied are both."""
    hmi, historian = Subject(tags=frozenset({"hmi"})), Subject(tags=frozenset({"historian"}))
    wanted = {
        (str(test.service), test.expect)
        for test in factory.policy.tests.values()
        if test.source == hmi and test.target == historian
    }
    assert wanted == {("udp/123", Action.ALLOW), ("tcp/8086", Action.ALLOW)}
    robot = Subject(tags=frozenset({"robot"}))
    denied = {str(test.service) for test in factory.policy.tests.values() if (test.source, test.target) == (hmi, robot)}
    assert denied == {"tcp/22", "udp/22"}


def test_a_test_of_a_named_node_takes_its_tags_from_the_directory(factory: Translation) -> None:
    jump = Subject(node=JUMP.node, tags=JUMP.tags)
    assert jump in {test.target for test in factory.policy.tests.values()}


def test_every_entry_is_said_to_be_carried_over(factory: Translation) -> None:
    said = [(carried.name, carried.line, len(carried.rules), len(carried.tests)) for carried in factory.carried]
    assert said == [
        ("acls[0]", 39, 2, 0),
        ("acls[1]", 40, 2, 0),
        ("acls[2]", 41, 1, 0),
        ("acls[3]", 42, 1, 0),
        ("grants[0]", 47, 1, 0),
        ("grants[1]", 48, 1, 0),
        ("grants[2]", 49, 1, 0),
        ("grants[3]", 55, 1, 0),
        ("tests[0]", 65, 0, 4),
        ("tests[1]", 66, 0, 4),
        ("tests[2]", 67, 0, 5),
        ("tests[3]", 68, 0, 4),
        ("tests[4]", 69, 0, 2),
    ]


def test_what_is_not_carried_over_is_named_with_its_place(factory: Translation) -> None:
    assert [(left.line, left.column, left.name) for left in factory.left] == [
        (10, 2, "tagOwners"),
        (21, 3, "line-2"),
        (23, 3, "old-scada"),
        (41, 32, "acls[2]: autogroup:member"),
        (41, 61, "acls[2]: autogroup:self"),
        (43, 3, "acls[4]"),
        (53, 12, "grants[2]: plant.example/cap/console"),
        (58, 2, "ssh"),
        (61, 2, "autoApprovers"),
    ]
    assert all(left.why and left.advice for left in factory.left)


def test_a_prefix_that_no_gateway_speaks_for_is_named() -> None:
    alone = Directory([JUMP])
    mapping = read_mapping((FILES / "factory.yaml").read_text(), alone)
    left = translate(FACTORY, alone, mapping).left
    assert "acls[0]: subnet:fd20:2::/64" in {entry.name for entry in left}


def test_without_a_mapping_everything_that_is_missing_is_listed_at_once() -> None:
    needs = {(need.section, need.key): need.suggestion for need in survey(FACTORY, DIRECTORY).needs()}
    assert needs == {
        ("groups", "group:engineers"): "engineers",
        ("groups", "group:fitters"): "fitters",
        ("groups", "group:vendor"): "vendor",
        ("hosts", "10.20.1.200-10.20.1.203"): "",
        ("hosts", "capper-plc"): "",
        ("hosts", "filler-plc"): "",
        ("hosts", "jump"): "",
        ("hosts", "line-1"): "",
        ("tags", "tag:Line_PC"): "line-pc",
        ("users", "eve@plant.example"): "eve",
        ("users", "lena@plant.example"): "lena",
        ("users", "omar@plant.example"): "omar",
        ("users", "sam@integrator.example"): "sam",
    }


def test_the_skeleton_of_a_mapping_file_does_once_the_hosts_are_filled_in() -> None:
    skeleton = mapping_template(FACTORY)
    assert set(yaml.safe_load(skeleton)) == {"users", "groups", "tags", "hosts"}
    unfinished = survey(FACTORY, DIRECTORY, read_mapping(skeleton, DIRECTORY))
    assert {need.section for need in unfinished.needs()} == {"hosts"}
    filled = skeleton.replace('"line-1":', '"line-1": "fd20:1::/120"').replace('"jump":', '"jump": "node:jump"')
    assert translate(FACTORY, DIRECTORY, read_mapping(filled, DIRECTORY)).policy.rules


def test_members_whom_nobody_lists_need_a_tag_that_they_share() -> None:
    text = '{"tagOwners": {"tag:plc": []}, "acls": [{"action": "accept", "src": ["autogroup:member"], "dst": ["*:1"]}]}'
    assert yaml.safe_load(mapping_template(text)) == {"members": "member"}


def test_a_file_that_needs_no_mapping_has_an_empty_skeleton() -> None:
    assert mapping_template('{"acls": []}') == "# Nothing has to be mapped.\n{}\n"


def test_the_error_tells_the_first_place_and_where_the_others_are() -> None:
    with pytest.raises(InputError) as caught:
        translate(FACTORY, DIRECTORY)
    assert caught.value.key == "tailscale.refused"
    assert caught.value.message.startswith("Line 39, column 32: group:fitters has no tag here")
    assert "There are 16 more, at 39:74, 40:43," in caught.value.message
    assert caught.value.hint == "Say in the mapping file which tag its devices hold."


def test_the_tests_of_the_file_are_run_and_a_file_that_fails_them_is_refused() -> None:
    wrong = FACTORY.replace('"deny": ["tag:robot:22", "10.20.1.5:502"]', '"deny": ["tag:robot:22", "filler-plc:102"]')
    found = survey(wrong, DIRECTORY, MAPPING)
    assert found.policy is None
    assert [str(refusal) for refusal in found.refused] == [
        "line 65, column 119: eve@plant.example to filler-plc:102 must be denied on tcp/102, says the test,"
        " and is allowed after the translation"
    ]


def test_a_file_without_rules_allows_everything_as_it_did_and_says_so() -> None:
    found = translate("{}", DIRECTORY)
    assert shown(found.policy) == [("neither acls nor grants", "any", "any", "icmpv6 tcp udp")]
    assert [left.name for left in found.left] == ["the file"]


def test_an_empty_list_of_rules_allows_nothing() -> None:
    assert translate('{"acls": []}', DIRECTORY).policy == Policy()


def test_a_rule_of_more_sources_than_a_rule_may_have_becomes_several() -> None:
    tags = [f"tag:t{number}" for number in range(130)]
    listed = ", ".join(f'"{tag}": []' for tag in tags)
    text = '{"tagOwners": {' + listed + '}, "grants": [{"src": ["autogroup:tagged"], "dst": ["tag:t0"], "ip": ["22"]}]}'
    rules = translate(text, DIRECTORY).policy.rules.values()
    assert sorted(len(rule.sources) for rule in rules) == [2, 64, 64]


def test_a_group_of_several_tags_is_kept_as_a_group() -> None:
    text = '{"groups": {"group:Night Shift": ["a@x", "b@x"]}, "acls": []}'
    mapping = read_mapping("users: {a@x: a, b@x: b}", DIRECTORY)
    assert translate(text, DIRECTORY, mapping).policy.groups == {"night-shift": ("a", "b")}


def test_field_names_do_not_depend_on_case_and_comments_of_editors_are_ignored() -> None:
    """headscale's older files write ACLs, Groups, Hosts; users and ports are the former names of src and dst."""
    text = (
        '{"ACLs": [{"#ha-meta": {"name": "ping"}, "Action": "accept", "Users": ["*"], "Ports": ["*:*"]}], "#note": 1}'
    )
    assert len(translate(text, DIRECTORY).policy.rules) == 1


def test_what_a_grant_gives_inside_an_application_is_no_flow() -> None:
    text = '{"grants": [{"src": ["*"], "dst": ["*"], "app": {"plant.example/cap/a": [{}], "plant.example/cap/b": []}}]}'
    found = translate(text, DIRECTORY)
    assert found.policy == Policy()
    assert [left.name for left in found.left] == ["grants[0]: plant.example/cap/a", "grants[0]: plant.example/cap/b"]


@pytest.mark.parametrize(
    "bound, what", [("policy_rules", "2 rules"), ("policy_tests", "2 tests"), ("policy_names", "1 groups")]
)
def test_a_file_that_becomes_more_than_a_policy_may_hold_is_refused(bound: str, what: str) -> None:
    text = """{
    "groups": {"group:crew": ["a@x", "b@x"]},
    "acls": [{"action": "accept", "src": ["group:crew"], "dst": ["a@x:22", "b@x:23"]}],
    "tests": [{"src": "a@x", "deny": ["b@x:80"]}]}"""
    mapping = read_mapping("users: {a@x: a, b@x: b}", DIRECTORY)
    limits = msgspec.structs.replace(LIMITS, **{bound: 0})
    with pytest.raises(InputError, match=f"the file becomes {what}, and a policy has at most 0"):
        translate(text, DIRECTORY, mapping, limits)


def test_tests_that_are_too_many_to_judge_are_refused_and_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """{
    "acls": [{"action": "accept", "src": ["a@x"], "dst": ["b@x:22,80"]}],
    "tests": [{"src": "a@x", "accept": ["b@x:80"]}]}"""
    mapping = read_mapping("users: {a@x: a, b@x: b}", DIRECTORY)
    assert translate(text, DIRECTORY, mapping, msgspec.structs.replace(LIMITS, policy_trials=10)).policy.tests
    monkeypatch.delattr(trials, "run_tests")
    with pytest.raises(InputError, match="the file becomes 10 ranges of ports for its tests to look at"):
        translate(text, DIRECTORY, mapping, msgspec.structs.replace(LIMITS, policy_trials=9))


def test_tests_that_say_the_same_at_two_places_are_two() -> None:
    test = '{"src": "a@x", "deny": ["b@x:80"], "proto": "tcp"}'
    text = f'{{"acls": [], "tests": [{test},\n{test}]}}'
    mapping = read_mapping("users: {a@x: a, b@x: b}", DIRECTORY)
    assert len(translate(text, DIRECTORY, mapping).policy.tests) == 2
    with pytest.raises(InputError, match="the file becomes 2 tests, and a policy has at most 1"):
        translate(text, DIRECTORY, mapping, msgspec.structs.replace(LIMITS, policy_tests=1))


def test_danger_all_means_the_mesh_and_is_named() -> None:
    text = '{"acls": [{"action": "accept", "src": ["autogroup:danger-all"], "dst": ["*:443"]}]}'
    found = translate(text, DIRECTORY)
    assert [(left.line, left.column, left.name) for left in found.left] == [(1, 40, "acls[0]: autogroup:danger-all")]
    assert [row[1] for row in shown(found.policy)] == ["any"]


CREW = """{
"groups": {"group:crew": ["a@x", "b@x"], "group:boss": ["b@x"], "group:none": []},
"tagOwners": {"tag:plc": [], "tag:log": []},
"acls": [
    {"action": "accept", "src": ["group:crew"], "dst": ["tag:plc:502"]},
    {"action": "accept", "src": ["group:boss"], "dst": ["tag:log:443"]}],
"tests": [%s]}"""


def test_a_group_with_a_tag_is_tested_as_one_who_is_in_no_other() -> None:
    """Somebody of the crew is a boss as well, and may; the crew as such may not."""
    text = CREW % '{"src": "group:crew", "accept": ["tag:plc:502"], "deny": ["tag:log:443"]}'
    mapping = read_mapping("{users: {a@x: a, b@x: b}, groups: {'group:crew': crew, 'group:boss': boss}}", DIRECTORY)
    tests = translate(text, DIRECTORY, mapping).policy.tests.values()
    assert {test.source for test in tests} == {Subject(tags=frozenset({"crew"}))}


def test_a_group_without_a_tag_of_its_own_is_tested_by_each_of_its_members() -> None:
    mapping = read_mapping("users: {a@x: a, b@x: b}", DIRECTORY)
    tests = translate(CREW % '{"src": "group:crew", "accept": ["tag:plc:502"]}', DIRECTORY, mapping).policy.tests
    assert {test.source for test in tests.values()} == {Subject(tags=frozenset(tag)) for tag in "ab"}
    strict = survey(CREW % '{"src": "group:crew", "deny": ["tag:log:443"]}', DIRECTORY, mapping)
    assert {refusal.name for refusal in strict.refused} == {"group:crew to tag:log:443"}


def test_a_test_of_an_empty_group_is_named_as_testing_nothing() -> None:
    mapping = read_mapping("users: {a@x: a, b@x: b}", DIRECTORY)
    found = translate(CREW % '{"src": "group:none", "accept": ["tag:plc:502"]}', DIRECTORY, mapping)
    assert [left.name for left in found.left] == ["tagOwners", "tests[0]"]


def test_what_describes_the_device_of_a_test_is_named() -> None:
    text = CREW % '{"src": "tag:plc", "srcPostureAttrs": {"node:os": "linux"}, "deny": ["tag:log:1"]}'
    mapping = read_mapping("users: {a@x: a, b@x: b}", DIRECTORY)
    found = translate(text, DIRECTORY, mapping)
    assert [left.name for left in found.left] == ["group:none", "tagOwners", "tests[0]: srcPostureAttrs"]


@pytest.mark.parametrize(
    "section",
    ["autoApprovers", "derpMap", "disableIPv4", "nodeAttrs", "OneCGNATRoute", "postures", "randomizeClientPort", "ssh"],
)
def test_a_section_that_bears_on_no_flow_is_named_if_it_says_anything(section: str) -> None:
    said = translate('{"acls": [], "%s": [1]}' % section, DIRECTORY).left  # noqa: UP031 - braces of JSON
    assert [(left.line, left.column, left.name) for left in said] == [(1, 14, section)]
    for nothing in ("[]", "{}", "null", "false", '""'):
        assert not translate('{"acls": [], "%s": %s}' % (section, nothing), DIRECTORY).left  # noqa: UP031
