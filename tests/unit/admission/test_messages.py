from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.admission.messages import (
    Ask,
    Fetch,
    FromGateway,
    FromJoiner,
    Hello,
    News,
    Offer,
    Refusal,
    Ticket,
    decode_from_gateway,
    decode_from_joiner,
    encode,
)
from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS

FROM_JOINER: tuple[FromJoiner, ...] = (Fetch(bytes(16)), Hello(bytes(32)), Ask(bytes(7000), bytes(32)))
FROM_GATEWAY: tuple[FromGateway, ...] = (
    Ticket("x0t1.abc"),
    Offer(bytes(5000), (bytes(5000), bytes(5000))),
    News("pending", since_ms=1),
    News("approved", since_ms=1, certificate=bytes(7000), chain=(bytes(5000),)),
    Refusal("token.spent", {"token": "token1abc"}),
)


@pytest.mark.parametrize("message", FROM_JOINER, ids=repr)
def test_what_a_joiner_says_is_read_back_by_gateways_alone(message: FromJoiner) -> None:
    assert decode_from_joiner(encode(message)) == message
    with pytest.raises(X0tError, match=r"admission\.message"):
        decode_from_gateway(encode(message))


@pytest.mark.parametrize("message", FROM_GATEWAY, ids=lambda message: type(message).__name__)
def test_what_a_gateway_says_is_read_back_by_joiners_alone(message: FromGateway) -> None:
    assert decode_from_gateway(encode(message)) == message
    with pytest.raises(X0tError, match=r"admission\.message"):
        decode_from_joiner(encode(message))


@pytest.mark.parametrize(
    "value",
    [
        ["fetch", bytes(15)],
        ["fetch", bytes(17)],
        ["fetch"],
        ["hello", bytes(32), 1],
        ["hello", "text"],
        ["hello", None],
        ["ask", bytes(12_289), bytes(32)],
        ["ask", bytes(10), bytes(31)],
        ["ask", b"", bytes(32)],
        ["other", bytes(32)],
        [],
        {"hello": bytes(32)},
        "hello",
        None,
    ],
    ids=str,
)
def test_oversized_and_wrong_fields_of_a_guest_are_refused(value: object) -> None:
    with pytest.raises(X0tError, match=r"admission\.message"):
        decode_from_joiner(msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    "value",
    [
        ["offer", bytes(65_537), []],
        ["offer", bytes(10), [bytes(10)] * 9],
        ["news", "pending", "r" * 65],
        ["news", "pending", "", "n" * 257],
        ["news", "", ""],
        ["refusal", "Not A Key"],
        ["refusal", "token.spent", {str(number): "x" for number in range(9)}],
        ["refusal", "token.spent", {"a": "x" * 257}],
        ["ticket", "x" * 49_153],
    ],
    ids=lambda value: str(value)[:30],
)
def test_oversized_and_wrong_fields_of_a_gateway_are_refused(value: object) -> None:
    with pytest.raises(X0tError, match=r"admission\.message"):
        decode_from_gateway(msgspec.msgpack.encode(value))


@given(st.binary(max_size=300))
def test_garbage_is_never_more_than_a_coded_error(data: bytes) -> None:
    assert {key_of(decode_from_joiner, data), key_of(decode_from_gateway, data)} <= {"", "admission.message"}


def key_of(decode: Callable[[bytes], object], data: bytes) -> str:
    try:
        decode(data)
    except X0tError as err:
        return err.key
    return ""


@pytest.mark.parametrize(
    "data", [b"\x91" * 5_000, b"\xdd\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\x81" * 5_000]
)
def test_nested_and_endless_garbage_is_a_coded_error(data: bytes) -> None:
    for decode in (decode_from_joiner, decode_from_gateway):
        with pytest.raises(X0tError, match=r"admission\.message"):
            decode(data)


def test_the_longest_that_a_joiner_says_fits_the_bound_of_a_guest() -> None:
    assert len(encode(Ask(bytes(12_288), bytes(32)))) <= LIMITS.guest_message_bytes
