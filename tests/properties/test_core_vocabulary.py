"""Laws of identifiers, the clock and units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.clock import HLC_MAX, hlc_counter, hlc_ms, hlc_next, hlc_pack, hlc_text
from appliance.core.errors import InputError
from appliance.core.ids import NodeId
from appliance.core.units import format_bytes, format_duration_ms, parse_bytes, parse_duration_ms

DIGITS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
raws = st.binary(min_size=32, max_size=32)
milliseconds = st.integers(0, (1 << 47) - 1)
readings = st.integers(0, HLC_MAX - 1)


@given(raws)
def test_an_identifier_survives_its_text_in_both_cases(raw: bytes) -> None:
    text = str(NodeId(raw))
    assert NodeId.parse(text) == NodeId.parse(text.upper()) == NodeId(raw)


@given(raws, st.dictionaries(st.integers(5, 62), st.sampled_from(DIGITS), min_size=1, max_size=4))
def test_up_to_four_wrong_characters_are_always_found(raw: bytes, wrong: dict[int, str]) -> None:
    text = list(str(NodeId(raw)))
    for at, char in wrong.items():
        text[at] = char
    if "".join(text) != str(NodeId(raw)):
        with pytest.raises(InputError):
            NodeId.parse("".join(text))


@given(raws, st.integers(5, 61))
def test_two_characters_in_the_wrong_order_are_always_found(raw: bytes, at: int) -> None:
    text = str(NodeId(raw))
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if swapped != text:
        with pytest.raises(InputError):
            NodeId.parse(swapped)


@given(st.text(max_size=100))
def test_any_text_is_an_identifier_or_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        NodeId.parse(text)


@given(raws, raws)
def test_texts_are_equal_where_identifiers_are(left: bytes, right: bytes) -> None:
    assert (str(NodeId(left)) == str(NodeId(right))) == (left == right)


@given(readings, milliseconds, readings)
def test_the_next_reading_is_above_all_that_was_seen_and_not_behind_the_clock(
    last: int, now_ms: int, seen: int
) -> None:
    reading = hlc_next(last, now_ms, seen)
    assert reading > last
    assert reading > seen
    assert hlc_ms(reading) >= now_ms
    assert reading in {last + 1, seen + 1, hlc_pack(now_ms, 0)}


@given(milliseconds, st.integers(0, 65_535), milliseconds, st.integers(0, 65_535))
def test_readings_sort_as_their_parts_do(ms_a: int, counter_a: int, ms_b: int, counter_b: int) -> None:
    a, b = hlc_pack(ms_a, counter_a), hlc_pack(ms_b, counter_b)
    assert (hlc_ms(a), hlc_counter(a)) == (ms_a, counter_a)
    assert (a < b) == ((ms_a, counter_a) < (ms_b, counter_b))
    assert (hlc_text(a) == hlc_text(b)) == (a == b)


@given(st.integers(0, (1 << 63) - 1))
def test_an_amount_survives_its_text(amount: int) -> None:
    assert parse_bytes(format_bytes(amount)) == amount
    assert parse_duration_ms(format_duration_ms(amount)) == amount
