"""Rounds of a sync session: two digests, then buckets, entries and Done, until both vectors are known to be equal.

Both sides compare the same two digests, and later the same two lists of bucket digests, so both decide alike without
another message. The table LEGAL says what a peer may send when. Reading batches, credit and time belong elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from appliance.core.errors import error
from appliance.core.limits import Limits
from appliance.replica import sync_frames as frames
from appliance.replica.sync_difference import Difference
from appliance.replica.sync_events import InSync
from appliance.replica.sync_frames import Frame
from appliance.replica.sync_supply import Supply
from appliance.replica.vector import Vector


class Phase(Enum):
    """What the peer has to send next."""

    HELLO = auto()
    BUCKETS = auto()
    ENTRIES = auto()
    STREAM = auto()  # its batches, then Done
    LIVE = auto()  # nothing: it pushes new batches, or begins a round


_ALWAYS: Final[frozenset[type[Frame]]] = frozenset(
    {frames.Batches, frames.Credit, frames.Want, frames.Answer, frames.Archived, frames.Ping, frames.Bye}
)
LEGAL: Final[dict[Phase, frozenset[type[Frame]]]] = {
    Phase.HELLO: frozenset([frames.Hello, frames.Bye]),
    Phase.BUCKETS: _ALWAYS.union([frames.Buckets]),
    Phase.ENTRIES: _ALWAYS.union([frames.Entries]),
    Phase.STREAM: _ALWAYS.union([frames.Done]),
    Phase.LIVE: _ALWAYS.union([frames.Round]),
}


class Rounds:
    """The comparison under way, if any, and whether another is due."""

    def __init__(
        self,
        vector: Vector,
        limits: Limits,
        supply: Supply,
        send: Callable[[bytes], None],
        in_sync: Callable[[InSync], None],
    ) -> None:
        self._vector, self._limits, self._supply, self._send, self._report = (
            vector,
            limits,
            supply,
            send,
            in_sync,
        )
        self.phase = Phase.HELLO
        self.digest = vector.digest()  # as our Hello says it
        self._mine: bytes | None = self.digest
        self._theirs: bytes | None = None
        self._unequal: tuple[bytes, bytes] | None = None  # the digests that led to the last round
        self._unequal_ms = 0
        self._buckets = b""
        self._entry_bytes = 0
        self._difference: Difference | None = None
        self._sent_done = False
        self._due = False
        self._begun = 0  # rounds of ours since
        self._window_ms = 0

    # --- what others ask ------------------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """True if the comparison waits for a frame of the peer."""
        return self.phase is not Phase.LIVE or self._mine is not None

    @property
    def may_push(self) -> bool:
        """New batches go when their parents went: not before a comparison, nor during our stream."""
        return self._sent_done if self._difference is not None else self.phase is Phase.LIVE

    @property
    def begun(self) -> bool:
        """True if the peer is to answer our digest."""
        return self._mine is not None

    @property
    def due_ms(self) -> int | None:
        """When a round of ours may begin, if one is to.

        A few in a row, then a pause: replicas that are written to all the time would compare for ever.
        """
        if not (self._due and self._is_between):
            return None
        pause_ms = self._limits.sync_round_pause_s * 1000 if self._begun >= self._limits.sync_rounds else 0
        return self._window_ms + pause_ms

    @property
    def _is_between(self) -> bool:
        return self.phase is Phase.LIVE and self._difference is None and self._mine is None

    def call_for(self) -> None:
        """Batches were neither streamed nor offered: compare when that is possible."""
        self._due = True

    # --- what the peer sends --------------------------------------------------------------------------------

    def on_digest(self, digest: bytes, now_ms: int) -> None:
        """Hello, or Round: the peer ended the last round, so it has our Done.

        In answer to ours, it may be followed by Buckets at once; else `advance` goes on when all is stored.
        """
        if self._theirs is not None or (self._difference is not None and not self._sent_done):
            raise error("sync.unsolicited")
        self._theirs = digest
        if self._mine is not None:
            self._begin(now_ms)

    def on_buckets(self, digests: bytes) -> None:
        """Which buckets differ; in answer, our entries of these."""
        difference = Difference(self._vector, self._buckets, digests)
        if not difference.buckets:  # both grew by the same batches since they said their digests
            self._in_sync(self._vector.digest())
            return
        self._difference, self._sent_done, self._entry_bytes = difference, False, 0
        for data in frames.encode_entries(difference.packed()):
            self._send(data)
        self.phase = Phase.ENTRIES

    def on_entries(self, entries: frames.Entries) -> None:
        """What the peer has in the buckets that differ; when it is all there, our stream begins."""
        assert self._difference is not None  # by the phase
        self._entry_bytes += len(entries.packed)
        if self._entry_bytes > self._limits.sync_vector_bytes or not (entries.packed or entries.last):
            raise error("sync.flood")
        try:
            self._difference.take(entries.packed)
        except ValueError as err:
            raise error("sync.garbage", reason=str(err)) from err
        if entries.last:
            self._difference.finish()
            self._supply.begin_round(self._difference)
            self.phase = Phase.STREAM

    def on_done(self) -> None:
        """The peer sent all that our entries showed missing."""
        self.phase = Phase.LIVE

    def on_ping(self, digest: bytes, now_ms: int) -> None:
        """The line was idle, so digests should be equal; if not, something was missed, or refused.

        The same two digests are compared again only after the time in which a clock that is ahead is caught up with.
        """
        pair = (self._vector.digest(), digest)
        is_new = pair != self._unequal or now_ms >= self._unequal_ms + self._limits.clock_ahead_ms
        if self._is_between and pair[0] != digest and is_new:
            self._due = True

    # --- what follows ---------------------------------------------------------------------------------------

    def advance(self, now_ms: int, *, settled: bool, excused: bool) -> None:
        """End the round if both streams ended; begin one that the peer began, or that is due.

        `settled`: what came before the peer's last Round, Done or Answer is stored, and no parents are asked for.
        `excused`: some were refused here, or are archived there: a claim without its batch proves nothing.
        """
        if self._difference is not None and self.phase in {Phase.STREAM, Phase.LIVE}:
            if not self._sent_done and self._supply.round_is_done:
                self._send(frames.encode(frames.Done()))
                self._sent_done = True
            if self._sent_done and self.phase is Phase.LIVE and settled:
                self._end(self._difference, excused=excused)
        if self._difference is None and self._theirs is not None and settled:
            self._begin(now_ms)
        if (due_ms := self.due_ms) is not None and now_ms >= due_ms and settled:
            self._begin_ours(now_ms)

    def _end(self, difference: Difference, *, excused: bool) -> None:
        broken = difference.broken_claims()
        if broken and not excused:
            raise error("sync.claimed_not_sent", authors=len(broken))
        self._difference = None
        assert self._unequal is not None  # it began this round
        if self._vector.digest() != self._unequal[0]:  # we learnt something: are we equal now?
            self._due = True

    def _begin_ours(self, now_ms: int) -> None:
        if now_ms >= self._window_ms + self._limits.sync_round_pause_s * 1000:
            self._window_ms, self._begun = now_ms, 0
        self._due = False
        self._begun += 1
        self._begin(now_ms)

    def _begin(self, now_ms: int) -> None:
        """Say our digest, unless it was said, and compare if both are known."""
        if self._mine is None:
            self._mine = self._vector.digest()
            self._send(frames.encode(frames.Round(self._mine)))
        if self._theirs is None:
            return
        pair = (self._mine, self._theirs)
        self._mine = self._theirs = None
        if pair[0] == pair[1]:
            self._in_sync(pair[0])
            return
        self._unequal, self._unequal_ms = pair, now_ms
        self._supply.forget_new()  # what was offered so far is in the vector: the round finds it
        self._buckets = self._vector.bucket_digests()
        self._send(frames.encode(frames.Buckets(self._buckets)))
        self.phase = Phase.BUCKETS

    def _in_sync(self, digest: bytes) -> None:
        self.phase = Phase.LIVE
        self._due = False
        self._report(InSync(digest))
