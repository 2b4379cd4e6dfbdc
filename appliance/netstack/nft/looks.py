"""Looks at the table beside changes of it: they hold none of them up, and see none of them half done.

The table is looked at piece by piece: its objects, then one set after another. The kernel lists a set in some ten ms;
if no change of ours was begun meanwhile, that is what the filter in force must be held to. It is taken apart and
compared afterwards, at the pace of who goes last. A look that changes overtake all the time takes its turn among them,
for one piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, TypeVar

from appliance.netstack.nft import conntrack
from appliance.netstack.nft.access import SLACK_MS, Access
from appliance.netstack.nft.channel import OvertakenError
from appliance.netstack.nft.conntrack import Conversation
from appliance.netstack.nft.difference import (
    DIFFERENCES_SHOWN,
    element_differences,
    layout_differences,
    memory_differences,
)
from appliance.netstack.nft.enforcer import Enforcer
from appliance.netstack.nft.raw import NAMES, raw_set
from appliance.netstack.nft.skeleton import MEMORIES
from appliance.netstack.nft.turns import Pace, Rank, Turns, at_once
from appliance.netstack.nft.verdict import Lookup
from appliance.policy.enforcement import Count, Difference
from appliance.policy.filter import Key

OBJECTS: Final = ""
PIECES: Final = (OBJECTS, *NAMES, *MEMORIES)  # of a whole table: the objects, or the elements of a set

_T = TypeVar("_T")
Look: TypeAlias = Callable[[Access, Pace], _T]


class Looks:
    """How to look. `beside` is for a thread of its own, `in_turn` for the thread of changes; both block."""

    def __init__(self, access: Access, turns: Turns, enforcer: Enforcer) -> None:
        self._access = access
        self._turns = turns
        self._enforcer = enforcer

    def beside(self, look: Look[_T]) -> _T | None:
        """Look while changes go on; None if they overtook it all the time."""
        until_s = time.monotonic() + self._access.limits.firewall_patience_ms / 1000
        pace = self._turns.pace(Rank.LOOK, until_s)

        def step() -> _T | None:
            try:
                return look(self._access, pace)
            except OvertakenError:
                return None

        while time.monotonic() < until_s:
            if (found := self._access.steadily(step)) is not None:
                return found
        return None

    def in_turn(self, look: Look[_T]) -> _T:
        """Look while no change is under way."""
        access = self._enforcer.access
        return access.steadily(lambda: look(access, at_once))

    def close(self) -> None:
        """End the socket."""
        self._access.close()

    # ---- what to look at; overtaken by a change each raises `OvertakenError`

    def differences(self, piece: str) -> Look[list[Difference]]:
        """What of a piece of the table is not what the filter in force says. The enforcer hears of it."""

        def look(access: Access, pace: Pace) -> list[Difference]:
            before, kernel = self._enforcer.standing(), access.kernel(pace)
            listed = kernel.listing(access.now(), () if piece == OBJECTS else (piece,))
            if before.is_changing or self._enforcer.standing().changes != before.changes:
                raise OvertakenError
            if piece == OBJECTS:
                found = layout_differences(access.skeleton, listed.layout)
            elif piece in listed.blocks:
                held, raw = before.in_force or access.nothing(), kernel.taken_apart(listed).raw
                if piece in MEMORIES:
                    found = [*memory_differences(Lookup(held), piece, pace(raw[piece].items()))]
                else:
                    wanted = {piece: raw_set(held, piece, listed.at_ms, pace)}
                    found = element_differences(wanted, raw, listed.at_ms, SLACK_MS)
            else:
                found = []  # then the objects differ
            if found:
                self._enforcer.doubt()
            return found[:DIFFERENCES_SHOWN]

        return look

    def counters(self, name: str) -> Look[Mapping[tuple[str, Key], Count]]:
        """Traffic by grant, of one way."""
        return lambda access, pace: access.kernel(pace).counters(name)

    def conversations(self) -> Look[list[Conversation]]:
        """Conversations that cross the mesh interface."""

        def look(access: Access, pace: Pace) -> list[Conversation]:
            held = Lookup(self._enforcer.standing().in_force or access.nothing())
            return conntrack.conversations(access.channel(), held, access.limits.firewall_flows, pace)

        return look
