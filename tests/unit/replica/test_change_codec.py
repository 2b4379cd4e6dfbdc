from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from automerge import core
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core.errors import X0tError
from appliance.core.limits import Limits
from appliance.replica.change_codec import (
    MAX_COUNTER,
    Change,
    Op,
    change_hash,
    check_flat_map,
    decode_change,
    encode_change,
)
from appliance.replica.change_columns import Reader, read_runs, runs_bytes, sint_bytes, text_bytes, uint_bytes
from tests.change_forge import RawChange, frame, sleb, uleb

A, B, C = (letter * 32 for letter in (b"a", b"b", b"c"))

CHANGE = Change(
    deps=(bytes(32), b"\1" * 32),
    actor=B,
    seq=3,
    start_op=300,
    time_s=1_700_000_000,
    ops=(
        Op("gone", None, ((1, A), (1, B)), delete=True),
        Op("name", "gateway", ((299, C),)),
        Op("flag", True),
        Op("flags", False),
        Op("null", None),
        Op("small", -65),
        Op("large", (1 << 64) - 1),
        Op("largest int", (1 << 63) - 1),
        Op("blob", b"\0\xff"),
        Op("empty", ""),
    ),
)
CHUNK = encode_change(CHANGE)


def automerge_chunks() -> list[bytes]:
    """What Automerge itself writes: three actors who edit a map, apart and together."""
    rng = random.Random(7)
    documents = [core.Document(actor) for actor in (A, B, C)]
    for step in range(60):
        document = documents[rng.randrange(3)]
        if rng.random() < 0.4:
            document.merge(rng.choice([other for other in documents if other is not document]))
        with document.transaction() as edit:
            gone, *others = rng.sample(range(12), rng.randint(2, 6))
            for number in others:
                edit.put(core.ROOT, f"key{number}", core.ScalarType.Int, step * 1000)
                edit.put(core.ROOT, f"text{number}", core.ScalarType.Str, "x" * rng.randrange(9))
                edit.put(core.ROOT, f"null{number}", core.ScalarType.Null, None)
            edit.delete(core.ROOT, f"key{gone}")
    for document in documents[1:]:
        documents[0].merge(document)
    return [bytes(change.raw_bytes) for change in documents[0].get_changes([])]


def test_a_change_encodes_and_decodes_to_the_same_record() -> None:
    assert decode_change(CHUNK) == msgspec.structs.replace(CHANGE, hash=change_hash(CHUNK))


def test_what_automerge_writes_decodes_and_encodes_to_the_same_bytes() -> None:
    chunks = automerge_chunks()
    assert len(chunks) > 50
    assert [encode_change(decode_change(chunk)) for chunk in chunks] == chunks


def test_the_record_says_what_automerge_says() -> None:
    document = core.Document.load(b"".join(automerge_chunks()))
    for theirs in document.get_changes([]):
        ours = decode_change(bytes(theirs.raw_bytes))
        assert ours.hash == theirs.hash
        assert list(ours.deps) == theirs.deps
        assert (ours.actor, ours.seq) == (theirs.actor_id, theirs.seq)
        assert (ours.start_op, ours.max_op) == (theirs.start_op, theirs.max_op)


def raw() -> RawChange:
    return RawChange.parse(CHUNK)


def with_(**fields: Any) -> bytes:
    return encode_change(msgspec.structs.replace(CHANGE, **fields))


def with_op(op: Op) -> bytes:
    return with_(ops=(op,))


def one(column: int, data: bytes, value: bytes = b"\7") -> bytes:
    """A change with one sound operation and one column that is not."""
    sound = RawChange.parse(with_op(Op("key", 7, ((1, A),)))).with_column(0x57, value)
    return sound.with_column(column, data).chunk()


def overlong(chunk: bytes) -> bytes:
    """The count of dependencies in two bytes instead of one."""
    body = RawChange.parse(chunk).body()
    return frame(uleb(body[0], padding=1) + body[1:])


REFUSED = [
    ("nothing", b"", "change.canonical"),
    ("no chunk", b"x" * 80, "change.canonical"),
    ("half a header", CHUNK[:8], "change.canonical"),
    ("a document chunk", raw().chunk(kind=0), "change.canonical"),
    ("a compressed chunk", raw().chunk(kind=2), "change.canonical"),
    ("a chunk of an unknown type", raw().chunk(kind=3), "change.canonical"),
    ("a byte too many", CHUNK + b"\0", "change.canonical"),
    ("a byte too few", CHUNK[:-1], "change.canonical"),
    ("two changes", CHUNK + CHUNK, "change.canonical"),
    ("a wrong checksum", CHUNK[:4] + b"\0\0\0\0" + CHUNK[8:], "change.checksum"),
    ("another byte in the body", CHUNK[:-1] + b"\x7f", "change.checksum"),
    ("a number that is longer than it must be", overlong(CHUNK), "change.canonical"),
    ("bytes after the last column", frame(raw().body() + b"\0"), "change.canonical"),
    ("an empty body", frame(b""), "change.canonical"),
    ("a body that ends in the header", frame(raw().body()[:50]), "change.canonical"),
    ("a number of eleven bytes", frame(b"\xff" * 10 + b"\1"), "change.canonical"),
    ("dependencies out of order", with_(deps=CHANGE.deps[::-1]), "change.canonical"),
    ("a dependency twice", with_(deps=CHANGE.deps[:1] * 2), "change.canonical"),
    ("too many dependencies", with_(deps=tuple(sorted(bytes([n]) * 32 for n in range(65)))), "change.bounds"),
    ("a short actor", with_(actor=b"a"), "change.schema"),
    ("number 0", with_(seq=0), "change.bounds"),
    ("a number beyond 32 bits", with_(seq=1 << 32), "change.bounds"),
    ("operation 0", with_(start_op=0, ops=()), "change.bounds"),
    ("an operation beyond 32 bits", with_(start_op=MAX_COUNTER - 1), "change.bounds"),
    ("a time before 1970", with_(time_s=-1), "change.bounds"),
    ("a time after 9999", with_(time_s=1 << 40), "change.bounds"),
    ("a number beyond 64 bits", with_(seq=1 << 64), "change.canonical"),
    ("more actors than bytes", frame(RawChange(actor=A).body()[:-2] + b"\x7f\0"), "change.canonical"),
    ("an actor that is not used", RawChange(actor=A, others=[B], columns=raw().columns).chunk(), "change.canonical"),
    ("more columns than there are", RawChange(columns=[(n, b"\1") for n in range(9)]).chunk(), "change.schema"),
    ("an object id", one(0x01, b"\x7f\0"), "change.schema"),
    ("a mark", RawChange(columns=[(0xA5, b"\x7f\1m")]).chunk(), "change.schema"),
    ("an insertion", one(0x34, b"\0\1"), "change.canonical"),
    ("no operation count", one(0x34, b""), "change.canonical"),
    ("too many operations", one(0x34, uleb(2_001)), "change.bounds"),
    ("a run of very many keys", one(0x15, sleb(1 << 40) + b"\1k"), "change.canonical"),
    ("a list of very many keys", one(0x15, sleb(-(1 << 40)) + b"\1k"), "change.canonical"),
    ("empty cells", one(0x15, b"\0\1"), "change.canonical"),
    ("a run of one", one(0x15, b"\1\3key"), "change.canonical"),
    ("more keys than operations", one(0x15, b"\x7e\1a\1b"), "change.canonical"),
    ("more keys than a run holds", one(0x15, b"\x7f\1a\x7f\1b"), "change.canonical"),
    ("no keys", one(0x15, b""), "change.canonical"),
    ("a key that is not UTF-8", one(0x15, b"\x7f\1\xff"), "change.canonical"),
    ("a key that ends too early", one(0x15, b"\x7f\5key"), "change.canonical"),
    ("a list inside", one(0x42, b"\x7f\2"), "change.schema"),
    ("an increment", one(0x42, b"\x7f\5"), "change.schema"),
    ("a deletion with a value", one(0x42, b"\x7f\3"), "change.canonical"),
    ("a float", one(0x56, b"\x7f\x85\1", value=bytes(8)), "change.schema"),
    ("a counter", one(0x56, b"\x7f\x18"), "change.schema"),
    ("a timestamp", one(0x56, b"\x7f\x19"), "change.schema"),
    ("a value of an unknown type", one(0x56, b"\x7f\x1f"), "change.schema"),
    ("true with a byte", one(0x56, b"\x7f\x12"), "change.canonical"),
    ("a small number as unsigned", one(0x56, b"\x7f\x13"), "change.canonical"),
    ("a text that is not UTF-8", one(0x56, b"\x7f\x16", value=b"\xff"), "change.canonical"),
    ("a value longer than the rest", one(0x56, b"\x7f" + uleb((1 << 60) - 1 << 4 | 7)), "change.canonical"),
    ("bytes that no value uses", one(0x56, b"\x7f\0"), "change.canonical"),
    ("an integer beyond 64 bits", with_op(Op("key", -(1 << 63) - 1)), "change.canonical"),
    ("very many predecessors", one(0x70, b"\x7f" + uleb(1 << 40)), "change.bounds"),
    ("predecessors that are missing", one(0x70, b"\x7f\2"), "change.canonical"),
    ("a predecessor of an unknown actor", one(0x71, b"\x7f\6"), "change.canonical"),
    ("a predecessor that is 0", with_op(Op("key", 1, ((0, A),))), "change.canonical"),
    ("a predecessor below 0", one(0x73, b"\x7f\x7f"), "change.canonical"),
    ("a predecessor after it", with_op(Op("key", 1, ((300, A),))), "change.canonical"),
    ("predecessors out of order", with_op(Op("key", 1, ((2, A), (1, A)))), "change.canonical"),
    ("a predecessor twice", with_op(Op("key", 1, ((1, A), (1, A)))), "change.canonical"),
]  # fmt: skip


@pytest.mark.parametrize("what, chunk, key", REFUSED, ids=[row[0] for row in REFUSED])
def test_a_chunk_is_refused_for(what: str, chunk: bytes, key: str) -> None:
    with pytest.raises(X0tError) as caught:
        decode_change(chunk)
    assert caught.value.key == key, caught.value


def test_a_chunk_over_the_size_limit_is_refused_unread() -> None:
    with pytest.raises(X0tError, match="more than 64 bytes"):
        decode_change(b"x" * 65, Limits(change_bytes=64))


def test_more_predecessors_than_twice_the_operations_allowed_are_refused() -> None:
    chunk = with_op(Op("key", 1, tuple((number, A) for number in range(1, 6))))
    with pytest.raises(X0tError, match="more than 4 values"):
        decode_change(chunk, Limits(change_ops=2))


SMALL = Limits(text_bytes=4, value_bytes=4, change_preds=2)
AGAINST_SCHEMA = [
    ("nothing to do", with_(ops=()), "change.schema"),
    ("a message", with_(message="hello"), "change.schema"),
    ("an empty key", with_op(Op("", 1)), "change.schema"),
    ("a key twice", with_(ops=(Op("k", 1), Op("k", 2))), "change.schema"),
    ("a deletion of nothing", with_op(Op("k", None, delete=True)), "change.schema"),
    ("a long key", with_op(Op("é" * 3, 1)), "change.bounds"),
    ("a long text", with_op(Op("k", "é" * 3)), "change.bounds"),
    ("long bytes", with_op(Op("k", bytes(5))), "change.bounds"),
    ("many predecessors", with_op(Op("k", 1, ((1, A), (2, A), (3, A)))), "change.bounds"),
]


@pytest.mark.parametrize("what, chunk, key", AGAINST_SCHEMA, ids=[row[0] for row in AGAINST_SCHEMA])
def test_the_schema_has_no_place_for(what: str, chunk: bytes, key: str) -> None:
    with pytest.raises(X0tError) as caught:
        check_flat_map(decode_change(chunk), SMALL)
    assert caught.value.key == key, caught.value


def test_the_schema_takes_every_kind_of_value_up_to_its_limit() -> None:
    check_flat_map(decode_change(CHUNK))
    check_flat_map(decode_change(with_op(Op("é" * 2, "v" * 4, ((1, A), (1, B))))), SMALL)


def test_a_change_names_the_keys_that_it_touches() -> None:
    assert decode_change(with_(ops=CHANGE.ops[:2])).keys == ("gone", "name")


values = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=20) | st.binary(max_size=20)
)
actors = st.sampled_from([A, B, C])
preds = st.sets(st.tuples(st.integers(1, 999), actors), max_size=3).map(lambda ids: tuple(sorted(ids)))
ops = st.builds(Op, st.text(max_size=8), values, preds) | st.builds(
    Op, st.text(max_size=8), st.none(), preds, st.just(True)
)
changes = st.builds(
    Change,
    deps=st.sets(st.binary(min_size=32, max_size=32), max_size=3).map(lambda deps: tuple(sorted(deps))),
    actor=actors,
    seq=st.integers(1, MAX_COUNTER),
    start_op=st.integers(1_000, 1 << 31),
    ops=st.lists(ops, max_size=6).map(tuple),
    time_s=st.integers(0, 253_402_300_799),
    message=st.text(max_size=5),
)


@given(changes)
def test_any_legal_record_survives_the_round_trip(change: Change) -> None:
    chunk = encode_change(change)
    assert decode_change(chunk) == msgspec.structs.replace(change, hash=change_hash(chunk))


@given(changes, st.data())
def test_any_flipped_bit_is_caught(change: Change, data: st.DataObject) -> None:
    chunk = bytearray(encode_change(change))
    bit = data.draw(st.integers(0, len(chunk) * 8 - 1))
    chunk[bit // 8] ^= 1 << bit % 8
    with pytest.raises(X0tError):
        decode_change(bytes(chunk))


@given(st.lists(st.sampled_from(["", "a", "bb"]), max_size=40))
@example(["a"] * 200)
def test_a_column_has_one_form_and_keeps_its_cells(cells: list[str]) -> None:
    encoded = runs_bytes(cells, text_bytes)
    assert read_runs(encoded, len(cells), Reader.text) == cells


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_numbers_are_leb128(number: int) -> None:
    assert sint_bytes(number) == sleb(number)
    assert Reader(sleb(number)).sint() == number
    assert uint_bytes(abs(number)) == uleb(abs(number))
    assert Reader(uleb(abs(number))).uint() == abs(number)


@pytest.mark.parametrize("data", [uleb(1 << 64), sleb(1 << 63), b"\x80", b""])
def test_a_number_that_does_not_fit_or_end_is_refused(data: bytes) -> None:
    with pytest.raises(X0tError):
        Reader(data).uint() if data == uleb(1 << 64) else Reader(data).sint()
