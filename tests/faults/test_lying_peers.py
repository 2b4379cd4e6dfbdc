"""Peers that lie, flood, stall or send garbage: each is dropped with the key of what it did, and costs little.

The honest side is a real session with a model replica; the other side is a script of frames.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from hashlib import sha256

import pytest

from appliance.core.limits import LIMITS, Limits
from appliance.replica import sync_frames as frames
from appliance.replica.vector import Vector
from tests.sim.model_replica import CHANNEL, MESH, Link, ModelBatch, ModelReplica, Side, author_id

STALL_MS = LIMITS.sync_stall_s * 1000
LARGEST = bytes(LIMITS.batch_bytes - 200)


def honest() -> ModelReplica:
    made = ModelReplica()
    for number in range(20):
        made.write(author_id(number), join=False)
    return made


class Liar:
    """Says what it is told to; `vector` is what it claims to have."""

    def __init__(self, replica: ModelReplica | None = None, limits: Limits = LIMITS) -> None:
        self.side = Side(replica or honest(), limits)
        self.vector = Vector()
        for entry in range(256):
            for author, heads in self.side.replica.vector.bucket(entry):
                for seq, digest in heads:
                    self.vector.add(author, seq, digest, None)

    def say(self, *said: frames.Frame) -> None:
        for frame in said:
            self.say_bytes(frames.encode(frame))

    def say_bytes(self, data: bytes) -> None:
        self.side.hear(data)
        while self.side.work():
            pass

    def hello(self) -> None:
        self.say(frames.Hello(frames.PROTOCOL, MESH, CHANNEL, self.vector.digest(), LIMITS.sync_window_bytes))

    def compare(self) -> None:
        """Hello, and all of a comparison up to the entries."""
        self.hello()
        self.say(frames.Buckets(self.vector.bucket_digests()))
        ours, theirs = self.side.replica.vector, self.vector
        differ = [index for index in range(256) if ours.bucket_digest(index) != theirs.bucket_digest(index)]
        for data in frames.encode_entries(entry for index in differ for entry in theirs.pack(index)):
            self.say_bytes(data)

    def heard(self) -> list[frames.Frame]:
        data = bytes(self.side.outbox)
        self.side.outbox.clear()
        return list(frames.FrameReader().feed(data))

    @property
    def key(self) -> str | None:
        return self.side.drop.key if self.side.drop else None


def fake(name: str = "fake") -> bytes:
    return sha256(name.encode()).digest()


def orphan(filling: bytes = b"") -> ModelBatch:
    return ModelBatch(author_id(3), 9, fake("prev"), (), 99, filling)


# --- claims ---------------------------------------------------------------------------------------------------


def test_a_peer_that_claims_a_head_and_does_not_send_it_is_dropped() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.compare()
    assert liar.key is None
    liar.say(frames.Done())
    assert liar.key == "sync.claimed_not_sent"


def test_a_peer_that_claims_an_author_whom_nobody_knows_is_dropped() -> None:
    liar = Liar()
    liar.vector.add(author_id("nobody"), 1, fake(), None)
    liar.compare()
    liar.say(frames.Done())
    assert liar.key == "sync.claimed_not_sent"


def test_a_peer_that_claims_a_fork_and_does_not_send_it_is_dropped() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 1, fake(), None)
    liar.compare()
    liar.say(frames.Done())
    assert liar.key == "sync.claimed_not_sent"


def test_a_peer_that_sends_something_else_than_it_claimed_is_dropped() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.compare()
    known = next(iter(liar.side.replica.batches.values()))
    liar.say(frames.Batches((known.blob,)), frames.Done())
    assert liar.key == "sync.claimed_not_sent"


def test_a_peer_that_claims_and_never_ends_is_dropped() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.compare()
    liar.side.tick(STALL_MS - 1)
    assert liar.key is None
    liar.side.tick(STALL_MS)
    liar.side.work()
    assert liar.key == "sync.stall"


def test_a_peer_that_does_not_have_the_parent_of_what_it_sent_is_dropped() -> None:
    liar = Liar()
    liar.hello()
    liar.say(frames.Batches((orphan().blob,)))
    assert liar.heard()[-1] == frames.Want((fake("prev"),), 0)
    liar.say(frames.Answer((fake("prev"),)))
    assert liar.key == "sync.claimed_not_sent"


def test_a_peer_that_never_answers_for_the_parent_is_dropped() -> None:
    liar = Liar()
    liar.hello()
    liar.say(frames.Batches((orphan().blob,)))
    liar.side.tick(STALL_MS)
    liar.side.work()
    assert liar.key == "sync.stall"


def test_a_peer_that_answers_with_nothing_gains_nothing() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 9, orphan().hash, None)
    liar.compare()
    liar.say(frames.Batches((orphan().blob,)), frames.Answer(()), frames.Done())
    assert liar.key == "sync.claimed_not_sent"


def test_a_false_head_below_ours_costs_one_round_and_nothing_is_asked() -> None:
    replica = honest()
    for _ in range(5):
        replica.write(author_id(3), join=False)
    liar = Liar(replica)
    liar.vector.add(author_id(3), 2, fake(), None)
    liar.compare()
    liar.say(frames.Done())
    assert liar.key is None
    said = [type(frame) for frame in liar.heard()]
    assert said == [frames.Hello, frames.Buckets, frames.Entries, frames.Done]


# --- floods ---------------------------------------------------------------------------------------------------


def test_a_peer_that_sends_batches_beyond_the_window_is_dropped() -> None:
    liar = Liar()
    liar.side.stores = False
    liar.hello()
    for _ in range(LIMITS.sync_window_bytes // 60_000 + 1):
        liar.say(frames.Batches((bytes(60_000),)))
    assert liar.key == "sync.window"


FLOODS: list[tuple[str, Callable[[int], frames.Frame], str]] = [
    ("pings", lambda number: frames.Ping(fake(str(number))), "sync.flood"),
    ("archives", frames.Archived, "sync.flood"),
    ("questions", lambda _: frames.Want((fake(),), 0), "sync.flood"),
    ("credit", lambda _: frames.Credit(1), "sync.unsolicited"),
]


@pytest.mark.parametrize("flood, key", [row[1:] for row in FLOODS], ids=[row[0] for row in FLOODS])
def test_a_peer_that_sends_small_frames_without_end_is_dropped(flood: Callable[[int], frames.Frame], key: str) -> None:
    liar = Liar()
    liar.hello()
    for number in range(LIMITS.sync_control_burst + 2):
        liar.say(flood(number))
    assert liar.key == key


def test_a_peer_that_begins_rounds_without_end_is_dropped() -> None:
    liar = Liar()
    liar.hello()
    for _ in range(LIMITS.sync_control_burst // 16 + 1):
        liar.say(frames.Round(liar.side.replica.vector.digest()))
    assert liar.key == "sync.flood"


def test_a_peer_at_the_pace_of_an_honest_one_is_not_a_flood() -> None:
    liar = Liar()
    liar.hello()
    for second in range(1, 600):
        liar.side.tick(second * 1000)
        for _ in range(LIMITS.sync_control_per_s):
            liar.say(frames.Ping(liar.vector.digest()))
    assert liar.key is None


def test_pings_that_always_differ_do_not_make_us_compare_all_the_time() -> None:
    liar = Liar()
    liar.hello()
    liar.heard()
    rounds = 0
    for second in range(1, 61):
        liar.side.tick(second * 1000)
        liar.say(frames.Ping(fake(str(second))))
        for frame in liar.heard():
            if isinstance(frame, frames.Round):
                rounds += 1
                liar.say(frames.Round(liar.side.replica.vector.digest()))
    assert liar.key is None
    assert rounds <= 6 * LIMITS.sync_rounds + LIMITS.sync_rounds


def test_a_peer_whose_entries_never_end_is_dropped() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.hello()
    liar.say(frames.Buckets(bytes(4096)))
    number = 0
    while liar.key is None:
        packed = b"".join((number + count).to_bytes(32) + b"\0\1" + (1).to_bytes(8) + fake() for count in range(1, 800))
        number += 800
        liar.say(frames.Entries(packed, last=False))
    assert liar.key == "sync.flood"
    assert number * 74 <= LIMITS.sync_vector_bytes + 100_000


def test_empty_entries_without_end_are_a_flood() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.hello()
    liar.say(frames.Buckets(bytes(4096)), frames.Entries(b"", last=False))
    assert liar.key == "sync.flood"


def test_a_batch_of_the_highest_size_again_and_again_is_dropped() -> None:
    replica = honest()
    known = replica.write(author_id(3), filling=LARGEST, join=False)
    liar = Liar(replica)
    liar.hello()
    count = 0
    while liar.key is None:
        liar.say(frames.Batches((known.blob,)))
        count += 1
    assert liar.key == "sync.duplicates"
    assert count * len(known.blob) <= LIMITS.sync_duplicates_bytes + 2 * len(known.blob)


def test_a_batch_that_waits_for_a_parent_again_and_again_is_dropped() -> None:
    """Its answers name an archive, which excuses the parent but not the repetition."""
    liar = Liar()
    liar.hello()
    waiting = orphan(LARGEST)
    liar.say(frames.Batches((waiting.blob,)), frames.Archived(1), frames.Answer(()))
    count = 1
    while liar.key is None:
        liar.say(frames.Batches((waiting.blob,)), frames.Answer(()))
        count += 1
    assert liar.key == "sync.duplicates"
    assert count * len(waiting.blob) <= LIMITS.parked_bytes + 2 * len(waiting.blob)


def test_an_honest_peer_that_is_always_second_is_not_dropped() -> None:
    """Each batch came by another link a moment before: what is learnt elsewhere allows for it."""
    liar = Liar(limits=Limits(sync_duplicates_bytes=100_000))
    liar.hello()
    for _ in range(500):
        batch = liar.side.replica.write(author_id(3), filling=bytes(3_000), join=False)
        liar.say(frames.Batches((batch.blob,)))
    assert liar.key is None


# --- stalls ---------------------------------------------------------------------------------------------------


def _say_nothing(_: Liar) -> None:
    pass


def _say_half_a_hello(liar: Liar) -> None:
    liar.say_bytes(b"\0\0\0\x50\x86")


def _stop_after_hello(liar: Liar) -> None:
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.hello()


def _stop_before_entries(liar: Liar) -> None:
    _stop_after_hello(liar)
    liar.say(frames.Buckets(liar.vector.bucket_digests()))


def _stop_in_a_frame(liar: Liar) -> None:
    liar.hello()
    liar.say_bytes(frames.encode(frames.Batches((bytes(60_000),)))[:-1])


def _give_no_credit(liar: Liar) -> None:
    replica = liar.side.replica
    for _ in range(100):
        replica.write(author_id(3), filling=LARGEST, join=False)
    index = author_id(3)[0]
    packed = b"".join(liar.vector.pack(index))
    liar.side = Side(replica)
    liar.hello()
    liar.say(frames.Buckets(liar.vector.bucket_digests()), frames.Entries(packed, last=True), frames.Done())


def _leave_our_round_unanswered(liar: Liar) -> None:
    liar.hello()
    liar.side.resync()


STALLS: list[Callable[[Liar], None]] = [
    _say_nothing,
    _say_half_a_hello,
    _stop_after_hello,
    _stop_before_entries,
    _stop_in_a_frame,
    _give_no_credit,
    _leave_our_round_unanswered,
]


@pytest.mark.parametrize("stall", STALLS, ids=[stall.__name__.strip("_").replace("_", " ") for stall in STALLS])
def test_a_peer_that_stops_is_dropped_even_if_it_pings(stall: Callable[[Liar], None]) -> None:
    liar = Liar()
    stall(liar)
    pings = stall not in {_say_nothing, _say_half_a_hello, _stop_in_a_frame}
    for second in range(1, LIMITS.sync_stall_s):
        liar.side.tick(second * 1000)
        if pings:
            liar.say(frames.Ping(liar.side.replica.vector.digest()))
    assert liar.key is None
    liar.side.tick(STALL_MS)
    liar.side.work()
    assert liar.key == "sync.stall"


def test_a_peer_that_trickles_a_frame_is_dropped() -> None:
    liar = Liar()
    liar.hello()
    data = frames.encode(frames.Batches((bytes(60_000),)))
    for second in range(1, LIMITS.sync_stall_s + 1):
        liar.side.tick(second * 1000)
        liar.say_bytes(data[second - 1 : second])
    liar.side.tick(STALL_MS + 1000)
    liar.side.work()
    assert liar.key == "sync.stall"


def test_a_peer_that_falls_silent_is_dropped() -> None:
    liar = Liar()
    liar.hello()
    silent_ms = (LIMITS.sync_keepalive_s + LIMITS.sync_stall_s) * 1000
    liar.side.tick(silent_ms - 1)
    assert liar.key is None
    liar.side.tick(silent_ms)
    liar.side.work()
    assert liar.key == "sync.stall"


def test_a_peer_without_credit_is_not_blamed_for_our_slow_disk() -> None:
    limits = Limits(sync_window_bytes=70_000)
    liar = Liar(limits=limits)
    liar.side.stores = False
    liar.vector.add(author_id(3), 2, fake(), None)
    liar.compare()
    liar.say(frames.Batches((orphan(bytes(9_000)).blob,)))
    liar.side.tick(STALL_MS + 1)
    assert liar.key is None


# --- garbage and frames out of place --------------------------------------------------------------------------


def test_a_peer_that_sends_garbage_is_dropped() -> None:
    for seed in range(50):
        liar = Liar()
        liar.say_bytes(b"\0\0\0\x20" + random.Random(seed).randbytes(32))
        assert liar.key == "sync.garbage"


def test_a_peer_that_announces_a_huge_frame_is_dropped_before_it_is_read() -> None:
    liar = Liar()
    liar.say_bytes(b"\x7f\xff\xff\xff")
    assert liar.key == "sync.frame_size"


def test_a_peer_that_sends_a_batch_which_is_none_is_dropped() -> None:
    liar = Liar()
    liar.hello()
    liar.say(frames.Batches((b"\xff\xff",)))
    assert liar.key == "sync.invalid_batch"
    assert liar.heard()[-1] == frames.Bye("sync.invalid_batch")


def test_a_peer_that_sends_a_forged_batch_is_dropped() -> None:
    liar = Liar()
    forged = ModelBatch(author_id(3), 1, None, (), 5, b"forged")
    liar.side.replica.refuse[forged.hash] = "batch.signature"
    liar.hello()
    liar.say(frames.Batches((forged.blob,)))
    assert liar.key == "sync.invalid_batch"


ENTRY = author_id(3) + b"\0\1" + (1).to_bytes(8) + fake()
BAD_ENTRIES: list[tuple[str, bytes]] = [
    ("cut short", ENTRY[:-1]),
    ("twice", ENTRY + ENTRY),
    ("in a bucket that does not differ", bytes([author_id(3)[0] ^ 1]) + ENTRY[1:]),
]


@pytest.mark.parametrize("packed", [row[1] for row in BAD_ENTRIES], ids=[row[0] for row in BAD_ENTRIES])
def test_a_peer_whose_entries_are_malformed_is_dropped(packed: bytes) -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.hello()
    liar.say(frames.Buckets(liar.vector.bucket_digests()), frames.Entries(packed, last=True))
    assert liar.key == "sync.garbage"


def test_a_peer_that_lists_an_author_in_two_frames_is_dropped() -> None:
    liar = Liar()
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.hello()
    liar.say(frames.Buckets(liar.vector.bucket_digests()))
    liar.say(frames.Entries(ENTRY, last=False), frames.Entries(ENTRY, last=True))
    assert liar.key == "sync.garbage"


OUT_OF_PLACE: list[tuple[str, frames.Frame]] = [
    ("a second hello", frames.Hello(frames.PROTOCOL, MESH, CHANNEL, fake(), LIMITS.sync_window_bytes)),
    ("buckets", frames.Buckets(bytes(4096))),
    ("entries", frames.Entries(b"", last=True)),
    ("done", frames.Done()),
    ("an answer", frames.Answer(())),
    ("credit", frames.Credit(1)),
]


@pytest.mark.parametrize("frame", [row[1] for row in OUT_OF_PLACE], ids=[row[0] for row in OUT_OF_PLACE])
def test_what_nobody_asked_for_drops_the_peer(frame: frames.Frame) -> None:
    liar = Liar()
    liar.hello()
    liar.say(frame)
    assert liar.key == "sync.unsolicited"


@pytest.mark.parametrize("frame", [frames.Ping(fake()), frames.Batches((b"x",)), frames.Round(fake()), frames.Done()])
def test_anything_before_hello_drops_the_peer(frame: frames.Frame) -> None:
    liar = Liar()
    liar.say(frame)
    assert liar.key == "sync.unsolicited"


def test_a_second_question_before_the_answer_drops_the_peer() -> None:
    liar = Liar()
    liar.hello()
    liar.side.hear(frames.encode(frames.Want((fake(),), 0)) * 2)
    while liar.side.work():
        pass
    assert liar.key == "sync.unsolicited"


def test_a_round_before_our_stream_ended_drops_the_peer() -> None:
    liar = Liar()
    for _ in range(20):
        liar.side.replica.write(author_id(3), filling=bytes(60_000), join=False)
    liar.hello()
    liar.say(frames.Buckets(liar.vector.bucket_digests()))
    index = author_id(3)[0]
    packed = b"".join(liar.vector.pack(index))
    said: list[frames.Frame] = [frames.Entries(packed, last=True), frames.Done(), frames.Round(fake())]
    liar.side.hear(b"".join(frames.encode(frame) for frame in said))
    while liar.side.work():
        pass
    assert liar.key == "sync.unsolicited"


def test_two_rounds_at_once_drop_the_peer() -> None:
    liar = Liar()
    liar.hello()
    liar.side.hear(frames.encode(frames.Round(fake())) * 2)
    while liar.side.work():
        pass
    assert liar.key == "sync.unsolicited"


# --- cost -----------------------------------------------------------------------------------------------------


def _flood_window(liar: Liar) -> None:
    liar.side.stores = False
    liar.hello()
    while liar.key is None:
        liar.say(frames.Batches((bytes(60_000),)))


def _flood_half_frames(liar: Liar) -> None:
    liar.hello()
    liar.say_bytes(LIMITS.sync_frame_bytes.to_bytes(4))
    while liar.side.drop is None and liar.side.now_ms < STALL_MS:
        liar.say_bytes(bytes(10_000)[: max(0, LIMITS.sync_frame_bytes - 10_000)])
        liar.side.tick(liar.side.now_ms + 1000)


def _flood_entries(liar: Liar) -> None:
    test_a_peer_whose_entries_never_end_is_dropped()


@pytest.mark.parametrize("flood", [_flood_window, _flood_half_frames, _flood_entries])
def test_memory_stays_bounded_under_a_flood(flood: Callable[[Liar], None]) -> None:
    liar = Liar()
    tracemalloc.start()
    flood(liar)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 << 20


def test_an_honest_link_is_not_disturbed_by_a_liar_on_another() -> None:
    replica = honest()
    liar = Liar(replica)
    other = ModelReplica()
    link = Link(replica, other)
    liar.vector.add(author_id(3), 7, fake(), None)
    liar.compare()
    liar.say(frames.Done())
    link.settle()
    assert (liar.key, link.drops) == ("sync.claimed_not_sent", [])
    assert replica.vector.digest() == other.vector.digest()
