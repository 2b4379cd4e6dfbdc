"""Supply and wants: what is still to be read for the peer, and which parents are still to be asked of it.

One read is under way at a time. What the peer asked for goes first, then the batches of the round, then new ones: so
parents travel before their children. Both queues are bounded. Nothing here sends, reads storage or judges the peer.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

from appliance.core.errors import error
from appliance.core.limits import Limits
from appliance.replica.sync_difference import Difference
from appliance.replica.sync_events import START, Cursor, Found, NeedBatches, NeedBlobs, Page
from appliance.replica.sync_frames import WANT_DEPTH, WANT_HASHES, Want

READ_BYTES: Final = 1 << 19  # bytes of one read: some 140 one-entry batches, 5 ms of the peer's work each ms of ours


class Supply:
    """What goes to the peer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._reading: NeedBatches | NeedBlobs | None = None
        self._answering = False  # the read is for the want
        self._want: dict[bytes, None] | None = None
        self._depth = 0
        self._missing: list[bytes] = []
        self._round: Difference | None = None
        self._cursor: Cursor = START
        self._new: dict[bytes, None] = {}

    @property
    def round_is_done(self) -> bool:
        """True if nothing of a round is left to read."""
        return self._round is None

    def begin_round(self, difference: Difference) -> None:
        """Read what the peer lacks, from the beginning of the log."""
        self._round, self._cursor = (difference if difference.gaps else None), START

    def answer(self, want: Want) -> None:
        """Read what the peer asked for; raises `sync.unsolicited` before the last one was answered."""
        if self._want is not None:
            raise error("sync.unsolicited")
        self._want, self._depth = dict.fromkeys(want.hashes), want.depth

    def offer(self, hashes: Iterable[bytes]) -> bool:
        """Queue new batches; False if the queue ran over and was given up."""
        self._new.update(dict.fromkeys(hashes))
        if len(self._new) <= self._limits.sync_offers:
            return True
        self._new.clear()
        return False

    def forget_new(self) -> None:
        """A round is to find what was queued."""
        self._new.clear()

    def has_work(self, *, push: bool) -> bool:
        """True if something is to be sent once there is credit."""
        return self._want is not None or self._round is not None or (push and bool(self._new))

    def next_read(self, credit: int, *, push: bool) -> NeedBatches | NeedBlobs | None:
        """The next read, unless one is under way. `push`: new batches may go."""
        if self._reading is not None or not self.has_work(push=push):
            return None
        budget = min(credit, READ_BYTES)
        self._answering = self._want is not None
        if self._want is not None:
            self._reading = NeedBlobs(tuple(self._want), self._depth, budget)
        elif self._round is not None:
            self._reading = NeedBatches(self._cursor, self._round, budget)
        else:
            self._reading = NeedBlobs(tuple(islice(self._new, WANT_HASHES)), 0, budget)
        return self._reading

    def take_page(self, page: Page) -> None:
        """A page of the round was read; ValueError if it was not asked for or is too large."""
        if not isinstance(self._reading, NeedBatches):
            raise ValueError("no page was asked for")
        _check_budget(page.blobs, self._reading.budget_bytes)
        self._reading = None
        self._cursor = page.cursor
        if page.done:
            self._round = None

    def take_found(self, found: Found) -> list[bytes] | None:
        """Batches were read by hash; returns what was not found once a Want is answered whole, else None."""
        read = self._reading
        if not isinstance(read, NeedBlobs):
            raise ValueError("no batches were asked for")
        _check_budget(found.blobs, read.budget_bytes)
        self._reading = None
        settled = {*found.hashes, *found.missing, *found.pruned}.intersection(read.hashes)
        queue = self._want if self._answering and self._want is not None else self._new
        for digest in settled or read.hashes:  # no progress: give them up, for asking again would not help
            queue.pop(digest, None)
        if not self._answering:
            return None
        self._missing.extend(settled.intersection(found.missing) if settled else read.hashes)
        if self._want:
            return None
        missing, self._want, self._missing = self._missing, None, []
        return missing


class Wants:
    """What to ask the peer for: parents of batches that it sent."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue: dict[bytes, None] = {}
        self._useless: dict[bytes, None] = {}
        self._depth = 0
        self.asked = False

    @property
    def idle(self) -> bool:
        """True if nothing is asked for or to be asked for."""
        return not self.asked and not self._queue

    def add(self, hashes: Iterable[bytes]) -> None:
        """Parents are missing. More than may be parked are not remembered, nor those that this replica refuses."""
        for digest in hashes:
            if digest not in self._useless and len(self._queue) < self._limits.parked_batches:
                self._queue[digest] = None

    def arrived(self, new: Iterable[bytes], refused: Iterable[bytes]) -> None:
        """Batches came: these entered the log, those never will in this session."""
        for digest in new:
            self._queue.pop(digest, None)
        for digest in refused:
            self._queue.pop(digest, None)
            self._useless[digest] = None
            if len(self._useless) > self._limits.parked_batches:
                del self._useless[next(iter(self._useless))]

    def next(self) -> Want | None:
        """What to ask now. Each question on the same trail reaches twice as deep, so a branch takes few of them."""
        if self.asked:
            return None
        if not self._queue:
            self._depth = 0
            return None
        hashes = tuple(islice(self._queue, WANT_HASHES))
        for digest in hashes:
            del self._queue[digest]
        self.asked = True
        want = Want(hashes, self._depth)
        self._depth = min(WANT_DEPTH, 2 * self._depth + 1)
        return want

    def answered(self) -> None:
        """The peer answered; raises `sync.unsolicited` if it was not asked."""
        if not self.asked:
            raise error("sync.unsolicited")
        self.asked = False


def _check_budget(blobs: tuple[bytes, ...], budget: int) -> None:
    if sum(map(len, blobs)) > budget:
        raise ValueError("more bytes than there is credit for")
