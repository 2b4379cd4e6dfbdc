"""Anti-entropy between two replicas, as a state machine: bytes in, bytes and events out (h11 is the model).

Both sides are alike. Each opens with Hello and the digest of its vector. Equal digests: in sync after one
round trip. Else Buckets, then Entries of the buckets that differ; each side then streams what the other lacks,
parents first, ends with Done, and compares again if it learnt something. Between rounds new batches are pushed.

It never reads a clock (time comes in, as monotonic milliseconds), storage or the network, judges no batch, and
holds no more than one frame that comes and one read that goes. A peer that breaks the rules yields `Drop` with
a key. docs/adr/0007-sync-protocol.md has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from appliance.core.errors import X0tError, error
from appliance.core.limits import Limits
from appliance.replica import sync_frames as frames
from appliance.replica.sync_events import Closed, Drop, Event, Found, Page, PeerArchived, Received, Stored
from appliance.replica.sync_flow import Inflow, Outflow, Tokens, Waits, Waste, blob_bytes_max, cost
from appliance.replica.sync_frames import Frame, FrameReader
from appliance.replica.sync_round import LEGAL, Phase, Rounds
from appliance.replica.sync_supply import Supply, Wants
from appliance.replica.vector import Vector

# Frames that cost the peer nothing, in tokens; all others are bounded by the phase, by credit or by bytes.
TOKENS: Final[dict[type[Frame], int]] = {frames.Round: 16, frames.Want: 1, frames.Archived: 1, frames.Ping: 1}


class SyncSession:
    """One connection. Every call returns the events that it caused; then take `bytes_to_send`."""

    def __init__(self, mesh: bytes, channel: str, vector: Vector, limits: Limits, now_ms: int) -> None:
        """`vector` is the replica's own and may grow. Subscribe to new batches first: none may be missed."""
        self._mesh, self._channel, self._vector, self._limits = mesh, channel, vector, limits
        self._out = bytearray()
        self._events: list[Event] = []
        self._reader = FrameReader(limits)
        self._inflow, self._outflow = Inflow(limits), Outflow()
        self._supply, self._wants = Supply(limits), Wants(limits)
        self._waste, self._waits = Waste(limits), Waits()
        self._tokens = Tokens(limits.sync_control_burst, limits.sync_control_per_s, now_ms)
        self._rounds = Rounds(vector, limits, self._supply, self._send, self._events.append)
        self._now_ms = self._sent_ms = self._heard_ms = now_ms
        self._held: dict[bytes, None] = {}  # came from the peer and were not offered yet: not to be echoed
        self._excused = False
        self._mark = 0  # bytes of batches that came before the peer's last Round, Done or Answer
        self._closed = False
        hello = frames.Hello(frames.PROTOCOL, mesh, channel, self._rounds.digest, limits.sync_window_bytes)
        self._send(frames.encode(hello))
        self._watch()

    # --- what the driver calls ------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now_ms: int) -> list[Event]:
        """Bytes of the peer, cut anyhow. Any bytes lead to events or to `Drop`, never to an exception."""
        return self._run(now_ms, lambda: self._read(data))

    def bytes_to_send(self) -> bytes:
        """What is to go to the peer; it is not returned again."""
        data = bytes(self._out)
        self._out.clear()
        return data

    @property
    def unsent_bytes(self) -> int:
        """How much `bytes_to_send` would return."""
        return len(self._out)

    def stored(self, stored: Stored, now_ms: int) -> list[Event]:
        """Batches that came are durable, or refused: grants credit, asks for parents."""
        return self._run(now_ms, lambda: self._on_stored(stored))

    def supply(self, page: Page, now_ms: int) -> list[Event]:
        """Answer to `NeedBatches`; ValueError if it was not asked for or exceeds its budget."""
        return self._run(now_ms, lambda: self._send_page(page))

    def supply_blobs(self, found: Found, now_ms: int) -> list[Event]:
        """Answer to `NeedBlobs`; ValueError if it was not asked for or exceeds its budget."""
        return self._run(now_ms, lambda: self._send_found(found))

    def offer(self, hashes: Iterable[bytes], now_ms: int) -> list[Event]:
        """Batches entered the log by any way, in this order; those that the peer lacks are pushed."""
        return self._run(now_ms, lambda: self._push(hashes))

    def resync(self, now_ms: int) -> list[Event]:
        """Batches entered the log and were not offered: a round finds them."""
        return self._run(now_ms, self._lose_offers)

    def tick(self, now_ms: int) -> list[Event]:
        """Time passed: at `next_deadline_ms` at the latest."""
        return self._run(now_ms, self._check_time)

    def drop(self, key: str, **detail: object) -> list[Event]:
        """The driver found the peer at fault."""
        return self._run(self._now_ms, lambda: self._drop(error(key, **detail)))

    def close(self, key: str = "") -> None:
        """End the session from this side; `key` tells the peer why."""
        if not self._closed:
            self._send(frames.encode(frames.Bye(key)))
            self._closed = True

    @property
    def closed(self) -> bool:
        """True if nothing more will happen, but that `bytes_to_send` may hold a last frame."""
        return self._closed

    @property
    def next_deadline_ms(self) -> int | None:
        """When `tick` is due; None for a session that is over."""
        if self._closed:
            return None
        keepalive_ms, stall_ms = self._limits.sync_keepalive_s * 1000, self._limits.sync_stall_s * 1000
        due = [self._sent_ms + keepalive_ms, self._heard_ms + keepalive_ms + stall_ms]
        if (since := self._waits.oldest_ms) is not None:
            due.append(since + stall_ms)
        round_ms = self._rounds.due_ms
        if round_ms is not None and round_ms > self._now_ms:  # else it waits for batches to be stored
            due.append(round_ms)
        return min(due)

    # --- the machine ----------------------------------------------------------------------------------------

    def _run(self, now_ms: int, step: Callable[[], None]) -> list[Event]:
        if not self._closed:
            self._now_ms = now_ms
            try:
                step()
                self._advance()
            except X0tError as err:
                self._drop(err)
        events = self._events.copy()
        self._events.clear()
        return events

    def _read(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            kind = type(frame)
            if kind not in LEGAL[self._rounds.phase]:
                raise error("sync.unsolicited")
            if not (kind is frames.Round and self._rounds.begun):  # an answer to ours is free
                self._tokens.take(TOKENS.get(kind, 0), self._now_ms)
            self._heard_ms = self._now_ms
            self._waits.progress("frame", self._now_ms)
            if kind is not frames.Ping:
                self._waits.progress("credit" if kind is frames.Credit else "answer", self._now_ms)
            self._handle(frame)
            if self._closed:
                return

    def _handle(self, frame: Frame) -> None:  # noqa: C901  # one line for each kind of frame
        match frame:
            case frames.Hello():
                self._on_hello(frame)
            case frames.Round(digest):
                self._mark = self._inflow.taken
                self._rounds.on_digest(digest, self._now_ms)
            case frames.Buckets(digests):
                self._rounds.on_buckets(digests)
            case frames.Entries():
                self._rounds.on_entries(frame)
            case frames.Batches(blobs):
                self._inflow.take(cost(blobs))
                self._events.append(Received(blobs))
            case frames.Credit(grant):
                self._outflow.grant(grant)
            case frames.Done():
                self._mark = self._inflow.taken
                self._rounds.on_done()
            case frames.Want():
                self._supply.answer(frame)
            case frames.Answer(missing):
                self._mark = self._inflow.taken
                self._on_answer(missing)
            case frames.Archived(epoch):
                self._excused = True
                self._events.append(PeerArchived(epoch))
            case frames.Ping(digest):
                self._rounds.on_ping(digest, self._now_ms)
            case frames.Bye(key):
                self._closed = True
                self._events.append(Closed(key))

    def _advance(self) -> None:
        """Whatever the new state allows: ask for parents, end or begin a round, read for the peer."""
        if self._closed:
            return
        if self._inflow.done == self._inflow.taken and (want := self._wants.next()) is not None:
            self._send(frames.encode(want))
        settled = self._inflow.done >= self._mark and self._wants.idle
        self._rounds.advance(self._now_ms, settled=settled, excused=self._excused)
        if self._outflow.credit >= blob_bytes_max(self._limits):
            read = self._supply.next_read(self._outflow.credit, push=self._rounds.may_push)
            if read is not None:
                self._events.append(read)
        self._watch()

    def _on_hello(self, hello: frames.Hello) -> None:
        least = blob_bytes_max(self._limits)
        if hello.version != frames.PROTOCOL:
            raise error("sync.protocol_version", version=hello.version)
        if hello.mesh != self._mesh:
            raise error("sync.mesh")
        if hello.channel != self._channel:
            raise error("sync.channel", channel=hello.channel)
        if hello.window < least:
            raise error("sync.window_small", window=hello.window, least=least)
        self._outflow.open(hello.window)
        self._rounds.on_digest(hello.digest, self._now_ms)

    # --- batches --------------------------------------------------------------------------------------------

    def _on_stored(self, stored: Stored) -> None:
        self._waste.add(stored)
        for digest in stored.new:
            self._held[digest] = None
        while len(self._held) > self._limits.sync_offers:
            del self._held[next(iter(self._held))]
        if stored.refused:
            self._excused = True
        self._wants.arrived(stored.new, stored.refused)
        self._wants.add(stored.wanted)
        if grant := self._inflow.stored(stored.cost):
            self._send(frames.encode(frames.Credit(grant)))

    def _on_answer(self, missing: tuple[bytes, ...]) -> None:
        """A peer has the parents of all that it has, so one that it has not was only claimed."""
        self._wants.answered()
        if missing:
            raise error("sync.claimed_not_sent", batches=len(missing))

    def _push(self, hashes: Iterable[bytes]) -> None:
        fresh = []
        for digest in hashes:
            if digest in self._held:
                del self._held[digest]
            else:
                fresh.append(digest)
        self._waste.learnt(len(fresh))
        if not self._supply.offer(fresh):
            self._rounds.call_for()

    def _lose_offers(self) -> None:
        self._held.clear()
        self._waste.learnt(self._limits.sync_offers)
        self._rounds.call_for()

    def _send_page(self, page: Page) -> None:
        self._supply.take_page(page)
        self._send_blobs(page.blobs)
        if page.epoch is not None:
            self._send(frames.encode(frames.Archived(page.epoch)))

    def _send_found(self, found: Found) -> None:
        missing = self._supply.take_found(found)
        self._send_blobs(found.blobs)
        if found.pruned:
            self._send(frames.encode(frames.Archived(found.epoch)))
        if missing is not None:
            self._send(frames.encode(frames.Answer(tuple(missing))))

    def _send_blobs(self, blobs: tuple[bytes, ...]) -> None:
        for data, size in frames.encode_batches(blobs):
            self._outflow.spend(size)
            self._send(data)

    # --- time, sending, the end -----------------------------------------------------------------------------

    def _watch(self) -> None:
        """What the peer owes us: an answer while it may send, credit while we have work, the rest of a frame."""
        short = self._outflow.credit < blob_bytes_max(self._limits)
        may_send = self._inflow.peer_may_send or self._rounds.phase not in {Phase.STREAM, Phase.LIVE}
        owes = may_send and (self._rounds.awaited or self._wants.asked)
        self._waits.watch("answer", self._now_ms, waiting=owes)
        work = self._supply.has_work(push=self._rounds.may_push)
        self._waits.watch("credit", self._now_ms, waiting=work and short)
        self._waits.watch("frame", self._now_ms, waiting=self._reader.buffered > 0)

    def _check_time(self) -> None:
        stall_ms, keepalive_ms = self._limits.sync_stall_s * 1000, self._limits.sync_keepalive_s * 1000
        since = self._waits.oldest_ms
        if since is not None and self._now_ms - since >= stall_ms:
            raise error("sync.stall", seconds=(self._now_ms - since) // 1000)
        if self._now_ms - self._heard_ms >= keepalive_ms + stall_ms:
            raise error("sync.stall", seconds=(self._now_ms - self._heard_ms) // 1000)
        if self._now_ms - self._sent_ms >= keepalive_ms:
            self._send(frames.encode(frames.Ping(self._vector.digest())))

    def _send(self, data: bytes) -> None:
        self._out += data
        self._sent_ms = self._now_ms

    def _drop(self, err: X0tError) -> None:
        self._out.clear()  # whole frames only, and what was taken before was whole too
        self.close(err.key)
        self._events.append(Drop(err.key, err.detail))
