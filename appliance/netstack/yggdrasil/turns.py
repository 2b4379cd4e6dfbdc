"""When the daemon must be restarted: it reads the keys that may dial it only when it starts. Pure.

A restart interrupts what crosses this node for about a second, so it is done at once only for who must be kept out and
is linked. Otherwise nodes take turns, by their place among those that listen. Nobody waits for a restart to come in:
members that run already dial the newcomer (`peers.invited`), and it holds the full list of keys from its start. Where
there is no link at all nothing crosses the node, so that it takes newcomers in without its turn.
"""

from __future__ import annotations

from typing import Final

import msgspec

SLOT_S: Final = 3.0  # between two nodes; a restart and its links take about 1 s
SLOTS: Final = 20  # turns before two nodes may have the same: all are done within a minute
SETTLE_S: Final = 5.0  # for more admissions to come
PATIENCE_S: Final = 3_600.0  # for a quiet moment
HASTE_S: Final = 0.75  # for more admissions to come, where there is no link
HASTE_MOST_S: Final = 3.0  # the same, if they come all the time


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision rests on. Keys of members; times of one monotonic clock, in seconds."""

    changed: bool  # something else of its configuration is wanted otherwise
    listens: bool  # somebody can dial us
    allowed: frozenset[bytes]  # that may dial it as it runs
    wanted: frozenset[bytes]  # that should be able to
    linked: frozenset[bytes]  # at the other end of links that they opened
    silent: frozenset[bytes]  # newcomers that only we can let in: they cannot be dialled
    evicted_at_s: float  # since when there is somebody to keep out
    admitted_at_s: float  # since when the last newcomer waits to be let in
    first_at_s: float  # since when the first of them does
    taken_at_s: float  # when it was last started anew with other keys
    alone: bool  # no link is up
    quiet: bool  # nothing of weight crosses this node
    place: int  # ours, among the members that listen


class Gaps:
    """Who may dial the daemon as it runs and should not, who should and may not, and since when."""

    def __init__(self) -> None:
        self.out: frozenset[bytes] = frozenset()
        self.new: frozenset[bytes] = frozenset()
        self.evicted_at_s = self.admitted_at_s = self.first_at_s = 0.0
        self.taken_at_s = -SETTLE_S  # so that the first one need not wait
        self._allowed: frozenset[bytes] | None = None

    def look(self, allowed: frozenset[bytes], wanted: frozenset[bytes], now_s: float) -> None:
        """Compare; a new difference begins now."""
        if allowed - wanted - self.out:
            self.evicted_at_s = now_s
        if wanted - allowed - self.new:
            self.admitted_at_s = now_s
            self.first_at_s = self.first_at_s if self.new else now_s
        if self._allowed is not None and self._allowed != allowed:
            self.taken_at_s = now_s
        self._allowed = allowed
        self.out, self.new = allowed - wanted, wanted - allowed


class Due(msgspec.Struct, frozen=True):
    """A restart, and why."""

    at_s: float
    reason: str


def due(now: Standing) -> Due | None:
    """The restart to come, if any; in the past means at once."""
    out, new = now.allowed - now.wanted, now.wanted - now.allowed
    turn_s = now.place % SLOTS * SLOT_S
    if now.changed:
        return Due(0.0, "its configuration has changed")
    if now.linked - now.wanted:
        return Due(0.0, "a node that is no member is linked")
    if not now.listens:
        return None
    found = []
    if out:
        found.append(Due(now.evicted_at_s + turn_s, f"{len(out)} evicted nodes could still dial this one"))
    if new & now.silent:
        found.append(Due(_admission_s(now, SETTLE_S), f"{len(new & now.silent)} new nodes wait to dial this one"))
    elif new:
        wait_s = SETTLE_S if now.quiet else PATIENCE_S
        found.append(Due(_admission_s(now, wait_s), f"{len(new)} new nodes cannot dial this one yet"))
    return min(found, key=lambda each: each.at_s, default=None)


def _admission_s(now: Standing, wait_s: float) -> float:
    """When to take newcomers in. Each is taken in once, so that two nodes that are alone cannot restart for ever."""
    if not now.alone:
        return now.admitted_at_s + wait_s + now.place % SLOTS * SLOT_S
    settled_s = min(now.admitted_at_s + HASTE_S, now.first_at_s + HASTE_MOST_S)
    return max(settled_s, now.taken_at_s + SETTLE_S)
