"""Documents during the fold: what `nodes` may hold, who may write which key, and values that come and go."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from appliance.core.errors import X0tError
from appliance.core.ids import NodeId
from appliance.replica.change_codec import Change, Scalar, decode_change
from appliance.replica.document_kinds import NODES, Name
from appliance.replica.documents import Cached, Documents, actor_id
from appliance.replica.entries import ChangeEntry, GrantEntry
from appliance.replica.rows import DocumentRow
from appliance.trust.grants import Role
from tests.sim.world import Member, Replica
from tests.unit.replica.site import Site

ANNA, BERT = bytes(32), b"b" * 32
NODE = str(NodeId(bytes(range(32))))
TAG, NAME = f"{NODE}/tag/press-1", f"{NODE}/name"


class Log:
    """The changes that have effect, as the engine would read them from the log."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.documents = Documents(self.read)
        self.reads = 0

    def read(self, name: Name) -> Iterable[bytes]:
        self.reads += 1
        return list(self.chunks)

    def edit(self, author: bytes, puts: dict[str, Scalar], deletes: tuple[str, ...] = ()) -> bytes:
        return self.documents.edit(NODES, puts, deletes, author, 0)

    def admit(self, author: bytes, chunk: bytes) -> Change:
        change = self.documents.decode(ChangeEntry(*NODES, chunk))
        self.documents.admit(NODES, change, chunk, author)
        self.chunks.append(chunk)
        return change

    def write(self, author: bytes, puts: dict[str, Scalar], deletes: tuple[str, ...] = ()) -> Change:
        return self.admit(author, self.edit(author, puts, deletes))

    def retract(self, change: Change) -> None:
        self.documents.retract(NODES, change.hash)
        self.chunks.pop()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.mark.parametrize(
    "key, value",
    [
        pytest.param(TAG, True, id="a tag"),
        pytest.param(f"{NODE}/tag/{'a' * 63}", True, id="the longest tag"),
        pytest.param(NAME, "Press 1", id="a name"),
        pytest.param(NAME, "x" * 64, id="the longest name"),
    ],
)
def test_nodes_holds_tags_and_names(log: Log, key: str, value: Scalar) -> None:
    log.write(ANNA, {key: value})
    assert log.documents.values(NODES, NODE) == {key: value}


@pytest.mark.parametrize(
    "key, value",
    [
        pytest.param(f"{NODE}/colour", True, id="another field"),
        pytest.param("hello", True, id="no node"),
        pytest.param(f"{NODE[:-1]}/tag/red", True, id="a node id too short"),
        pytest.param(f"{NODE}/tag/Red", True, id="a tag in capitals"),
        pytest.param(f"{NODE}/tag/-red", True, id="a tag that begins with a hyphen"),
        pytest.param(f"{NODE}/tag/{'a' * 64}", True, id="a tag too long"),
        pytest.param(f"{NODE}/tag/red\n", True, id="a line break after a tag"),
        pytest.param(TAG, False, id="a tag that is not so"),
        pytest.param(TAG, 1, id="a tag that is a number"),
        pytest.param(NAME, "", id="an empty name"),
        pytest.param(NAME, "x" * 65, id="a name too long"),
        pytest.param(NAME, None, id="no name"),
        pytest.param(NAME, b"x", id="a name in bytes"),
    ],
)
def test_nodes_holds_nothing_else(log: Log, key: str, value: Scalar) -> None:
    change = decode_change(log.edit(ANNA, {key: value}))
    with pytest.raises(X0tError) as refused:
        log.documents.scope(NODES, change)
    assert refused.value.key == "document.schema"


@pytest.mark.parametrize(
    "puts, deletes, scope",
    [
        ({TAG: True}, (), {"press-1"}),
        ({TAG: True, f"{NODE}/tag/red": True}, (), {"press-1", "red"}),
        ({}, (TAG,), {"press-1"}),
        ({NAME: "x"}, (), set()),
        ({NAME: "x", TAG: True}, (), set()),
    ],
    ids=["a tag", "two tags", "a tag that goes", "a name is of the whole mesh", "so is what holds one"],
)
def test_the_scope_of_a_change_is_its_tags(
    log: Log, puts: dict[str, Scalar], deletes: tuple[str, ...], scope: set[str]
) -> None:
    log.write(ANNA, {TAG: True})
    assert log.documents.scope(NODES, decode_change(log.edit(ANNA, puts, deletes))) == scope


@pytest.mark.parametrize("name", [("nodes", 1), ("Nodes", 0), ("policy", 1)])
def test_there_are_no_other_documents(log: Log, name: Name) -> None:
    with pytest.raises(X0tError) as refused:
        log.documents.decode(ChangeEntry(*name, log.edit(ANNA, {TAG: True})))
    assert refused.value.key == "document.unknown"


def test_a_change_is_bound_to_author_document_and_epoch(log: Log) -> None:
    chunk = log.edit(ANNA, {TAG: True})
    with pytest.raises(X0tError) as refused:
        log.admit(BERT, chunk)
    assert refused.value.key == "change.actor"
    assert len({actor_id(ANNA, "nodes", 0), actor_id(BERT, "nodes", 0), actor_id(ANNA, "nodes", 1)}) == 3
    assert list(log.documents.settle()) == []


def test_settling_gives_the_touched_keys_once_and_their_rows(log: Log) -> None:
    log.write(ANNA, {NAME: "one", TAG: True})
    log.write(ANNA, {NAME: "two"}, (TAG,))
    row = DocumentRow("nodes", 0, NAME, '"two"', ())
    assert list(log.documents.settle()) == [(NODES, [NAME, TAG], [row])]
    assert list(log.documents.settle()) == []


def test_values_set_side_by_side_are_one_winner_and_its_rivals(log: Log) -> None:
    texts = {ANNA: "one", BERT: "two", b"c" * 32: "one"}
    chunks = [(author, log.edit(author, {NAME: text})) for author, text in texts.items()]
    for author, chunk in chunks:
        log.admit(author, chunk)
    [(_, _, [row])] = log.documents.settle()
    assert {row.value, *row.rivals} == {'"one"', '"two"'}
    assert len(row.rivals) == 1


def test_what_is_taken_back_is_as_if_it_had_never_been(log: Log) -> None:
    log.write(ANNA, {NAME: "one"})
    before = list(log.documents.settle())
    second = log.write(BERT, {NAME: "two", TAG: True})
    log.retract(second)
    assert list(log.documents.settle()) == [(NODES, [NAME, TAG], before[0][2])]
    assert log.documents.values(NODES, "") == {NAME: "one"}
    log.write(BERT, {NAME: "three"})
    assert log.documents.values(NODES, "") == {NAME: "three"}


def test_only_the_last_change_can_be_taken_back(log: Log) -> None:
    first = log.write(ANNA, {NAME: "one"})
    log.write(BERT, {NAME: "two"})
    with pytest.raises(X0tError) as refused:
        log.documents.retract(NODES, first.hash)
    assert refused.value.key == "replica.corrupt"


def test_a_document_is_read_from_the_log_when_it_is_first_needed_and_after_it_was_closed(log: Log) -> None:
    log.write(ANNA, {NAME: "one"})
    log.documents.close()
    assert log.documents.values(NODES, "") == {NAME: "one"}
    assert log.documents.values(NODES, "") == {NAME: "one"}
    assert log.reads == 2


def test_a_document_in_which_automerge_failed_is_read_again_from_the_log(log: Log) -> None:
    log.write(ANNA, {NAME: "one"})
    log.documents._document(NODES)._closed(None)  # as after a panic
    assert log.documents.values(NODES, "") == {NAME: "one"}
    log.documents._document(NODES)._closed(None)
    log.write(BERT, {NAME: "two"})
    log.documents._document(NODES)._closed(None)
    assert list(log.documents.settle()) == [(NODES, [NAME], [DocumentRow("nodes", 0, NAME, '"two"', ())])]


# ---- who may write what


def rows(replica: Replica) -> list[str]:
    return [row.key.rpartition("/")[2] for row in replica.view.rows(DocumentRow) if isinstance(row, DocumentRow)]


@pytest.mark.parametrize(
    "who, tags, reason",
    [
        ("anna", ("red", "blue"), None),
        ("dora", ("red", "blue"), None),
        ("emil", ("red",), "role"),
        ("scoped", ("red",), None),
        ("scoped", ("red", "blue"), "role"),
        ("scoped", ("blue",), "role"),
    ],
)
def test_an_admin_tags_within_the_scope_of_its_grant(
    site: Site, who: str, tags: tuple[str, ...], reason: str | None
) -> None:
    author = scoped_admin(site) if who == "scoped" else site.mesh.member(who)
    replica = site.replica()
    puts = {f"{NodeId(site.emil.id)}/tag/{tag}": True for tag in tags}
    chunk = replica.engine.documents.edit(NODES, puts, [], author.id, 0)
    batch = site.write(author, ChangeEntry(*NODES, chunk))
    assert site.reason(batch) == reason
    assert rows(site.replica()) == ([] if reason else sorted(tags))


def test_a_scoped_admin_gives_no_names(site: Site) -> None:
    author = scoped_admin(site)
    chunk = site.replica().engine.documents.edit(NODES, {f"{NodeId(site.emil.id)}/name": "x"}, [], author.id, 0)
    assert site.reason(site.write(author, ChangeEntry(*NODES, chunk))) == "role"


def scoped_admin(site: Site) -> Member:
    author = site.mesh.member("scoped")
    grant = site.mesh.grant(site.anna, author, Role.ADMIN, parent=site.grants["anna"], scope=("red",))
    granted = site.write(site.anna, GrantEntry(grant))
    site.start.append(granted)
    return author


def test_a_damaged_change_in_the_log_stops_the_fold(log: Log) -> None:
    log.write(ANNA, {NAME: "one"})
    other = Log()
    change = decode_change(log.chunks[0])
    other.chunks = [msgspec.structs.replace(change, deps=(bytes(32),)).actor]
    with pytest.raises(X0tError) as refused:
        other.documents.values(NODES, "")
    assert refused.value.key == "document.rebuild"


def test_a_document_comes_back_from_its_cache_and_from_the_log_where_that_does_not_fit(log: Log) -> None:
    changes = tuple(change.hash for change in (log.write(ANNA, {NAME: "one"}), log.write(BERT, {TAG: True})))
    ((name, saved),) = log.documents.caches()
    assert name == NODES
    for cached, reads in (
        (Cached(saved, changes), 0),
        (Cached(saved, changes[:1]), 1),
        (Cached(saved, changes[::-1]), 1),
        (Cached(saved[:-1] + b"!", changes), 1),
        (None, 1),
    ):
        log.reads = 0
        again = Documents(log.read, cached={NODES: cached}.get)
        assert again.values(NODES, "") == {NAME: "one", TAG: True}
        assert log.reads == reads


def test_after_a_crash_a_document_is_read_from_the_log_and_goes_on(site: Site) -> None:
    first = site.write(site.dora, site.change(site.dora, site.emil, "red"))
    replica = site.replica()
    replica.restart()
    assert replica.engine.documents.values(NODES, "") == {f"{NodeId(site.emil.id)}/tag/red": True}
    second = site.write(site.dora, site.change(site.dora, site.emil, "blue"), after=[first])
    replica.restart()
    replica.take(second)
    assert (replica.reason(second), rows(replica)) == (None, ["blue", "red"])
