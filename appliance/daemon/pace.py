"""How soon the neighbours of a member follow a change of its key of the network: each one makes them restart daemons.

Yggdrasil reads the keys that may dial it only when it starts, so who took a new key every second would keep the daemons
of a whole mesh restarting. A member's first change is followed at once, the next one only after a rest; until then it
has its links as before. That concerns links alone: addresses and rights are those of the new key at once, and who is no
member any more has no links. Pure but for its memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from appliance.policy.roster import Neighbour

REST_S: Final = 600.0  # between two changes of one member


class _Held(NamedTuple):
    neighbour: Neighbour | None  # as others have links with it; None: they have none, for its address is another's
    may_change_at_s: float


class Pace:
    """Remembers each member as others have links with it."""

    def __init__(self, rest_s: float = REST_S) -> None:
        self._rest_s = rest_s
        self._held: dict[bytes, _Held] = {}

    def follow(self, now: Iterable[Neighbour], trusted: Collection[bytes], now_s: float) -> tuple[Neighbour, ...]:
        """Whom to have links with, by node id. Times are of one monotonic clock, in seconds.

        `now`: who has a place on the network; `trusted`: those nodes, and members whose address is another's.
        """
        placed = {each.node: each for each in now}
        self._held = {
            node: self._changed(self._held.get(node), placed.get(node), now_s) for node in {*placed, *trusted}
        }
        found = sorted((held.neighbour for held in self._held.values() if held.neighbour), key=lambda each: each.node)
        by_key = {each.key: each for each in reversed(found)}  # of two with one key the lower id
        return tuple(each for each in found if by_key[each.key] is each)

    def _changed(self, before: _Held | None, new: Neighbour | None, now_s: float) -> _Held:
        if before is None:
            return _Held(new, now_s)
        if _key(before.neighbour) == _key(new):
            return before._replace(neighbour=new)
        return before if now_s < before.may_change_at_s else _Held(new, now_s + self._rest_s)


def _key(neighbour: Neighbour | None) -> bytes:
    return b"" if neighbour is None else neighbour.key
