"""Standings: whether each mark has effect, settled from the set of marks alone.

A mark is OUT if something IN voids it, IN if nothing that is not OUT voids it and one of its supports is IN (the
grounded semantics of Dung, 1995). What is left are circles of revocations; in a circle the most junior mark loses,
again and again, until none is left. docs/adr/0010 has the rules in plain words, the literature, and what was weighed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from appliance.core.clock import hlc_ms
from appliance.replica.ancestry import Ancestry, Fork, Meta
from appliance.replica.circles import source_circles
from appliance.replica.entries import CheckpointEntry, RevokeEntry
from appliance.replica.marks import Key, Mark, Rank, Standing
from appliance.trust.grants import Role

IN, OUT, OPEN = Standing.IN, Standing.OUT, Standing.OPEN


class Standings:
    """Marks by what they bear on, and the rules that judge them."""

    def __init__(self, ancestry: Ancestry, batch_at: Callable[[int, int], Meta | None]) -> None:
        """`batch_at(branch, seq)` is the index of the log."""
        self.ancestry = ancestry
        self._batch_at = batch_at
        self.marks: list[Mark] = []  # in fold order
        self.grants: dict[bytes, list[Mark]] = {}  # by subject
        self.revocations: dict[bytes, list[Mark]] = {}  # by target
        self.thaws: dict[bytes, list[Mark]] = {}  # by frozen author
        self.checkpoints: list[Mark] = []
        self._covered: dict[tuple[Key, bytes], bool] = {}  # what was asked of checkpoints, until one is added
        self._sides: dict[tuple[Key, int, tuple[int, ...]], frozenset[int]] = {}
        self.late: dict[bytes, tuple[Meta, list[Mark]]] = {}  # by hash: batches, and checkpoints that left them out

    def precedes(self, grant: Mark, meta: Meta) -> bool:
        """True if a grant was given in the batch's past, or comes with the batch from the mesh authority itself."""
        return self.ancestry.precedes(grant.meta, meta) or (grant.root and grant.meta.hash == meta.hash)

    def is_stuck(self, meta: Meta) -> bool:
        """True if the batch is frozen, and no decision or checkpoint that we hold could ever change that."""
        for fork in self.ancestry.forks_before(meta):
            thaws = (thaw.keep for thaw in self.thaws.get(meta.author, ()) if thaw.keep is not None)
            kept = any(
                keep.seq >= fork.seq and self.ancestry.branch_at(keep.branch, fork.seq) == fork.own for keep in thaws
            )
            if not kept and not any(self._covers(checkpoint, meta) for checkpoint in self.checkpoints):
                return True
        return False

    def _forget(self) -> None:
        """Checkpoints or what came late to them have changed."""
        self._covered.clear()
        self._sides.clear()

    def _settle_all(self) -> None:
        for mark in self.marks:
            mark.standing, mark.reason, mark.stuck = OPEN, "", self.is_stuck(mark.meta)
        waits: dict[Mark, set[Mark]] = {}  # what each open mark waits for
        waiters: dict[Mark, set[Mark]] = {}  # who waits for each, now or earlier
        due: list[Mark] = self.marks
        while due or waits:
            decided = [] if due else self._break_circles(waits)
            for mark in due:
                self._open_or_decide(mark, waits, waiters, decided)
            again = {waiter for mark in decided for waiter in waiters.pop(mark, ()) if _concerns(mark, waiter, waits)}
            due = sorted(again, key=lambda mark: mark.key)
        for mark in self.marks:  # of several reasons, the same one in whatever order they were found
            if mark.standing is OUT and mark.reason != "conflict":
                mark.reason = self._judge(mark, [])[1]

    def _open_or_decide(
        self, mark: Mark, waits: dict[Mark, set[Mark]], waiters: dict[Mark, set[Mark]], decided: list[Mark]
    ) -> None:
        waits_for: list[Mark] = []
        mark.standing, mark.reason = self._judge(mark, waits_for)
        if mark.standing is OPEN:
            waits[mark] = set(waits_for)
            for other in waits_for:
                waiters.setdefault(other, set()).add(mark)
        else:
            waits.pop(mark, None)
            decided.append(mark)

    def _break_circles(self, waits: dict[Mark, set[Mark]]) -> list[Mark]:
        """In each circle the most junior key loses, with all that it has there: so n keys are n steps at most.

        Grants do not count: they rest on what came before them.
        """
        losers: list[Mark] = []
        for circle in source_circles(waits):
            fighting = [mark for mark in circle if mark.grant is None]
            junior = max(fighting, key=self._seniority).meta.author
            losers += [mark for mark in fighting if mark.meta.author == junior]
        for mark in losers:
            mark.standing, mark.reason = OUT, "conflict"
            del waits[mark]
        return losers

    def _seniority(self, mark: Mark) -> tuple[Rank, tuple[int, bytes, int]]:
        """Smaller is more senior: the rank of the best grant that the mark still rests on, then its place."""
        held = mark.supports
        if len(held) > 1:  # the only one holds, or the mark would not be open
            held = tuple(
                grant
                for grant in held
                if grant.standing is not OUT and self._voids(grant, mark.meta, mark.needs, []) is not IN
            )
        return (min(grant.rank for grant in held), mark.key)

    def _judge(self, mark: Mark, waits_for: list[Mark]) -> tuple[Standing, str]:
        if mark.void is not None:
            return OUT, mark.void
        if mark.root:
            return IN, ""
        waits: list[Mark] = []
        late, frozen = self._late(mark.meta, waits), self._frozen(mark.meta, waits)
        if late is IN or frozen is IN:
            return OUT, "late" if late is IN else "frozen"
        rival = self._rival_checkpoint(mark, waits)
        if rival is IN:
            return OUT, "epoch"
        best = self._best_support(mark, waits)
        if best is OUT:
            return OUT, "revoked"
        if OPEN in (best, late, frozen, rival):
            waits_for += waits
            return OPEN, ""
        return IN, ""

    def _best_support(self, mark: Mark, waits_for: list[Mark]) -> Standing:
        best, waits = OUT, []
        for support in mark.supports:
            if support.standing is OUT:
                continue
            why: list[Mark] = [support] if support.standing is OPEN else []
            voided = self._voids(support, mark.meta, mark.needs, why)
            if voided is OUT and support.standing is IN:
                return IN
            if voided is not IN:
                best = OPEN
                waits += why
        waits_for += waits
        return best

    def _voids(self, grant: Mark, meta: Meta, needs: frozenset[Role], waits_for: list[Mark]) -> Standing:
        """IN: a revocation in force takes this grant away from this batch. OPEN: one might."""
        result, waits = OUT, []
        for revocation in self.revocations.get(meta.author, ()):
            if revocation.standing is OUT or revocation.meta.hash == meta.hash:
                continue
            if self.ancestry.within(meta, revocation.cut) or self._answers(grant, revocation):
                continue
            if needs <= grant.roles_left(revocation):
                continue
            why: list[Mark] = []
            shielded = self._shielded(meta, revocation, why)
            if shielded is IN:
                continue
            if revocation.standing is IN and shielded is OUT:
                return IN
            result = OPEN
            waits += why if revocation.standing is IN else [revocation, *why]
        waits_for += waits
        return result

    def _answers(self, grant: Mark, revocation: Mark) -> bool:
        """True if the grant was given in knowledge of the revocation, so that the revocation does not touch it.

        Anybody can publish a grant of the mesh authority again; so for these its signed time must say so too.
        """
        if not self.ancestry.precedes(revocation.meta, grant.meta):
            return False
        held = grant.grant
        return not grant.root or (held is not None and held.not_before_ms >= hlc_ms(revocation.meta.hlc))

    def _late(self, meta: Meta, waits_for: list[Mark]) -> Standing:
        found = self.late.get(meta.hash)
        return _any_of([] if found is None else found[1], waits_for)

    def _shielded(self, meta: Meta, revocation: Mark, waits_for: list[Mark]) -> Standing:
        """IN: a checkpoint in force that knew nothing of the revocation has made the batch final."""
        return _any_of(
            (
                checkpoint
                for checkpoint in self.checkpoints
                if self._covers(checkpoint, meta) and not self.ancestry.precedes(revocation.meta, checkpoint.meta)
            ),
            waits_for,
        )

    def _outlives_fork(self, meta: Meta, fork: Fork, waits_for: list[Mark]) -> Standing:
        """IN: a checkpoint in force has made the batch final and left out all that rivals it where the log forks."""
        return _any_of(
            (
                checkpoint
                for checkpoint in self.checkpoints
                if self._covers(checkpoint, meta) and self._sides_covered(checkpoint, fork) <= {fork.own}
            ),
            waits_for,
        )

    def _covers(self, checkpoint: Mark, meta: Meta) -> bool:
        """True if the batch is in the checkpoint's past up to its horizon, and was not late to an earlier one there."""
        body = checkpoint.body
        if not isinstance(body, CheckpointEntry) or meta.hlc > body.horizon:
            return False
        found = self.late.get(meta.hash)
        if found is None:
            return True
        place = (checkpoint.key, meta.hash)
        if place not in self._covered:
            self._covered[place] = not any(
                mark is checkpoint or self.ancestry.precedes(mark.meta, checkpoint.meta) for mark in found[1]
            )
        return self._covered[place]

    def _rival_checkpoint(self, mark: Mark, waits_for: list[Mark]) -> Standing:
        """IN: another checkpoint of the same epoch is in force. They are a circle, so the most senior owner's stays."""
        body = mark.body
        if not isinstance(body, CheckpointEntry):
            return OUT
        return _any_of(
            (
                other
                for other in self.checkpoints
                if isinstance(other.body, CheckpointEntry) and other.body.epoch == body.epoch and other is not mark
            ),
            waits_for,
        )

    def _frozen(self, meta: Meta, waits_for: list[Mark]) -> Standing:
        """IN: the author's log forked at or before the batch and no decision in force keeps the batch's branch."""
        result, waits = OUT, []
        for fork in self.ancestry.forks_before(meta):
            why: list[Mark] = []
            cleared = self._cleared(meta.author, fork.own, fork.seq, why)
            if cleared is IN:
                continue
            outlives = self._outlives_fork(meta, fork, why)
            if outlives is IN:
                continue
            if cleared is OUT and outlives is OUT:
                return IN
            result = OPEN
            waits += why
        waits_for += waits
        return result

    def _sides_covered(self, checkpoint: Mark, fork: Fork) -> frozenset[int]:
        """Branches of a fork that a checkpoint covers where they part: a fact, but that branches may be added."""
        place = (checkpoint.key, fork.seq, fork.branches)
        if place not in self._sides:
            starts = ((branch, self._batch_at(branch, fork.seq)) for branch in fork.branches)
            self._sides[place] = frozenset(
                branch for branch, start in starts if start is not None and self._covers(checkpoint, start)
            )
        return self._sides[place]

    def _cleared(self, author: bytes, own: int | None, seq: int, waits_for: list[Mark]) -> Standing:
        """IN: the latest decisions in force agree on the branch `own` at this fork; disagreement clears nothing."""
        at_fork = [
            thaw
            for thaw in self.thaws.get(author, ())
            if thaw.standing is not OUT and thaw.keep is not None and thaw.keep.seq >= seq
        ]
        if not any(t.keep is not None and self.ancestry.branch_at(t.keep.branch, seq) == own for t in at_fork):
            return OUT
        undecided = [thaw for thaw in at_fork if thaw.standing is OPEN]
        if undecided:
            waits_for += undecided
            return OPEN
        latest = [t for t in at_fork if not any(self.ancestry.precedes(t.meta, other.meta) for other in at_fork)]
        kept = {self.ancestry.branch_at(thaw.keep.branch, seq) for thaw in latest if thaw.keep is not None}
        return IN if kept == {own} else OUT


def _any_of(checkpoints: Iterable[Mark], waits_for: list[Mark]) -> Standing:
    """IN if one of these is in force, OPEN if one may be; then these are what to wait for."""
    waits: list[Mark] = []
    for checkpoint in checkpoints:
        if checkpoint.standing is IN:
            return IN
        if checkpoint.standing is OPEN:
            waits.append(checkpoint)
    waits_for += waits
    return OPEN if waits else OUT


def _concerns(decided: Mark, waiter: Mark, waits: dict[Mark, set[Mark]]) -> bool:
    """True if the waiter must be judged again: not if it is a revocation less among revocations that are open still.

    A checkpoint among them may have been waited for as a shield against just that one.
    """
    left = waits.get(waiter)
    if left is None:
        return False
    left.discard(decided)
    spent = decided.standing is OUT and isinstance(decided.body, RevokeEntry)
    others = bool(left) and all(isinstance(other.body, RevokeEntry) for other in left)
    return not (others and spent and len(waiter.supports) == 1)
