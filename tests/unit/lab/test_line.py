"""The pump's queue, without a pump: what is lost, what is late, in which order."""

from __future__ import annotations

import pytest

from appliance.lab.line import Line, Shape

MS = 1_000_000  # ns


def frames(count: int) -> list[bytes]:
    return [number.to_bytes(4) for number in range(count)]


def sent(shape: Shape, count: int = 1_000) -> list[bytes]:
    """What arrives in the end of frames that were sent at once."""
    line = Line(shape)
    for frame in frames(count):
        line.take(frame, 0)
    return list(line.due(10_000 * MS))


def test_a_frame_leaves_when_its_delay_has_passed_and_not_before() -> None:
    line = Line(Shape(delay_ms=20))
    line.take(b"one", 5 * MS)
    assert line.next_ns() == 25 * MS
    assert list(line.due(25 * MS - 1)) == []
    assert list(line.due(25 * MS)) == [b"one"]
    assert line.next_ns() is None


def test_without_a_delay_a_frame_leaves_at_once() -> None:
    line = Line(Shape())
    line.take(b"one", 7)
    assert list(line.due(7)) == [b"one"]


def test_the_same_seed_loses_the_same_frames_and_another_seed_others() -> None:
    first, again, other = (sent(Shape(loss=0.3, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert 600 < len(first) < 800


def test_a_new_shape_begins_its_seed_anew() -> None:
    line = Line(Shape(loss=0.5, seed=3))
    line.take(b"before", 0)
    line.shape(Shape(loss=0.3, seed=1))
    list(line.due(0))
    for frame in frames(1_000):
        line.take(frame, 0)
    assert list(line.due(0)) == sent(Shape(loss=0.3, seed=1))


@pytest.mark.parametrize("loss, arriving", [(0.0, 1_000), (1.0, 0)])
def test_no_loss_loses_nothing_and_full_loss_everything(loss: float, arriving: int) -> None:
    assert len(sent(Shape(loss=loss))) == arriving


def test_jitter_stays_within_its_bounds_and_keeps_the_order() -> None:
    line = Line(Shape(delay_ms=10, jitter_ms=5))
    dues = []
    for number, frame in enumerate(frames(200)):
        line.take(frame, number * 20 * MS)
        due = line.next_ns()
        assert due is not None
        dues.append(due - number * 20 * MS)
        assert list(line.due(due)) == [frame]
    assert 10 * MS <= min(dues) < max(dues) <= 15 * MS
    assert sent(Shape(delay_ms=10, jitter_ms=5)) == frames(1_000)


def test_a_shorter_delay_lets_no_frame_overtake() -> None:
    line = Line(Shape(delay_ms=50))
    line.take(b"slow", 0)
    line.shape(Shape())
    line.take(b"quick", 1 * MS)
    assert list(line.due(49 * MS)) == []
    assert list(line.due(50 * MS)) == [b"slow", b"quick"]


def test_a_full_queue_drops_what_comes_and_counts_it() -> None:
    line = Line(Shape(delay_ms=1), queue_frames=3)
    for frame in frames(5):
        line.take(frame, 0)
    assert list(line.due(MS)) == frames(3)
    assert (line.passed, line.lost, line.overflowed, line.waiting) == (3, 0, 2, 0)


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"loss": -0.1}, {"delay_ms": -1.0}, {"jitter_ms": -1.0}])
def test_a_shape_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Shape(delay_ms=wrong.get("delay_ms", 0), jitter_ms=wrong.get("jitter_ms", 0), loss=wrong.get("loss", 0))
