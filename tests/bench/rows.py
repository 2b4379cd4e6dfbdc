"""The row that every benchmark prints: a measured number beside the peer or bound that it is held against."""

from __future__ import annotations

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    `ratio` is value over peer, measured in the same run; `reach` says in words what is asked of it; `holds`
    is the answer, or None where the row only informs.
    """

    name: str
    unit: str
    value: float
    peer: float | None = None
    ratio: float | None = None
    reach: str = ""
    holds: bool | None = None


def compared(name: str, unit: str, value: float, peer: float, *, at_least: float) -> Row:
    """A row whose reach is a least ratio of value to peer."""
    ratio = value / peer
    return Row(
        name=name,
        unit=unit,
        value=value,
        peer=peer,
        ratio=ratio,
        reach=f">= {at_least:g} of peer",
        holds=ratio >= at_least,
    )


def bounded(name: str, unit: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    """A row whose reach is a bound of the value itself."""
    bounds = [
        text
        for bound, text in ((at_least, f">= {at_least} {unit}"), (at_most, f"<= {at_most} {unit}"))
        if bound is not None
    ]
    holds = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return Row(name=name, unit=unit, value=value, reach=", ".join(bounds), holds=holds)
