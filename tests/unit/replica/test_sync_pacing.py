"""Backoff and the ledger of peers that failed."""

from __future__ import annotations

import pytest

from appliance.core.limits import Limits
from appliance.replica.sync_flow import Tokens
from appliance.replica.sync_pacing import LEDGER_PEERS, Grudge, PeerLedger, backoff_ms

LIMITS = Limits(peer_backoff_min_s=1, peer_backoff_max_s=300)
A, B = bytes(32), bytes([1]) * 32

WAITS: list[tuple[int, float, int]] = [
    (0, 1.0, 0),
    (1, 1.0, 1_000),
    (1, 0.0, 500),
    (2, 1.0, 2_000),
    (9, 1.0, 256_000),
    (10, 1.0, 300_000),
    (10, 0.5, 225_000),
    (1_000_000, 1.0, 300_000),
]


@pytest.mark.parametrize("failures, jitter, wait_ms", WAITS)
def test_waits_double_to_their_bound_and_jitter_spreads_the_upper_half(
    failures: int, jitter: float, wait_ms: int
) -> None:
    assert backoff_ms(failures, LIMITS, jitter) == wait_ms


def test_a_peer_that_failed_is_left_alone_and_longer_each_time() -> None:
    ledger = PeerLedger(LIMITS)
    assert ledger.may_connect(A, 0)
    assert ledger.record(A, "sync.garbage", 0, 1.0) == Grudge("sync.garbage", 1, 1_000)
    assert [ledger.may_connect(A, now_ms) for now_ms in (0, 999, 1_000)] == [False, False, True]
    assert ledger.record(A, "sync.stall", 1_000, 1.0) == Grudge("sync.stall", 2, 3_000)
    assert ledger.may_connect(B, 2_000)
    assert ledger.grudge(A) == Grudge("sync.stall", 2, 3_000)
    assert ledger.grudge(B) is None


def test_good_conduct_for_the_longest_wait_begins_anew() -> None:
    ledger = PeerLedger(LIMITS)
    ledger.record(A, "sync.garbage", 0, 1.0)
    assert ledger.record(A, "sync.garbage", 300_999, 1.0).count == 2
    assert ledger.record(A, "sync.garbage", 302_999 + 300_000, 1.0).count == 1


def test_the_ledger_forgets_who_is_free_soonest_when_it_is_full() -> None:
    ledger = PeerLedger(LIMITS)
    for number in range(LEDGER_PEERS + 1):
        ledger.record(number.to_bytes(32), "sync.garbage", number, 1.0)
    assert ledger.grudge((0).to_bytes(32)) is None
    assert ledger.grudge((1).to_bytes(32)) is not None


def test_tokens_never_exceed_the_burst_and_a_clock_that_goes_back_gives_none() -> None:
    tokens = Tokens(burst=2, per_s=1, now_ms=10_000)
    tokens.take(1, 1_000_000)
    tokens.take(1, 0)
    tokens.take(1, 1_000)
    with pytest.raises(Exception, match=r"sync\.flood"):
        tokens.take(1, 1_500)
