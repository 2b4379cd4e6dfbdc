"""History of a document: what each change did, so that replaying it gives the document at every place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.replica.change_codec import Change, Scalar, decode_change
from appliance.replica.document_kinds import NODES
from appliance.replica.documents import Documents
from appliance.replica.entries import ChangeEntry
from appliance.replica.history import DocumentChange, History
from appliance.replica.queries import Queries, read_change
from appliance.replica.rows import ChangeRow
from tests.unit.replica.service_rig import Node
from tests.unit.replica.site import Site

AUTHORS = [bytes([number]) * 32 for number in range(3)]
KEYS = ("a", "b", "c")
VALUES: tuple[Scalar, ...] = (True, 1, "1", b"1", None, False, 0)


@dataclass
class Island:
    """A document that some of the authors write, and the changes that it has in the order of the fold."""

    documents: Documents = field(default_factory=lambda: Documents(lambda _name: ()))
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)

    def write(self, author: bytes, puts: dict[str, Scalar], deletes: tuple[str, ...]) -> None:
        chunk = self.documents.edit(NODES, puts, deletes, author, 0)
        self.take(author, chunk)

    def take(self, author: bytes, chunk: bytes) -> None:
        self.documents.admit(NODES, decode_change(chunk), chunk, author)
        self.chunks.append((author, chunk))

    def values(self) -> dict[str, Scalar]:
        return self.documents.values(NODES, "")


@st.composite
def lines(draw: st.DrawFn) -> list[tuple[int, dict[str, Scalar], tuple[str, ...]]]:
    """Edits of three authors who hear of one another now and then: (author, puts, keys to delete)."""
    step = st.tuples(
        st.integers(0, 5),
        st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=2),
        st.lists(st.sampled_from(KEYS), max_size=2, unique=True).map(tuple),
    )
    return draw(st.lists(step, max_size=12))


def woven(edits: list[tuple[int, dict[str, Scalar], tuple[str, ...]]]) -> list[tuple[bytes, bytes]]:
    """The chunks of such edits, in an order that every replica could fold them in."""
    islands = {author: Island() for author in AUTHORS}
    everything: list[tuple[bytes, bytes]] = []
    for who, puts, deletes in edits:
        island = islands[AUTHORS[who % 3]]
        if who < 3:  # it has heard of all that there is
            for author, chunk in everything:
                if (author, chunk) not in island.chunks:
                    island.take(author, chunk)
        held = island.values()
        gone = tuple(key for key in deletes if key in held and key not in puts)
        if puts or gone:
            island.write(AUTHORS[who % 3], puts, gone)
            everything.append(island.chunks[-1])
    return everything


def rows_of(chunks: list[tuple[bytes, bytes]]) -> list[ChangeRow]:
    return [
        ChangeRow(*NODES, decode_change(chunk).hash, bytes([place]) * 32, 0, place)
        for place, (_, chunk) in enumerate(chunks)
    ]


def reader(chunks: list[tuple[bytes, bytes]]) -> dict[bytes, tuple[bytes, Change]]:
    return {(change := decode_change(chunk)).hash: (author, change) for author, chunk in chunks}


def replay(changes: tuple[DocumentChange, ...]) -> list[dict[str, Scalar]]:
    """The document after each change."""
    values: dict[str, Scalar] = {}
    after = []
    for change in changes:
        values = {key: value for key, value in values.items() if key not in change.deletes} | change.puts
        after.append(values)
    return after


def exact(values: dict[str, Scalar]) -> list[tuple[str, type, Scalar]]:
    """Values with their types: true and 1 are not the same."""
    return sorted((key, type(value), value) for key, value in values.items())  # keys differ: no values are compared


@given(edits=lines())
def test_replaying_the_history_gives_the_document_at_every_place(
    edits: list[tuple[int, dict[str, Scalar], tuple[str, ...]]],
) -> None:
    chunks = woven(edits)
    history, known = History(), reader(chunks)
    history.follow(rows_of(chunks), lambda row: known[row.change])
    document = Island()
    for number, (author, chunk) in enumerate(chunks):
        document.take(author, chunk)
        assert exact(replay(history.changes)[number]) == exact(document.values())


@given(edits=lines(), data=st.data())
def test_a_history_that_grows_and_is_cut_is_the_same_as_one_that_is_made_at_once(
    edits: list[tuple[int, dict[str, Scalar], tuple[str, ...]]], data: st.DataObject
) -> None:
    chunks = woven(edits)
    rows, known = rows_of(chunks), reader(chunks)
    history = History()
    for _ in range(3):
        end = data.draw(st.integers(0, len(rows)))
        history.follow(rows[:end], lambda row: known[row.change])
        whole = History()
        whole.follow(rows[:end], lambda row: known[row.change])
        assert history.changes == whole.changes


def test_what_is_new_costs_what_is_new_and_what_stays_is_the_same_object() -> None:
    chunks = woven([(0, {"a": number}, ()) for number in range(4)])
    rows, known, read = rows_of(chunks), reader(chunks), list[bytes]()
    history = History()

    def reading(row: ChangeRow) -> tuple[bytes, Change]:
        read.append(row.change)
        return known[row.change]

    history.follow(rows[:3], reading)
    before = history.changes
    history.follow(list(rows[:3]), reading)
    assert history.changes is before
    history.follow(rows, reading)
    assert all(one is other for one, other in zip(before, history.changes, strict=False))
    assert read == [row.change for row in rows]


def test_an_error_on_the_way_leaves_a_history_that_begins_anew() -> None:
    chunks = woven([(0, {"a": 1}, ()), (1, {"b": 2}, ()), (2, {"a": 3}, ())])
    rows, known = rows_of(chunks), reader(chunks)
    history, nothing = History(), dict[bytes, tuple[bytes, Change]]()
    with pytest.raises(KeyError):
        history.follow(rows, lambda row: nothing[row.change])
    history.follow(rows[:1], lambda row: known[row.change])
    with pytest.raises(KeyError):
        history.follow(rows, lambda row: nothing[row.change])
    history.follow(rows, lambda row: known[row.change])
    assert [change.puts for change in history.changes] == [{"a": 1}, {"b": 2}, {"a": 3}]


def test_a_change_that_changes_nothing_that_shows_is_there_and_empty() -> None:
    """Two set the same value, and two delete the same key, without knowing of one another."""
    chunks = woven([(3, {"a": 1}, ()), (4, {"a": 1}, ()), (0, {}, ("a",)), (4, {}, ("a",))])
    history, known = History(), reader(chunks)
    history.follow(rows_of(chunks), lambda row: known[row.change])
    effects = [(change.puts, change.deletes) for change in history.changes]
    assert effects == [({"a": 1}, ()), ({}, ()), ({}, ("a",)), ({}, ())]


def test_each_change_has_its_author_its_place_and_what_it_follows(site: Site) -> None:
    first = site.write(site.dora, site.change(site.dora, site.emil, "red"))
    second = site.write(site.anna, site.change(site.anna, site.emil, "blue"), after=[first])
    engine = site.replica().engine
    history = History()
    history.follow(engine.view.changes_of(NODES), lambda row: read_change(engine, row))
    one, two = history.changes
    tag = f"{NodeId(site.emil.id)}/tag/"
    assert (one.author, one.hlc, one.batch) == (site.dora.id, first.batch.hlc, first.hash)
    assert (two.author, two.batch, two.deps) == (site.anna.id, second.hash, (one.change,))
    assert (one.puts, two.puts) == ({tag + "red": True}, {tag + "blue": True})


def test_a_change_that_is_not_in_the_log_is_a_damaged_view(site: Site) -> None:
    batch = site.write(site.dora, site.change(site.dora, site.emil, "red"), ChangeEntry(*NODES, b"x"))
    engine = site.replica().engine
    row = ChangeRow(*NODES, bytes(32), b"?" * 32, 0, 1)
    with pytest.raises(X0tError) as stopped:
        read_change(engine, row)
    assert stopped.value.key == "replica.corrupt"
    assert batch.hash != row.batch


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path)
    made.member.tag(made.bert, "red")
    return made


async def test_the_history_is_asked_for_again_only_when_something_was_written(node: Node) -> None:
    async with node.live() as replica:
        ask = Queries(replica)
        first = await ask.history(NODES)
        assert [list(change.puts.values()) for change in first] == [[True]]
        assert await ask.history(NODES) is first
        assert await ask.history(NODES, after=1) == ()
