"""Sets of hosts and nodes: what an address, a host or an IP set of the file stands for here.

Hosts are spans of IPv6 addresses, with exact union and difference. Nodes and tags are kept by name, so they can only be
taken away as they were put in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from appliance.core.prefix import ADDRESS_BITS, Prefix
from appliance.policy.model import AnySelector, NodeSelector, Selector, SubnetSelector, TagSelector
from appliance.policy.tailscale.report import NoEqualError


class Span(NamedTuple):
    """IPv6 addresses as numbers, both ends included."""

    first: int
    last: int

    @classmethod
    def of(cls, prefix: Prefix) -> Span:
        """The addresses of a prefix."""
        return cls(int.from_bytes(prefix.first, "big"), int.from_bytes(prefix.last, "big"))

    def meets(self, other: Span) -> bool:
        """True if an address is in both."""
        return self.first <= other.last and other.first <= self.last

    def prefixes(self) -> Iterable[Prefix]:
        """The fewest prefixes that hold exactly these addresses."""
        ends = ipaddress.IPv6Address(self.first), ipaddress.IPv6Address(self.last)
        for network in ipaddress.summarize_address_range(*ends):
            yield Prefix(network.network_address.packed, network.prefixlen)


class Extent(msgspec.Struct, frozen=True):
    """Spans, sorted and apart; and selectors that are no prefix."""

    spans: tuple[Span, ...] = ()
    others: frozenset[Selector] = frozenset()

    def __or__(self, other: Extent) -> Extent:
        return Extent(_joined([*self.spans, *other.spans]), self.others | other.others)

    def without(self, other: Extent, name: str) -> Extent:
        """This without that; `name` is what a refusal calls it."""
        if other == Extent():
            return self
        pairs = ((mine, theirs) for mine in self.others for theirs in other.others if mine != theirs)
        if AnySelector() in self.others | other.others or any(_may_share(*pair) for pair in pairs):
            raise _inexact(name)
        spans = self.spans
        for hole in other.spans:
            spans = tuple(piece for span in spans for piece in _cut(span, hole))
        return Extent(spans, self.others - other.others)

    def selectors(self) -> tuple[Selector, ...]:
        """All of it as selectors."""
        return (*self.others, *(SubnetSelector(prefix) for span in self.spans for prefix in span.prefixes()))


def extent_of(selector: Selector) -> Extent:
    """What one selector stands for."""
    if isinstance(selector, SubnetSelector):
        return Extent((Span.of(selector.prefix),))
    return Extent((), frozenset({selector}))


def shifted(span: Span, source: Prefix, target: Prefix) -> Span:
    """A part of a prefix, moved with it to another prefix of the same size."""
    offset = int.from_bytes(target.address, "big") - int.from_bytes(source.address, "big")
    return Span(span.first + offset, span.last + offset)


def host_bits(prefix: Prefix) -> int:
    """How many bits of an address the prefix leaves to its hosts."""
    return ADDRESS_BITS - prefix.length


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    result: list[Span] = []
    for span in sorted(spans):
        if result and span.first <= result[-1].last + 1:
            result[-1] = Span(result[-1].first, max(result[-1].last, span.last))
        else:
            result.append(span)
    return tuple(result)


def _cut(span: Span, hole: Span) -> Iterable[Span]:
    if not span.meets(hole):
        yield span
        return
    if span.first < hole.first:
        yield Span(span.first, hole.first - 1)
    if hole.last < span.last:
        yield Span(hole.last + 1, span.last)


def _may_share(one: Selector, other: Selector) -> bool:
    """A node may hold a tag, and two tags; two different nodes are not one."""
    return isinstance(one, TagSelector | NodeSelector) and not (
        isinstance(one, NodeSelector) and isinstance(other, NodeSelector)
    )


def _inexact(name: str) -> NoEqualError:
    return NoEqualError(
        name,
        "takes away what the mapping file makes a part of something else: a tag, or all",
        "Map both to nodes or prefixes, whose difference can be written down.",
    )
