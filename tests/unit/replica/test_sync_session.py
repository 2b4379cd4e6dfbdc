"""One sync session: time, its end, misuse by the driver, and what is no frame or no peer of ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.core.limits import LIMITS, Limits
from appliance.replica import sync_frames as frames
from appliance.replica.sync import SyncSession
from appliance.replica.sync_events import Closed, Drop, Found, NeedBatches, NeedBlobs, Page, Received
from appliance.replica.sync_flow import blob_bytes_max
from appliance.replica.vector import Vector
from tests.sim.model_link import Link, Side, equal, synced
from tests.sim.model_replica import CHANNEL, MESH, ModelReplica, author_id, copy, replica

SMALL = Limits(batch_bytes=8_192, sync_window_bytes=blob_bytes_max(Limits(batch_bytes=8_192)) + 1_000)


# --- time -------------------------------------------------------------------------------------------------------------


def test_an_idle_link_pings_and_costs_less_than_200_bytes_a_second() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    before = link.sent_bytes
    for second in range(1, 601):
        link.tick(second * 1000)
        link.settle()
    assert link.drops == []
    assert 0 < (link.sent_bytes - before) / 600 < 10


def test_an_idle_link_repairs_what_was_missed() -> None:
    left = replica(10)
    link = synced(left, copy(left))
    left.write(author_id(1))
    link.left.skip_offers()
    link.tick(LIMITS.sync_keepalive_s * 1000)
    link.settle()
    assert equal(left, link.right.replica)


def test_replicas_that_stay_different_do_not_compare_all_the_time() -> None:
    left = replica(5)
    right = copy(left)
    right.refuse[left.write(author_id(1)).hash] = "batch.clock_ahead"
    link = Link(left, right)
    link.settle()
    before = link.sent_bytes
    for second in range(1, LIMITS.clock_ahead_ms // 1000 - 1):
        link.tick(second * 1000)
        link.settle()
    assert link.sent_bytes - before <= 2 * 10 * 50


def test_a_batch_that_was_early_is_offered_again_when_clocks_may_have_caught_up() -> None:
    left = replica(5)
    right = copy(left)
    early = left.write(author_id(1))
    right.refuse[early.hash] = "batch.clock_ahead"
    link = Link(left, right)
    link.settle()
    right.refuse.clear()
    for second in range(1, LIMITS.clock_ahead_ms // 1000 + LIMITS.sync_keepalive_s + 1):
        link.tick(second * 1000)
        link.settle()
    assert equal(left, right)


def test_the_next_deadline_is_when_something_happens() -> None:
    side = Side(replica(1))
    assert side.session.next_deadline_ms == LIMITS.sync_stall_s * 1000
    link = synced(replica(1), replica(1))
    assert link.left.session.next_deadline_ms == LIMITS.sync_keepalive_s * 1000
    link.left.session.close()
    assert link.left.session.next_deadline_ms is None


# --- the end, misuse and strangers ------------------------------------------------------------------------------------


def test_a_session_that_is_closed_says_so_to_the_peer_once() -> None:
    link = synced(replica(1), replica(1))
    link.left.session.close()
    link.left.session.close()
    link.left.tick(1)
    link.settle()
    assert link.right.closed == Closed("")
    assert link.right.session.closed
    assert link.right.session.receive_data(b"more", 2) == []


def test_the_driver_may_drop_a_peer_and_the_peer_learns_why() -> None:
    link = synced(replica(1), replica(1))
    events = link.left.session.drop("sync.invalid_batch", reason="batch.signature")
    assert events == [Drop("sync.invalid_batch", {"reason": "batch.signature"})]
    link.left.tick(1)
    link.settle()
    assert link.right.closed == Closed("sync.invalid_batch")


def test_unasked_answers_are_the_drivers_fault() -> None:
    session = SyncSession(MESH, CHANNEL, Vector(), LIMITS, 0)
    with pytest.raises(ValueError, match="no page"):
        session.supply(Page((), (0, b""), done=True), 0)
    with pytest.raises(ValueError, match="no batches"):
        session.supply_blobs(Found((), ()), 0)


def test_a_page_over_its_budget_is_the_drivers_fault() -> None:
    link = Link(replica(1), ModelReplica())
    for _ in range(3):
        link.fly()
    read = next(event for event in link.left.events if isinstance(event, NeedBatches))
    with pytest.raises(ValueError, match="credit"):
        link.left.session.supply(Page((bytes(read.budget_bytes + 1),), (0, b""), done=True), 0)


def test_batches_that_cannot_be_read_are_given_up() -> None:
    """A driver that finds nothing and says nothing must not be asked for ever."""
    link = synced(replica(3), replica(3))
    events = link.left.session.offer([bytes(32)], 0)
    assert [type(event) for event in events] == [NeedBlobs]
    assert link.left.session.supply_blobs(Found((), ()), 0) == []
    asked = link.left.session.receive_data(frames.encode(frames.Want((bytes(32),), 0)), 0)
    assert [type(event) for event in asked] == [NeedBlobs]
    assert link.left.session.supply_blobs(Found((), ()), 0) == []
    answer = list(frames.FrameReader().feed(link.left.session.bytes_to_send()))
    assert answer == [frames.Answer((bytes(32),))]


def test_a_want_in_the_middle_of_a_push_is_answered_after_it() -> None:
    left = replica(3)
    link = synced(left, copy(left))
    session = link.left.session
    new = left.write(author_id(1))
    session.offer([new.hash], 0)
    known = next(iter(left.batches))
    session.receive_data(frames.encode(frames.Want((known,), 0)), 0)
    (read,) = session.supply_blobs(Found((new.hash,), (new.blob,)), 0)
    assert isinstance(read, NeedBlobs)
    assert read.hashes == (known,)
    session.supply_blobs(Found((known,), (left.batches[known].blob,)), 0)
    sent = list(frames.FrameReader().feed(session.bytes_to_send()))
    assert [type(frame) for frame in sent] == [frames.Batches, frames.Batches, frames.Answer]


def test_large_answers_come_in_pieces_within_the_credit() -> None:
    left = replica(1, batches=30, filling=bytes(5_000))
    link = Link(left, copy(left), SMALL)
    link.settle()
    wanted = tuple(left.batches)
    link.right.ask_for(wanted)
    link.settle()
    assert link.right.received_blobs == 30


def test_frames_survive_any_cut_of_the_stream() -> None:
    reader = frames.FrameReader()
    sent: list[frames.Frame] = [
        frames.Done(),
        frames.Credit(5),
        frames.Batches((b"one", b"two")),
        frames.Bye("sync.stall"),
    ]
    data = b"".join(frames.encode(frame) for frame in sent)
    got = [frame for byte in data for frame in reader.feed(bytes([byte]))]
    assert (got, reader.buffered) == (sent, 0)


NOT_FRAMES: list[tuple[str, bytes, str]] = [
    ("too long", (LIMITS.sync_frame_bytes + 1).to_bytes(4), "sync.frame_size"),
    ("empty", b"\0\0\0\0", "sync.garbage"),
    ("no array", b"\0\0\0\x01\xa0", "sync.garbage"),
    ("an unknown kind", b"\0\0\0\x03\x81\x18\x63", "sync.garbage"),
    ("a field too few", b"\0\0\0\x02\x81\x06", "sync.garbage"),
    ("a field too many", b"\0\0\0\x03\x82\x07\x00", "sync.garbage"),
    ("a grant of nothing", b"\0\0\0\x03\x82\x06\x00", "sync.garbage"),
    ("no batches", b"\0\0\0\x03\x82\x05\x80", "sync.garbage"),
    ("an empty batch", b"\0\0\0\x04\x82\x05\x81\x40", "sync.garbage"),
    ("text for bytes", b"\0\0\0\x04\x82\x05\x81\x60", "sync.garbage"),
    ("not canonical", b"\0\0\0\x03\x81\x18\x07", "sync.garbage"),
]


@pytest.mark.parametrize("data, key", [row[1:] for row in NOT_FRAMES], ids=[row[0] for row in NOT_FRAMES])
def test_what_is_no_frame_drops_the_peer(data: bytes, key: str) -> None:
    side = Side(replica(1))
    side.hear(data)
    assert isinstance(side.events[-1], Drop)
    assert side.events[-1].key == key


HELLO = frames.Hello(frames.PROTOCOL, MESH, CHANNEL, Vector().digest(), LIMITS.sync_window_bytes)
STRANGERS: list[tuple[str, Callable[[], frames.Hello], str]] = [
    ("another version", lambda: _hello(version=2), "sync.protocol_version"),
    ("another mesh", lambda: _hello(mesh=bytes(32)), "sync.mesh"),
    ("another channel", lambda: _hello(channel="audit"), "sync.channel"),
    ("a window below one batch", lambda: _hello(window=65_535), "sync.window_small"),
]


def _hello(
    version: int = frames.PROTOCOL,
    mesh: bytes = MESH,
    channel: str = CHANNEL,
    window: int = LIMITS.sync_window_bytes,
) -> frames.Hello:
    return frames.Hello(version, mesh, channel, Vector().digest(), window)


@pytest.mark.parametrize("hello, key", [row[1:] for row in STRANGERS], ids=[row[0] for row in STRANGERS])
def test_a_peer_that_does_not_fit_is_dropped(hello: Callable[[], frames.Hello], key: str) -> None:
    side = Side(ModelReplica())
    side.hear(frames.encode(hello()))
    assert [event.key for event in side.events if isinstance(event, Drop)] == [key]


def test_batches_before_a_broken_frame_are_still_handed_over() -> None:
    side = Side(ModelReplica())
    side.hear(frames.encode(HELLO))
    side.events.clear()
    side.hear(frames.encode(frames.Batches((b"blob",))) + b"\0\0\0\x01\xa0")
    assert [type(event) for event in side.events] == [Received, Drop]
