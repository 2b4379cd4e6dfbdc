"""Laws of the CBOR codec, with cbor2 as the independent peer.

cbor2 sorts "canonical" maps in the order of RFC 7049, shorter keys first, so the maps are
sorted here and cbor2 writes them plainly.
"""

from __future__ import annotations

from collections.abc import Callable

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core.canonical import Cbor, Tagged, decode, encode
from appliance.core.cose import open1, sign1
from appliance.core.domains import Domain
from appliance.core.errors import InputError

TAGS = frozenset(range(40))

integers = st.integers(-(1 << 64), (1 << 64) - 1) | st.sampled_from(
    [sign * ((1 << bits) + step) for bits in (5, 8, 16, 32, 63) for step in (-1, 0, 1) for sign in (1, -1)]
)
keys = integers | st.text(max_size=30) | st.binary(max_size=30)
scalars = st.none() | st.booleans() | integers | st.binary(max_size=300) | st.text(max_size=70)


def _containers(inner: st.SearchStrategy[Cbor]) -> st.SearchStrategy[Cbor]:
    return st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=6)


values: st.SearchStrategy[Cbor] = st.recursive(scalars, _containers, max_leaves=25)
mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "cut", "double"]),
        st.integers(0, 1 << 16),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=3,
)


def _mutate(data: bytes, steps: list[tuple[str, int, int]]) -> bytes:
    edits: dict[str, Callable[[bytes, int, int], bytes]] = {
        "set": lambda d, i, b: d[:i] + bytes([b]) + d[i + 1 :],
        "flip": lambda d, i, b: d[:i] + bytes([d[i] ^ 1 << b % 8]) + d[i + 1 :] if d else d,
        "insert": lambda d, i, b: d[:i] + bytes([b]) + d[i:],
        "delete": lambda d, i, _: d[:i] + d[i + 1 :],
        "cut": lambda d, i, _: d[:i],
        "double": lambda d, i, b: d[:i] + d[i : i + b] * 2 + d[i + b :],
    }
    for name, at, byte in steps:
        data = edits[name](data, at % max(len(data), 1), byte)
    return data


def _sorted_for_peer(value: Cbor) -> object:
    match value:
        case list():
            return [_sorted_for_peer(item) for item in value]
        case dict():
            ordered = sorted(value.items(), key=lambda pair: cbor2.dumps(pair[0]))
            return {key: _sorted_for_peer(item) for key, item in ordered}
        case _:
            return value


def _accepts_only_its_own_encoding(data: bytes) -> None:
    try:
        value = decode(data, allowed_tags=TAGS)
    except InputError as refusal:
        assert refusal.key.startswith("cbor.")  # noqa: PT017 - the refusal is one of two good outcomes
    else:
        assert encode(value) == data


@given(values)
def test_what_is_encoded_decodes_to_the_same_value_here_and_in_cbor2(value: Cbor) -> None:
    encoded = encode(value)
    assert decode(encoded) == value
    assert cbor2.loads(encoded) == value


@given(values)
def test_cbor2_writes_the_same_bytes(value: Cbor) -> None:
    assert cbor2.dumps(_sorted_for_peer(value)) == encode(value)


@given(st.dictionaries(keys, scalars, max_size=8), st.randoms())
def test_the_order_in_which_a_map_was_filled_does_not_show(
    entries: dict[int | str | bytes, Cbor], random: object
) -> None:
    shuffled = list(entries.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert encode(dict(shuffled)) == encode(entries)


@given(st.binary(max_size=64))
@example(b"\xf7")
@example(b"\xd9\x00\x12\x00")
def test_random_bytes_are_refused_or_are_the_one_encoding_of_their_value(data: bytes) -> None:
    _accepts_only_its_own_encoding(data)


@given(values, mutations)
def test_mutated_bytes_are_refused_or_are_the_one_encoding_of_their_value(
    value: Cbor, steps: list[tuple[str, int, int]]
) -> None:
    _accepts_only_its_own_encoding(_mutate(encode(Tagged(18, value)), steps))


@given(values)
def test_no_part_of_an_encoding_is_an_encoding(value: Cbor) -> None:
    encoded = encode(value)
    for size in {0, len(encoded) // 2, len(encoded) - 1}:
        with pytest.raises(InputError):
            decode(encoded[:size])


@given(st.binary(max_size=200), mutations)
def test_a_mutated_message_is_refused_or_opens_to_exactly_its_bytes(
    payload: bytes, steps: list[tuple[str, int, int]]
) -> None:
    blob = sign1(payload, Domain.BATCH, lambda *_: bytes(3309))
    mutated = _mutate(blob, steps)
    try:
        signed = open1(mutated)
    except InputError:
        return
    assert sign1(signed.payload, Domain.BATCH, lambda *_: signed.signature) == mutated
