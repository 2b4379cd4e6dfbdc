"""One mesh's firewall in the kernel, step by step: keeps what is sound, changes what differs, checks what it did.

It blocks, and one thread alone may use it. A step is repeated while others overtake it or answers get lost, a bounded
number of times; each time it looks again at what the kernel holds. So there are two truths here, and they are kept
apart: the filter that was verified last, and whether the kernel surely still holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from appliance.core.errors import error
from appliance.core.limits import Limits
from appliance.netstack.nft import conntrack
from appliance.netstack.nft.channel import Channel, LostError, OvertakenError, RefusedError, Wire
from appliance.netstack.nft.conntrack import Conversation
from appliance.netstack.nft.difference import (
    DIFFERENCES_SHOWN,
    Change,
    changes,
    element_differences,
    layout_differences,
    memory_differences,
)
from appliance.netstack.nft.kernel import BY_ONE, Kernel, Reading
from appliance.netstack.nft.raw import filter_of, raw_filter, raw_headers
from appliance.netstack.nft.skeleton import MEMORIES, MeshTable, skeleton
from appliance.netstack.nft.verdict import Lookup
from appliance.policy.enforcement import Applied, Count, Difference
from appliance.policy.filter import Filter, Key

SLACK_MS: Final = 2_000  # by which the kernel's end of a grant may differ from the wanted one: its clock is another
_T = TypeVar("_T")


class Ground(NamedTuple):
    """What an enforcer stands on: sockets, the clock (ms since the epoch), and a look for foreign changes.

    `was_touched` tells whether somebody else changed our table since it was asked last, or whether that is not known.
    """

    connect: Callable[[], Wire]
    now_ms: Callable[[], int]
    was_touched: Callable[[], bool]
    note_port: Callable[[int], None]


class Enforcer:
    """The steps. `in_force` is the filter that the kernel was seen to hold last; None before `prepare`."""

    def __init__(self, table: MeshTable, limits: Limits, ground: Ground) -> None:
        self.in_force: Filter | None = None
        self._table = table
        self._limits = limits
        self._ground = ground
        self._skeleton = skeleton(table, limits)
        self._channel: Channel | None = None
        self._is_sure = False  # that the kernel holds `in_force`
        self._done = Applied()  # by the change that is under way
        self._due: list[Lookup] = []  # filters before the one in force whose conversations must be ended yet
        self._again: list[Lookup] = []  # those whose conversations were ended, but some may have come in late

    def prepare(self) -> None:
        """A table of ours that is sound stays as it is; anything else becomes one that denies everything."""
        self._steadily(self._prepare)

    def apply(self, wanted: Filter) -> Applied:
        """Bring the kernel to the filter; from then on no packet passes that it does not allow."""
        if wanted.own != self._table.own:
            raise ValueError("the filter is of another node")
        self._done = Applied()
        self._steadily(lambda: self._apply(wanted))
        return self._done

    def end_conversations(self) -> int:
        """End those that the changes since the last call do not allow any more; returns how many there were."""
        return self._steadily(self._end_conversations)

    def verify(self) -> list[Difference]:
        """What differs between the kernel and the filter that was verified last."""

        def compare() -> list[Difference]:
            self._ground.was_touched()
            held = self.in_force or self._nothing()
            return self._differences(self._kernel().read(self._now()), held) or self._misremembered(held)

        found = self._steadily(compare)
        self._is_sure = not found and self.in_force is not None
        return found

    def end_late_conversations(self) -> None:
        """A second look, for packets that had passed before the change and were on their way into the table."""
        self._due += self._again
        self.end_conversations()
        self._again = []

    def counters(self) -> Mapping[tuple[str, Key], Count]:
        """Traffic by grant."""
        return self._steadily(lambda: self._kernel().counters())

    def conversations(self) -> list[Conversation]:
        """Conversations that cross the mesh interface."""
        held = Lookup(self.in_force or self._nothing())
        return self._steadily(lambda: conntrack.conversations(self._open(), held, self._limits.firewall_flows))

    def remove(self) -> None:
        """Take the table away."""
        self._steadily(lambda: self._kernel().remove())
        self.in_force, self._is_sure = None, False

    def close(self) -> None:
        """End the socket; the table stays."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    # ---- steps, which may be repeated

    def _prepare(self) -> None:
        self._ground.was_touched()
        seen = self._kernel().read(self._now())
        if self._is_sound(seen):
            self._kernel().change(seen.generation, (), self._now(), forget=True)
            self._hold(filter_of(self._table.own, seen.raw))
        else:
            self._put(seen, self._nothing())

    def _apply(self, wanted: Filter) -> None:
        generation = self._kernel().generation()
        before, slack_ms, forget = self.in_force, 0, False
        if self._ground.was_touched() or not self._is_sure or before is None:
            seen = self._kernel().read(self._now())
            if not self._is_sound(seen):
                self._put(seen, wanted)
                return
            generation, before, slack_ms = seen.generation, filter_of(self._table.own, seen.raw), SLACK_MS
            forget = True
            self._succeed(before)
        needed = changes(before, wanted, self._now(), slack_ms)
        if not needed and not forget:
            self._hold(wanted)
            return
        if any(change.removed for change in needed) or _fewer(wanted, before):
            self._succeed(before)
        self._is_sure = False
        self._kernel().change(generation, needed, self._now(), forget=forget)
        self._note(sum(len(change.added) for change in needed), sum(len(change.removed) for change in needed))
        self._accept_or_restore(self._read_back(needed, wanted), wanted)

    def _put(self, seen: Reading, wanted: Filter) -> None:
        """Write the whole table."""
        self._is_sure = False
        now_ms = self._now()
        raw = raw_filter(wanted, now_ms)
        self._succeed(self.in_force or self._nothing())
        self._kernel().rewrite(seen, raw, now_ms)
        self._note(sum(map(len, raw.values())), sum(map(len, seen.raw.values())), rebuilt=True)
        self._accept_or_restore(self._differences(self._kernel().read(self._now()), wanted), wanted)

    def _accept_or_restore(self, found: Sequence[Difference], wanted: Filter) -> None:
        """Take the filter as the one in force; or, if the kernel does not hold it, bring back the one before."""
        if not found:
            self._hold(wanted)
            return
        if self._ground.was_touched():
            raise OvertakenError
        first = found[0]
        try:
            self._restore()
        except (LostError, OvertakenError, RefusedError):
            pass  # what must be known is the mismatch; the next step looks at the kernel again
        raise error("firewall.mismatch", table=self._table.name, **_words(first))

    def _restore(self) -> None:
        before = self.in_force or self._nothing()
        seen = self._kernel().read(self._now())
        raw = raw_filter(before, self._now())
        self._kernel().rewrite(seen, raw, self._now())
        self._is_sure = self.in_force is not None and not self._differences(self._kernel().read(self._now()), before)

    def _end_conversations(self) -> int:
        if not self._due or self.in_force is None:
            return 0
        ended = conntrack.end(self._open(), self._due, Lookup(self.in_force), self._now())
        self._due, self._again = [], self._due
        return ended

    # ---- parts of steps

    def _steadily(self, step: Callable[[], _T]) -> _T:
        reason = ""
        for _ in range(self._limits.firewall_attempts):
            try:
                return step()
            except OvertakenError:
                reason = "others change the ruleset all the time"
            except LostError as err:
                reason = str(err)
                self.close()  # late answers must not be taken for those to the next question
            except (RefusedError, ValueError) as err:
                reason = str(err)
            self._is_sure = False
        raise error("firewall.refused", table=self._table.name, reason=reason)

    def _read_back(self, needed: Sequence[Change], wanted: Filter) -> list[Difference]:
        """What differs from what was just written: the touched elements, or all if they are many."""
        touched = sum(len(change.removed) + len(change.added) for change in needed if change.name in BY_ONE)
        if touched > self._limits.firewall_gets:
            return self._differences(self._kernel().read(self._now()), wanted)
        now_ms = self._now()
        different: list[Difference] = []
        for change in needed:
            if change.name in BY_ONE:
                found = self._kernel().find(change.name, change.removed | change.added, now_ms)
                hoped = change.added
            else:
                found = self._kernel().read_set(change.name, now_ms)
                hoped = raw_filter(_only(wanted, change.name), now_ms)[change.name]
            different += element_differences({change.name: hoped}, {change.name: found}, now_ms, SLACK_MS)
        return different

    def _differences(self, seen: Reading, wanted: Filter) -> list[Difference]:
        now_ms = self._now()
        different = layout_differences(self._skeleton, seen.layout)
        return different or element_differences(raw_filter(wanted, now_ms), seen.raw, now_ms, SLACK_MS)

    def _misremembered(self, held: Filter) -> list[Difference]:
        """What is in the memories and is not what the filter says."""
        lookup, kernel, now_ms = Lookup(held), self._kernel(), self._now()
        found = [one for name in MEMORIES for one in memory_differences(lookup, name, kernel.read_set(name, now_ms))]
        return found[:DIFFERENCES_SHOWN]

    def _is_sound(self, seen: Reading) -> bool:
        """True if all but the elements of a filter is as it should be."""
        return not layout_differences(self._skeleton, seen.layout) and seen.raw["headers"] == raw_headers()

    def _note(self, added: int, removed: int, *, rebuilt: bool = False) -> None:
        """What a step did counts, also if a later step must be repeated."""
        done = self._done
        self._done = Applied(done.added + added, done.removed + removed, done.rebuilt or rebuilt)

    def _succeed(self, before: Filter) -> None:
        """Another filter takes the place of this one: its conversations must be looked through."""
        self._due = [*self._due, Lookup(before)][-self._limits.firewall_attempts :]

    def _hold(self, verified: Filter) -> None:
        self.in_force, self._is_sure = verified, True

    def _nothing(self) -> Filter:
        return Filter(own=self._table.own)

    def _now(self) -> int:
        return self._ground.now_ms()

    def _kernel(self) -> Kernel:
        return Kernel(self._open(), self._table, self._skeleton)

    def _open(self) -> Channel:
        if self._channel is None:
            self._channel = _opened(self._ground)
        return self._channel


def _opened(ground: Ground) -> Channel:
    try:
        wire = ground.connect()
    except OSError as err:
        raise error("firewall.unavailable", reason=err.strerror or str(err)) from err
    try:
        channel = Channel(wire)
    except OSError as err:
        wire.close()
        raise error("firewall.unavailable", reason=err.strerror or str(err)) from err
    ground.note_port(channel.port)
    return channel


def _only(wanted: Filter, name: str) -> Filter:
    """The filter with one table of intervals or services alone."""
    match name:
        case "peer_nets":
            return Filter(own=wanted.own, peer_nets=wanted.peer_nets)
        case "locals":
            return Filter(own=wanted.own, locals=wanted.locals)
        case _:
            return Filter(own=wanted.own, services=wanted.services)


def _fewer(wanted: Filter, before: Filter) -> bool:
    """True if grants went, also those that the kernel took away at their end."""
    return len(wanted.inbound) < len(before.inbound) or len(wanted.outbound) < len(before.outbound)


def _words(first: Difference) -> dict[str, str]:
    return {"what": first.what, "wanted": first.wanted, "found": first.found}
