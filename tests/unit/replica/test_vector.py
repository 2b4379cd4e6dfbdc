"""Version vector: heads, forks, digests, and the packed form in which entries travel."""

from __future__ import annotations

import tracemalloc
from hashlib import sha256

import pytest

from appliance.replica.vector import BUCKETS, SEQ_MAX, Heads, Vector, unpack

A, B, C = (bytes([first]) * 32 for first in (1, 1 + 128, 2))


def digest(name: str) -> bytes:
    return sha256(name.encode()).digest()


def chain(vector: Vector, author: bytes, *names: str, seq: int = 1, prev: str | None = None) -> None:
    for name in names:
        vector.add(author, seq, digest(name), digest(prev) if prev else None)
        seq, prev = seq + 1, name


def test_a_batch_takes_the_place_of_its_predecessor() -> None:
    vector = Vector()
    chain(vector, A, "a1", "a2", "a3")
    assert (vector.heads(A), vector.top(A), len(vector)) == (((3, digest("a3")),), 3, 1)


def test_an_unknown_author_has_no_heads() -> None:
    vector = Vector()
    assert (vector.heads(A), vector.top(A), len(vector), vector.bucket(1)) == ((), 0, 0, [])


def test_a_second_batch_after_one_predecessor_is_the_head_of_a_branch() -> None:
    vector = Vector()
    chain(vector, A, "a1", "a2", "a3")
    chain(vector, A, "b2", seq=2, prev="a1")
    assert vector.heads(A) == ((2, digest("b2")), (3, digest("a3")))
    chain(vector, A, "b3", "b4", seq=3, prev="b2")
    assert vector.heads(A) == ((3, digest("a3")), (4, digest("b4")))
    assert vector.top(A) == 4


def test_two_first_batches_are_two_branches() -> None:
    vector = Vector()
    chain(vector, A, "a1")
    chain(vector, A, "b1")
    assert vector.heads(A) == tuple(sorted([(1, digest("a1")), (1, digest("b1"))]))


def test_a_head_that_is_added_again_changes_nothing() -> None:
    vector = Vector()
    chain(vector, A, "a1", "a2")
    before = vector.digest()
    assert vector.add(A, 2, digest("a2"), digest("a1")) is False
    assert vector.digest() == before


def test_rows_of_heads_in_any_order_give_the_vector_that_batches_gave() -> None:
    grown = Vector()
    chain(grown, A, "a1", "a2")
    chain(grown, A, "b2", seq=2, prev="a1")
    chain(grown, B, "x1")
    rows = [(B, 1, digest("x1")), (A, 2, digest("b2")), (A, 2, digest("a2"))]
    quick = Vector.from_rows(rows)
    assert (quick.digest(), quick.bucket(1), len(quick)) == (grown.digest(), grown.bucket(1), 2)


def test_every_head_shows_in_the_digest_of_its_bucket_and_in_no_other() -> None:
    vector = Vector()
    chain(vector, A, "a1")
    chain(vector, B, "b1")
    root, before = vector.digest(), [vector.bucket_digest(index) for index in range(BUCKETS)]
    chain(vector, A, "a2", seq=2, prev="a1")
    after = [vector.bucket_digest(index) for index in range(BUCKETS)]
    assert [index for index in range(BUCKETS) if before[index] != after[index]] == [A[0]]
    assert root != vector.digest()


def test_bucket_digests_are_sixteen_bytes_each_and_lie_in_order() -> None:
    vector = Vector()
    chain(vector, A, "a1")
    assert vector.bucket_digests() == b"".join(vector.bucket_digest(index) for index in range(BUCKETS))
    assert len(vector.bucket_digests()) == 4096
    assert vector.bucket_digest(0) == vector.bucket_digest(255) != vector.bucket_digest(1)


def test_the_digest_is_the_one_that_other_nodes_compute() -> None:
    """Fixed for protocol version 1: a change here splits the mesh."""
    vector = Vector()
    assert vector.digest().hex() == "e8f6c3f3d31c37048ef64ecc822b35b8851ccd9b3eb8cc35e6cf4a73e2340647"
    chain(vector, A, "a1", "a2")
    chain(vector, A, "b2", seq=2, prev="a1")
    assert vector.digest().hex() == "2409714442e4b8d9d7ac2550a8b27382685056775f3c65b0820de7b96f871a1a"


def test_the_packed_form_is_the_one_that_other_nodes_send() -> None:
    assert list(unpack(TWO)) == [(A, ((1, digest("a1")),)), (C, ((1, digest("c1")), (2, digest("c2"))))]


def test_packed_entries_unpack_to_the_bucket() -> None:
    vector = Vector()
    for number in range(40):
        chain(vector, bytes([7, number]) + bytes(30), *(f"{number} {seq}" for seq in range(number + 1)))
    chain(vector, bytes([7, 3]) + bytes(30), "branch")
    assert list(unpack(b"".join(vector.pack(7)))) == vector.bucket(7)
    assert vector.authors(7) == [author for author, _ in vector.bucket(7)]


def packed(author: bytes, heads: Heads) -> bytes:
    return author + len(heads).to_bytes(2) + b"".join(seq.to_bytes(8) + name for seq, name in heads)


ONE = packed(A, ((1, digest("a1")),))
TWO = ONE + packed(C, ((1, digest("c1")), (2, digest("c2"))))
MALFORMED = [
    ("an author cut short", A[:31]),
    ("no count", A),
    ("no heads", packed(A, ())),
    ("heads cut short", ONE[:-1]),
    ("bytes behind the last entry", ONE + b"\0"),
    ("an author twice", ONE + ONE),
    ("authors out of order", packed(C, ((1, digest("c1")),)) + ONE),
    ("heads out of order", packed(A, ((2, digest("a2")), (1, digest("a1"))))),
    ("a head twice", packed(A, ((1, digest("a1")), (1, digest("a1"))))),
    ("seq zero", packed(A, ((0, digest("a1")),))),
    ("seq too high", packed(A, ((SEQ_MAX + 1, digest("a1")),))),
]


@pytest.mark.parametrize("data", [data for _, data in MALFORMED], ids=[name for name, _ in MALFORMED])
def test_what_no_vector_packs_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"an entry|entries|a seq"):
        list(unpack(data))


def test_ten_thousand_authors_take_a_few_megabytes() -> None:
    authors = [digest(str(number)) for number in range(10_000)]
    tracemalloc.start()
    vector = Vector()
    for author in authors:
        vector.add(author, 1, author, None)
    vector.digest()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 4 << 20
