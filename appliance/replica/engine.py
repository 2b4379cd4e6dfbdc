"""Engine: the one writer of a replica. Batches in; durable log, index and read model out.

The order of its work is its promise: a batch is checked (`intake`), made durable (`commit`), and only then folded
(`fold`) and told to others. A power cut between the two loses nothing: `load` folds what the log has and the view
lacks. An arrival in the past takes back what follows it and folds that again; everything else costs by its own size.

Synchronous and not thread-safe: `service` runs it on one thread of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.ancestry import Ancestry, Meta
from appliance.replica.authoring import Authoring, Identity
from appliance.replica.authority import Authority, Span
from appliance.replica.batch import (
    Entry,
    Sign,
    SignedBatch,
    Verify,
    build_batch,
    parse_batch,
    parse_payload,
    short,
    verify_batch,
)
from appliance.replica.document_kinds import Name
from appliance.replica.documents import Documents, read_cache, read_chunks
from appliance.replica.entries import CheckpointEntry
from appliance.replica.epochs import Epochs
from appliance.replica.fold import Effects
from appliance.replica.folding import Folding, Rules, Unfolded
from appliance.replica.intake import Admitted, Intake, Missing
from appliance.replica.mark_records import load_marks
from appliance.replica.marking import Marker
from appliance.replica.parking import Parking
from appliance.replica.stores import Indexed, Log, View
from appliance.trust.grants import Role

CHUNK = 500  # batches read from the log at once


class Taken(msgspec.Struct, frozen=True):
    """What became of batches from elsewhere. A refusal names the batch (if it had a hash) and the error key."""

    admitted: tuple[Admitted, ...]
    refused: tuple[tuple[bytes | None, str], ...]
    known: int
    parked: int = 0  # of those that were given
    wanted: tuple[bytes, ...] = ()  # what these wait for


class Folded(NamedTuple):
    """What a fold brought in: effects by batch hash, and the batches in order of arrival."""

    effects: Effects
    batches: tuple[Admitted, ...]


class Engine:
    """Log, authority, fold and documents of one channel of one mesh."""

    def __init__(self, identity: Identity, log: Log, view: View, verify: Verify, limits: Limits = LIMITS) -> None:
        self.identity = identity
        self.limits = limits
        self.refused: Counter[str] = Counter()
        self._log = log
        self._view = view
        self._verify = verify
        self._reset()
        self._answering = self.authority  # whom `holds` asks: while the engine loads again, the authority before it

    def _reset(self) -> None:
        self.ancestry = Ancestry()
        self.authority = Authority(self.ancestry, self._batch_at)
        self.parking = Parking(self.limits)
        self._authoring = Authoring(self.identity, self.authority, self.limits)
        self._marker = Marker(
            self.identity.mesh, self.identity.authority_key, self.authority, self._verify, self.limits
        )
        self.intake = Intake(self.identity.mesh, self.authority, self._marker, self._find, self.limits)
        self.documents = Documents(self._chunks, self.limits, lambda name: read_cache(self._view, name))
        rules = Rules(self.identity.mesh, self._verify, self.limits)
        self._folding = Folding(rules, self.authority, self.documents, self._view, self.read)
        self._unwritten: list[Admitted] = []
        self._unfolded: dict[bytes, tuple[int, Admitted]] = {}
        self._spans: list[Span] = []
        self._resettled = False  # standings may have changed since the last fold, and with them who is frozen
        self._late: list[tuple[bytes, bytes, int]] = []

    @property
    def log(self) -> Log:
        """The log; to be read only, on the writer's thread."""
        return self._log

    @property
    def view(self) -> View:
        """Index and read model; to be read only, on the writer's thread."""
        return self._view

    def blank(self, view: View) -> Engine:
        """An engine over the same log that has yet to fold it, into an empty view."""
        return Engine(self.identity, self._log, view, self._verify, self.limits)

    # -- start

    def load(self) -> int:
        """Read the index, then fold what the log has and the view lacks; returns how many batches that were.

        A view that knows batches which the log has not (a log was put back from a backup) is made anew.
        """
        self._reset()
        if not self._view_follows():
            with self._view.scratch() as empty:
                self._view.adopt(empty)
        for branch in self._view.branches():
            self.ancestry.open_branch(branch.author, branch.parent, branch.from_seq)
        for _, meta in self._view.heads():
            if meta.branch >= len(self.ancestry.branches):
                raise error("replica.corrupt", what="view", reason="branch numbers have a gap")
            self.ancestry.extend(meta)
            self._authoring.note(meta, ())
        self._load_marks()
        self._folding.resume()
        count = 0
        done = self._view.last_arrival()
        while rows := self._log.after(done, CHUNK):
            for arrival, _, blob in rows:
                self.admit_logged(arrival, self.parse(arrival, blob))
            self.fold()
            done = rows[-1][0]
            count += len(rows)
        self._answering = self.authority
        return count

    def _view_follows(self) -> bool:
        last = self._view.last_arrival()
        row = next(iter(self._log.after(last - 1, 1)), None)
        if last == 0 or row is None or row[0] != last:
            return last == 0
        indexed = self._view.lookup(row[1])
        return indexed is not None and indexed.arrival == last

    def _load_marks(self) -> None:
        load_marks(self.authority, self._view.marks(), self._find)
        for number, branch in enumerate(self.ancestry.branches):
            if self.ancestry.branches_of(branch.author)[0] != number:
                self.authority.fork(branch.author, branch.from_seq)
        self._load_late()
        self.authority.settle()

    def _load_late(self) -> None:
        for digest, checkpoint, entry in self._view.late():
            meta = self._find(digest)
            mark = next((m for m in self.authority.by_batch.get(checkpoint, ()) if m.index == entry), None)
            if meta is not None and mark is not None:
                self.authority.close_epoch(mark, [meta])

    def admit_logged(self, arrival: int, signed: SignedBatch) -> None:
        """Take in a batch that the log holds under this number and the view lacks; `fold` is due some time after."""
        admitted = self.intake.admit(signed, None, wanted=True)
        if not isinstance(admitted, Admitted):
            raise error("replica.corrupt", what="log", reason=f"batch {short(signed.hash)} does not follow")
        self._entered(admitted)
        self._unwritten.clear()
        self._unfolded[signed.hash] = (arrival, admitted)

    # -- batches in

    def take(self, batches: Iterable[tuple[SignedBatch, bool]], now_ms: int) -> Taken:
        """Check batches from elsewhere, each with whether its signature was verified. `commit` makes them durable."""
        admitted: list[Admitted] = []
        refused: list[tuple[bytes | None, str]] = []
        known = 0
        parked: list[bytes] = []
        for signed, verified in batches:
            queue = [(signed, verified)]
            while queue:
                batch, checked = queue.pop()
                try:
                    outcome = self._take_one(batch, now_ms, verified=checked)
                except X0tError as err:
                    if err.key.startswith("replica.") and err.key != "replica.frozen":
                        raise  # our disk is at fault and not the batch
                    self.refused[err.key] += 1
                    if batch is signed:  # one that had waited came from somebody else, maybe under a forged signature
                        refused.append((batch.hash, err.key))
                    continue
                if isinstance(outcome, Admitted):
                    admitted.append(outcome)
                    queue.extend((waiting, False) for waiting in self.parking.arrived(outcome.meta.hash))
                elif outcome is None:
                    known += 1
                else:
                    parked.append(batch.hash)
        return Taken(
            admitted=tuple(admitted),
            refused=tuple(refused),
            known=known,
            parked=len(parked),
            wanted=self.parking.wanted(digest for digest in parked if digest in self.parking),
        )

    def _take_one(self, signed: SignedBatch, now_ms: int, *, verified: bool) -> Admitted | Missing | None:
        if signed.batch.channel != self.identity.channel:
            raise error("batch.channel", channel=signed.batch.channel)
        if self.intake.known(signed):
            return None
        if not verified:
            key = self.intake.author_key(signed.batch)
            if key is not None and not verify_batch(signed, key, self._verify):
                raise error("batch.signature", batch=short(signed.hash))
            verified = key is not None
        outcome = self.intake.admit(signed, now_ms, wanted=self.parking.is_wanted(signed.hash), verified=verified)
        if isinstance(outcome, Missing):
            self.parking.park(signed, outcome.hashes)
        elif isinstance(outcome, Admitted):
            self._entered(outcome)
        return outcome

    def author(self, author: bytes, entries: Sequence[Entry], sign: Sign, now_ms: int) -> Admitted:
        """Write a batch of our own after everything that this replica knows. `commit` makes it durable."""
        batch = self._authoring.draft(author, entries, now_ms)
        outcome = self.intake.admit(build_batch(batch, sign, self.limits), None, verified=True)
        if not isinstance(outcome, Admitted):
            raise error("replica.corrupt", what="log", reason="our own batch does not follow what we hold")
        self._entered(outcome)
        return outcome

    def _entered(self, admitted: Admitted) -> None:
        meta = admitted.meta
        self._authoring.note(meta, admitted.signed.batch.dependencies())
        self._unwritten.append(admitted)
        if self.authority.checkpoints:
            self._late.extend(self.authority.note_late(meta))
        if meta.mark:
            self._close_epochs(admitted)

    def _close_epochs(self, admitted: Admitted) -> None:
        for mark in self.authority.by_batch.get(admitted.meta.hash, ()):
            if isinstance(mark.body, CheckpointEntry) and mark.void is None:
                late = self.epochs().close(mark, admitted.signed.batch)
                self._late.extend((meta.hash, mark.meta.hash, mark.index) for meta in late)
                self.authority.close_epoch(mark, late)

    def epochs(self) -> Epochs:
        """What checkpoints cover, by all that was taken in."""
        pending = {digest: admitted for digest, (_, admitted) in self._unfolded.items()}
        pending.update((admitted.meta.hash, admitted) for admitted in self._unwritten)
        return Epochs(self.read, self._view, pending, self.authority)

    def commit(self) -> tuple[Admitted, ...]:
        """Make everything that was taken or authored durable. After a failure the engine must be loaded again."""
        written, self._unwritten = self._unwritten, []
        if not written:
            return ()
        last = self._log.append([(admitted.meta.hash, admitted.signed.blob) for admitted in written])
        first = last - len(written) + 1
        for number, admitted in enumerate(written):
            self._unfolded[admitted.meta.hash] = (first + number, admitted)
        return tuple(written)

    @property
    def unfolded(self) -> int:
        """Batches that are durable and not yet folded."""
        return len(self._unfolded)

    def unfolded_batches(self) -> tuple[Admitted, ...]:
        """Batches that are durable and not yet folded, in order of arrival."""
        return tuple(admitted for _, admitted in sorted(self._unfolded.values(), key=lambda item: item[0]))

    # -- fold

    def fold(self) -> Folded:
        """Bring index and read model up to the log; returns what is new to them."""
        self._resettled = self._resettled or self.authority.is_unsettled
        self._spans.extend(self.authority.settle())
        if not self._unfolded and not self._spans:
            return Folded({}, ())
        work = Unfolded(self._unfolded, self.intake.new_branches, self._late, self._spans, self._resettled)
        effects = self._folding.run(work)
        arrived = self.unfolded_batches()
        self._unfolded.clear()
        self._spans, self._late, self.intake.new_branches = [], [], []
        self._resettled = False
        return Folded(effects, arrived)

    # -- reading

    def holds(self, key: bytes, need: Role, now_ms: int) -> bool:
        """True if the key holds the role now, by all that this replica has seen. Safe from any thread."""
        return self._answering.holds(key, need, now_ms)

    def key_of(self, node: bytes) -> bytes | None:
        """The public key of a node that some grant names. Safe from any thread."""
        return self._answering.key_of(node)

    @property
    def max_hlc(self) -> int:
        """The greatest clock reading in the log."""
        return self._authoring.clock

    def close(self) -> None:
        """Close both stores. Documents are saved for the next start; where that fails it reads them from the log."""
        with suppress(X0tError), self._view.transaction():
            self._view.keep_documents(self.documents.caches())
        self._view.close()
        self._log.close()

    def _find(self, digest: bytes) -> Meta | None:
        found = self._unfolded.get(digest)
        if found is not None:
            return found[1].meta
        indexed = self._view.lookup(digest)
        if indexed is None:
            return None
        return msgspec.structs.replace(indexed.meta, reach=self.ancestry.intern(indexed.meta.reach))

    def _batch_at(self, branch: int, seq: int) -> Meta | None:
        waiting = (*(item for _, item in self._unfolded.values()), *self._unwritten)
        found = next((item.meta for item in waiting if item.meta.branch == branch and item.meta.seq == seq), None)
        return found or self._view.batch_at(branch, seq)

    def read(self, arrival: int) -> SignedBatch:
        """A batch by its arrival number."""
        return self.parse(arrival, self._log.blob(arrival))

    def parse(self, arrival: int, blob: bytes | None) -> SignedBatch:
        """A batch as the log holds it: signed, or (`blob` None: archived) by its payload only, without a signature."""
        if blob is not None:
            return parse_batch(blob, self.limits)
        payload = self._log.payload(arrival)
        if payload is None:
            raise error("replica.corrupt", what="log", reason=f"batch number {arrival} is empty")
        return parse_payload(payload, self.limits)

    def _chunks(self, name: Name) -> Iterator[bytes]:
        return read_chunks(self._view, self._read_indexed, name)

    def _read_indexed(self, row: Indexed) -> SignedBatch:
        waiting = self._unfolded.get(row.meta.hash)
        return waiting[1].signed if waiting else self.read(row.arrival)
