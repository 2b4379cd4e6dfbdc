from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from automerge import core

from appliance.core.errors import X0tError
from appliance.core.limits import Limits
from appliance.replica.change_codec import Scalar, change_hash, decode_change
from appliance.replica.document import Conflict, Document
from tests.change_forge import RawChange

A, B = b"a" * 32, b"b" * 32
VALUES: dict[str, Scalar] = {
    "bytes": b"\0\xff",
    "empty": "",
    "false": False,
    "int": -(1 << 63),
    "null": None,
    "text": "gateway \N{ROBOT FACE}",
    "true": True,
    "uint": (1 << 64) - 1,
}


def put(document: Document, actor: bytes, key: str, value: Scalar) -> bytes:
    """Edit and apply; the chunk."""
    chunk = document.edit({key: value}, [], actor, 1_700_000_000)
    document.apply(chunk, actor)
    return chunk


def panic_chunk(document: Document) -> bytes:
    """A change that the decoder refuses and that panics inside Automerge: its predecessor has no actor."""
    raw = RawChange.parse(document.edit({"k": 9}, [], B, 0))
    return raw.with_column(0x71, b"\x7f\x6e").chunk()


def opened(cache: bytes) -> str:
    with pytest.raises(X0tError) as caught:
        Document.load(cache, "nodes")
    return caught.value.key


def test_every_kind_of_value_comes_back_as_it_was_put() -> None:
    document = Document()
    document.apply(document.edit(VALUES, [], A, 0), A)
    assert document.items() == sorted(VALUES.items())
    assert {key: document.get(key) for key in VALUES} == VALUES
    assert [type(document.get(key)) for key in ("true", "int")] == [bool, int]
    assert len(document) == len(VALUES)


def test_a_key_that_is_not_there_reads_as_none_and_is_not_in_the_document() -> None:
    document = Document()
    put(document, A, "null", None)
    assert (document.get("null"), "null" in document) == (None, True)
    assert (document.get("k"), "k" in document, document.conflicts("k")) == (None, False, [])
    assert (document.get("\ud800"), "\ud800" in document) == (None, False)


def test_an_edit_leaves_the_document_as_it_was_until_it_is_applied() -> None:
    document = Document()
    put(document, A, "k", 1)
    chunk = document.edit({"k": 2}, [], B, 0)
    assert (document.get("k"), len(document.index)) == (1, 1)
    change = document.apply(chunk, B)
    assert (document.get("k"), change.keys, document.heads()) == (2, ("k",), (change.hash,))


def test_puts_and_deletes_make_one_change() -> None:
    document = Document()
    put(document, A, "old", 1)
    change = document.apply(document.edit({"new": 2}, ["old"], A, 0), A)
    assert change.keys == ("new", "old")
    assert document.items() == [("new", 2)]


WRONG_EDITS: list[tuple[str, dict[str, Scalar], list[str], str]] = [
    ("nothing at all", {}, [], "change.schema"),
    ("an empty key", {"": 1}, [], "change.schema"),
    ("a float", {"k": 1.5}, [], "document.schema"),  # type: ignore[dict-item]
    ("a list", {"k": [1]}, [], "document.schema"),  # type: ignore[dict-item]
    ("a number beyond 64 bits", {"k": 1 << 64}, [], "document.schema"),
    ("half a character", {"k": "\ud800"}, [], "document.schema"),
    ("half a character in a key", {"\ud800": 1}, [], "document.schema"),
    ("the deletion of nothing", {}, ["k"], "document.schema"),
    ("a long text", {"k": "x" * 16_385}, [], "change.bounds"),
    ("a long key", {"k" * 257: 1}, [], "change.bounds"),
    ("too many keys", {f"k{number}": 1 for number in range(2_001)}, [], "change.bounds"),
    ("too many bytes", {f"k{number}": "x" * 16_384 for number in range(2)}, [], "change.bounds"),
]


@pytest.mark.parametrize("what, puts, deletes, key", WRONG_EDITS, ids=[row[0] for row in WRONG_EDITS])
def test_an_edit_is_refused_for(what: str, puts: dict[str, Scalar], deletes: list[str], key: str) -> None:
    document = Document("nodes")
    with pytest.raises(X0tError) as caught:
        document.edit(puts, deletes, A, 0)
    assert caught.value.key == key
    assert document.items() == []


def test_conflicting_values_are_all_listed_with_their_origin() -> None:
    document = Document()
    base = put(document, A, "k", "first")
    other = Document.build([base])
    left, right = put(document, A, "k", "left"), put(other, B, "k", "right")
    document.apply(right, B)
    other.apply(left, A)
    expected = [Conflict("right", 2, B, change_hash(right)), Conflict("left", 2, A, change_hash(left))]
    assert document.conflicts("k") == other.conflicts("k") == expected
    assert document.get("k") == other.get("k") == "right"
    assert document.index.conflicts() == ["k"]
    assert document.heads() == other.heads()


def test_a_refused_change_leaves_no_trace() -> None:
    document = Document()
    chunk = put(document, A, "k", 1)
    state = document.dump()
    for hostile in (b"garbage", chunk, panic_chunk(document)):
        with pytest.raises(X0tError, match="change"):
            document.apply(hostile, A)
    with pytest.raises(X0tError, match="not made by the author"):
        document.apply(document.edit({"k": 2}, [], B, 0), A)
    assert document.dump() == state


def test_a_document_is_built_from_changes_in_any_order_and_each_once() -> None:
    document = Document()
    chunks = [put(document, actor, f"k{number}", number) for number in range(9) for actor in (A, B)]
    for order in (chunks, chunks[::-1], chunks[9:] + chunks[:9], chunks * 2):
        built = Document.build(order)
        assert (built.items(), built.heads()) == (document.items(), document.heads())
    assert Document.build([]).items() == []


def test_a_document_is_not_built_from_changes_that_are_damaged_or_incomplete() -> None:
    document = Document("nodes")
    chunks = [put(document, A, "k", number) for number in range(3)]
    for broken in (chunks[1:], [chunks[0], chunks[2]], [*chunks, b"garbage"]):
        with pytest.raises(X0tError) as caught:
            Document.build(broken, "nodes")
        assert caught.value.key == "document.rebuild"
    with pytest.raises(X0tError, match="could not be rebuilt"):
        Document.build(chunks, limits=Limits(change_bytes=10))


def test_a_dump_loads_as_the_same_document() -> None:
    document = Document()
    for number in range(5):
        put(document, A if number % 2 else B, f"k{number % 3}", number)
    loaded = Document.load(document.dump())
    assert (loaded.items(), loaded.heads(), loaded.dump()) == (document.items(), document.heads(), document.dump())
    put(loaded, A, "k0", "goes on")


def resummed(change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """A dump with another body and a right checksum."""
    document = Document()
    put(document, A, "k", 1)
    head, body = document.dump()[:15], document.dump()[47:]
    mutated = msgspec.msgpack.encode(change(msgspec.msgpack.decode(body)))
    return head + hashlib.sha256(mutated).digest() + mutated


def test_a_cache_that_is_damaged_or_does_not_load_is_refused() -> None:
    document = Document()
    chunk = put(document, A, "k", 1)
    sound = document.dump()
    for broken in (b"", sound[:-1], sound[:-1] + b"x", b"y" + sound[1:], sound[:40]):
        assert opened(broken) == "document.cache"
    assert resummed(lambda parts: parts) == sound
    assert opened(resummed(lambda parts: [parts[0], b"garbage"])) == "document.cache"
    assert opened(resummed(lambda parts: [b"garbage", parts[1]])) == "document.cache"
    assert opened(resummed(lambda parts: [parts[0], b""])) == "document.cache"
    assert opened(resummed(lambda parts: [parts[0], chunk + panic_chunk(document)])) == "document.cache"
    actor_5_of_0 = msgspec.msgpack.encode([[], [[bytes(32), 5, 1, [], [], [], []]]])
    assert opened(resummed(lambda parts: [actor_5_of_0, b""])) == "document.cache"


def test_undone_changes_are_gone_from_every_view_and_may_come_back() -> None:
    document = Document()
    chunks = [put(document, A, "k", number) for number in range(4)]
    before = Document.build(chunks[:2])
    undone = [document.undo(), document.undo()]
    assert undone == [change_hash(chunk) for chunk in chunks[:1:-1]]
    document.apply(chunks[2], A)
    assert document.undo() == undone[1]
    assert (document.items(), document.dump()) == (before.items(), before.dump())
    for chunk in chunks[2:]:
        document.apply(chunk, A)
    assert document.get("k") == 3
    loaded = Document.load(document.dump())
    for undone_twice in (loaded, document):
        undone_twice.undo()
        undone_twice.undo()
    assert (loaded.items(), loaded.dump()) == (before.items(), before.dump())
    other = put(document, B, "k", "instead")
    assert (document.get("k"), document.heads()) == ("instead", (change_hash(other),))


def test_a_panic_in_automerge_becomes_an_error_and_closes_the_document() -> None:
    document = Document("nodes")
    chunk = put(document, A, "k", 1)
    hostile = panic_chunk(document)
    with pytest.raises(X0tError) as caught:
        document._receive(hostile, decode_change(chunk))  # past the decoder, which would refuse it
    assert caught.value.key == "document.panic"
    assert type(caught.value.__cause__).__name__ == "PanicException"
    calls: list[Callable[[], object]] = [
        lambda: document.get("k"),
        lambda: len(document),
        document.items,
        document.dump,
        document.undo,
        lambda: document.conflicts("k"),
        lambda: document.apply(document.edit({"k": 2}, [], A, 0), A),
    ]
    for call in calls:
        with pytest.raises(X0tError, match="Automerge failed inside the document nodes"):
            call()
    assert Document.build([chunk]).get("k") == 1


def test_a_change_that_automerge_drops_in_silence_closes_the_document() -> None:
    document, island = Document(), Document()
    put(island, B, "k", 1)
    late = island.edit({"k": 2}, [], B, 0)
    with pytest.raises(X0tError, match="Automerge failed"):
        document._receive(late, decode_change(late))  # what it follows is not there


def test_an_interrupt_is_not_swallowed_but_closes_the_document() -> None:
    document = Document()
    with pytest.raises(KeyboardInterrupt), document._contained():
        raise KeyboardInterrupt
    with pytest.raises(X0tError, match="Automerge failed"):
        document.items()


def test_what_we_write_is_what_automerge_would_have_written() -> None:
    ours, theirs = Document(), core.Document(A)
    for step in range(4):
        chunk = ours.edit({"a": step, "b": f"text {step}", "c": step != 1}, ["d"] if step == 3 else [], A, 0)
        if step == 2:
            chunk = ours.edit({"d": None, "e": b"x" * 300}, [], A, 0)
        ours.apply(chunk, A)
        with theirs.transaction() as edit:
            if step == 2:
                edit.put(core.ROOT, "d", core.ScalarType.Null, None)
                edit.put(core.ROOT, "e", core.ScalarType.Bytes, b"x" * 300)
            else:
                edit.put(core.ROOT, "a", core.ScalarType.Int, step)
                edit.put(core.ROOT, "b", core.ScalarType.Str, f"text {step}")
                edit.put(core.ROOT, "c", core.ScalarType.Boolean, step != 1)
                if step == 3:
                    edit.delete(core.ROOT, "d")
        assert bytes(theirs.get_changes([])[-1].raw_bytes) == chunk
