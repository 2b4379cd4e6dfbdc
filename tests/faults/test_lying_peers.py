"""Peers that lie or flood: each is dropped with the key of what it did, and costs little."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from appliance.core.limits import LIMITS, Limits
from appliance.replica import sync_frames as frames
from tests.sim.liar import LARGEST, STALL_MS, Liar, fake, honest, orphan
from tests.sim.model_link import Link
from tests.sim.model_replica import ModelReplica, author_id

# --- claims -----------------------------------------------------------------------------------------------------------


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


# --- floods -----------------------------------------------------------------------------------------------------------


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


# --- cost -------------------------------------------------------------------------------------------------------------


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
