"""The hybrid logical clock in examples; its laws are in tests/properties."""

from __future__ import annotations

import pytest

from appliance.core.clock import HLC_MAX, hlc_counter, hlc_ms, hlc_next, hlc_pack, hlc_text, moment_text


def test_a_reading_is_milliseconds_and_a_counter() -> None:
    reading = hlc_pack(1_700_000_000_123, 7)
    assert reading == 1_700_000_000_123 * 65_536 + 7
    assert (hlc_ms(reading), hlc_counter(reading)) == (1_700_000_000_123, 7)


@pytest.mark.parametrize("ms, counter", [(-1, 0), (1 << 47, 0), (0, -1), (0, 1 << 16)])
def test_a_reading_outside_its_bits_is_a_programming_error(ms: int, counter: int) -> None:
    with pytest.raises(ValueError, match="no clock reading"):
        hlc_pack(ms, counter)


@pytest.mark.parametrize(
    "reading, text",
    [
        (0, "1970-01-01T00:00:00.000Z#0"),
        (hlc_pack(1_700_000_000_123, 7), "2023-11-14T22:13:20.123Z#7"),
        (HLC_MAX, "6429-10-17T02:45:55.327Z#65535"),
    ],
)
def test_a_reading_has_a_text_for_people(reading: int, text: str) -> None:
    assert hlc_text(reading) == text


@pytest.mark.parametrize(
    "ms, text",
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000_999, "2023-11-14T22:13:20Z"),
        ((1 << 47) - 1, "6429-10-17T02:45:55Z"),
    ],
)
def test_a_moment_has_a_text_for_people(ms: int, text: str) -> None:
    assert moment_text(ms) == text


@pytest.mark.parametrize(
    "last, now_ms, seen, expected",
    [
        pytest.param(0, 5, 0, hlc_pack(5, 0), id="time has passed"),
        pytest.param(hlc_pack(5, 0), 5, 0, hlc_pack(5, 1), id="the clock stands still"),
        pytest.param(hlc_pack(9, 3), 5, 0, hlc_pack(9, 4), id="the clock runs backwards"),
        pytest.param(hlc_pack(5, 0), 5, hlc_pack(8, 2), hlc_pack(8, 3), id="another was ahead"),
        pytest.param(hlc_pack(5, 65_535), 5, 0, hlc_pack(6, 0), id="a full counter carries"),
        pytest.param(HLC_MAX - 1, 0, 0, HLC_MAX, id="the last reading"),
    ],
)
def test_the_next_reading(last: int, now_ms: int, seen: int, expected: int) -> None:
    assert hlc_next(last, now_ms, seen) == expected


def test_the_clock_stops_rather_than_wraps() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        hlc_next(HLC_MAX, 0)
