from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.limits import LIMITS, Limits
from appliance.transport.address import Address
from appliance.transport.dialler import backoff_s


@pytest.mark.parametrize(
    "attempt, jitter, seconds",
    [(0, 0.0, 1.0), (0, 0.99, 1.0), (1, 0.0, 1.0), (1, 0.5, 1.5), (3, 0.0, 4.0), (3, 0.5, 6.0), (99, 0.0, 15.0)],
)
def test_the_wait_doubles_and_half_of_it_is_chance(attempt: int, jitter: float, seconds: float) -> None:
    assert backoff_s(attempt, jitter, LIMITS) == seconds


@given(
    st.integers(0, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 60),
    st.integers(60, 3600),
)
def test_the_wait_stays_within_its_limits_and_never_shrinks(attempt: int, jitter: float, least: int, most: int) -> None:
    limits = Limits(peer_backoff_min_s=least, redial_max_s=most)
    wait = backoff_s(attempt, jitter, limits)
    assert least <= wait <= most
    assert wait <= backoff_s(attempt + 1, jitter, limits)


@pytest.mark.parametrize(
    "address, text", [(Address("127.0.0.1", 1), "127.0.0.1:1"), (Address("::1", 443), "[::1]:443")]
)
def test_an_address_is_written_as_in_a_url(address: Address, text: str) -> None:
    assert str(address) == text
