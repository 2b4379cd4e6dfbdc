"""Services as disjoint ranges of protocol and port, each with the lists of services that hold it.

It knows neither rules nor verdicts: a list of services is a bit, and a range carries the mask of its lists.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from appliance.policy.filter import ServiceRange
from appliance.policy.model import MAX_PORT, NUMBERS, WITH_PORTS, Protocol, Service

LAST_PROTOCOL = 255  # IANA numbers have one byte

Mask: TypeAlias = int
Range: TypeAlias = tuple[int, int]


def partition(lists: Iterable[tuple[Mask, Sequence[Service]]]) -> list[tuple[ServiceRange, Mask]]:
    """Every protocol and port that some list holds, in ranges within which no list ends; ascending and disjoint.

    Neighbouring protocols whose ports are one whole range, with the same mask, share an entry.
    """
    everything: Mask = 0
    toggles: dict[int, dict[int, Mask]] = {protocol: defaultdict(int) for protocol in NUMBERS.values()}
    for mask, services in lists:
        if any(service.protocol is Protocol.ANY for service in services):
            everything |= mask
            continue
        for protocol, ranges in _by_protocol(services).items():
            for first, last in ranges:
                toggles[protocol][first] ^= mask
                toggles[protocol][last + 1] ^= mask
    found: list[tuple[ServiceRange, Mask]] = []
    unnamed = 0  # the first protocol that is not in `found` yet
    for protocol, borders in sorted(toggles.items()):
        if unnamed < protocol:
            _add(found, ServiceRange(unnamed, protocol - 1, 0, MAX_PORT), everything)
        for first, last, mask in _between(borders):
            _add(found, ServiceRange(protocol, protocol, first, last), mask | everything)
        unnamed = protocol + 1
    _add(found, ServiceRange(unnamed, LAST_PROTOCOL, 0, MAX_PORT), everything)
    return found


def _by_protocol(services: Iterable[Service]) -> dict[int, list[Range]]:
    """Ranges of ports by protocol number, disjoint; whole for a protocol without ports."""
    ranges: dict[int, list[Range]] = {}
    for service in sorted(services):
        first, last = (service.first, service.last) if service.protocol in WITH_PORTS else (0, MAX_PORT)
        held = ranges.setdefault(NUMBERS[service.protocol], [])
        if held and first <= held[-1][1] + 1:
            held[-1] = held[-1][0], max(held[-1][1], last)
        else:
            held.append((first, last))
    return ranges


def _between(borders: dict[int, Mask]) -> Iterable[tuple[int, int, Mask]]:
    """The whole port range cut at the borders, with what holds in each part."""
    first, mask = 0, 0
    for port, change in sorted(borders.items()):
        if change and port > first:
            yield first, port - 1, mask
            first = port
        mask ^= change
    if first <= MAX_PORT:
        yield first, MAX_PORT, mask


def _add(found: list[tuple[ServiceRange, Mask]], wanted: ServiceRange, mask: Mask) -> None:
    if not mask:
        return
    whole = (0, MAX_PORT)
    if found and found[-1][1] == mask and wanted[2:] == whole == found[-1][0][2:]:
        before = found[-1][0]
        if before.protocol_last + 1 == wanted.protocol_first:
            found[-1] = ServiceRange(before.protocol_first, wanted.protocol_last, *whole), mask
            return
    found.append((wanted, mask))
