"""A filter for packet sockets as a program of classic BPF (linux/filter.h): the kernel hands over what it lets through.

It knows IPv6 without extension headers, which is all that the mesh carries. Pure: it makes the bytes, `capture` gives
them to the kernel.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

from appliance.core.prefix import ADDRESS_BYTES
from appliance.policy.model import NUMBERS, WITH_PORTS

# Offsets in the IPv6 header (RFC 8200 section 3), and of the ports behind it.
_NEXT_HEADER, _SOURCE, _TARGET, _SOURCE_PORT, _TARGET_PORT = 6, 8, 24, 40, 42
_ETHERTYPE, _IPV6 = 12, 0x86DD
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30  # BPF_LD|BPF_ABS
_AND, _EQUAL, _RETURN = 0x54, 0x15, 0x06
_WHOLE: Final = 0xFFFFFFFF
_INSTRUCTION: Final = struct.Struct("=HBBI")


class Only(msgspec.Struct, frozen=True, kw_only=True):
    """Which packets are meant: what is None may be anything; address and port may be those of either end."""

    address: bytes | None = None
    protocol: int | None = None
    port: int | None = None


EVERYTHING: Final = Only()


class _Test(NamedTuple):
    """Load something, and compare it."""

    load: int
    offset: int
    value: int
    mask: int = _WHOLE


def program(only: Only, link_bytes: int) -> bytes:
    """The instructions for frames whose IPv6 header begins behind so many bytes of link header."""
    alternatives = [_is_ipv6(link_bytes)]
    if only.protocol is not None:
        alternatives.append([[_Test(_LOAD_BYTE, link_bytes + _NEXT_HEADER, only.protocol)]])
    if only.address is not None:
        alternatives.append([_address(only.address, link_bytes + place) for place in (_SOURCE, _TARGET)])
    if only.port is not None:
        numbers = sorted(NUMBERS[protocol] for protocol in WITH_PORTS)
        alternatives.append([[_Test(_LOAD_BYTE, link_bytes + _NEXT_HEADER, number)] for number in numbers])
        places = (_SOURCE_PORT, _TARGET_PORT)
        alternatives.append([[_Test(_LOAD_HALF, link_bytes + place, only.port)] for place in places])
    return _assembled(alternatives)


def _is_ipv6(link_bytes: int) -> list[list[_Test]]:
    if link_bytes:
        return [[_Test(_LOAD_HALF, _ETHERTYPE, _IPV6)]]
    return [[_Test(_LOAD_BYTE, 0, 6 << 4, 0xF0)]]


def _address(address: bytes, offset: int) -> list[_Test]:
    words = range(0, ADDRESS_BYTES, 4)
    return [_Test(_LOAD_WORD, offset + at, int.from_bytes(address[at : at + 4], "big")) for at in words]


def _assembled(conditions: list[list[list[_Test]]]) -> bytes:
    """All conditions must hold; of a condition one alternative, of an alternative all tests."""
    parts = [[_size(alternative) for alternative in condition] for condition in conditions]
    total = sum(map(sum, parts))
    code: list[bytes] = []
    for condition in conditions:
        end = len(code) + sum(map(_size, condition))
        for number, alternative in enumerate(condition):
            after = len(code) + _size(alternative)
            failed = after if number < len(condition) - 1 else total + 1
            for place, test in enumerate(alternative):
                code.append(_INSTRUCTION.pack(test.load, 0, 0, test.offset))
                if test.mask != _WHOLE:
                    code.append(_INSTRUCTION.pack(_AND, 0, 0, test.mask))
                here = len(code) + 1
                held = end if place == len(alternative) - 1 else here
                code.append(_INSTRUCTION.pack(_EQUAL, held - here, failed - here, test.value))
    return b"".join((*code, _INSTRUCTION.pack(_RETURN, 0, 0, _WHOLE), _INSTRUCTION.pack(_RETURN, 0, 0, 0)))


def _size(alternative: list[_Test]) -> int:
    return sum(3 if test.mask != _WHOLE else 2 for test in alternative)
