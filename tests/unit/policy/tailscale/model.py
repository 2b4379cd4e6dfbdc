"""What a Tailscale policy file allows, written down a second time: plainly, from the reference, over parsed JSON.

A device has an owner or tags, or is a host behind a subnet router with an address. It knows the part of the language
that the random files use.
"""

from __future__ import annotations

import ipaddress

import msgspec

ICMP = 58
DEFAULT = {"tcp", "udp"}
NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": ICMP}


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a connection."""

    user: str = ""
    tags: frozenset[str] = frozenset()
    address: str = ""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of `acls`, or of `grants` (with `ip`)."""

    src: list[str]
    dst: list[str]
    proto: str = ""
    ip: list[str] | None = None


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file."""

    groups: dict[str, list[str]] = {}
    hosts: dict[str, str] = {}
    ipsets: dict[str, list[str]] = {}
    acls: list[Rule] = []
    grants: list[Rule] = []


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A connection that somebody tries to open; ICMP has the port 0."""

    source: Device
    target: Device
    protocol: int
    port: int


def allows(file: File, attempt: Attempt) -> bool:
    """True if an entry opens this port of the target to the source."""
    return any(_acl_allows(file, rule, attempt) for rule in file.acls) or any(
        _grant_allows(file, rule, attempt) for rule in file.grants
    )


def _acl_allows(file: File, rule: Rule, attempt: Attempt) -> bool:
    for entry in rule.dst:
        host, _, ports = entry.rpartition(":")
        if _opens(rule.proto, ports, attempt) and _joins(file, rule.src, host, attempt):
            return True
    return False


def _grant_allows(file: File, rule: Rule, attempt: Attempt) -> bool:
    joined = any(_joins(file, rule.src, host, attempt) for host in rule.dst)
    capabilities = (text.rpartition(":") for text in rule.ip or [])
    return joined and any(_opens(protocol, ports, attempt) for protocol, _, ports in capabilities)


def _opens(protocol: str, ports: str, attempt: Attempt) -> bool:
    """Where anything is open to an address, so is ICMP."""
    named = {NUMBERS[name] for name in ([protocol] if protocol else DEFAULT)}
    return attempt.protocol == ICMP or (attempt.protocol in named and _port_in(ports, attempt.port))


def _port_in(ports: str, port: int) -> bool:
    if ports == "*":
        return True
    return any(
        int(first) <= port <= int(last or first)
        for first, _, last in (part.partition("-") for part in ports.split(","))
    )


def _joins(file: File, sources: list[str], host: str, attempt: Attempt) -> bool:
    source, target = attempt.source, attempt.target
    if not any(_is(file, name, source) for name in sources):
        return False
    if host == "autogroup:self":
        return bool(source.user) and source.user == target.user
    return _is(file, host, target)


def _is(file: File, name: str, device: Device) -> bool:
    if name == "*":
        return True
    if name == "autogroup:member":
        return bool(device.user)
    if name == "autogroup:tagged":
        return bool(device.tags)
    if name.startswith("tag:"):
        return name in device.tags
    if name.startswith("group:"):
        return device.user in file.groups[name]
    if "@" in name:
        return device.user == name
    return bool(device.address) and _holds(file, name, ipaddress.ip_address(device.address))


def _holds(file: File, name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if name.startswith("ipset:"):
        held = False
        for entry in file.ipsets[name]:
            operation, operand = entry.split(" ") if " " in entry else ("add", entry)
            if _holds(file, operand.removeprefix("host:"), address):
                held = operation == "add"
        return held
    text = file.hosts.get(name, name)
    first, dash, last = text.partition("-")
    if dash:
        ends = ipaddress.ip_address(first), ipaddress.ip_address(last)
        return ends[0].version == address.version and int(ends[0]) <= int(address) <= int(ends[1])
    network = ipaddress.ip_network(text)
    return network.version == address.version and address in network
