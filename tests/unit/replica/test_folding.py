"""Folding: a batch costs its own size; one in the past takes back what follows it and no more."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from appliance.core.errors import X0tError
from appliance.replica.batch import SignedBatch
from appliance.replica.entries import AnnounceEntry, EntryBody
from appliance.replica.rows import NodeRow
from appliance.replica.stores import Position
from appliance.storage.view import ViewStore
from tests.sim.world import Replica
from tests.unit.replica.site import HELLO, Site, revoke


class Journal(ViewStore):
    """Remembers the places that the fold went through."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))
        self.folded: list[bytes] = []

    def begin(self, position: Position) -> None:
        self.folded.append(position[1])
        super().begin(position)


def watched(site: Site) -> tuple[Replica, Journal]:
    replica, view = site.replica(), Journal()
    replica.view = view
    replica.restart()
    view.folded.clear()
    return replica, view


def test_a_batch_at_the_end_is_folded_alone(site: Site) -> None:
    replica, view = watched(site)
    new = site.write(site.emil, HELLO)
    replica.take(new)
    assert view.folded == [new.hash]


def arrives_between(site: Site, body: EntryBody) -> tuple[SignedBatch, list[bytes]]:
    """A batch of dora's amid five of emil's that were folded before it, and those of them that follow it."""
    late = [site.write(site.emil, HELLO, at_ms=2000 + number) for number in range(5)]
    middle = site.write(site.dora, body, at_ms=2002)
    del site.mesh.batches[middle.hash]
    place = (middle.batch.hlc, middle.hash)
    return middle, [batch.hash for batch in late if (batch.batch.hlc, batch.hash) > place]


def test_an_arrival_in_the_past_that_moves_nothing_is_folded_alone(site: Site) -> None:
    middle, _ = arrives_between(site, HELLO)
    replica, view = watched(site)
    replica.take(middle)
    assert view.folded == [middle.hash]
    replica.rebuild()
    assert replica.reason(middle) is None


def test_an_arrival_in_the_past_that_changes_a_document_folds_only_what_follows_it(site: Site) -> None:
    middle, following = arrives_between(site, site.change(site.dora, site.emil, "red"))
    replica, view = watched(site)
    replica.take(middle)
    assert view.folded == [middle.hash, *following]
    assert 2 <= len(following) < 5


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_what_a_member_said_last_stands_in_whatever_order_it_came(site: Site, order: tuple[int, ...]) -> None:
    """Each lands among the others, and what each replaced comes back when it is taken away."""
    said = [site.write(site.emil, AnnounceEntry(str(n), (), ""), at_ms=1000 * n) for n in range(2)]
    said += [site.write(site.dora, AnnounceEntry(str(n), (), ""), at_ms=500 + 1000 * n) for n in range(2)]
    replica = site.mesh.replica()
    replica.take(*site.start)
    for number in order:
        replica.take(said[number])
    assert names(replica) == {site.emil.id: "1", site.dora.id: "1"}
    replica.take(site.write(site.anna, revoke(site.emil, said[0]), revoke(site.dora), after=said))
    assert names(replica) == {site.emil.id: "0"}


def names(replica: Replica) -> dict[bytes, str]:
    """What members call themselves."""
    return {row.node: row.name for row in replica.view.rows(NodeRow) if isinstance(row, NodeRow)}


def test_a_late_revocation_folds_again_from_its_cut(site: Site) -> None:
    kept = [site.write(site.emil, HELLO, at_ms=1000 + number) for number in range(3)]
    lost = [site.write(site.emil, HELLO, at_ms=2000 + number) for number in range(3)]
    gone = site.write(site.anna, revoke(site.emil, kept[-1]), at_ms=3000)
    del site.mesh.batches[gone.hash]
    replica, view = watched(site)
    replica.take(gone)
    assert view.folded == [batch.hash for batch in (*lost, gone)]
    assert [replica.reason(batch) for batch in (*kept, *lost, gone)] == [None] * 3 + ["revoked"] * 3 + [None]


def test_batches_that_arrive_together_are_folded_once(site: Site) -> None:
    replica, view = watched(site)
    new = [site.write(site.emil, AnnounceEntry(str(number), (), "")) for number in range(9)]
    replica.take(*reversed(new))
    assert view.folded == [batch.hash for batch in new]


def test_a_fault_of_the_store_is_no_verdict_on_an_entry(site: Site) -> None:
    """What a read of the disk reports stops the fold; it never becomes the reason why an entry has no effect."""
    first = site.write(site.dora, site.change(site.dora, site.emil, "one"))
    body = site.change(site.dora, site.emil, "two")
    replica = site.replica()
    replica.engine.documents.close()
    replica.view._db.execute("DELETE FROM batches WHERE hash = ?", (first.hash,))
    second = site.write(site.dora, body)
    replica.engine.take([(second, True)], replica.now_ms)
    replica.engine.commit()
    with pytest.raises(X0tError) as stopped:
        replica.engine.fold()
    assert stopped.value.key == "document.rebuild"
    assert replica.view.lookup(second.hash) is None
