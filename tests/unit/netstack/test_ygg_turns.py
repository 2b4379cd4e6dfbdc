"""When the daemon is restarted, as rows; and what is remembered of peers."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from appliance.netstack.yggdrasil.admin import Peer
from appliance.netstack.yggdrasil.peers import Measured
from appliance.netstack.yggdrasil.records import Candidate
from appliance.netstack.yggdrasil.sight import Sight
from appliance.netstack.yggdrasil.turns import (
    HASTE_MOST_S,
    HASTE_S,
    PATIENCE_S,
    SETTLE_S,
    SLOT_S,
    Gaps,
    Standing,
    due,
)

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
CALM = Standing(
    changed=False, listens=True, allowed=frozenset((A, B)), wanted=frozenset((A, B)), linked=frozenset((A,)),
    silent=frozenset(), evicted_at_s=100.0, admitted_at_s=200.0,
    first_at_s=199.0, taken_at_s=0.0, alone=False, quiet=False, place=2,
)  # fmt: skip
ONLY_A, ABC = frozenset((A,)), frozenset((A, B, C))


TURN_S = 2 * SLOT_S


@pytest.mark.parametrize(
    "change, at_s, reason",
    [
        pytest.param({}, None, "", id="all is as wanted"),
        pytest.param({"changed": True}, 0, "configuration", id="at once when its settings changed"),
        pytest.param({"wanted": ONLY_A, "linked": ABC}, 0, "no member", id="at once: who was evicted is linked"),
        pytest.param({"wanted": ONLY_A}, 100 + TURN_S, "evicted", id="in turn: who was evicted is not linked"),
        pytest.param({"wanted": ONLY_A, "place": 22}, 100 + TURN_S, "evicted", id="turns begin anew after twenty"),
        pytest.param({"wanted": ONLY_A, "listens": False}, None, "", id="never for keys where nobody can dial us"),
        pytest.param({"wanted": ABC}, 200 + PATIENCE_S + TURN_S, "new nodes cannot", id="late for one that we dial"),
        pytest.param(
            {"wanted": ABC, "quiet": True}, 200 + SETTLE_S + TURN_S, "new nodes cannot", id="at a quiet moment for it"
        ),
        pytest.param(
            {"wanted": ABC, "silent": ABC},
            200 + SETTLE_S + TURN_S,
            "wait to dial",
            id="soon for one that cannot be dialled",
        ),
        pytest.param({"wanted": ABC, "alone": True}, 200 + HASTE_S, "new nodes cannot", id="no turns without a link"),
        pytest.param(
            {"wanted": ABC, "silent": ABC, "alone": True}, 200 + HASTE_S, "wait to dial", id="nor for silent ones"
        ),
        pytest.param(
            {"wanted": ABC, "alone": True, "first_at_s": 100.0},
            100 + HASTE_MOST_S,
            "new nodes",
            id="a burst has an end",
        ),
        pytest.param(
            {"wanted": ABC, "alone": True, "taken_at_s": 199.0}, 199 + SETTLE_S, "new nodes", id="not twice in a hurry"
        ),
        pytest.param(
            {"wanted": ONLY_A, "alone": True},
            100 + TURN_S,
            "evicted",
            id="in turn for the evicted, also without a link",
        ),
        pytest.param(
            {"wanted": frozenset((A, C)), "alone": True}, 100 + TURN_S, "evicted", id="the earlier of two reasons"
        ),
        pytest.param(
            {"wanted": frozenset((A, C)), "alone": True, "evicted_at_s": 200.0, "place": 9},
            200 + HASTE_S,
            "new nodes",
            id="the earlier of two reasons, the other way round",
        ),
    ],
)
def test_a_restart_is_due(change: dict[str, object], at_s: float | None, reason: str) -> None:
    found = due(msgspec.structs.replace(CALM, **change))
    assert (found.at_s if found else None) == at_s
    assert reason in (found.reason if found else "")


class Alone:
    """A daemon that has no link, started anew whenever it is due."""

    def __init__(self) -> None:
        self.allowed: frozenset[bytes] = frozenset()
        self.wanted: frozenset[bytes] = frozenset()
        self.starts_s: list[float] = []
        self._gaps = Gaps()

    def round(self, now_s: float) -> None:
        self._gaps.look(self.allowed, self.wanted, now_s)
        restart = due(
            msgspec.structs.replace(
                CALM, allowed=self.allowed, wanted=self.wanted, linked=frozenset(), alone=True,
                admitted_at_s=self._gaps.admitted_at_s, first_at_s=self._gaps.first_at_s,
                taken_at_s=self._gaps.taken_at_s,
            )
        )  # fmt: skip
        if restart is not None and restart.at_s <= now_s:
            self.allowed = self.wanted
            self.starts_s.append(now_s)


def test_two_that_are_alone_and_new_to_one_another_restart_once_each() -> None:
    one, two = Alone(), Alone()
    for tick in range(400):
        if tick == 10:
            one.wanted = frozenset((B,))
        if tick == 11:
            two.wanted = frozenset((A,))
        one.round(tick / 4)
        two.round(tick / 4)
    assert (one.starts_s, two.starts_s) == ([3.25], [3.5])


def test_a_burst_of_admissions_makes_one_restart_and_a_stream_of_them_one_in_five_seconds() -> None:
    burst, stream = Alone(), Alone()
    for tick in range(240):
        if tick % 2 == 0:  # somebody new twice a second
            stream.wanted |= {tick.to_bytes(32, "big")}
            burst.wanted |= {tick.to_bytes(32, "big")} if tick < 5 else frozenset()
        burst.round(tick / 4)
        stream.round(tick / 4)
    assert burst.starts_s == [1.75]
    assert stream.starts_s[0] == HASTE_MOST_S
    assert min(later - sooner for sooner, later in itertools.pairwise(stream.starts_s)) >= SETTLE_S


def up(key: bytes, latency_ms: float = 10.0, *, cost: int = 10, uptime: float = 100.0) -> Peer:
    return Peer(remote="tls://h:1", up=True, key=key.hex(), latency=int(latency_ms * 1e6), cost=cost, uptime=uptime)


def test_a_round_trip_is_smoothed_and_forgotten_with_the_link() -> None:
    sight = Sight()
    sight.look([up(A, 10)], [A], 0.0)
    assert sight.measured[A].round_trip_ms == 10
    sight.look([up(A, 20)], [A], 1.0)
    assert sight.measured[A].round_trip_ms == pytest.approx(12)
    sight.look([], [A], 3.0)
    assert sight.measured[A] == Measured(loss=sight.measured[A].loss, failed_at_s=3.0, failures=1)


def test_a_new_peer_has_two_seconds_and_each_five_more_of_silence_are_a_failure() -> None:
    sight = Sight()
    seen = []
    for now_s in range(14):
        sight.look([], [A], float(now_s))
        seen.append(sight.measured[A].failures)
    assert seen == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]


def test_each_failure_turns_to_the_next_address() -> None:
    sight, two = Sight(), Candidate(key=A, uris=("tls://one:1", "tls://two:1"))
    dialled = []
    for now_s in range(0, 15, 5):
        sight.look([], [A], float(now_s))
        dialled.append(sight.uri(two))
    assert dialled == ["tls://one:1", "tls://two:1", "tls://one:1"]


def test_what_the_daemon_adds_counts_only_for_a_link_that_is_a_minute_old() -> None:
    sight = Sight()
    sight.look([up(A, 10, cost=30, uptime=5), up(B, 10, cost=30)], [A, B], 0.0)
    assert [sight.measured[each].cost for each in (A, B)] == [0, 20]


def test_a_lost_peer_is_tried_again_at_once_and_then_less_and_less_often() -> None:
    sight = Sight()
    sight.look([], [A], 100.0)
    tries = [n / 4 for n in range(200) if sight.kicks(A, 100.0 + n / 4)]
    assert tries == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0]
    sight.look([up(A)], [A], 200.0)
    assert sight.kicks(A, 200.0)


def test_one_that_is_called_and_was_never_a_peer_is_tried_again_as_well() -> None:
    assert Sight().kicks(A, 100.0)


def test_who_is_no_member_any_more_is_forgotten() -> None:
    sight = Sight()
    sight.look([up(A), up(B)], [A], 0.0)
    sight.keep([B])
    assert set(sight.measured) == {B}
