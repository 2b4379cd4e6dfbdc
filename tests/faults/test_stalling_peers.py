"""Peers that stall, send garbage or say things out of place: each is dropped with the key of what it did."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from appliance.core.limits import LIMITS, Limits
from appliance.replica import sync_frames as frames
from tests.sim.liar import LARGEST, STALL_MS, Liar, fake, orphan
from tests.sim.model_link import Side
from tests.sim.model_replica import CHANNEL, MESH, ModelBatch, author_id

# --- stalls -----------------------------------------------------------------------------------------------------------


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


# --- garbage and frames out of place ----------------------------------------------------------------------------------


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
