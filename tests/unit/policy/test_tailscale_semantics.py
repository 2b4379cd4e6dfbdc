"""The law of the translation: what it allows is what the file allows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.core.prefix import Prefix, parse_address
from appliance.policy.directory import Directory, Member, Subnet
from appliance.policy.evaluate import Flow, evaluate
from appliance.policy.model import Policy
from appliance.policy.tailscale import Mapping, read_mapping, survey
from tests.unit.policy.tailscale.model import NUMBERS, Attempt, Device, File, Rule, allows

USERS = [f"{name}@plant.example" for name in ("ann", "ben", "cem", "dan", "eva")]
TAGS = ["tag:hmi", "tag:robot", "tag:Gate_Way"]
GROUPS = ["group:fitters", "group:office", "group:night"]
HOSTS = {"plc": "10.7.0.9", "line": "10.7.0.0/28", "camera": "fd00:a::3", "cameras": "fd00:a::/125"}
IPSETS = ["ipset:machines", "ipset:rest"]
ADDRESSES = [  # at both sides of every end that the files draw
    *(f"10.7.0.{last}" for last in (0, 8, 9, 15, 16, 20, 21, 31, 32, 63, 64, 255)),
    *(f"fd00:a::{last}" for last in ("1", "2", "3", "4", "5", "6", "7", "8", "98", "99")),
]
PORTS = [1, 22, 80, 443, 502, 999, 1000, 1500, 2000, 2001, 65_535]
FLOWS = 120  # of each file

MAPPING = """
users: {%s}
groups: {"group:fitters": fitters, "group:office": [office, staff], "group:night": tag:night}
tags: {"tag:Gate_Way": gate-way}
hosts: {10.7.0.0/24: "fd00:b::/120"}
"""


def address_of(device: Device, number: int) -> bytes:
    """Where a device of the tailnet is on the mesh."""
    if not device.address:
        return bytes([2, number]) + bytes(14)
    if "." in device.address:
        return parse_address(f"fd00:b::{int(device.address.rpartition('.')[2]):x}")
    return parse_address(device.address)


def mapping_of(directory: Directory, members: str) -> Mapping:
    users = ", ".join(f'"{user}": [{user.partition("@")[0]}]' for user in USERS)
    return read_mapping(members + MAPPING % users, directory)


class World:
    """A file, the devices of its tailnet, and the same as a mesh."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.file = self._file()
        self.devices = [
            *(Device(user=user) for user in USERS),
            Device(user=USERS[0]),
            *(Device(tags=frozenset((tag,))) for tag in TAGS),
            Device(tags=frozenset(TAGS[:2])),
            *(Device(address=address) for address in ADDRESSES),
        ]

    def _some(self, names: list[str], least: int = 1) -> list[str]:
        return self.rng.sample(names, self.rng.randint(least, min(3, len(names))))

    def _ports(self) -> str:
        kinds: list[Callable[[], str]] = [
            lambda: "*",
            lambda: str(self.rng.choice(PORTS)),
            lambda: ",".join(map(str, self._numbers(2))),
            lambda: "-".join(map(str, self._numbers(2))),
        ]
        return self.rng.choice(kinds)()

    def _numbers(self, count: int) -> list[int]:
        return sorted(self.rng.sample(PORTS, count))

    def _file(self) -> File:
        plain = ["*", *USERS, *GROUPS, *TAGS, "autogroup:member", "autogroup:tagged", *HOSTS, *IPSETS, "10.7.0.16/28"]
        people = [*USERS, *GROUPS, "autogroup:member", "*"]
        operands = ["10.7.0.0/26", "host:plc", "host:line", "10.7.0.9-10.7.0.20", "fd00:a::/64", "fd00:a::2-fd00:a::5"]
        ipsets = {
            IPSETS[0]: ["add " + self.rng.choice(operands), *self._operations(operands)],
            IPSETS[1]: self._some([*operands, "fd00:a::99", IPSETS[0]]),
        }
        acls = [
            Rule(
                src=self._some(plain),
                dst=[f"{name}:{self._ports()}" for name in self._some(plain)],
                proto=self.rng.choice(["", "", "tcp", "udp", "sctp"]),
            )
            for _ in range(self.rng.randint(0, 2))
        ]
        if self.rng.random() < 0.5:
            acls.append(Rule(src=self._some(people), dst=[f"autogroup:self:{self._ports()}", "camera:443"]))
        if self.rng.random() < 0.2:
            acls.append(Rule(src=self._some(plain), dst=["cameras:*"], proto="icmp"))
        grants = [
            Rule(
                src=self._some(plain),
                dst=self._some([*plain, "fd00:a::/126"]),
                ip=[
                    self.rng.choice(["", "tcp:", "udp:", "sctp:"]) + self._ports()
                    for _ in range(self.rng.randint(1, 2))
                ],
            )
            for _ in range(self.rng.randint(0, 2))
        ]
        groups = {group: self._some(USERS, least=0) for group in GROUPS}
        return File(groups=groups, hosts=HOSTS, ipsets=ipsets, acls=acls, grants=grants)

    def _operations(self, operands: list[str]) -> list[str]:
        return [f"{self.rng.choice(['add', 'remove'])} {operand}" for operand in self._some(operands, least=0)]

    def text(self) -> str:
        """The file as a user has it."""
        parts = msgspec.to_builtins(self.file)
        for rule in parts["acls"]:
            rule["action"] = "accept"
        for rule in (*parts["acls"], *parts["grants"]):
            for field in ("proto", "ip"):
                if not rule[field]:
                    del rule[field]
        return json.dumps(parts | {"tagOwners": {tag: [] for tag in TAGS}}, indent=1)

    def directory(self, mapping: Mapping) -> Directory:
        members = [
            Member(
                node=bytes([number]) * 32,
                name=f"n{number}",
                address=address_of(device, number),
                tags=self.tags(mapping, device),
            )
            for number, device in enumerate(self.devices)
            if not device.address
        ]
        behind = [Prefix.parse("fd00:a::/64"), Prefix.parse("fd00:b::/120")]
        return Directory(members, [Subnet(prefix=prefix, gateway=members[-1].node) for prefix in behind])

    def tags(self, mapping: Mapping, device: Device) -> frozenset[str]:
        """As the mapping file promises: all the tags of the user, or those of the device."""
        if device.tags:
            return frozenset(
                tag for name in device.tags for tag in mapping.tags.get(name, (name.removeprefix("tag:"),))
            )
        groups = [
            tag for group, users in self.file.groups.items() if device.user in users for tag in mapping.groups[group]
        ]
        return frozenset((*mapping.users[device.user], *groups, *mapping.members))


def agrees(world: World, mapping: Mapping, policy: Policy, directory: Directory) -> None:
    """Many flows of a world have the same verdict on both sides."""
    numbered = list(enumerate(world.devices))
    for _ in range(FLOWS):
        (one, source), (two, target) = world.rng.choice(numbered), world.rng.choice(numbered)
        protocol = world.rng.choice(list(NUMBERS.values()))
        port = world.rng.choice(PORTS) if protocol != NUMBERS["icmp"] else 0
        flow = Flow(source=address_of(source, one), target=address_of(target, two), protocol=protocol, port=port)
        verdict = evaluate(policy, directory, flow, 0)
        attempt = Attempt(source=source, target=target, protocol=protocol, port=port)
        assert verdict.allowed == allows(world.file, attempt), (attempt, mapping)


@pytest.mark.parametrize("members", ["", "members: everybody"], ids=["users-alone", "members-have-a-tag"])
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False))
def test_the_translation_allows_exactly_what_the_file_allows(rng: random.Random, members: str) -> None:
    world = World(rng)
    mapping = mapping_of(Directory(), members)
    directory = world.directory(mapping)
    found = survey(world.text(), directory, mapping)
    assert found.policy is not None, [str(refusal) for refusal in found.refused]
    agrees(world, mapping, found.policy, directory)


def test_a_mapping_that_would_widen_a_rule_is_refused_and_every_other_is_exact(
    record_property: Callable[[str, object], None],
) -> None:
    """Tags that users share at random: what is not refused must still be exact, for every flow."""
    refused = accepted = 0
    for seed in range(400):
        world = World(random.Random(seed))
        mapping = shared_tags(world.rng)
        directory = world.directory(mapping)
        found = survey(world.text(), directory, mapping)
        if found.policy is None:
            refused += 1
        else:
            accepted += 1
            agrees(world, mapping, found.policy, directory)
    record_property("counts", {"files": accepted, "refused": refused, "flows": accepted * FLOWS})
    assert accepted > 40
    assert refused > 40


def shared_tags(rng: random.Random) -> Mapping:
    pool = ["a", "b", "c", "d", "hmi"]

    def few() -> tuple[str, ...]:
        return tuple(rng.sample(pool, rng.choice([0, 1, 1, 2])))

    mapping = mapping_of(Directory(), rng.choice(["", "members: everybody"]))
    users = {user: (*few(), *((user.partition("@")[0],) if rng.random() < 0.7 else ())) for user in USERS}
    groups = {group: few() for group in GROUPS}
    return msgspec.structs.replace(mapping, users=users, groups=groups)
