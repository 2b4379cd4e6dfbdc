"""Authority: which key could do what, judged by a batch's causal past and by revocations wherever they arrive.

An entry is entitled by a grant in its past. A revocation is strong removal: what the target wrote beyond the cut has no
effect, whenever it arrives, unless it rests on a grant that was given in knowledge of the revocation. Because a
revocation can itself be cut off, standings are settled together: a mark is OUT if something IN voids it, IN if nothing
that is not OUT voids it and one of its supports is IN (the grounded semantics of Dung, 1995); what is left are circles of
revocations, and in a circle the most junior one loses, again and again, until none is left. The result depends on the set
of batches alone. See docs/adr/0010 for the literature and for what was weighed.

Pure: it keeps no clock and does no I/O; signatures are checked through the `verify` that it is given.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

import msgspec

from appliance.core.clock import hlc_ms
from appliance.replica.ancestry import Ancestry, Fork, Meta
from appliance.replica.circles import source_circles
from appliance.replica.entries import CheckpointEntry, RevokeEntry, ThawEntry
from appliance.replica.marks import Mark, Rank, Standing
from appliance.trust.grants import Role, implied_roles

IN, OUT, OPEN = Standing.IN, Standing.OUT, Standing.OPEN


class Span(msgspec.Struct, frozen=True):
    """Batches whose effect may have changed: of this author, from this seq on, after this place in the fold."""

    author: bytes
    seq: int
    after: tuple[int, bytes] = (0, b"")


class Authority:
    """Marks with their standing, and the verdict on any entry."""

    def __init__(self, ancestry: Ancestry, batch_at: Callable[[int, int], Meta | None]) -> None:
        """`batch_at(branch, seq)` is the index of the log."""
        self.ancestry = ancestry
        self._batch_at = batch_at
        self.marks: list[Mark] = []  # in fold order
        self.by_batch: dict[bytes, list[Mark]] = {}
        self.grants: dict[bytes, list[Mark]] = {}  # by subject
        self.revocations: dict[bytes, list[Mark]] = {}  # by target
        self.thaws: dict[bytes, list[Mark]] = {}  # by frozen author
        self.checkpoints: list[Mark] = []
        self.late: dict[bytes, tuple[Meta, list[Mark]]] = {}  # by hash: batches, and checkpoints that left them out
        self._by_author: dict[bytes, list[Mark]] = {}
        self._void: dict[bytes, list[str]] = {}  # by batch: why its void entries are, by index; no more is kept of them
        self._forked: set[bytes] = set()
        self._unsettled = False
        self._touched: list[Span] = []

    # -- arrivals

    def add(self, mark: Mark) -> None:
        """Take a mark in. Its standing is known after `settle`."""
        if mark.void is not None:
            reasons = self._void.setdefault(mark.meta.hash, [])
            reasons.extend([""] * (mark.index - len(reasons)))
            reasons.append(mark.void)
            return
        bisect.insort(self.marks, mark, key=lambda item: item.key)
        self.by_batch.setdefault(mark.meta.hash, []).append(mark)
        self._by_author.setdefault(mark.meta.author, []).append(mark)
        body = mark.body
        if mark.grant is not None:
            self.grants.setdefault(mark.grant.subject, []).append(mark)
        elif isinstance(body, RevokeEntry):
            self.revocations.setdefault(body.target, []).append(mark)
        elif isinstance(body, ThawEntry):
            self.thaws.setdefault(body.author, []).append(mark)
        elif isinstance(body, CheckpointEntry):
            self.checkpoints.append(mark)
        self._unsettled = self._unsettled or self._unsettles(mark)
        if not self._unsettled:
            mark.standing, mark.reason = self._judge(mark, [])
            mark.stuck = self.is_stuck(mark.meta)

    def hold(self) -> None:
        """Judge nothing until `settle`: for many marks at once."""
        self._unsettled = True

    def void_entries(self, batch: bytes) -> list[tuple[int, str]]:
        """The void authority entries of a batch, with the reason."""
        return [(index, reason) for index, reason in enumerate(self._void.get(batch, ())) if reason]

    def void_reason(self, batch: bytes, index: int) -> str | None:
        """Why an authority entry has no effect and never will; None for a mark."""
        reasons = self._void.get(batch, [])
        return (reasons[index] or None) if index < len(reasons) else None

    def fork(self, author: bytes, seq: int) -> None:
        """An author's log has forked at this seq: what it wrote from there on must be judged again."""
        self._forked.add(author)
        own = self._by_author.get(author, ())
        self._unsettled = self._unsettled or any(mark.meta.seq >= seq and not mark.stuck for mark in own)
        self._touched.append(Span(author, seq))

    def close_epoch(self, checkpoint: Mark, late: Iterable[Meta]) -> None:
        """These batches lie before the checkpoint's horizon but not in its past."""
        for meta in late:
            self.late.setdefault(meta.hash, (meta, []))[1].append(checkpoint)
            self._touched.append(Span(meta.author, meta.seq))
        self._unsettled = True

    def note_late(self, meta: Meta) -> list[tuple[bytes, bytes, int]]:
        """A batch that arrives after a checkpoint whose horizon lies before it is late: it cannot be in its past."""
        found: list[tuple[bytes, bytes, int]] = []
        for checkpoint in self.checkpoints:
            body = checkpoint.body
            sound = isinstance(body, CheckpointEntry) and checkpoint.void is None and checkpoint.meta.hash != meta.hash
            if isinstance(body, CheckpointEntry) and sound and meta.hlc <= body.horizon:
                self.close_epoch(checkpoint, [meta])
                found.append((meta.hash, checkpoint.meta.hash, checkpoint.index))
        return found

    def late_before(self, meta: Meta | None) -> set[bytes]:
        """Batches that came late to a checkpoint in the past of this batch (None: to any checkpoint)."""
        return {
            digest
            for digest, (_, checkpoints) in self.late.items()
            if any(meta is None or self.ancestry.precedes(mark.meta, meta) for mark in checkpoints)
        }

    @property
    def is_unsettled(self) -> bool:
        """True if something came that may change the standing of what was there."""
        return self._unsettled or bool(self._touched)

    def forked_authors(self) -> list[bytes]:
        """Authors whose log forked, sorted."""
        return sorted(self._forked)

    def settle(self) -> list[Span]:
        """Bring all standings up to date; returns what must be folded again."""
        if self._unsettled:
            before = [(mark, mark.standing, mark.reason) for mark in self.marks]
            self._settle_all()
            for mark, standing, reason in before:
                if mark.standing is not standing:
                    self._touched.extend(self._reach_of(mark, fresh=standing is OPEN))
                elif mark.reason != reason:
                    self._touched.append(Span(mark.meta.author, mark.meta.seq))
            self._unsettled = False
        touched, self._touched = self._touched, []
        return touched

    # -- verdicts

    def verdict(self, meta: Meta, need: Role, scope: frozenset[str] = frozenset()) -> str | None:
        """None if the author may do what needs this role here, else the reason. `scope`: tags that the entry touches."""
        if self._late(meta, []) is IN:
            return "late"
        if self._frozen(meta, []) is IN:
            return "frozen"
        reasons = set()
        for grant in self.grants.get(meta.author, ()):
            if not self.entitles(grant, meta, need, scope):
                continue
            if not self.in_time(grant, meta):
                reasons.add("expired")
            elif grant.standing is OUT or self._voids(grant, meta, frozenset({need}), []) is IN:
                reasons.add("revoked")
            else:
                return None
        return next((reason for reason in ("revoked", "expired") if reason in reasons), "role")

    def entitles(self, grant: Mark, meta: Meta, need: Role, scope: frozenset[str] = frozenset()) -> bool:
        """True if the grant lies in the batch's past and gives the role over the scope; standing and time aside."""
        held = grant.grant
        if held is None or need not in implied_roles(held.roles):
            return False
        if held.scope and not scope <= frozenset(held.scope):
            return False
        if held.scope and not scope and need is not Role.MEMBER:
            return False  # a scoped grant never reaches what belongs to the whole mesh
        return self.precedes(grant, meta)

    def precedes(self, grant: Mark, meta: Meta) -> bool:
        """True if a grant was given in the batch's past, or comes with the batch from the mesh authority itself."""
        return self.ancestry.precedes(grant.meta, meta) or (grant.root and grant.meta.hash == meta.hash)

    def key_of(self, node: bytes) -> bytes | None:
        """The public key behind an id, if any grant names it."""
        grants = self.grants.get(node)
        return grants[0].grant.subject_key if grants and grants[0].grant is not None else None

    @staticmethod
    def in_time(grant: Mark, meta: Meta) -> bool:
        """True if the batch was written while the grant was valid, by its own clock."""
        held = grant.grant
        return held is not None and held.not_before_ms <= hlc_ms(meta.hlc) <= held.not_after_ms

    def may_write(self, meta: Meta) -> bool:
        """True if any grant to the author lies in the batch's past: then the batch is kept, whatever its effect."""
        return any(
            mark.void is None and self.entitles(mark, meta, Role.MEMBER) for mark in self.grants.get(meta.author, ())
        )

    def holds(self, key: bytes, need: Role, now_ms: int) -> bool:
        """True if the key holds the role now, by all that this replica has seen: for peers, not for entries."""
        return any(need in self.gives(grant, now_ms) for grant in self.grants.get(key, ()))

    def gives(self, grant: Mark, now_ms: int) -> frozenset[Role]:
        """Roles that a grant gives its subject now: none if it has no effect, is out of time or was taken away."""
        held = grant.grant
        if held is None or grant.standing is not IN or not held.not_before_ms <= now_ms <= held.not_after_ms:
            return frozenset()
        left = implied_roles(held.roles)
        for revocation in self.revocations.get(held.subject, ()):
            if revocation.standing is IN and not self._answers(grant, revocation):
                left &= grant.roles_left(revocation.taken, weak=revocation.weak)
        return left

    def epoch(self) -> int:
        """Number of the last epoch that a checkpoint in force has closed; 0 before the first."""
        bodies = [mark.body for mark in self.checkpoints if mark.standing is IN]
        return max((body.epoch for body in bodies if isinstance(body, CheckpointEntry)), default=0)

    def epochs_before(self, meta: Meta) -> int:
        """Number of checkpoints in a batch's past, in force or not: a fact of the batch, equal on every replica."""
        return sum(mark.void is None and self.ancestry.precedes(mark.meta, meta) for mark in self.checkpoints)

    def fork_seq(self, author: bytes) -> int | None:
        """The first seq at which the author's log forks."""
        return self.ancestry.fork_seq(author)

    def is_frozen(self, author: bytes) -> bool:
        """True if the author's log forked and no owner's decision in force clears the end of any branch."""
        heads = [self.ancestry.heads[number] for number in self.ancestry.branches_of(author)]
        return len(heads) > 1 and all(head is None or self._frozen(head, []) is IN for head in heads)

    def live_head(self, author: bytes) -> Meta | None:
        """The last batch on the branch of an author's log that counts; where none does, of its first branch."""
        heads = (self.ancestry.heads[number] for number in self.ancestry.branches_of(author))
        found = next((head for head in heads if head is not None and self._frozen(head, []) is not IN), None)
        return found or self.ancestry.head(author)

    def is_stuck(self, meta: Meta) -> bool:
        """True if the batch is frozen, and no decision or checkpoint that we hold could ever change that."""
        for fork in self.ancestry.forks_before(meta):
            thaws = (thaw.keep for thaw in self.thaws.get(meta.author, ()) if thaw.keep is not None)
            kept = any(keep.seq >= fork.seq and self.ancestry.branch_at(keep.branch, fork.seq) == fork.own for keep in thaws)
            if not kept and not any(self._covers(checkpoint, meta) for checkpoint in self.checkpoints):
                return True
        return False

    # -- settling

    def _unsettles(self, mark: Mark) -> bool:
        """True if a new mark may change the standing of others. A grant cannot: what rests on it comes later."""
        body = mark.body
        if mark.grant is not None or self.is_stuck(mark.meta):
            return False
        if isinstance(body, RevokeEntry):
            own = self._by_author.get(body.target, ())
            beyond = any(not self.ancestry.within(other.meta, mark.cut) for other in own if other is not mark)
            heads = [self.ancestry.heads[number] for number in self.ancestry.branches_of(body.target)]
            if not beyond and any(head and not self.ancestry.within(head, mark.cut) for head in heads):
                self._touched.extend(self._reach_of(mark, fresh=True))
            return beyond
        return True

    def _settle_all(self) -> None:
        for mark in self.marks:
            mark.standing, mark.reason, mark.stuck = OPEN, "", self.is_stuck(mark.meta)
        undecided = list(self.marks)
        while undecided:
            waits: dict[Mark, list[Mark]] = {}
            for mark in undecided:
                waits_for: list[Mark] = []
                mark.standing, mark.reason = self._judge(mark, waits_for)
                if mark.standing is OPEN:
                    waits[mark] = waits_for
            remaining = [mark for mark in undecided if mark.standing is OPEN]
            if len(remaining) == len(undecided):
                self._break_circle(waits)
                remaining = [mark for mark in remaining if mark.standing is OPEN]
            undecided = remaining
        for mark in self.marks:  # of several reasons, the same one in whatever order they were found
            if mark.standing is OUT and mark.reason != "conflict":
                mark.reason = self._judge(mark, [])[1]

    def _break_circle(self, waits: dict[Mark, list[Mark]]) -> None:
        """The most junior mark of a circle loses. Grants do not count: they rest on what came before them."""
        members = [mark for circle in source_circles(waits) for mark in circle if mark.grant is None]
        junior = max(members, key=self._seniority)
        junior.standing, junior.reason = OUT, "conflict"

    def _seniority(self, mark: Mark) -> tuple[Rank, tuple[int, bytes, int]]:
        """Smaller is more senior: the rank of the best grant that the mark still rests on, then its place."""
        held = [
            grant
            for grant in mark.supports
            if grant.standing is not OUT and self._voids(grant, mark.meta, mark.needs, []) is not IN
        ]
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
            if needs <= grant.roles_left(revocation.taken, weak=revocation.weak):
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

    def _outlives_fork(self, meta: Meta, rivals: list[Meta], waits_for: list[Mark]) -> Standing:
        """IN: a checkpoint in force has made the batch final and left out all that rivals it where the log forks."""
        return _any_of(
            (
                checkpoint
                for checkpoint in self.checkpoints
                if self._covers(checkpoint, meta) and not any(self._covers(checkpoint, rival) for rival in rivals)
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
        before = (mark for mark in found[1] if mark is not checkpoint)
        return checkpoint not in found[1] and not any(self.ancestry.precedes(m.meta, checkpoint.meta) for m in before)

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
            outlives = self._outlives_fork(meta, self._rivals(fork), why) if self.checkpoints else OUT
            if outlives is IN:
                continue
            if cleared is OUT and outlives is OUT:
                return IN
            result = OPEN
            waits += why
        waits_for += waits
        return result

    def _rivals(self, fork: Fork) -> list[Meta]:
        found = [self._batch_at(branch, fork.seq) for branch in fork.branches if branch != fork.own]
        return [meta for meta in found if meta is not None]

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

    def _reach_of(self, mark: Mark, *, fresh: bool) -> list[Span]:
        """What a mark's change of standing bears on: the mark itself, and whoever it gives or takes from."""
        spans = [] if fresh else [Span(mark.meta.author, mark.meta.seq)]
        body = mark.body
        if mark.grant is not None:
            spans.append(Span(mark.grant.subject, 1, mark.meta.position))
        elif isinstance(body, RevokeEntry):
            forked = self.fork_seq(body.target)
            cut = mark.cut.seq if mark.cut is not None else 0
            spans.append(Span(body.target, min(cut + 1, forked) if forked else cut + 1))
        elif isinstance(body, ThawEntry):
            spans.append(Span(body.author, self.fork_seq(body.author) or 1))
        elif isinstance(body, CheckpointEntry):
            spans.extend(Span(meta.author, meta.seq) for meta, left_out in self.late.values() if mark in left_out)
            spans.extend(Span(target, 1) for target in self.revocations)
            spans.extend(Span(author, 1) for author in self._forked)
        return spans


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
