"""Whose host an address is, as disjoint stretches of the address space.

Prefixes are nested or apart, never crossed, so one pass over them in order with a stack of the open ones is enough.
Addresses are integers here: the neighbour of an address is one more or less. This module knows no rules.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

from appliance.core.prefix import ADDRESS_BYTES, Prefix
from appliance.policy.directory import Directory
from appliance.policy.filter import Interval

Value = TypeVar("Value")
Other = TypeVar("Other")


class Stretch(NamedTuple, Generic[Value]):
    """The addresses from `first` to `last`, both included, and what holds for them."""

    first: int
    last: int
    value: Value

    @property
    def interval(self) -> Interval:
        """As addresses."""
        return self.first.to_bytes(ADDRESS_BYTES, "big"), self.last.to_bytes(ADDRESS_BYTES, "big")


def number(address: bytes) -> int:
    """An address as an integer."""
    return int.from_bytes(address, "big")


def layers(blocks: Iterable[tuple[Prefix, Value]], combine: Callable[[Value, Value], Value]) -> list[Stretch[Value]]:
    """The space that the blocks cover, cut at all their borders, ascending.

    Where blocks are nested, `combine(outer, inner)` says what holds; of equal blocks the later one is the inner.
    """
    found: list[Stretch[Value]] = []
    open_blocks: list[tuple[int, Value]] = []  # last address and value, the innermost at the end
    reached = 0  # everything before it is in `found`

    def close(upto: int) -> None:
        nonlocal reached
        if open_blocks and reached <= upto:
            found.append(Stretch(reached, upto, open_blocks[-1][1]))
        reached = max(reached, upto + 1)

    for prefix, value in sorted(blocks, key=lambda block: (block[0].address, block[0].length)):
        first = number(prefix.first)
        while open_blocks and open_blocks[-1][0] < first:
            close(open_blocks[-1][0])
            open_blocks.pop()
        close(first - 1)
        open_blocks.append((number(prefix.last), combine(open_blocks[-1][1], value) if open_blocks else value))
    while open_blocks:
        close(open_blocks[-1][0])
        open_blocks.pop()
    return found


def overlaid(
    lower: Sequence[Stretch[Value]], upper: Sequence[Stretch[Other]]
) -> Iterator[Stretch[tuple[Value | None, Other | None]]]:
    """Two ascending lists of disjoint stretches, cut at the borders of both; None where one has nothing."""
    ends = {stretch.first for stretch in lower} | {stretch.last + 1 for stretch in lower}
    ends |= {stretch.first for stretch in upper} | {stretch.last + 1 for stretch in upper}
    borders = sorted(ends)
    below = above = 0
    for first, after in pairwise(borders):
        while below < len(lower) and lower[below].last < first:
            below += 1
        while above < len(upper) and upper[above].last < first:
            above += 1
        under = lower[below].value if below < len(lower) and lower[below].first <= first else None
        over = upper[above].value if above < len(upper) and upper[above].first <= first else None
        if under is not None or over is not None:
            yield Stretch(first, after - 1, (under, over))


def merged(stretches: Iterable[Stretch[Value]]) -> Iterator[Stretch[Value]]:
    """Neighbours of equal value become one."""
    held: Stretch[Value] | None = None
    for stretch in stretches:
        if held is not None and held.last + 1 == stretch.first and held.value == stretch.value:
            held = Stretch(held.first, stretch.last, held.value)
            continue
        if held is not None:
            yield held
        held = stretch
    if held is not None:
        yield held


def hosts(directory: Directory) -> list[Stretch[bytes]]:
    """Where hosts are, with their gateway. The longest subnet decides, and a member's address is no host's."""
    # Subnets come in the order in which they win; the inner of equal blocks is the later one.
    owned = layers(((subnet.prefix, subnet.gateway) for subnet in reversed(directory.subnets)), lambda _, inner: inner)
    members = sorted(map(number, directory.by_address)) if owned else []
    found: list[Stretch[bytes]] = []
    for first, last, gateway in owned:
        for address in members[bisect_left(members, first) : bisect_right(members, last)]:
            if first < address:
                found.append(Stretch(first, address - 1, gateway))
            first = address + 1
        if first <= last:
            found.append(Stretch(first, last, gateway))
    return list(merged(found))
