"""One mesh's firewall in the kernel, step by step: keeps what is sound, changes what differs, checks what it did.

It blocks, and one thread alone may use it, but for what says otherwise. A step is repeated while others overtake it or
answers get lost, a bounded number of times; each time it looks again at what the kernel holds. So there are two truths
here, and they are kept apart: the filter that was verified last, and whether the kernel surely still holds it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple, TypeVar

from appliance.core.errors import X0tError, error
from appliance.netstack.nft.access import SLACK_MS, Access
from appliance.netstack.nft.channel import OvertakenError
from appliance.netstack.nft.difference import Change, changes, element_differences, layout_differences
from appliance.netstack.nft.kernel import BY_ONE, Reading
from appliance.netstack.nft.raw import filter_of, raw_filter, raw_headers, raw_set
from appliance.policy.enforcement import Applied, Difference
from appliance.policy.filter import Filter

_T = TypeVar("_T")


class Standing(NamedTuple):
    """The filter that the kernel was seen to hold last, and how often a change of it was begun or ended."""

    changes: int
    in_force: Filter | None  # None before `prepare`

    @property
    def is_changing(self) -> bool:
        """True while a change is under way: the kernel may hold another filter already."""
        return self.changes % 2 == 1


class Enforcer:
    """The steps. `owe` hears of each filter that another takes the place of, as soon as that may have happened."""

    def __init__(self, access: Access, owe: Callable[[Filter], None]) -> None:
        self.access: Final = access
        self._table = access.table
        self._limits = access.limits
        self._was_touched = access.ground.was_touched
        self._now = access.now
        self._kernel = access.kernel
        self._owe = owe
        self._standing = Standing(0, None)
        self._is_sure = False  # that the kernel holds the filter in force
        self._doubted = threading.Event()  # by others who looked
        self._done = Applied()  # by the change that is under way

    def standing(self) -> Standing:
        """How it stands now. Any thread may ask."""
        return self._standing

    def doubt(self) -> None:
        """The kernel was seen not to hold the filter in force: the next change looks at all. Any thread may say so."""
        self._doubted.set()

    def prepare(self) -> None:
        """A table of ours that is sound stays as it is; anything else becomes one that denies everything."""
        with self._changing():
            self._steadily(self._prepare)

    def apply(self, wanted: Filter) -> Applied:
        """Bring the kernel to the filter; from then on no packet passes that it does not allow."""
        if wanted.own != self._table.own:
            raise ValueError("the filter is of another node")
        self._done = Applied()
        with self._changing():
            self._steadily(lambda: self._apply(wanted))
        return self._done

    def remove(self) -> None:
        """Take the table away."""
        with self._changing():
            self._steadily(lambda: self._kernel().remove())
            self._hold(None, is_sure=False)

    def close(self) -> None:
        """End the socket; the table stays."""
        self.access.close()

    # ---- steps, which may be repeated

    def _prepare(self) -> None:
        self._was_touched()
        seen = self._kernel().read(self._now())
        if self._is_sound(seen):
            self._kernel().change(seen.generation, (), self._now(), forget=True)
            self._hold(filter_of(self._table.own, seen.raw))
        else:
            self._put(seen, self.access.nothing())

    def _apply(self, wanted: Filter) -> None:
        generation = self._kernel().generation()
        before, slack_ms, forget = self._standing.in_force, 0, False
        if self._is_in_doubt() or before is None:
            seen = self._kernel().read(self._now())
            if not self._is_sound(seen):
                self._put(seen, wanted)
                return
            generation, before, slack_ms = seen.generation, filter_of(self._table.own, seen.raw), SLACK_MS
            forget = True
            self._owe(before)
        needed = changes(before, wanted, self._now(), slack_ms)
        if not needed and not forget:
            self._hold(wanted)
            return
        if any(change.removed for change in needed) or _fewer(wanted, before):
            self._owe(before)
        self._is_sure = False
        self._kernel().change(generation, needed, self._now(), forget=forget)
        self._note(sum(len(change.added) for change in needed), sum(len(change.removed) for change in needed))
        self._accept_or_restore(self._read_back(needed, wanted), wanted)

    def _put(self, seen: Reading, wanted: Filter) -> None:
        """Write the whole table."""
        self._owe(self._standing.in_force or self.access.nothing())
        written = self._rewrite(seen, wanted)
        self._note(written, sum(map(len, seen.raw.values())), rebuilt=True)
        self._accept_or_restore(self._held_to(wanted), wanted)

    def _accept_or_restore(self, found: Sequence[Difference], wanted: Filter) -> None:
        """Take the filter as the one in force; or, if the kernel does not hold it, bring back the one before.

        If that cannot be done either, everything is denied. Whatever the kernel holds then, the next change looks.
        """
        if not found:
            self._hold(wanted)
            return
        if self._was_touched():
            raise OvertakenError
        words = {"table": self._table.name, **_words(found[0])}
        if self._is_brought_to(self._standing.in_force or self.access.nothing()):
            raise error("firewall.mismatch", **words)
        if self._standing.in_force is not None and self._is_brought_to(self.access.nothing()):
            raise error("firewall.unrestored", **words, state="everything is denied now")
        raise error("firewall.unrestored", **words, state="what it holds now is not known")

    def _is_brought_to(self, former: Filter) -> bool:
        """Write the whole table so; True if the kernel was seen to hold it then."""

        def bring() -> bool:
            self._rewrite(self._kernel().read(self._now()), former)
            return not self._held_to(former)

        try:
            is_held = self._steadily(bring)
        except X0tError:
            return False
        if is_held:
            self._hold(former, is_sure=False)
        return is_held

    # ---- parts of steps

    def _steadily(self, step: Callable[[], _T]) -> _T:
        return self.access.steadily(step, failed=self._lose_certainty)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Others who look know by this that what they see may be neither the filter before nor the one after."""
        self._standing = Standing(self._standing.changes + 1, self._standing.in_force)
        try:
            yield
        finally:
            self._standing = Standing(self._standing.changes + 1, self._standing.in_force)

    def _is_in_doubt(self) -> bool:
        """True if the kernel must be looked at. What was noticed is forgotten: the look makes up for it."""
        touched, doubted = self._was_touched(), self._doubted.is_set()
        if doubted:
            self._doubted.clear()
        if touched or doubted:
            self._is_sure = False
        return not self._is_sure

    def _read_back(self, needed: Sequence[Change], wanted: Filter) -> list[Difference]:
        """What differs from what was just written: the touched elements, or all if they are many."""
        touched = sum(len(change.removed) + len(change.added) for change in needed if change.name in BY_ONE)
        if touched > self._limits.firewall_gets:
            return self._held_to(wanted)
        now_ms = self._now()
        different: list[Difference] = []
        for change in needed:
            if change.name in BY_ONE:
                found = self._kernel().find(change.name, change.removed | change.added, now_ms)
                hoped = change.added
            else:
                found = self._kernel().read_set(change.name, now_ms)
                hoped = raw_set(wanted, change.name, now_ms)
            different += element_differences({change.name: hoped}, {change.name: found}, now_ms, SLACK_MS)
        return different

    def _rewrite(self, seen: Reading, wanted: Filter) -> int:
        """Put a whole table in the place of what was seen; returns how many elements it has."""
        self._is_sure = False
        now_ms = self._now()
        raw = raw_filter(wanted, now_ms)
        self._kernel().rewrite(seen, raw, now_ms)
        return sum(map(len, raw.values()))

    def _held_to(self, wanted: Filter) -> list[Difference]:
        """What of the whole table differs from the filter now."""
        return self.access.differences(self._kernel().read(self._now()), wanted)

    def _is_sound(self, seen: Reading) -> bool:
        """True if all but the elements of a filter is as it should be."""
        return not layout_differences(self.access.skeleton, seen.layout) and seen.raw["headers"] == raw_headers()

    def _note(self, added: int, removed: int, *, rebuilt: bool = False) -> None:
        """What a step did counts, also if a later step must be repeated."""
        done = self._done
        self._done = Applied(done.added + added, done.removed + removed, done.rebuilt or rebuilt)

    def _hold(self, verified: Filter | None, *, is_sure: bool = True) -> None:
        self._standing, self._is_sure = Standing(self._standing.changes, verified), is_sure

    def _lose_certainty(self) -> None:
        self._is_sure = False


def _fewer(wanted: Filter, before: Filter) -> bool:
    """True if grants went, also those that the kernel took away at their end."""
    return len(wanted.inbound) < len(before.inbound) or len(wanted.outbound) < len(before.outbound)


def _words(first: Difference) -> dict[str, str]:
    return {"what": first.what, "wanted": first.wanted, "found": first.found}
