"""Conversations that changes of the filter left without a grant: whose ending is owed, and ending them.

The rules judge every packet, so none of theirs passes from the change on, ended or not; what is owed here is that
nothing lists them. So an ending that fails undoes no change. It stays owed until one succeeds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from appliance.netstack.nft import conntrack
from appliance.netstack.nft.access import Access
from appliance.netstack.nft.turns import Rank, Turns
from appliance.netstack.nft.verdict import Lookup
from appliance.policy.filter import Filter


class Endings:
    """One thread alone ends; any may owe. `in_force` gives the filter that conversations are held to."""

    def __init__(self, access: Access, turns: Turns, in_force: Callable[[], Filter | None]) -> None:
        self._access = access
        self._turns = turns
        self._in_force = in_force
        self._most = access.limits.firewall_attempts
        self._owing = threading.Lock()
        self._due: tuple[Filter, ...] = ()  # who is who in filters before the one in force
        self._again: tuple[Filter, ...] = ()  # ended, but some of theirs may have come in late

    @property
    def is_due(self) -> bool:
        """True while there is something to end."""
        return bool(self._due)

    def owe(self, *former: Filter) -> None:
        """Others take the place of these filters: conversations that they knew must be looked through."""
        with self._owing:
            self._due = who_is_who(self._due, former, self._most)

    def end(self) -> int:
        """End all that is owed; returns how many there were. Raises `firewall.conversations`, and owes it still."""
        return self._end(())

    def end_late(self) -> None:
        """A second look, for packets that had passed before a change and were on their way into the table."""
        again, self._again = self._again, ()
        self._end(again)

    def close(self) -> None:
        """End the socket."""
        self._access.close()

    def _end(self, again: Sequence[Filter]) -> int:
        with self._owing:
            due, self._due = self._due, ()
        owed, held, is_done = who_is_who(again, due, self._most), self._in_force(), False
        try:
            if held is None or not owed:
                return 0
            ended = self._end_all([Lookup(one) for one in owed], Lookup(held))
            is_done = True
        finally:
            if not is_done:
                with self._owing:
                    self._due = who_is_who(owed, self._due, self._most)
        self._again = who_is_who(self._again, due, self._most)
        return ended

    def _end_all(self, olds: Sequence[Lookup], new: Lookup) -> int:
        access = self._access
        pace = self._turns.pace(Rank.ENDING, time.monotonic() + access.limits.firewall_patience_ms / 1000)
        return access.steadily(
            lambda: conntrack.end(access.channel(), olds, new, access.now(), pace), key="firewall.conversations"
        )


def who_is_who(before: Sequence[Filter], more: Iterable[Filter], most: int) -> tuple[Filter, ...]:
    """Who is who in all these filters, in as few as can say it. Of more than `most` the oldest are forgotten.

    Filters that differ in members alone make one. Where subnets moved they may not: what was the far end in one and is
    the near end in the other would make conversations that never cross the mesh look as if they did.
    """
    known = [*before]
    for one in more:
        last = known[-1] if known else None
        if last is None or (last.peer_nets, last.locals) != (one.peer_nets, one.locals):
            known.append(Filter(own=one.own, peers=one.peers, peer_nets=one.peer_nets, locals=one.locals))
        elif last.peers is not one.peers:
            known[-1] = msgspec.structs.replace(last, peers={**last.peers, **one.peers})
    return tuple(known[-most:])
