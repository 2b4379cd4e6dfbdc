"""Bech32m (BIP-350): text that names its kind and finds its own typing errors.

A prefix, the separator `1`, base32 digits and a checksum of six digits, which finds every error of up to four
substituted characters. Written in one case. This module knows nothing of identifiers: `ids` gives the
prefixes and the lengths.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Final

from appliance.core.errors import error

_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # BIP-173, "Bech32"
_VALUE_OF: Final = {char: value for value, char in enumerate(_ALPHABET)}
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)  # BIP-173, "Checksum"
_FEEDBACK: Final = tuple(  # what each value of the top five bits adds
    functools.reduce(operator.xor, (term for bit, term in enumerate(_GENERATOR) if top >> bit & 1), 0)
    for top in range(32)
)
_CONSTANT: Final = 0x2BC830A3  # BIP-350; bech32 has 1
_CHECKSUM_DIGITS: Final = 6
_CHARS_MAX: Final = 90  # BIP-173: beyond it the checksum promises less


def encode(prefix: str, data: bytes) -> str:
    """The text of *data* under a lower-case *prefix*."""
    return encode_digits(prefix, _to_digits(data))


def decode(text: str) -> tuple[str, bytes]:
    """Prefix and bytes of *text*; raises `id.text`, which says what is wrong with it."""
    prefix, digits = decode_digits(text)
    data = _from_digits(digits)
    if data is None:
        raise error("id.text", text=text, reason="its end carries bits that must be zero")
    return prefix, data


def encode_digits(prefix: str, digits: Sequence[int]) -> str:
    """The text of five-bit *digits*, with the checksum added."""
    check = _polymod([*_expand(prefix), *digits, *([0] * _CHECKSUM_DIGITS)]) ^ _CONSTANT
    checksum = [check >> 5 * i & 31 for i in range(_CHECKSUM_DIGITS - 1, -1, -1)]
    return f"{prefix}1{''.join([_ALPHABET[digit] for digit in (*digits, *checksum)])}"


def decode_digits(text: str) -> tuple[str, list[int]]:
    """Prefix and five-bit digits of *text* after its checksum was verified and removed."""
    if len(text) > _CHARS_MAX:
        raise error("id.text", text=text, reason=f"it is longer than {_CHARS_MAX} characters")
    if not all("!" <= char <= "~" for char in text):
        raise error("id.text", text=text, reason="it holds a character that no identifier has")
    if text not in {text.lower(), text.upper()}:
        raise error("id.text", text=text, reason="it mixes upper and lower case")
    prefix, _, tail = text.lower().rpartition("1")
    if not prefix or len(tail) < _CHECKSUM_DIGITS:
        raise error("id.text", text=text, reason="its prefix or its end is missing")
    digits = [_VALUE_OF.get(char, -1) for char in tail]
    if -1 in digits:
        raise error("id.text", text=text, reason=f"{tail[digits.index(-1)]!r} is not one of its digits")
    if _polymod([*_expand(prefix), *digits]) != _CONSTANT:
        raise error("id.text", text=text, reason="its checksum does not match")
    return prefix, digits[:-_CHECKSUM_DIGITS]


def _expand(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        check = (check & 0x1FFFFFF) << 5 ^ value ^ _FEEDBACK[check >> 25]
    return check


def _to_digits(data: bytes) -> list[int]:
    """Bytes as five-bit digits, high bits first, the last one padded with zeros."""
    count = -(-len(data) * 8 // 5)
    number = int.from_bytes(data) << count * 5 - len(data) * 8
    return [number >> 5 * i & 31 for i in range(count - 1, -1, -1)]


def _from_digits(digits: list[int]) -> bytes | None:
    """The bytes, or None where the padding is not zero or holds a whole digit."""
    size, padding = divmod(len(digits) * 5, 8)
    number = 0
    for digit in digits:
        number = number << 5 | digit
    if padding > 4 or number & (1 << padding) - 1:
        return None
    return (number >> padding).to_bytes(size)
