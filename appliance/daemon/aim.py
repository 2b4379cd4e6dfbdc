"""Whom to dial of those that are known only from what they announce: a few, different ones on each node.

Members are taken in order of the distance (exclusive or) of their id from our own, so that the nodes of a mesh spread
over each other; one that did not answer several times makes room for the next and moves to the end. Pure but for its
memory of who was tried in vain.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.daemon.links import Dialling
from appliance.daemon.target import Target, parse_target
from appliance.replica.rows import NodeRow

PATIENCE = 3  # failures after which another one gets its turn
SPARE = 4  # so many candidates are looked at for each one that is wanted: asking for permission takes a lock


class Aim:
    """Chooses among announced members, for the node `own`."""

    def __init__(self, own: NodeId, limit: int) -> None:
        self._own = int.from_bytes(own.raw, "big")
        self._limit = limit
        self._in_vain: Counter[bytes] = Counter()

    def note(self, dialled: Iterable[Dialling]) -> None:
        """Learn from how dialling went."""
        for dialling in dialled:
            if dialling.node is not None and dialling.failures >= PATIENCE:
                self._in_vain[dialling.node.raw] += 1

    def choose(self, members: Iterable[NodeRow], permitted: Callable[[bytes], bool]) -> list[Target]:
        """At most `limit` permitted members that say where they are, the nearest and least disappointing first."""
        placed = (row for row in members if row.endpoints)
        nearest = heapq.nsmallest(self._limit * SPARE, placed, key=self._rank)
        targets = [target for row in nearest if permitted(row.node) and (target := target_of(row)) is not None]
        return targets[: self._limit]

    def _rank(self, row: NodeRow) -> tuple[int, int]:
        return self._in_vain[row.node], int.from_bytes(row.node, "big") ^ self._own


def target_of(row: NodeRow) -> Target | None:
    """Where a member says that it is; None if that is no address."""
    try:
        return parse_target(f"{NodeId(row.node)}@{row.endpoints[0]}")
    except X0tError:
        return None
