"""Who goes first: the lower rank stands still while a higher one works, and not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from appliance.netstack.nft.turns import Rank, Turns, at_once

LONG_S = 20.0


def pieces(said: list[int], reached: threading.Event) -> Iterator[int]:
    for number in range(3):
        said.append(number)
        reached.set()
        yield number


def start(turns: Turns, rank: Rank, patience_s: float) -> tuple[threading.Thread, list[int], threading.Event]:
    said, reached = list[int](), threading.Event()
    pace = turns.pace(rank, time.monotonic() + patience_s)
    thread = threading.Thread(target=lambda: [*pace(pieces(said, reached))])
    thread.start()
    return thread, said, reached


@pytest.mark.parametrize(
    "first, then", [(Rank.CHANGE, Rank.ENDING), (Rank.CHANGE, Rank.LOOK), (Rank.ENDING, Rank.LOOK)]
)
def test_a_lower_rank_stands_still_at_its_next_piece_until_the_last_higher_one_is_done(first: Rank, then: Rank) -> None:
    turns = Turns()
    with turns.taken(first):
        with turns.taken(first):
            thread, said, reached = start(turns, then, LONG_S)
            assert reached.wait(LONG_S)
        thread.join(0.05)
        assert (thread.is_alive(), said) == (True, [0])
    thread.join(LONG_S)
    assert said == [0, 1, 2]


@pytest.mark.parametrize(
    "first, then", [(Rank.LOOK, Rank.CHANGE), (Rank.LOOK, Rank.ENDING), (Rank.ENDING, Rank.ENDING)]
)
def test_nobody_waits_for_a_rank_that_is_not_higher(first: Rank, then: Rank) -> None:
    turns = Turns()
    with turns.taken(first):
        thread, said, _ = start(turns, then, LONG_S)
        thread.join(LONG_S)
        assert said == [0, 1, 2]


def test_who_has_waited_long_enough_goes_on() -> None:
    turns = Turns()
    with turns.taken(Rank.CHANGE):
        thread, said, _ = start(turns, Rank.LOOK, 0.05)
        thread.join(LONG_S)
        assert said == [0, 1, 2]


def test_a_rank_is_given_back_also_when_its_work_fails() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.taken(Rank.CHANGE):
        raise ZeroDivisionError
    thread, said, _ = start(turns, Rank.LOOK, LONG_S)
    thread.join(LONG_S)
    assert said == [0, 1, 2]


def test_at_once_is_the_same_pieces() -> None:
    assert [*at_once(iter("abc"))] == ["a", "b", "c"]
