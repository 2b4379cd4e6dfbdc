"""Folding: brings index and read model up to the log, one transaction at a time.

New batches behind everything that was folded are applied in order. One that lands in the past is put in its place in
rows and journal, unless what it says moves what follows: then, or when standings change, what follows is taken back by
the journal and applied again. So nobody makes others fold again by an old date alone. Rows that follow from the set of
batches alone (values of documents, forked logs, how nodes stand) are set at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from appliance.core.limits import LIMITS, Limits
from appliance.replica.admission_fold import AdmissionFold
from appliance.replica.admissions import Admissions
from appliance.replica.ancestry import Branch, Meta
from appliance.replica.authority import Authority, Span
from appliance.replica.batch import SignedBatch, Verify
from appliance.replica.documents import Documents
from appliance.replica.fold import Effects, Fold
from appliance.replica.intake import Admitted
from appliance.replica.mark_records import mark_rows
from appliance.replica.rows import DocumentRow, FrozenRow
from appliance.replica.stores import START, Indexed, Position, View

CHUNK = 500  # batches read from the log at once


class Unfolded(NamedTuple):
    """What came since the last fold. Batches by hash, with their arrival number."""

    batches: Mapping[bytes, tuple[int, Admitted]]
    branches: Sequence[tuple[int, Branch]]
    late: Sequence[tuple[bytes, bytes, int]]
    spans: Sequence[Span]  # what may have changed its effect
    resettled: bool  # standings may have changed, and with them who is frozen


class Rules(NamedTuple):
    """What entries are judged by. `verify` is a provider's."""

    mesh: bytes
    verify: Verify
    limits: Limits = LIMITS


class Folding:
    """The fold of one replica. `read(arrival)` is the log."""

    def __init__(
        self,
        rules: Rules,
        authority: Authority,
        documents: Documents,
        view: View,
        read: Callable[[int], SignedBatch],
    ) -> None:
        self._authority = authority
        self._documents = documents
        self._view = view
        self._read = read
        self._admission = AdmissionFold(rules.mesh, authority, view, rules.verify, rules.limits)
        self._admissions = Admissions(view, authority)
        self._fold = Fold(rules.mesh, authority, documents, view, self._admission)
        self._last: Position = START

    def resume(self) -> None:
        """Go on behind what the view holds."""
        self._last = self._view.last_position()
        self._admissions.load()

    def run(self, work: Unfolded) -> Effects:
        """Fold; returns the effects of the batches that are new."""
        pending = sorted(work.batches.values(), key=lambda item: item[1].meta.position)
        with self._view.transaction():
            self._index(work, pending)
            effects = self._apply(work, pending)
            self._derive({item.meta.author for _, item in pending}, everyone=work.resettled)
            self._admit(effects)
            self._view.flush()
        if pending:
            self._last = max(self._last, pending[-1][1].meta.position)
        return effects

    def _index(self, work: Unfolded, pending: Sequence[tuple[int, Admitted]]) -> None:
        self._view.add_branches(work.branches)
        self._view.add_late(work.late)
        self._view.index(Indexed(arrival, item.meta) for arrival, item in pending)
        marked = ((item.meta, item.signed.batch.entries) for _, item in pending if item.meta.mark)
        self._view.add_marks(mark_rows(self._authority, marked))

    def _apply(self, work: Unfolded, pending: Sequence[tuple[int, Admitted]]) -> Effects:
        places = [self._view.first_position(span.author, span.seq, span.after) for span in work.spans]
        start = min((place for place in places if place is not None), default=None)
        effects: Effects = {}
        for _, item in pending:
            place = item.meta.position
            past = place < self._last
            if past and (start is None or place < start) and self._fold.moves_others(item.signed, item.meta):
                start = place
            if start is not None and place >= start:
                break
            effects[item.meta.hash] = self._fold.apply(item.signed, item.meta, past=past)
        if start is None:
            return effects
        self._take_back(start)
        for signed, meta in self._from(start, work.batches):
            applied = self._fold.apply(signed, meta)
            if meta.hash in work.batches:
                effects[meta.hash] = applied
        return effects

    def _take_back(self, start: Position) -> None:
        for name, change in self._view.changes_from(start):
            self._documents.retract(name, change)
        self._view.undo_from(start)

    def _from(
        self, start: Position, unfolded: Mapping[bytes, tuple[int, Admitted]]
    ) -> Iterator[tuple[SignedBatch, Meta]]:
        while rows := self._view.from_position(start, CHUNK):
            for arrival, meta in rows:
                waiting = unfolded.get(meta.hash)
                yield (waiting[1].signed if waiting else self._read(arrival)), meta
            last = rows[-1].meta
            start = (last.hlc, last.hash + b"\0")  # the next place: longer bytes sort right after

    def _derive(self, authors: set[bytes], *, everyone: bool) -> None:
        for name, keys, rows in self._documents.settle():
            self._view.replace(DocumentRow, [(*name, key) for key in keys], rows)
        forked = [author for author in self._authority.forked_authors() if everyone or author in authors]
        self._view.replace(FrozenRow, [(author,) for author in forked], [self._frozen_row(author) for author in forked])

    def _admit(self, effects: Effects) -> None:
        """Settle who is admitted; what changed nothing there had no effect."""
        for row in self._admissions.settle(self._admission.touched()):
            if row.batch in effects:
                of_batch = effects[row.batch]
                changed = msgspec.structs.replace(of_batch[row.entry], reason=row.reason)
                effects[row.batch] = (*of_batch[: row.entry], changed, *of_batch[row.entry + 1 :])

    def _frozen_row(self, author: bytes) -> FrozenRow:
        seq = self._authority.fork_seq(author) or 1
        proof = self._view.at_seq(author, seq)
        decided = int(not self._authority.is_frozen(author))
        return FrozenRow(author=author, seq=seq, proof_a=proof[0], proof_b=proof[1], decided=decided)
