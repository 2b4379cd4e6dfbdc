"""Flow of a sync session: how many bytes may be under way, how many small frames, and how long a wait may last.

Credit in bytes is the flow control of HTTP/2 (RFC 9113 section 5.2) for one stream: the receiver grants what it has
stored. Small bookkeepers with numbers in and numbers out; they send nothing and read no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from appliance.core.errors import error
from appliance.core.limits import Limits
from appliance.replica.sync_events import Stored

SIGNATURE_BYTES: Final = 4096  # a blob's signature (ML-DSA-65: 3,309) and envelope, beyond the payload
GRANT_SHARE: Final = 4  # credit is returned by quarters of the window, or when nothing waits


def blob_bytes_max(limits: Limits) -> int:
    """Bytes of the largest batch as it travels: less credit than this may stop a sender."""
    return limits.batch_bytes + SIGNATURE_BYTES


def cost(blobs: Iterable[bytes]) -> int:
    """Credit that batches use."""
    return sum(map(len, blobs))


class Inflow:
    """Batches that come, in bytes: `taken` in all, `done` of them durable or refused; `open` may still come."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._unreturned = 0
        self.open = limits.sync_window_bytes
        self.taken = 0
        self.done = 0

    def take(self, size: int) -> None:
        """Batches arrived; raises `sync.window` for more than was granted."""
        if size > self.open:
            raise error("sync.window", limit=self._limits.sync_window_bytes)
        self.open -= size
        self.taken += size

    def stored(self, size: int) -> int:
        """They are durable; returns the credit to grant now, maybe 0."""
        self.done += size
        self._unreturned += size
        if self.done < self.taken and self._unreturned < self._limits.sync_window_bytes // GRANT_SHARE:
            return 0
        grant, self._unreturned = self._unreturned, 0
        self.open += grant
        return grant

    @property
    def peer_may_send(self) -> bool:
        """True if no batch is too large for the peer to send now."""
        return self.open >= blob_bytes_max(self._limits)


class Outflow:
    """Batches that go: `credit` is what may be sent; a grant never exceeds what was."""

    def __init__(self) -> None:
        self.credit = 0
        self._in_flight = 0
        self._frames = 0

    def open(self, window: int) -> None:
        """The peer's first grant."""
        self.credit = window

    def spend(self, size: int) -> None:
        """A frame of batches is sent."""
        self.credit -= size
        self._in_flight += size
        self._frames += 1

    def grant(self, size: int) -> None:
        """The peer stored batches; raises `sync.unsolicited` for more bytes or more grants than there were frames."""
        if size > self._in_flight or not self._frames:
            raise error("sync.unsolicited")
        self._in_flight -= size
        self._frames -= 1
        self.credit += size


class Tokens:
    """Bucket of tokens for frames that cost the sender nothing: full at first, filled again by time."""

    def __init__(self, burst: int, per_s: int, now_ms: int) -> None:
        self._burst_ms = burst * 1000
        self._per_s = per_s
        self._level_ms = self._burst_ms  # thousandths of a token
        self._at_ms = now_ms

    def take(self, tokens: int, now_ms: int) -> None:
        """Raises `sync.flood` where they are used up."""
        filled = self._level_ms + max(0, now_ms - self._at_ms) * self._per_s
        self._level_ms = min(self._burst_ms, filled) - tokens * 1000
        self._at_ms = now_ms
        if self._level_ms < 0:
            raise error("sync.flood")


class Waste:
    """Bytes of a peer that brought nothing new.

    Each batch that enters the log by any way may honestly come once more from every peer, so it adds to what is
    allowed. Batches that wait for parents have an allowance of their own: they may prove useful.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._duplicates = -limits.sync_duplicates_bytes
        self._parked = -limits.parked_bytes

    def learnt(self, batches: int) -> None:
        """So many batches entered the log."""
        allowance = batches * self._limits.batch_bytes
        self._duplicates = max(-self._limits.sync_duplicates_bytes, self._duplicates - allowance)
        self._parked = max(-self._limits.parked_bytes, self._parked - allowance)

    def add(self, stored: Stored) -> None:
        """Batches of the peer were judged: each counts the mean of their bytes. Raises `sync.duplicates`."""
        useless = max(0, stored.count - len(stored.new) - stored.parked)
        self._duplicates += stored.cost * useless // stored.count
        self._parked += stored.cost * stored.parked // stored.count
        if self._duplicates > 0 or self._parked > 0:
            raise error("sync.duplicates")


class Waits:
    """What the session waits for, each since when. A wait ends with progress, or it becomes a stall."""

    def __init__(self) -> None:
        self._since_ms: dict[str, int] = {}

    def watch(self, name: str, now_ms: int, *, waiting: bool) -> None:
        """Begin or end a wait; one that goes on keeps its beginning."""
        if waiting:
            self._since_ms.setdefault(name, now_ms)
        else:
            self._since_ms.pop(name, None)

    def progress(self, name: str, now_ms: int) -> None:
        """The peer did what was waited for, or a part of it."""
        if name in self._since_ms:
            self._since_ms[name] = now_ms

    @property
    def oldest_ms(self) -> int | None:
        """When the longest wait began."""
        return min(self._since_ms.values(), default=None)
