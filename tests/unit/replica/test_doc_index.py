from __future__ import annotations

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.limits import LIMITS, Limits
from appliance.replica.change_codec import Change, Op, OpId, change_hash, encode_change
from appliance.replica.doc_index import DELETE, DocIndex, Edits

A, B, C = (letter * 32 for letter in (b"a", b"b", b"c"))


def make(index: DocIndex, actor: bytes, edits: Edits) -> Change:
    """An honest change, admitted and taken in."""
    change = index.next_change(actor, edits, 0)
    index.admit(change, actor)
    index.add(change)
    return change


def copy(index: DocIndex, limits: Limits = LIMITS) -> DocIndex:
    return DocIndex.load(index.dump(), limits)


def sealed(change: Change, **fields: object) -> Change:
    """The change with other fields and the hash that follows from them."""
    changed = msgspec.structs.replace(change, **fields)
    return msgspec.structs.replace(changed, hash=change_hash(encode_change(changed)))


def refusal(index: DocIndex, change: Change, actor: bytes = A) -> str:
    with pytest.raises(X0tError) as caught:
        index.admit(change, actor)
    return caught.value.key


def shown(index: DocIndex, key: str) -> list[OpId]:
    return [(version.counter, version.actor) for version in index.versions(key)]


def two_islands() -> tuple[DocIndex, Change, Change, Change]:
    """One change that both saw, then one by A and one by B on the same key; the index holds them all."""
    index = DocIndex()
    base = make(index, A, {"k": 1, "other": 1})
    island = copy(index)
    left = make(index, A, {"k": 2})
    right = make(island, B, {"k": 3})
    index.admit(right, B)
    index.add(right)
    return index, base, left, right


def test_a_new_change_follows_all_heads_and_the_actors_previous_change() -> None:
    index, _, left, right = two_islands()
    assert index.heads() == tuple(sorted((left.hash, right.hash)))
    make(index, B, {"x": 1})
    change = index.next_change(A, {"k": 4}, 5)
    assert set(change.deps) == {*index.heads(), left.hash}
    assert (change.seq, change.start_op, change.time_s) == (3, 5, 5)
    assert change.ops == (Op("k", 4, ((3, A), (3, B))),)


def test_concurrent_values_all_show_and_the_greatest_identity_comes_first() -> None:
    index, *_ = two_islands()
    assert shown(index, "k") == [(3, B), (3, A)]
    assert shown(index, "other") == [(2, A)]
    assert shown(index, "unknown") == []
    assert index.conflicts() == ["k"]


def test_a_deletion_hides_what_its_author_saw_and_nothing_else() -> None:
    index = DocIndex()
    make(index, A, {"k": 1})
    island = copy(index)
    make(index, A, {"k": DELETE})
    assert shown(index, "k") == []
    change = make(island, B, {"k": 2})
    index.add(change)
    assert shown(index, "k") == [(2, B)]
    make(index, A, {"k": DELETE})
    assert shown(index, "k") == []
    assert shown(copy(index), "k") == []


def test_a_key_that_is_not_there_cannot_be_deleted() -> None:
    with pytest.raises(X0tError, match="cannot be deleted"):
        DocIndex().next_change(A, {"k": DELETE}, 0)


def test_changes_that_do_not_fit_are_refused_by_reason() -> None:
    index, base, left, right = two_islands()
    sound = index.next_change(A, {"k": 9}, 0)
    k = sound.ops[0]
    rows = [
        (sealed(sound, actor=C), "change.actor"),
        (left, "change.sequence"),
        (sealed(sound, seq=2), "change.sequence"),
        (sealed(sound, seq=4), "change.sequence"),
        (sealed(sound, deps=(right.hash,)), "change.sequence"),
        (sealed(sound, deps=(left.hash, bytes(32))), "change.ancestry"),
        (sealed(sound, start_op=5), "change.ancestry"),
        (sealed(sound, start_op=3), "change.ancestry"),
        (sealed(sound, ops=(Op("k", 9, k.preds[:1]),)), "change.ancestry"),
        (sealed(sound, ops=(Op("k", 9),)), "change.ancestry"),
        (sealed(sound, ops=(Op("k", 9, ((1, A), *k.preds)),)), "change.ancestry"),
        (sealed(sound, ops=(Op("other", 9, k.preds),)), "change.ancestry"),
        (sealed(sound, ops=(Op("new", 9, k.preds),)), "change.ancestry"),
        (sealed(sound, ops=(Op("k", 9, ((3, A), (3, C))),)), "change.ancestry"),
        (sealed(sound, deps=(left.hash,)), "change.ancestry"),
        (sealed(base, time_s=1), "change.sequence"),
    ]
    assert [refusal(index, change) for change, _ in rows] == [key for _, key in rows]
    index.admit(sound, A)


def test_what_an_author_has_not_seen_it_does_not_replace() -> None:
    index, _, left, _ = two_islands()
    blind = sealed(index.next_change(A, {"k": 9}, 0), deps=(left.hash,), start_op=4, ops=(Op("k", 9, ((3, A),)),))
    index.admit(blind, A)
    index.add(blind)
    assert shown(index, "k") == [(4, A), (3, B)]


def test_a_full_document_takes_no_new_keys_but_still_new_values() -> None:
    index = DocIndex(Limits(doc_keys=1))
    make(index, A, {"k": 1})
    assert refusal(index, index.next_change(A, {"k": 2, "l": 1}, 0)) == "change.bounds"
    make(index, A, {"k": 2})


def test_adding_a_change_whose_past_is_missing_changes_nothing() -> None:
    index, _, left, _ = two_islands()
    empty = DocIndex()
    with pytest.raises(X0tError, match="outside its own history"):
        empty.add(left)
    with pytest.raises(X0tError, match="outside its own history"):
        empty.add(sealed(left, ops=()))
    assert (len(empty), empty.heads(), shown(empty, "k")) == (0, (), [])
    assert left.hash in index
    assert left.hash not in empty


def test_undo_takes_back_one_change_after_another() -> None:
    index, base, left, right = two_islands()
    steps = [copy(index)]
    last = make(index, C, {"k": 5, "other": DELETE, "new": 1})
    assert index.last_keys() == ("k", "new", "other")
    assert index.undo() == last.hash
    assert index.dump()[-100:] == steps[0].dump()[-100:]
    assert shown(index, "k") == [(3, B), (3, A)]
    index.admit(last, C)
    index.add(last)
    assert [index.undo() for _ in range(4)] == [last.hash, right.hash, left.hash, base.hash]
    assert (index.heads(), shown(index, "k"), len(index), index.last_keys()) == ((), [], 0, ())
    index.add(base)
    assert shown(index, "k") == [(1, A)]
    with pytest.raises(IndexError):
        DocIndex().undo()


def test_more_heads_than_allowed_are_merged_over_several_changes() -> None:
    limits = Limits(change_deps=3, change_preds=2)
    index = DocIndex(limits)
    for number in range(10):
        change = DocIndex(limits).next_change(bytes([number]) * 32, {"k": number}, 0)
        index.admit(change, change.actor)
        index.add(change)
    heads = []
    while len(index.heads()) > 1:
        change = make(index, A, {"k": 1})
        heads.append(len(index.heads()))
        assert len(change.deps) <= 3
        assert len(change.ops[0].preds) <= 2
    assert heads == [8, 6, 4, 2, 1]
    assert len(shown(index, "k")) < 10


def test_history_far_back_is_searched_without_limit_on_depth() -> None:
    index = DocIndex()
    make(index, A, {"k": 0})
    island = copy(index)
    others = [make(island, B, {"k": number}) for number in range(3_000)]
    for change in others:
        make(index, A, {"mine": 1})
        index.admit(change, B)
        index.add(change)
    late = sealed(others[-1], seq=3_001, deps=(others[-1].hash,), start_op=3_002, ops=(Op("k", 1, ((3_001, B),)),))
    index.admit(late, B)
    assert shown(index, "k") == [(3_001, B)]
