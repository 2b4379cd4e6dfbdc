"""Sizes and durations in examples; the round trip is in tests/properties."""

from __future__ import annotations

import pytest

from appliance.core.errors import InputError
from appliance.core.units import format_bytes, format_duration_ms, parse_bytes, parse_duration_ms


@pytest.mark.parametrize(
    "text, count",
    [
        ("0B", 0),
        ("512B", 512),
        ("64KiB", 65_536),
        ("64 KiB", 65_536),
        ("8MiB", 8 << 20),
        ("3GiB", 3 << 30),
        ("1TiB", 1 << 40),
    ],
)
def test_a_size_is_read(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text, duration_ms",
    [
        ("0s", 0),
        ("500ms", 500),
        ("90s", 90_000),
        ("15m", 900_000),
        ("12h", 43_200_000),
        ("30d", 2_592_000_000),
    ],
)
def test_a_duration_is_read(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "64",
        "KiB",
        "-1KiB",
        "1.5KiB",
        "1kib",
        "1KB",
        "1 h",
        " 1B",
        "1B\n",
        "\u0661B",
        "9" * 20 + "B",
        "9" * 19 + "TiB",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_bytes(text)
    assert caught.value.key == "units.text"
    assert "64KiB" in caught.value.hint


@pytest.mark.parametrize("text", ["", "30", "d", "1.5h", "1M", "1y", "1h30m", "-1s", "1KiB"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a duration"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    "count, text", [(0, "0B"), (1, "1B"), (65_536, "64KiB"), (65_537, "65537B"), (1 << 40, "1TiB")]
)
def test_a_size_is_written_in_its_largest_exact_unit(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    "duration_ms, text", [(0, "0ms"), (1, "1ms"), (90_000, "90s"), (3_600_000, "1h"), (172_800_000, "2d")]
)
def test_a_duration_is_written_in_its_largest_exact_unit(duration_ms: int, text: str) -> None:
    assert format_duration_ms(duration_ms) == text


def test_a_negative_amount_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="not negative"):
        format_bytes(-1)
