"""What a filter means: its four lookups, as a kernel makes them, in Python.

The fake firewall judges with it, and the laws hold `compile` to `evaluate` through it. It decides nothing that the
tables do not say, and is as slow as a definition may be: intervals are searched one after another.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from appliance.policy.evaluate import Flow
from appliance.policy.filter import Address, ClassId, Filter, Grant, Interval, Key, ServiceRange


class Direction(StrEnum):
    """Which end of a conversation opened it, as the node sees it that enforces."""

    INBOUND = "inbound"  # the far end
    OUTBOUND = "outbound"  # the near end


def key(wanted: Filter, direction: Direction, flow: Flow) -> Key | None:
    """What the kernel looks up for a conversation that crosses the mesh interface; None if a lookup before it fails."""
    far, near = (flow.source, flow.target) if direction is Direction.INBOUND else (flow.target, flow.source)
    peer = wanted.peers[far] if far in wanted.peers else _holding(wanted.peer_nets, far)
    local = _holding(wanted.locals, near)
    service = _serving(wanted.services, flow.protocol, flow.port)
    if peer is None or local is None or service is None:
        return None
    return Key(peer, local, service)


def permits(wanted: Filter, direction: Direction, flow: Flow, now_ms: int) -> bool:
    """The filter's verdict on the packet that opens a conversation. `now_ms` ends what has a last moment."""
    found = key(wanted, direction, flow)
    table: Mapping[Key, Grant] = wanted.inbound if direction is Direction.INBOUND else wanted.outbound
    grant = table.get(found) if found is not None else None
    return grant is not None and (grant.until_ms is None or now_ms < grant.until_ms)


def _holding(intervals: Mapping[Interval, ClassId], address: Address) -> ClassId | None:
    return next((number for (first, last), number in intervals.items() if first <= address <= last), None)


def _serving(services: Mapping[ServiceRange, ClassId], protocol: int, port: int) -> ClassId | None:
    return next(
        (
            number
            for service, number in services.items()
            if service.protocol_first <= protocol <= service.protocol_last
            and service.port_first <= port <= service.port_last
        ),
        None,
    )
