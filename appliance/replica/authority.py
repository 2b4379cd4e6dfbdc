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
from collections.abc import Iterable

import msgspec

from appliance.core.clock import hlc_ms
from appliance.replica.ancestry import Ancestry, Meta
from appliance.replica.circles import source_circles
from appliance.replica.entries import CheckpointEntry, RevokeEntry, ThawEntry
from appliance.replica.marks import Mark, Standing
from appliance.trust.grants import Role, implied_roles

IN, OUT, OPEN = Standing.IN, Standing.OUT, Standing.OPEN


class Span(msgspec.Struct, frozen=True):
    """Batches whose effect may have changed: of this author, from this seq on, after this place in the fold."""

    author: bytes
    seq: int
    after: tuple[int, bytes] = (0, b"")


class Authority:
    """Marks with their standing, and the verdict on any entry."""

    def __init__(self, ancestry: Ancestry) -> None:
        self.ancestry = ancestry
        self.marks: list[Mark] = []  # in fold order
        self.by_batch: dict[bytes, list[Mark]] = {}
        self.grants: dict[bytes, list[Mark]] = {}  # by subject
        self.revocations: dict[bytes, list[Mark]] = {}  # by target
        self.thaws: dict[bytes, list[Mark]] = {}  # by frozen author
        self.checkpoints: list[Mark] = []
        self.late: dict[bytes, tuple[Mark, Meta]] = {}  # by hash: batches whose epoch a checkpoint closed without them
        self._by_author: dict[bytes, list[Mark]] = {}
        self._forked: set[bytes] = set()
        self._unsettled = False
        self._touched: list[Span] = []

    # -- arrivals

    def add(self, mark: Mark) -> None:
        """Take a mark in. Its standing is known after `settle`."""
        bisect.insort(self.marks, mark, key=lambda item: item.key)
        self.by_batch.setdefault(mark.meta.hash, []).append(mark)
        self._by_author.setdefault(mark.meta.author, []).append(mark)
        body = mark.body
        if mark.grant is not None:
            self.grants.setdefault(mark.grant.subject, []).append(mark)
        elif mark.void is not None:
            pass
        elif isinstance(body, RevokeEntry):
            self.revocations.setdefault(body.target, []).append(mark)
        elif isinstance(body, ThawEntry):
            self.thaws.setdefault(body.author, []).append(mark)
        elif isinstance(body, CheckpointEntry):
            self.checkpoints.append(mark)
        self._unsettled = self._unsettled or self._unsettles(mark)
        if not self._unsettled:
            mark.standing, mark.reason = self._judge(mark, [])

    def fork(self, author: bytes) -> None:
        """An author's log has forked: what it wrote from there on must be judged again."""
        self._forked.add(author)
        self._unsettled = True
        self._touched.append(Span(author, self.fork_seq(author) or 1))

    def close_epoch(self, checkpoint: Mark, late: Iterable[Meta]) -> None:
        """These batches lie before the checkpoint's horizon but not in its past."""
        for meta in late:
            if meta.hash not in self.late:
                self.late[meta.hash] = (checkpoint, meta)
                self._touched.append(Span(meta.author, meta.seq))
        self._unsettled = True

    def note_late(self, meta: Meta) -> list[tuple[bytes, bytes, int]]:
        """A batch that arrives after a checkpoint whose horizon lies before it is late: it cannot be in its past."""
        found: list[tuple[bytes, bytes, int]] = []
        for checkpoint in self.checkpoints:
            body = checkpoint.body
            if isinstance(body, CheckpointEntry) and meta.hlc <= body.horizon and checkpoint.meta.hash != meta.hash:
                self.close_epoch(checkpoint, [meta])
                found.append((meta.hash, checkpoint.meta.hash, checkpoint.index))
        return found

    def forked_authors(self) -> list[bytes]:
        """Authors whose log forked, sorted."""
        return sorted(self._forked)

    def settle(self) -> list[Span]:
        """Bring all standings up to date; returns what must be folded again."""
        if self._unsettled:
            before = [(mark, mark.standing) for mark in self.marks]
            self._settle_all()
            for mark, standing in before:
                if mark.standing is not standing:
                    self._touched.extend(self._reach_of(mark, fresh=standing is OPEN))
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
        reason = "role"
        for grant in self.grants.get(meta.author, ()):
            if not self.entitles(grant, meta, need, scope):
                continue
            if not self.in_time(grant, meta):
                reason = "expired"
            elif grant.standing is OUT or self._voids(grant, meta, frozenset({need}), []) is IN:
                reason = "revoked"
            else:
                return None
        return reason

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
        for grant in self.grants.get(key, ()):
            held = grant.grant
            if held is None or grant.standing is not IN or not held.not_before_ms <= now_ms <= held.not_after_ms:
                continue
            left = implied_roles(held.roles)
            for revocation in self.revocations.get(key, ()):
                if revocation.standing is IN and not self.ancestry.precedes(revocation.meta, grant.meta):
                    left &= grant.roles_left(_taken(revocation))
            if need in left:
                return True
        return False

    def epoch(self) -> int:
        """Number of the last epoch that a checkpoint in force has closed; 0 before the first."""
        bodies = [mark.body for mark in self.checkpoints if mark.standing is IN]
        return max((body.epoch for body in bodies if isinstance(body, CheckpointEntry)), default=0)

    def epochs_before(self, meta: Meta) -> int:
        """Number of checkpoints in a batch's past, in force or not: a fact of the batch, equal on every replica."""
        return sum(mark.void is None and self.ancestry.precedes(mark.meta, meta) for mark in self.checkpoints)

    def fork_seq(self, author: bytes) -> int | None:
        """The first seq at which the author's log forks."""
        branches = self.ancestry.branches_of(author)
        return min(self.ancestry.branches[number].from_seq for number in branches[1:]) if len(branches) > 1 else None

    def is_frozen(self, author: bytes) -> bool:
        """True if the author's log forked and no owner's decision in force clears the end of any branch."""
        heads = [self.ancestry.heads[number] for number in self.ancestry.branches_of(author)]
        return len(heads) > 1 and all(head is None or self._frozen(head, []) is IN for head in heads)

    # -- settling

    def _unsettles(self, mark: Mark) -> bool:
        """True if a new mark may change the standing of others. A grant cannot: what rests on it comes later."""
        body = mark.body
        if mark.void is not None or mark.grant is not None:
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
            mark.standing, mark.reason = OPEN, ""
        undecided = self.marks
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

    @staticmethod
    def _break_circle(waits: dict[Mark, list[Mark]]) -> None:
        """The most junior revocation or checkpoint of a circle loses; a circle without any rests on itself and falls."""
        members = [mark for circle in source_circles(waits) for mark in circle]
        attackers = [mark for mark in members if isinstance(mark.body, (RevokeEntry, CheckpointEntry))]
        for mark in [max(attackers, key=lambda item: item.seniority)] if attackers else members:
            mark.standing, mark.reason = OUT, "conflict"

    def _judge(self, mark: Mark, waits_for: list[Mark]) -> tuple[Standing, str]:
        if mark.void is not None:
            return OUT, mark.void
        if mark.root:
            return IN, ""
        late, frozen = self._late(mark.meta, waits_for), self._frozen(mark.meta, waits_for)
        if late is IN or frozen is IN:
            return OUT, "late" if late is IN else "frozen"
        rival = self._rival_checkpoint(mark, waits_for)
        if rival is IN:
            return OUT, "epoch"
        best = self._best_support(mark, waits_for)
        if best is OUT:
            return OUT, "revoked"
        return (OPEN, "") if OPEN in (best, late, frozen, rival) else (IN, "")

    def _best_support(self, mark: Mark, waits_for: list[Mark]) -> Standing:
        best = OUT
        for support in mark.supports:
            if support.standing is OUT:
                continue
            if support.standing is OPEN:
                waits_for.append(support)
            voided = self._voids(support, mark.meta, mark.needs, waits_for)
            if voided is OUT and support.standing is IN:
                return IN
            if voided is not IN:
                best = OPEN
        return best

    def _voids(self, grant: Mark, meta: Meta, needs: frozenset[Role], waits_for: list[Mark]) -> Standing:
        """IN: a revocation in force takes this grant away from this batch. OPEN: one might."""
        result = OUT
        for revocation in self.revocations.get(meta.author, ()):
            if revocation.standing is OUT or revocation.meta.hash == meta.hash:
                continue
            if self.ancestry.within(meta, revocation.cut) or self.ancestry.precedes(revocation.meta, grant.meta):
                continue
            if needs <= grant.roles_left(_taken(revocation)):
                continue
            shielded = self._shielded(meta, revocation, waits_for)
            if shielded is IN:
                continue
            if revocation.standing is IN and shielded is OUT:
                return IN
            if revocation.standing is OPEN:
                waits_for.append(revocation)
            result = OPEN
        return result

    def _late(self, meta: Meta, waits_for: list[Mark]) -> Standing:
        found = self.late.get(meta.hash)
        if found is None:
            return OUT
        checkpoint, _ = found
        if checkpoint.standing is OPEN:
            waits_for.append(checkpoint)
        return checkpoint.standing

    def _shielded(self, meta: Meta, other: Mark | None, waits_for: list[Mark]) -> Standing:
        """IN: a checkpoint in force has made the batch final before `other` (a revocation, or None: a fork) was known."""
        result = OUT
        for checkpoint in self.checkpoints:
            if checkpoint.standing is OUT or not self._covers(checkpoint, meta):
                continue
            if other is not None and self._covers(checkpoint, other.meta):
                continue
            if checkpoint.standing is IN:
                return IN
            waits_for.append(checkpoint)
            result = OPEN
        return result

    def _covers(self, checkpoint: Mark, meta: Meta) -> bool:
        body = checkpoint.body
        return isinstance(body, CheckpointEntry) and meta.hlc <= body.horizon and meta.hash not in self.late

    def _rival_checkpoint(self, mark: Mark, waits_for: list[Mark]) -> Standing:
        """IN: another checkpoint of the same epoch, by a more senior owner, is in force."""
        result = OUT
        if isinstance(mark.body, CheckpointEntry):
            for other in self.checkpoints:
                same = isinstance(other.body, CheckpointEntry) and other.body.epoch == mark.body.epoch
                if not same or other is mark or other.standing is OUT or other.seniority > mark.seniority:
                    continue
                if other.standing is IN:
                    return IN
                waits_for.append(other)
                result = OPEN
        return result

    def _frozen(self, meta: Meta, waits_for: list[Mark]) -> Standing:
        """IN: the author's log forked at or before the batch and no decision in force keeps the batch's branch."""
        result = OUT
        branches = self.ancestry.branches_of(meta.author)
        for number in branches[1:]:
            branch = self.ancestry.branches[number]
            if meta.seq < branch.from_seq:
                continue
            own = self.ancestry.branch_at(meta.branch, branch.from_seq)
            if own != number and own not in self._siblings(number):
                continue
            if self._shielded(meta, None, waits_for) is IN:
                return OUT
            cleared = self._cleared(meta.author, own, branch.from_seq, waits_for)
            if cleared is OUT:
                return IN
            if cleared is OPEN:
                result = OPEN
        return result

    def _siblings(self, number: int) -> set[int]:
        """Branches that hold another batch where this one begins, with the same predecessor."""
        ancestry, branch = self.ancestry, self.ancestry.branches[number]
        same = {
            other
            for other in ancestry.branches_of(branch.author)
            if ancestry.branches[other].parent == branch.parent and ancestry.branches[other].from_seq == branch.from_seq
        }
        return same if branch.parent is None else same | {branch.parent}

    def _cleared(self, author: bytes, own: int | None, seq: int, waits_for: list[Mark]) -> Standing:
        """IN: the latest decisions in force agree on the branch `own` at this fork; disagreement clears nothing."""
        at_fork = [
            thaw
            for thaw in self.thaws.get(author, ())
            if thaw.standing is not OUT and thaw.keep is not None and thaw.keep.seq >= seq
        ]
        undecided = [thaw for thaw in at_fork if thaw.standing is OPEN]
        if undecided:
            waits_for.extend(undecided)
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
            spans.extend(Span(meta.author, meta.seq) for checkpoint, meta in self.late.values() if checkpoint is mark)
            spans.extend(Span(target, 1) for target in self.revocations)
            spans.extend(Span(author, 1) for author in self._forked)
        return spans


def _taken(revocation: Mark) -> frozenset[Role]:
    return frozenset(revocation.body.roles) if isinstance(revocation.body, RevokeEntry) else frozenset()
