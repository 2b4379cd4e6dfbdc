"""The strict CBOR codec: vectors of RFC 8949 appendix A, and every way of not being canonical."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import cast

import msgspec
import pytest

from appliance.core.canonical import Cbor, Encodable, Tagged, decode, encode
from appliance.core.errors import InputError
from appliance.core.limits import LIMITS, Limits

VECTORS: tuple[tuple[Cbor, str], ...] = (
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
)

REFUSED: tuple[tuple[str, str, str], ...] = (
    ("cbor.truncated", "", "nothing"),
    ("cbor.truncated", "18", "a head without its byte"),
    ("cbor.truncated", "19ff", "a head without its second byte"),
    ("cbor.truncated", "1a0001", "a head without its fourth byte"),
    ("cbor.truncated", "4401", "bytes that are missing"),
    ("cbor.truncated", "6361", "text that is missing"),
    ("cbor.truncated", "5b7fffffffffffffff00", "a length of 2**63"),
    ("cbor.truncated", "8201", "an item that is missing"),
    ("cbor.truncated", "a101", "a value that is missing"),
    ("cbor.truncated", "a1", "a key that is missing"),
    ("cbor.trailing", "0000", "a second value"),
    ("cbor.not_shortest", "1817", "23 in one byte"),
    ("cbor.not_shortest", "1900ff", "255 in two bytes"),
    ("cbor.not_shortest", "1a0000ffff", "65535 in four bytes"),
    ("cbor.not_shortest", "1b00000000ffffffff", "2**32 - 1 in eight bytes"),
    ("cbor.not_shortest", "3800", "-1 in one byte more"),
    ("cbor.not_shortest", "5801ff", "a length of bytes"),
    ("cbor.not_shortest", "780161", "a length of text"),
    ("cbor.not_shortest", "980101", "a count of items"),
    ("cbor.not_shortest", "b8010101", "a count of entries"),
    ("cbor.not_shortest", "d81200", "a tag"),
    ("cbor.indefinite", "5f4100ff", "bytes in chunks"),
    ("cbor.indefinite", "7f6161ff", "text in chunks"),
    ("cbor.indefinite", "9fff", "an open array"),
    ("cbor.indefinite", "bfff", "an open map"),
    ("cbor.indefinite", "ff", "a break on its own"),
    ("cbor.reserved", "1c", "additional information 28"),
    ("cbor.reserved", "3d", "additional information 29"),
    ("cbor.reserved", "5e", "additional information 30"),
    ("cbor.reserved", "f7", "undefined"),
    ("cbor.reserved", "e0", "simple value 0"),
    ("cbor.reserved", "f820", "simple value 32"),
    ("cbor.reserved", "fc", "reserved simple value"),
    ("cbor.float", "f90000", "half precision"),
    ("cbor.float", "fa47c35000", "single precision"),
    ("cbor.float", "fb3ff199999999999a", "double precision"),
    ("cbor.tag", "c001", "a date"),
    ("cbor.tag", "c249010000000000000000", "a big number"),
    ("cbor.tag", "d90102a0", "a tag of two bytes"),
    ("cbor.duplicate_key", "a201000100", "the same integer twice"),
    ("cbor.duplicate_key", "a2616100616100", "the same text twice"),
    ("cbor.key_order", "a202000100", "integers in the wrong order"),
    ("cbor.key_order", "a26161000100", "text before an integer"),
    ("cbor.key_order", "a2200018 6400", "the order of RFC 7049, shorter first"),
    ("cbor.key_type", "a18000", "an array as a key"),
    ("cbor.key_type", "a1a000", "a map as a key"),
    ("cbor.key_type", "a1f400", "false as a key"),
    ("cbor.key_type", "a1c000", "a tag as a key"),
    ("cbor.utf8", "61ff", "a byte that no text has"),
    ("cbor.utf8", "62c080", "an overlong zero"),
    ("cbor.utf8", "63eda080", "a surrogate"),
    ("cbor.utf8", "61c3", "a character cut short"),
    ("cbor.items", "9b7fffffffffffffff", "an array of 2**63 items"),
    ("cbor.items", "b94e20", "a map of 20,000 entries"),
    ("cbor.depth", "81" * 17 + "00", "17 levels"),
    ("cbor.depth", "81" * 100_000, "levels without end"),
    ("cbor.depth", "a100" * 17 + "00", "17 levels of maps"),
)


@pytest.mark.parametrize("value, encoded", VECTORS)
def test_a_value_has_the_encoding_of_the_standard_and_back(value: Cbor, encoded: str) -> None:
    assert encode(value).hex() == encoded
    decoded = decode(bytes.fromhex(encoded))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("key, encoded", [pytest.param(k, e, id=f"{why} [{k}]") for k, e, why in REFUSED])
def test_what_is_not_canonical_is_refused(key: str, encoded: str) -> None:
    with pytest.raises(InputError) as caught:
        decode(bytes.fromhex(encoded))
    assert caught.value.key == key


def test_map_keys_sort_by_their_encoded_bytes() -> None:
    unsorted: Mapping[int | str | bytes, Encodable] = {"aa": 5, "z": 4, -1: 3, b"": 6, 100: 2, 10: 1}
    encoded = encode(unsorted)
    assert encoded.hex() == "a60a0118640220034006617a0462616105"
    decoded = decode(encoded)
    assert isinstance(decoded, dict)
    assert list(decoded) == [10, 100, -1, b"", "z", "aa"]


def test_the_deepest_allowed_value_goes_both_ways() -> None:
    value: Cbor = 0
    for _ in range(LIMITS.cbor_depth):
        value = [value]
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "value, key",
    [
        pytest.param(1.5, "cbor.type", id="a float"),
        pytest.param([object()], "cbor.type", id="an object inside"),
        pytest.param({1, 2}, "cbor.type", id="a set"),
        pytest.param({None: 1}, "cbor.key_type", id="null as a key"),
        pytest.param({True: 1}, "cbor.key_type", id="true as a key"),
        pytest.param({(1,): 1}, "cbor.key_type", id="a tuple as a key"),
        pytest.param(1 << 64, "cbor.integer", id="an integer too large"),
        pytest.param(-(1 << 64) - 1, "cbor.integer", id="an integer too small"),
        pytest.param({1 << 64: 1}, "cbor.integer", id="a key too large"),
        pytest.param("\ud800", "cbor.utf8", id="half a surrogate pair"),
        pytest.param(Tagged(1 << 64, 1), "cbor.integer", id="a tag too large"),
        pytest.param(Tagged(-1, 1), "cbor.integer", id="a negative tag"),
    ],
)
def test_what_has_no_encoding_is_refused(value: object, key: str) -> None:
    with pytest.raises(InputError) as caught:
        encode(cast("Encodable", value))
    assert caught.value.key == key


def test_a_value_that_contains_itself_is_refused_for_its_depth() -> None:
    endless: list[Cbor] = []
    endless.append(endless)
    with pytest.raises(InputError) as caught:
        encode(endless)
    assert caught.value.key == "cbor.depth"


def test_tuples_and_enumerations_encode_as_what_they_are() -> None:
    class Colour(StrEnum):
        RED = "red"

    class Level(IntEnum):
        HIGH = 3

    assert encode((Colour.RED, Level.HIGH)) == encode(["red", 3])
    assert encode({Colour.RED: 1, Level.HIGH: 2}) == encode({"red": 1, 3: 2})


def test_a_tag_is_decoded_only_where_it_is_allowed() -> None:
    tagged = Tagged(18, [1, Tagged(24, b"x")])
    encoded = encode(tagged)
    assert encoded.hex() == "d28201d8184178"
    assert decode(encoded, allowed_tags=frozenset({18, 24})) == tagged
    with pytest.raises(InputError, match="tag 24"):
        decode(encoded, allowed_tags=frozenset({18}))


def test_tags_count_as_levels() -> None:
    with pytest.raises(InputError) as caught:
        decode(b"\xd2" * 17 + b"\x00", allowed_tags=frozenset({18}))
    assert caught.value.key == "cbor.depth"


@pytest.mark.parametrize(
    "limits, value, key",
    [
        (msgspec.structs.replace(LIMITS, cbor_bytes=4), b"1234", "cbor.size"),
        (msgspec.structs.replace(LIMITS, cbor_items=3), [1, [2, 3]], "cbor.items"),
        (msgspec.structs.replace(LIMITS, cbor_items=3), {1: 1, 2: 2}, "cbor.items"),
        (msgspec.structs.replace(LIMITS, cbor_depth=1), [[]], "cbor.depth"),
    ],
)
def test_the_limits_of_the_caller_hold(limits: Limits, value: Cbor, key: str) -> None:
    assert decode(encode(value)) == value
    with pytest.raises(InputError) as caught:
        decode(encode(value), limits=limits)
    assert caught.value.key == key
