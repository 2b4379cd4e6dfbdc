"""The codec against the vectors of BIP-350, sections "Test vectors for Bech32m" and "segwit addresses"."""

from __future__ import annotations

import pytest

from appliance.core import bech32m
from appliance.core.errors import InputError

VALID = (
    "A1LQFN3A",
    "a1lqfn3a",
    "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
    "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
    "11llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllludsr8",
    "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
    "?1v759aa",
)

INVALID = (
    ("\x201xj0phk", "character"),
    ("\x7f1g6xzxy", "character"),
    ("\x801vctc34", "character"),
    (
        "an84characterslonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11d6pts4",
        "longer than 90",
    ),
    ("qyrz8wqd2c9m", "prefix"),
    ("1qyrz8wqd2c9m", "prefix"),
    ("y1b0jsk6g", "'b' is not one of its digits"),
    ("lt1igcx5c0", "'i' is not one of its digits"),
    ("in1muywd", "end is missing"),
    ("mm1crxm3i", "'i' is not one of its digits"),
    ("au1s5cgom", "'o' is not one of its digits"),
    ("M1VUXWEZ", "checksum"),
    ("16plkw9", "prefix"),
    ("1p2gdwpf", "prefix"),
)

# Valid addresses of version 1 and above: the first digit is the version, the others are the program.
SEGWIT = (
    (
        "bc1pw508d6qejxtdg4y5r3zarvary0c5xw7kw508d6qejxtdg4y5r3zarvary0c5xw7kt5nd6y",
        "751e76e8199196d454941c45d1b3a323f1433bd6751e76e8199196d454941c45d1b3a323f1433bd6",
    ),
    ("BC1SW50QGDZ25J", "751e"),
    ("bc1zw508d6qejxtdg4y5r3zarvaryvaxxpcs", "751e76e8199196d454941c45d1b3a323"),
    (
        "tb1pqqqqp399et2xygdj5xreqhjjvcmzhxw4aywxecjdzew6hylgvsesf3hn0c",
        "000000c4a5cad46221b2a187905e5266362b99d5e91c6ce24d165dab93e86433",
    ),
)


@pytest.mark.parametrize("text", VALID)
def test_a_valid_vector_decodes_and_encodes_back_in_lower_case(text: str) -> None:
    prefix, digits = bech32m.decode_digits(text)
    assert bech32m.encode_digits(prefix, digits) == text.lower()


@pytest.mark.parametrize("text, reason", INVALID)
def test_an_invalid_vector_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        bech32m.decode(text)
    assert caught.value.key == "id.text"
    assert reason in caught.value.detail["reason"]


@pytest.mark.parametrize("text, program", SEGWIT)
def test_bytes_and_digits_convert_as_in_the_address_vectors(text: str, program: str) -> None:
    prefix, digits = bech32m.decode_digits(text)
    without_version = bech32m.encode_digits(prefix, digits[1:])
    assert bech32m.decode(without_version) == (prefix, bytes.fromhex(program))
    assert bech32m.encode(prefix, bytes.fromhex(program)) == without_version


@pytest.mark.parametrize(
    "digits",
    [
        pytest.param([0, 1], id="padding that is not zero"),
        pytest.param([0, 0, 0], id="padding of a whole digit"),
        pytest.param([0], id="a digit that makes no byte"),
    ],
)
def test_a_text_with_another_form_for_the_same_bytes_is_refused(digits: list[int]) -> None:
    with pytest.raises(InputError, match="must be zero"):
        bech32m.decode(bech32m.encode_digits("node", digits))


def test_mixed_case_is_refused() -> None:
    with pytest.raises(InputError, match="mixes"):
        bech32m.decode("A1lqfn3a")


def test_a_bech32_checksum_of_the_older_standard_is_refused() -> None:
    with pytest.raises(InputError, match="checksum"):
        bech32m.decode("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")
