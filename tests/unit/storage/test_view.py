"""The view store: an undo journal that is an exact inverse, copies that are whole, and a view that is never wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import IntegrityError, UnavailableError
from appliance.replica.ancestry import Branch, Meta
from appliance.replica.rows import DocumentRow, FrozenRow, GrantRow, NodeRow, NoEffectRow, Row, ThawRow
from appliance.replica.stores import Indexed
from appliance.storage.index import pack_reach, unpack_reach
from appliance.storage.view import ViewStore


@pytest.fixture
def view(tmp_path: Path) -> Iterator[ViewStore]:
    store = ViewStore(tmp_path / "view.db")
    yield store
    store.close()


def key(number: int) -> bytes:
    return bytes([number]) * 32


small = st.integers(0, 3)
words = st.sampled_from(["", "one", "two", "drei\u2028"])
nodes = st.builds(
    NodeRow,
    node=small.map(key),
    name=words,
    endpoints=st.lists(words, max_size=2).map(tuple),
    software=words,
    batch=small.map(key),
)
thaws = st.builds(
    ThawRow,
    batch=small.map(key),
    entry=small,
    author=small.map(key),
    owner=small.map(key),
    keep=small.map(key),
    note=words,
    reason=words,
)
grants = st.builds(
    GrantRow,
    batch=small.map(key),
    entry=small,
    grant_id=small.map(key),
    subject=small.map(key),
    issuer=small.map(key),
    roles=st.lists(words, max_size=2).map(tuple),
    scope=st.lists(words, max_size=2).map(tuple),
    delegate=small,
    depth=small,
    not_before_ms=st.integers(0, 2**47),
    not_after_ms=st.integers(0, 2**47),
    reason=words,
)
batches = st.lists(st.lists(nodes | thaws | grants, max_size=5), min_size=1, max_size=8)


def fold(view: ViewStore, hlc: int, rows: list[Row]) -> None:
    with view.transaction():
        view.begin((hlc, key(hlc)))
        for row in rows:
            view.put(row)
        view.flush()


@given(history=batches, data=st.data())
def test_undoing_gives_back_exactly_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[Row]], data: st.DataObject
) -> None:
    view = ViewStore(tmp_path_factory.mktemp("undo") / "view.db")
    states = [list(view.dump_all())]
    for number, rows in enumerate(history, start=1):
        fold(view, number, rows)
        states.append(list(view.dump_all()))
    place = len(history)
    while place:
        back = data.draw(st.integers(0, place - 1))
        with view.transaction():
            view.undo_from((back + 1, key(back + 1)))
            view.flush()
        assert list(view.dump_all()) == states[back]
        place = back
    for number, rows in enumerate(history, start=1):
        fold(view, number, rows)
    assert list(view.dump_all()) == states[-1]
    view.close()


@given(row=nodes | thaws | grants)
def test_a_row_comes_back_as_it_went(tmp_path_factory: pytest.TempPathFactory, row: Row) -> None:
    view = ViewStore(tmp_path_factory.mktemp("row") / "view.db")
    fold(view, 1, [row])
    values = [getattr(row, name) for name in row.__struct_fields__[: row.KEY]]
    assert view.get(type(row), *values) == row
    assert list(view.rows(type(row))) == [row]
    view.close()


def test_what_fails_inside_a_transaction_leaves_nothing(view: ViewStore) -> None:
    fold(view, 1, [NodeRow(key(1), "a", (), "", key(1))])
    before = list(view.dump_all())

    def fail() -> None:
        with view.transaction():
            view.begin((2, key(2)))
            view.put(NodeRow(key(1), "b", (), "", key(2)))
            view.flush()
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert list(view.dump_all()) == before
    fold(view, 3, [NodeRow(key(1), "c", (), "", key(3))])  # the journal of what failed is not written later
    with view.transaction():
        view.undo_from((3, key(3)))
    assert list(view.dump_all()) == before


def test_only_derived_rows_are_replaced(view: ViewStore) -> None:
    with pytest.raises(TypeError), view.transaction():
        view.replace(NodeRow, [], [])
    row = DocumentRow("nodes", 0, "k", "1", ("2",))
    with view.transaction():
        view.replace(DocumentRow, [("nodes", 0, "gone")], [row, DocumentRow("nodes", 0, "quiet", "1", ())])
        view.replace(FrozenRow, [], [FrozenRow(key(1), 2, key(3), key(4), 0)])
    assert view.contested() == [row]
    assert view.count(DocumentRow) == 2


def test_a_full_disk_refuses_the_fold_and_the_view_stays_as_it_was(view: ViewStore) -> None:
    fold(view, 1, [NodeRow(key(1), "a", (), "", key(1))])
    before = list(view.dump_all())
    pages = view._db.pragma("page_count")
    view._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(UnavailableError) as failed:
        fold(view, 2, [NodeRow(key(2), "x" * 200_000, (), "", key(2))])
    assert failed.value.key == "replica.disk_full"
    assert list(view.dump_all()) == before
    view._db.execute("PRAGMA max_page_count=1000000")
    fold(view, 2, [NodeRow(key(2), "x" * 200_000, (), "", key(2))])
    assert view.count(NodeRow) == 2


def test_reaches_pack_and_unpack() -> None:
    for reach in ((), ((0, 1),), ((0, 1), (5, 2**40))):
        assert unpack_reach(pack_reach(reach)) == reach


# -- the index


def meta(number: int, branch: int, seq: int, *, mark: bool = False) -> Meta:
    return Meta(hash=key(number), author=key(200 + branch), seq=seq, hlc=number, branch=branch, reach=(), mark=mark)


@pytest.fixture
def indexed(view: ViewStore) -> ViewStore:
    """Two authors; the second one's log forks at seq 2 (branches 1 and 2)."""
    rows = [meta(1, 0, 1, mark=True), meta(2, 1, 1), meta(3, 0, 2), meta(4, 1, 2), meta(5, 2, 2), meta(6, 0, 3)]
    with view.transaction():
        view.add_branches([(0, Branch(key(200), None, 1)), (1, Branch(key(201), None, 1)), (2, Branch(key(201), 1, 2))])
        view.index(Indexed(number, item) for number, item in enumerate(rows, start=1))
    return view


def test_the_index_answers_by_hash_place_author_and_arrival(indexed: ViewStore) -> None:
    found = indexed.lookup(key(3))
    assert found is not None
    assert (found.arrival, found.meta.seq, found.meta.author) == (3, 2, key(200))
    assert indexed.lookup(key(99)) is None
    assert [row.arrival for row in indexed.newest(None, 5, 3)] == [4, 3, 2]
    assert [row.arrival for row in indexed.newest(key(201), 99, 9)] == [5, 4, 2]
    assert [row.arrival for row in indexed.from_position((3, key(3)), 2)] == [3, 4]
    assert [row.arrival for row in indexed.between(key(2), key(4), 9)] == [2, 3, 4]
    assert sorted(row.meta.hash for row in indexed.heads()) == [key(4), key(5), key(6)]
    with indexed.transaction():
        indexed.add_marks([(key(4), 1, b"later"), (key(1), 0, b"first")])
    assert [(meta.hash, entry, record) for meta, entry, record in indexed.marks()] == [
        (key(1), 0, b"first"),
        (key(4), 1, b"later"),
    ]
    assert indexed.at_seq(key(201), 2) == [key(4), key(5)]
    assert indexed.first_position(key(201), 2, (4, key(4))) == (5, key(5))
    assert (indexed.last_position(), indexed.last_arrival()) == ((6, key(6)), 6)
    assert (indexed.size(), indexed.authors()) == (6, 2)


# -- copies


def test_a_snapshot_stands_still_while_the_view_moves(indexed: ViewStore) -> None:
    with indexed.snapshot() as before:
        seen = list(before.dump_all())
        fold(indexed, 9, [NodeRow(key(1), "a", (), "", key(1))])
        assert list(before.dump_all()) == seen
    assert list(indexed.dump_all()) != seen


def test_a_scratch_view_is_empty_and_gone_afterwards(indexed: ViewStore) -> None:
    with indexed.scratch() as scratch:
        assert list(scratch.dump_all()) == []
        fold(scratch, 1, [NodeRow(key(1), "a", (), "", key(1))])
        assert [path.name for path in indexed.path.parent.glob("*.scratch")] == ["view.db.scratch"]
    assert not list(indexed.path.parent.glob("*.scratch*"))


def test_two_scratch_views_at_once_do_not_meet(indexed: ViewStore) -> None:
    with indexed.scratch() as one, indexed.scratch() as other:
        fold(one, 1, [NodeRow(key(1), "a", (), "", key(1))])
        assert list(other.dump_all()) == []
        assert sorted(path.name for path in indexed.path.parent.glob("*.scratch")) == [
            "view.db.scratch",
            "view.db1.scratch",
        ]
    assert not list(indexed.path.parent.glob("*.scratch*"))


def test_what_a_crash_leaves_of_a_scratch_view_goes_at_the_next_start(tmp_path: Path) -> None:
    for suffix in (".scratch", ".scratch-wal", ".scratch-shm", "1.scratch"):
        (tmp_path / f"view.db{suffix}").write_bytes(b"left behind")
    ViewStore(tmp_path / "view.db").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["view.db"]


def test_adopting_makes_an_exact_copy_and_says_that_something_moved(indexed: ViewStore) -> None:
    before = indexed.changes()
    with indexed.scratch() as scratch:
        fold(scratch, 1, [NodeRow(key(1), "a", (), "", key(1)), NoEffectRow(key(1), 0, key(2), 1, 1, "x", "role")])
        wanted = list(scratch.dump_all())
        indexed.adopt(scratch)
    assert list(indexed.dump_all()) == wanted
    assert indexed.changes() != before
    assert indexed.without_effect(5) == [NoEffectRow(key(1), 0, key(2), 1, 1, "x", "role")]
    fold(indexed, 2, [NodeRow(key(1), "b", (), "", key(1))])
    indexed.close()
    again = ViewStore(indexed.path)
    assert again._db.pragma("journal_mode") == "wal"
    assert again.get(NodeRow, key(1)) == NodeRow(key(1), "b", (), "", key(1))
    again.close()


def test_damage_is_found_and_coded(tmp_path: Path) -> None:
    store = ViewStore(tmp_path / "view.db")
    fold(store, 1, [NodeRow(bytes([n]) * 32, "x" * 500, (), "", key(1)) for n in range(100)])
    store.close()
    data = bytearray((tmp_path / "view.db").read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 8] = b"\xff" * 8
    (tmp_path / "view.db").write_bytes(data)
    with pytest.raises(IntegrityError) as failed, closing(ViewStore(tmp_path / "view.db")) as damaged:
        list(damaged.dump_all())
    assert failed.value.key == "replica.corrupt"
