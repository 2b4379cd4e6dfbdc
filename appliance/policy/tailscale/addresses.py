"""Addresses, hosts and IP sets of the file as nodes, tags and IPv6 prefixes of ours.

An IPv6 prefix behind a subnet router is the same prefix behind a gateway here. The mesh carries no IPv4 and gives nodes
other addresses than Tailscale, so an IPv4 address or a device's address must be in the mapping file: by itself, by the
name of the host, or as part of a prefix that is mapped to one of the same size.
IP sets: https://tailscale.com/kb/1387/ipsets, operations in order.
"""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

from appliance.core.prefix import ADDRESS_BITS, Prefix
from appliance.policy.directory import Directory
from appliance.policy.model import NodeSelector, SubnetSelector
from appliance.policy.tailscale.extent import Extent, Span, extent_of, host_bits, shifted
from appliance.policy.tailscale.file import PolicyFile, Text
from appliance.policy.tailscale.mapping import Mapping
from appliance.policy.tailscale.names import meant
from appliance.policy.tailscale.report import Need, NoEqualError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

IPSET: Final = "ipset:"
INTERNET: Final = "autogroup:internet"
_DEVICES: Final = (ipaddress.IPv4Network("100.64.0.0/10"), ipaddress.IPv6Network("fd7a:115c:a1e0::/48"))


class Addresses:
    """What the file's addresses stand for. Raises NoEqualError for those that stand for nothing here."""

    def __init__(self, file: PolicyFile, mapping: Mapping, directory: Directory) -> None:
        self._file, self._mapping, self._directory = file, mapping, directory
        values = {key: file.hosts[key].members[0].text if key in file.hosts else key for key in mapping.hosts}
        by_name = sorted(values, key=lambda key: key not in file.hosts)  # where both are there the address counts
        self._mapped = {network: key for key in by_name if (network := network_of(values[key])) is not None}
        self._sets: dict[str, Extent] = {}
        self.used: set[str] = set()  # hosts and IP sets that something refers to

    def is_known(self, text: str) -> bool:
        """True for an address, a prefix, a range, and the name of a host or an IP set."""
        return (
            text.startswith(IPSET)
            or text in self._file.hosts
            or text in self._mapping.hosts
            or range_of(text) is not None
        )

    def names(self) -> tuple[str, ...]:
        """The hosts and IP sets that the file defines."""
        return (*self._file.hosts, *self._file.ipsets)

    def extent(self, text: str) -> Extent:
        """What an address, prefix, range, host or IP set stands for."""
        self.used.add(text)
        if text.startswith(IPSET):
            return self._ipset(text, ())
        return self._host(text)

    def _host(self, text: str) -> Extent:
        if text in self._mapping.hosts:
            return self._target(text)
        if text in self._file.hosts:
            (value,) = self._file.hosts[text].members
            return self._span(value.text, text)
        return self._span(text, text)

    def _target(self, key: str) -> Extent:
        result = Extent()
        for selector in self._mapping.hosts[key]:
            result |= extent_of(selector)
        return result

    def _span(self, text: str, name: str) -> Extent:
        """What a written address stands for; `name` is what a refusal and the mapping file call it."""
        ends = range_of(text)
        if ends is None:
            shown, known = name if name == text else f"{name} ({text})", self.names()
            raise NoEqualError(shown, "is no address or prefix", meant(name, known, "Write an address or a prefix."))
        result = self._whole(text, ends, name)
        for network, key in self._mapped.items():  # parts that went elsewhere still belong to it
            if network.version == ends[0].version and int(ends[0]) <= int(network[0]) <= int(network[-1]) <= int(
                ends[1]
            ):
                result |= self._target(key)
        return result

    def _whole(self, text: str, ends: tuple[Address, Address], name: str) -> Extent:
        first, last = ends
        network = network_of(text)
        if network in self._mapped:
            return self._target(self._mapped[network])
        moved = self._moved(first, last)
        if moved is not None:
            return moved
        shown = name if name == text else f"{name} ({text})"
        if any(_meets(ends, devices) for devices in _DEVICES):
            raise NoEqualError(
                shown,
                f"{'is' if first == last else 'covers'} the address of a Tailscale device, which has another here",
                "Say in the mapping file, under hosts, which node or tag it is.",
                (Need("hosts", name),),
            )
        if first.version == 4:
            raise NoEqualError(
                shown,
                "is IPv4, which the mesh does not carry",
                "Say in the mapping file, under hosts, which IPv6 prefix, node or tag takes its place.",
                (Need("hosts", name),),
            )
        member = self._directory.by_address.get(first.packed) if first == last else None
        return extent_of(NodeSelector(member.node)) if member else Extent((Span(int(first), int(last)),))

    def _moved(self, first: Address, last: Address) -> Extent | None:
        """A part of a mapped prefix, if what that is mapped to is one prefix of the same size."""
        for network in sorted(self._mapped, key=lambda network: -network.prefixlen):
            selectors = self._mapping.hosts[self._mapped[network]]
            if first.version != network.version or first not in network or last not in network or len(selectors) != 1:
                continue
            (selector,) = selectors
            bits = network.max_prefixlen - network.prefixlen
            if isinstance(selector, SubnetSelector) and host_bits(selector.prefix) == bits:
                start = int(network.network_address)
                source = Prefix(start.to_bytes(ADDRESS_BITS // 8, "big"), ADDRESS_BITS - bits)
                return Extent((shifted(Span(int(first), int(last)), source, selector.prefix),))
        return None

    def _ipset(self, name: str, within: tuple[str, ...]) -> Extent:
        self.used.add(name)
        if name in self._sets:
            return self._sets[name]
        if name in within:
            raise NoEqualError(name, f"contains itself, through {' and '.join(within)}", "Take one of them out.")
        if name not in self._file.ipsets:
            raise NoEqualError(name, "is not defined in ipsets", meant(name, self._file.ipsets, "Define it there."))
        result = Extent()
        for entry in self._file.ipsets[name].members:
            operation, _, operand = entry.text.strip().rpartition(" ")
            part = self._operand(entry, operand, (*within, name))
            match operation.strip():
                case "add" | "":
                    result |= part
                case "remove":
                    result = result.without(part, _in_set(name, entry))
                case _:
                    raise NoEqualError(_in_set(name, entry), "is no operation", "Write add or remove before it.")
        self._sets[name] = result
        return result

    def _operand(self, entry: Text, operand: str, within: tuple[str, ...]) -> Extent:
        if operand.startswith(IPSET):
            return self._ipset(operand, within)
        if operand == INTERNET:
            raise NoEqualError(
                _in_set(within[-1], entry),
                "means the internet through exit nodes, and the mesh has none",
                "Take it out; where hosts need the internet, give it to them at their gateway.",
            )
        bare = operand.removeprefix("host:")
        self.used.add(bare)
        try:
            return self._host(bare)
        except NoEqualError as fault:
            raise NoEqualError(f"{within[-1]}: {fault.name}", fault.why, fault.advice, fault.needs) from fault


def network_of(text: str) -> Network | None:
    """The prefix or address that a text is; None if it is neither. Bits behind the prefix do not matter."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def range_of(text: str) -> tuple[Address, Address] | None:
    """The first and the last address of an address, a prefix or a range `from-to`; None for anything else."""
    network = network_of(text)
    if network is not None:
        return network[0], network[-1]
    first, dash, last = text.partition("-")
    if not dash:
        return None
    try:
        ends = ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())
    except ValueError:
        return None
    return ends if ends[0].version == ends[1].version and int(ends[0]) <= int(ends[1]) else None


def _meets(ends: tuple[Address, Address], network: Network) -> bool:
    first, last = ends
    return first.version == network.version and int(first) <= int(network[-1]) and int(network[0]) <= int(last)


def _in_set(name: str, entry: Text) -> str:
    return f"{name}: {entry.text}"
