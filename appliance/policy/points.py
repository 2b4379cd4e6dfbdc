"""Services as points on a line: a protocol and a destination port are one integer, a service is a span of them.

Sets of points are spans that neither overlap nor touch, as two ascending lists: where each begins, and where it ends.
A protocol without ports has the points of all ports, as its service has the whole range. Nothing here knows rules.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

from appliance.policy.model import MAX_PORT, NUMBERS, Protocol, Service
from appliance.policy.partition import LAST_PROTOCOL

Point: TypeAlias = int
PORT_BITS: Final = 16
LAST: Final[Point] = LAST_PROTOCOL << PORT_BITS | MAX_PORT


class Points(NamedTuple):
    """A set: spans ascending, with at least a point between two of them; both ends included."""

    firsts: Sequence[Point] = ()
    lasts: Sequence[Point] = ()

    def first_within(self, first: Point, last: Point) -> Point | None:
        """The first point of a span that is in the set; None if none is."""
        place = bisect_left(self.lasts, first)
        if place == len(self.lasts) or self.firsts[place] > last:
            return None
        return max(self.firsts[place], first)

    def first_missing(self, first: Point, last: Point) -> Point | None:
        """The first point of a span that is not in the set; None if all are."""
        place = bisect_right(self.firsts, first) - 1
        if place < 0 or self.lasts[place] < first:
            return first
        return self.lasts[place] + 1 if self.lasts[place] < last else None

    def without(self, others: Points) -> Points:
        """The points that are not in the other set. Linear."""
        firsts: list[Point] = []
        lasts: list[Point] = []
        place = 0
        for first, last in zip(self.firsts, self.lasts, strict=True):
            while place < len(others.lasts) and others.lasts[place] < first:
                place += 1
            begin, other = first, place
            while other < len(others.firsts) and others.firsts[other] <= last:
                if begin < others.firsts[other]:
                    firsts.append(begin)
                    lasts.append(others.firsts[other] - 1)
                begin = others.lasts[other] + 1
                other += 1
            if begin <= last:
                firsts.append(begin)
                lasts.append(last)
        return Points(firsts, lasts)


def span(service: Service) -> tuple[Point, Point]:
    """The first and the last point of a service."""
    if service.protocol is Protocol.ANY:
        return 0, LAST
    number = NUMBERS[service.protocol] << PORT_BITS
    return number | service.first, number | service.last


def united(firsts: Iterable[Point], lasts: Iterable[Point]) -> Points:
    """The points of spans that may overlap, given as where they begin and where they end, each in any order.

    Behind a span that ends before the next one begins, as many have ended as have begun: so the two sorted lists tell
    where the gaps are, without the pairs.
    """
    begins, ends = sorted(firsts), sorted(lasts)
    if not begins:
        return Points()
    gaps = [place for place, (end, begin) in enumerate(zip(ends, begins[1:], strict=False)) if begin > end + 1]
    return Points([begins[0], *(begins[gap + 1] for gap in gaps)], [*(ends[gap] for gap in gaps), ends[-1]])


def extent(lists: Iterable[Sequence[Service]]) -> tuple[int, int]:
    """Into how many ranges the services cut one another, and how many lists hold each, summed up.

    At most a few less than `partition` makes ranges and sets bits in their masks, and cheaper. Lists are canonical.
    """
    borders: dict[Point, int] = defaultdict(int)  # how many lists more hold what follows
    for services in lists:
        for service in services:
            first, last = span(service)
            borders[first] += 1
            borders[last + 1] -= 1
    ranges = overlaps = held = 0
    for border in sorted(borders):
        held += borders[border]
        ranges += held > 0
        overlaps += held
    return ranges, overlaps
