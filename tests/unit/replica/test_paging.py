"""Pages of the log for a peer: what it lacks, in fold order, up to a size, and no more work than that."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.replica import paging
from appliance.replica.batch import SignedBatch, parse_batch
from appliance.replica.paging import read_batches, read_page
from appliance.replica.reports import Page
from appliance.replica.stores import START, Indexed, Position
from appliance.storage.view import ViewStore
from tests.sim.world import Replica
from tests.unit.replica.site import HELLO, Site, fork


class Lacks(NamedTuple):
    after: int
    heads: frozenset[bytes] = frozenset()


class Peer:
    """A peer that lacks these batches; `gaps` as sync would say it."""

    def __init__(self, lacking: list[SignedBatch], gaps: dict[bytes, Lacks] | None = None) -> None:
        self.gaps = gaps
        self.lacking = {batch.hash for batch in lacking}

    def __call__(self, author: bytes, seq: int, digest: bytes, /) -> bool:
        return digest not in self.lacking


class CountedView(ViewStore):
    """Counts the index rows that were read."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))
        self.read = 0

    def from_position(self, position: Position, limit: int) -> list[Indexed]:
        rows = super().from_position(position, limit)
        self.read += len(rows)
        return rows


def in_order(batches: list[SignedBatch]) -> list[SignedBatch]:
    return sorted(batches, key=lambda batch: (batch.batch.hlc, batch.hash))


def counted(replica: Replica) -> CountedView:
    view = CountedView()
    replica.view = view
    replica.restart()
    view.read = 0
    return view


def page(site: Site, peer: Peer, cursor: Position = START, max_bytes: int = 1 << 20) -> Page:
    replica = site.replica()
    return read_page(replica.log, replica.view, cursor, peer, max_bytes)


def test_a_peer_with_nothing_gets_all_in_the_order_of_the_fold(site: Site) -> None:
    everything = in_order(list(site.mesh.batches.values()))
    last = everything[-1]
    assert page(site, Peer(everything)) == Page(
        blobs=tuple(batch.blob for batch in everything),
        heads=tuple((batch.batch.author, batch.batch.seq, batch.hash) for batch in everything),
        cursor=(last.batch.hlc, last.hash),
        done=True,
    )


def test_pages_follow_on_one_another_and_none_is_larger_than_asked(site: Site) -> None:
    everything = in_order(list(site.mesh.batches.values()))
    cursor, got, sizes = START, list[bytes](), list[int]()
    while True:
        part = page(site, Peer(everything), cursor, 20_000)
        got += part.blobs
        sizes.append(sum(map(len, part.blobs)))
        cursor = part.cursor
        if part.done:
            break
    assert got == [batch.blob for batch in everything]
    assert len(sizes) > 1
    assert max(sizes) <= 20_000


def test_a_batch_larger_than_a_page_still_goes_alone(site: Site) -> None:
    first = page(site, Peer(site.start), START, 1)
    assert (first.blobs, first.done) == ((site.start[0].blob,), False)


@pytest.mark.parametrize("many", [False, True], ids=["aimed", "from the beginning"])
def test_what_a_peer_has_is_left_out(site: Site, many: bool) -> None:
    lacking = [site.write(site.emil, HELLO), site.write(site.dora, HELLO)]
    gaps = {batch.batch.author: Lacks(batch.batch.seq - 1) for batch in lacking}
    if many:
        gaps |= {number.to_bytes(32): Lacks(0) for number in range(paging.AIMED_GAPS)}
    assert page(site, Peer(lacking, gaps)).blobs == tuple(batch.blob for batch in in_order(lacking))


def test_a_gap_costs_the_rows_from_its_first_batch_on(site: Site) -> None:
    for _ in range(50):
        site.write(site.emil, HELLO)
    lacking = [site.write(site.emil, HELLO) for _ in range(3)]
    replica = site.replica()
    view = counted(replica)
    gaps = {site.emil.id: Lacks(lacking[0].batch.seq - 1)}
    found = read_page(replica.log, replica.view, START, Peer(lacking, gaps), 1 << 20)
    assert (len(found.blobs), view.read) == (3, 3)


def test_a_branch_that_a_peer_lacks_is_found_by_its_head(site: Site) -> None:
    left, right = fork(site, site.emil)
    site.write(site.emil, HELLO, prev=right)
    gaps = {site.emil.id: Lacks(2, frozenset({left.hash}))}
    assert page(site, Peer([left], gaps)).blobs == (left.blob,)


def test_gaps_in_what_nobody_has_here_are_no_gaps(site: Site) -> None:
    found = page(site, Peer([], {bytes(32): Lacks(0, frozenset({bytes(32)}))}))
    assert (found.blobs, found.done) == ((), True)


def test_batches_are_found_by_their_hashes_and_the_unknown_left_out(site: Site) -> None:
    replica, batch = site.replica(), site.start[2]
    found = read_batches(replica.log, replica.view, [bytes(32), batch.hash])
    assert found == ((batch.hash, batch.blob),)
    assert parse_batch(found[0][1] or b"") == batch


def test_what_was_archived_is_left_out_and_the_page_names_the_archive(site: Site) -> None:
    replica, batch = site.replica(), site.start[2]
    indexed = replica.view.lookup(batch.hash)
    assert indexed is not None
    replica.log.prune([(indexed.arrival, batch.payload)], 1)
    found = read_page(replica.log, replica.view, START, Peer(site.start), 1 << 20)
    assert (batch.blob in found.blobs, len(found.blobs), found.archived_epoch) == (False, len(site.start) - 1, 1)
    assert read_batches(replica.log, replica.view, [batch.hash]) == ((batch.hash, None),)
