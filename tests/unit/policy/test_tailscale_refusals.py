"""What has no equal is refused by name, at its line and column, and so is what has the wrong form."""

from __future__ import annotations

import pytest

from appliance.core.prefix import Prefix, parse_address
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.tailscale import Refusal, read_mapping, survey

GATEWAY = Member(node=b"g" * 32, name="gateway", address=parse_address("200::67"))
DIRECTORY = Directory([GATEWAY], [Subnet(prefix=Prefix.parse("fd00:a::/64"), gateway=GATEWAY.node)])
MAPPING = read_mapping(
    """
    users: {ann@x: ann, ben@x: ben, cem@x: shared, dan@x: shared}
    groups: {"group:ops": ops}
    hosts: {10.1.0.0/24: "fd00:a::/120", spot: "tag:spot", 10.9.0.2: "tag:dot", wide: any}
    """,
    DIRECTORY,
)
HEAD = """{
"groups": {"group:ops": ["ann@x", "ben@x"]},
"tagOwners": {"tag:plc": [], "tag:hmi": []},
"hosts": {"spot": "10.9.0.1", "wide": "10.9.0.0/16", "far": "10.8.0.1", "camera": "fd00:a::7"},
"""
ACCEPT = HEAD + '"acls": [{"action": "accept", '
GRANT = HEAD + '"grants": ['
TESTS = HEAD + '"acls": [{"action": "accept", "src": ["ann@x"], "dst": ["tag:plc:22"]}],\n"tests": ['


def acl(*, src: str = "*", dst: str = "camera:*", head: str = "", tail: str = "") -> str:
    """A file with one rule, on line 5."""
    return ACCEPT + f'{head}"src": ["{src}"], "dst": ["{dst}"]{tail}' + "}]}"


def refusals(text: str) -> list[Refusal]:
    return list(survey(text, DIRECTORY, MAPPING).refused)


def refused_as(text: str, *wanted: str) -> None:
    """The file is refused for these reasons and no other: line:column, name, and how the reason begins."""
    __tracebackhide__ = True
    found = [f"{one.line}:{one.column} {one.name} {one.why}" for one in refusals(text)]
    assert [said[: len(one)] for said, one in zip(found, wanted, strict=False)] == list(wanted)
    assert len(found) == len(wanted)


CASES = {
    "exit nodes": (acl(dst="autogroup:internet:443"), "5:53 autogroup:internet means the internet"),
    "people of other tailnets": (acl(src="autogroup:shared", dst="*:*"), "5:39 autogroup:shared means people of other"),
    "users of a computer": (acl(src="autogroup:nonroot", dst="*:*"),
        "5:39 autogroup:nonroot names users of a computer"),
    "an autogroup that nobody knows": (acl(src="autogroup:membrs", dst="*:*"), "5:39 autogroup:membrs is no autogroup"),
    "self as a source": (acl(src="autogroup:self", dst="*:*"), "5:39 autogroup:self cannot be a source"),
    "danger-all as a destination": (acl(dst="autogroup:danger-all:1"),
        "5:53 autogroup:danger-all cannot be a destination"),
    "self for tagged devices": (acl(src="tag:plc", dst="autogroup:self:*"), "5:39 autogroup:self goes with users"),
    "self for everything in a grant": (GRANT + '{"src": ["*"], "dst": ["autogroup:self"], "ip": ["*"]}]}',
        "5:21 autogroup:self goes with users"),
    "self for a user without a tag alone": (acl(src="cem@x", dst="autogroup:self:*"),
        "5:39 cem@x needs a tag of its own"),
    "self for a role": (acl(src="autogroup:admin", dst="autogroup:self:*"), "5:39 autogroup:admin cannot be split"),
    "a role without a tag": (acl(src="autogroup:admin", dst="tag:plc:*"), "5:39 autogroup:admin has no tag here"),
    "a domain without a tag": (acl(src="user:*@x", dst="tag:plc:*"), "5:39 user:*@x has no tag here"),
    "a user without a tag": (acl(src="zoe@x", dst="tag:plc:*"), "5:39 zoe@x has no tag here"),
    "a user whose only tag lets another in": (acl(src="cem@x", dst="tag:plc:*"),
        "5:39 cem@x has only tags that others hold as well, who would be let in: dan@x"),
    "a group that nobody defines": (acl(src="group:opps", dst="tag:plc:*"), "5:39 group:opps is defined neither in"),
    "a tag that nobody defines": (acl(dst="tag:plx:*"), "5:53 tag:plx is not defined in tagOwners"),
    "a host that nobody defines": (acl(dst="camra:*"), "5:53 camra is no user, group, tag"),
    "a name with a dash": (acl(dst="camera-9:1"), "5:53 camera-9 is no user, group, tag"),
    "a Tailscale Service": (acl(dst="svc:web:443"), "5:53 svc:web is a Tailscale Service"),
    "an IP set that nobody defines": (acl(src="ipset:no", dst="tag:plc:*"), "5:39 ipset:no is not defined in ipsets"),
    "an IPv4 address": (acl(dst="192.0.2.7:80"), "5:53 192.0.2.7 is IPv4"),
    "an IPv4 prefix": (acl(src="192.0.2.0/24", dst="*:80"), "5:39 192.0.2.0/24 is IPv4"),
    "an IPv4 prefix wider than a mapped one": (acl(dst="10.1.0.0/23:80"), "5:53 10.1.0.0/23 is IPv4"),
    "a host of IPv4": (acl(dst="far:80"), "5:53 far (10.8.0.1) is IPv4"),
    "the address of a device": (acl(src="100.70.0.1", dst="*:80"),
        "5:39 100.70.0.1 is the address of a Tailscale device"),
    "the IPv6 address of a device": (acl(dst="[fd7a:115c:a1e0::9]:80"),
        "5:53 fd7a:115c:a1e0::9 is the address of a Tailscale device"),
    "a prefix that covers devices": (acl(dst="fd00::/8:80"), "5:53 fd00::/8 covers the address of a Tailscale device"),
    "an action but accept": (HEAD + '"acls": [{"action": "deny", "src": ["*"], "dst": ["*:*"]}]}',
        "5:10 acls[0] has the action deny"),
    "no action": (HEAD + '"acls": [{"src": ["*"], "dst": ["*:*"]}]}', "5:10 acls[0] has no action"),
    "no destination": (ACCEPT + '"src": ["*"]}]}', "5:10 acls[0] has no dst"),
    "both names of the sources": (ACCEPT + '"src": ["*"], "users": ["*"], "dst": ["*:*"]}]}',
        "5:10 acls[0] has both src and users"),
    "a destination without ports": (acl(dst="camera"), "5:53 camera has no ports"),
    "ports out of range": (acl(dst="camera:70000"), "5:53 70000 is no port, range"),
    "ports the wrong way round": (acl(dst="camera:90-80"), "5:53 90-80 is no port or range"),
    "port 0": (acl(dst="camera:0"), "5:53 0 is no port or range"),
    "a protocol without an equal, by name": (acl(head='"proto": "gre", '),
        "5:40 gre (IP protocol 47) cannot be allowed alone"),
    "a protocol without an equal, by number": (acl(head='"proto": "89", '),
        "5:40 protocol 89 (IP protocol 89) cannot be allowed alone"),
    "what is no protocol": (acl(head='"proto": "tpc", '), "5:40 tpc is no protocol"),
    "every protocol": (acl(head='"proto": "*", '), "5:40 * is no protocol"),
    "a number beyond protocols": (acl(head='"proto": "256", '), "5:40 256 is no protocol"),
    "a port of ICMP": (acl(dst="camera:8", head='"proto": "icmp", '), "5:70 8 gives icmp a port"),
    "a posture of a rule": (acl(tail=', "srcPosture": ["posture:mac"]'),
        "5:66 acls[0]: srcPosture lets in only devices of a certain state"),
    "a posture of all rules": (HEAD + '"defaultSrcPosture": ["posture:mac"], "acls": []}',
        "5:1 defaultSrcPosture lets in only devices"),
    "a field that nobody knows": (acl(tail=', "until": "noon"'), "5:66 until is no field of acls[0]"),
    "a section that nobody knows": (HEAD + '"aclz": []}', "5:1 aclz is no field of the file"),
    "a section twice, in two spellings": (HEAD + '"acls": [],\n"ACLs": []}', "6:1 ACLs is in the file twice"),
    "a router of a grant": (GRANT + '{"src": ["*"], "dst": ["camera"], "ip": ["*"], "via": ["tag:plc"]}]}',
        "5:59 grants[0]: via lets the traffic pass certain routers"),
    "a grant of nothing": (GRANT + '{"src": ["*"], "dst": ["camera"]}]}', "5:12 grants[0] has neither ip nor app"),
    "a protocol in a grant": (GRANT + '{"src": ["*"], "dst": ["camera"], "ip": ["esp:*"]}]}',
        "5:53 esp (IP protocol 50) cannot be allowed alone"),
    "a grant of a port of nothing": (GRANT + '{"src": ["*"], "dst": ["camera"], "ip": [":80"]}]}',
        "5:53 :80 has no protocol before the colon"),
    "text where a list must be": (ACCEPT + '"src": "*", "dst": ["camera:*"]}]}', "5:10 acls[0]: src is no list"),
    "a number where text must be": (ACCEPT + '"src": [7], "dst": ["camera:*"]}]}', "5:10 acls[0]: src is no text"),
    "an object where a list must be": (HEAD + '"acls": {"a": 1}}', "5:1 acls is no list"),
    "an entry that is no object": (HEAD + '"acls": ["*"]}', "5:10 acls[0] is no object"),
    "a file that is no object": ('[1]', "1:1 the file is no object"),
    "a group with another prefix": ('{"groups": {"ops": ["ann@x"]}, "acls": []}',
        "1:13 ops does not begin with group:"),
    "a group in a group": ('{"groups": {"group:a": ["group:b"]}, "acls": []}',
        "1:25 group:b is no user, and a group lists users"),
    "a host with an @": ('{"hosts": {"a@b": "fd00::1"}, "acls": []}', "1:12 a@b has an @"),
    "a host that is no address": (acl(dst="camera:1").replace("fd00:a::7", "camera.local"),
        "5:53 camera (camera.local) is no address or prefix"),
}  # fmt: skip


@pytest.mark.parametrize("text, wanted", CASES.values(), ids=CASES.keys())
def test_it_is_refused_by_name_at_its_place(text: str, wanted: str) -> None:
    refused_as(text, wanted)
    assert refusals(text)[0].advice


SETS = (
    HEAD + '"ipsets": {"ipset:a": [%s], "ipset:b": ["ipset:a"]},\n'
    '"acls": [{"action": "accept", "src": ["*"], "dst": ["ipset:a:1"]}]}'
)
IN_SETS = {
    "itself": ('"add ipset:b"', "6:53 ipset:a contains itself, through ipset:a and ipset:b"),
    "the internet": ('"add autogroup:internet"', "6:53 ipset:a: add autogroup:internet means the internet"),
    "another operation": ('"drop fd00:a::1"', "6:53 ipset:a: drop fd00:a::1 is no operation"),
    "IPv4": ('"fd00:a::1", "10.8.0.0/30"', "6:53 ipset:a: 10.8.0.0/30 is IPv4"),
    "a tag": ('"add tag:plc"', "6:53 ipset:a: tag:plc is no address or prefix"),
    "a tag less another": ('"add host:spot", "remove 10.9.0.2"', "6:53 ipset:a: remove 10.9.0.2 takes away what"),
    "less than all": ('"add host:wide", "remove fd00:a::1"', "6:53 ipset:a: remove fd00:a::1 takes away what"),
    "a tag less all": ('"add host:spot", "remove wide"', "6:53 ipset:a: remove wide takes away what"),
}


@pytest.mark.parametrize("entries, wanted", IN_SETS.values(), ids=IN_SETS.keys())
def test_an_ip_set_is_refused_where_a_rule_uses_it(entries: str, wanted: str) -> None:
    refused_as(SETS % entries, wanted)


IN_TESTS = {
    "no source": ('{"accept": ["tag:plc:22"]}', "6:11 tests[0] has no source"),
    "no expectation": ('{"src": "ann@x"}', "6:11 tests[0] expects nothing"),
    "everybody": ('{"src": "*", "accept": ["tag:plc:22"]}', "6:19 * is no end of a test"),
    "several ports": ('{"src": "ann@x", "accept": ["tag:plc:22-23"]}', "6:39 22-23 is not one port"),
    "a prefix": ('{"src": "ann@x", "accept": ["fd00:a::/64:22"]}', "6:39 fd00:a::/64 is more than one host here"),
    "a protocol": ('{"src": "ann@x", "proto": "gre", "deny": ["tag:plc:1"]}', "6:37 gre (IP protocol 47)"),
    "a user without a tag": ('{"src": "zoe@x", "deny": ["tag:plc:22"]}', "6:19 zoe@x has no tag here"),
    "an expectation that fails": (
        '{"src": "ben@x", "accept": ["tag:plc:22"]}',
        "6:39 ben@x to tag:plc:22 must be allowed on tcp/22, says the test, and is denied",
    ),
}


@pytest.mark.parametrize("entry, wanted", IN_TESTS.values(), ids=IN_TESTS.keys())
def test_a_test_that_cannot_be_ours_is_refused(entry: str, wanted: str) -> None:
    refused_as(TESTS + entry + "]}", wanted)


def test_all_refusals_are_listed_at_once_in_the_order_of_the_file() -> None:
    text = ACCEPT + '"src": ["zoe@x", "10.8.0.1"], "dst": ["svc:web:1", "camera:x"]}],\n"aclz": 1}'
    refused_as(
        text, "5:39 zoe@x has", "5:48 10.8.0.1 is IPv4", "5:69 svc:web is", "5:82 x is no port", "6:1 aclz is no field"
    )


def test_the_nearest_known_name_is_suggested() -> None:
    (host,) = refusals(acl(dst="camra:1"))
    (tag,) = refusals(acl(src="tag:plx"))
    assert (host.advice, tag.advice) == ("Did you mean camera?", "Did you mean tag:plc?")
