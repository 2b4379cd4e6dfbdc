"""Authority: which key could do what, judged by a batch's causal past and by revocations wherever they arrive.

An entry is entitled by a grant in its past. A revocation is strong removal: what the target wrote beyond the cut has no
effect, whenever it arrives, unless it rests on a grant that was given in knowledge of the revocation. `standings` says
which marks are in force; here marks arrive, verdicts are given, and what must be folded again is named.

Pure: it keeps no clock and does no I/O.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

import msgspec

from appliance.core.clock import hlc_ms
from appliance.replica.ancestry import Ancestry, Meta
from appliance.replica.entries import CheckpointEntry, RevokeEntry, ThawEntry
from appliance.replica.marks import Mark
from appliance.replica.standings import IN, OPEN, OUT, Standings
from appliance.trust.grants import Role, implied_roles

_REASONS = ("late", "frozen", "revoked", "expired", "role")  # of several the first


class Span(msgspec.Struct, frozen=True):
    """Batches whose effect may have changed: of this author, from this seq on, after this place in the fold."""

    author: bytes
    seq: int
    after: tuple[int, bytes] = (0, b"")


class Authority(Standings):
    """Marks with their standing, and the verdict on any entry."""

    def __init__(self, ancestry: Ancestry, batch_at: Callable[[int, int], Meta | None]) -> None:
        """`batch_at(branch, seq)` is the index of the log."""
        super().__init__(ancestry, batch_at)
        self.by_batch: dict[bytes, list[Mark]] = {}
        self._by_author: dict[bytes, list[Mark]] = {}
        self._void: dict[bytes, list[str]] = {}  # by batch: why its void entries are, by index; no more is kept of them
        self.admitted: dict[bytes, tuple[bytes, int]] = {}  # of each approved node, the certificate that counts
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
        if self.marks and mark.key < self.marks[-1].key:
            bisect.insort(self.marks, mark, key=lambda item: item.key)
        else:
            self.marks.append(mark)
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
            mark.in_force = mark.standing is IN
            mark.stuck = self.is_stuck(mark.meta)
            self._touched.extend(self._reach_of(mark, fresh=True))

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
        """These batches lie before the horizon, not in the checkpoint's past. With a wrong digest it closes nothing."""
        if checkpoint.void is not None:
            self.checkpoints.remove(checkpoint)
        for meta in late:
            self.late.setdefault(meta.hash, (meta, []))[1].append(checkpoint)
            self._touched.append(Span(meta.author, meta.seq))
        self._forget()
        self._unsettled = True

    def note_late(self, meta: Meta) -> list[tuple[bytes, bytes, int]]:
        """A batch that arrives after a checkpoint whose horizon lies before it is late: it cannot be in its past."""
        found: list[tuple[bytes, bytes, int]] = []
        for checkpoint in self.checkpoints:
            body = checkpoint.body
            sound = isinstance(body, CheckpointEntry) and checkpoint.void is None and checkpoint.meta.hash != meta.hash
            if isinstance(body, CheckpointEntry) and sound and meta.hlc <= body.horizon:
                self.late.setdefault(meta.hash, (meta, []))[1].append(checkpoint)
                self._unsettled = self._unsettled or meta.mark
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
                mark.in_force = mark.standing is IN
                if mark.standing is not standing:
                    self._touched.extend(self._reach_of(mark, fresh=standing is OPEN))
                elif mark.reason != reason:
                    self._touched.append(Span(mark.meta.author, mark.meta.seq))
            self._unsettled = False
        touched, self._touched = self._touched, []
        return touched

    # -- verdicts

    def verdict(
        self, meta: Meta, need: Role, scope: frozenset[str] = frozenset(), *, by: bytes | None = None
    ) -> str | None:
        """None if the author may do what needs this role here, else the reason. `scope`: tags that it touches.

        `by`: only the grant with this id counts.
        """
        if self._late(meta, []) is IN:
            return "late"
        if self._frozen(meta, []) is IN:
            return "frozen"
        reasons = {"role"}
        for grant in self.grants.get(meta.author, ()):
            if by not in (None, grant.grant_id) or not self.entitles(grant, meta, need, scope):
                continue
            if not self.in_time(grant, meta):
                reasons.add("expired")
            elif grant.standing is OUT or self._voids(grant, meta, frozenset({need}), []) is IN:
                reasons.add("revoked")
            else:
                return None
        return next(reason for reason in _REASONS if reason in reasons)

    def reach(self, meta: Meta, need: Role) -> tuple[str | None, frozenset[str]]:
        """None if the author may do something that needs this role, and over which tags (none: over the whole mesh)."""
        held = (grant.grant for grant in self.grants.get(meta.author, ()))
        scopes = {frozenset(grant.scope) for grant in held if grant and need in implied_roles(grant.roles)}
        verdicts = {scope: self.verdict(meta, need, scope) for scope in scopes or {frozenset[str]()}}
        good = [scope for scope, reason in verdicts.items() if reason is None]
        if good:
            return None, frozenset() if frozenset() in good else frozenset().union(*good)
        return next(reason for reason in _REASONS if reason in verdicts.values()), frozenset()

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
        """True if the key holds the role now, by all that was settled: for peers, not for entries. For any thread."""
        return any(need in self.gives(grant, now_ms) for grant in self.grants.get(key, ()))

    def gives(self, grant: Mark, now_ms: int) -> frozenset[Role]:
        """Roles that a grant gives its subject now: none if it has no effect, is out of time or was taken away.

        Of the certificates of a node only the one counts by which it is approved, and none while it is not.
        """
        held = grant.grant
        if held is None or not grant.in_force or not held.not_before_ms <= now_ms <= held.not_after_ms:
            return frozenset()
        if grant.tags is not None and self.admitted.get(held.subject) != (grant.meta.hash, grant.index):
            return frozenset()
        left = implied_roles(held.roles)
        for revocation in self.revocations.get(held.subject, ()):
            if revocation.in_force:
                left &= self.left_by(revocation, grant)
        return left

    def left_by(self, revocation: Mark, grant: Mark) -> frozenset[Role]:
        """Roles that a grant still gives after this revocation of its subject; all if it was given in its knowledge."""
        if grant.grant is not None and self._answers(grant, revocation):
            return implied_roles(grant.grant.roles)
        return grant.roles_left(revocation)

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

    # -- what must be judged or folded again

    def _unsettles(self, mark: Mark) -> bool:
        """True if a new mark may change the standing of others. A grant cannot: what rests on it comes later."""
        body = mark.body
        if mark.grant is not None or self.is_stuck(mark.meta):
            return False
        if isinstance(body, RevokeEntry):
            own = self._by_author.get(body.target, ())
            return any(not self.ancestry.within(other.meta, mark.cut) for other in own if other is not mark)
        return True

    def _reach_of(self, mark: Mark, *, fresh: bool) -> list[Span]:
        """What a mark's change of standing bears on: the mark itself, and whoever it gives or takes from.

        A fresh mark bears on nobody unless it is in force; a fresh grant on nobody, for what rests on it comes later.
        """
        if fresh and (mark.standing is not IN or mark.grant is not None):
            return []
        spans = [] if fresh else [Span(mark.meta.author, mark.meta.seq)]
        body = mark.body
        if mark.grant is not None:
            spans.append(Span(mark.grant.subject, 1, mark.meta.position))
        elif isinstance(body, RevokeEntry):
            forked = self.fork_seq(body.target)
            cut = mark.cut.seq if mark.cut is not None else 0
            heads = [self.ancestry.heads[number] for number in self.ancestry.branches_of(body.target)]
            if any(head is not None and not self.ancestry.within(head, mark.cut) for head in heads):
                spans.append(Span(body.target, min(cut + 1, forked) if forked else cut + 1))
        elif isinstance(body, ThawEntry):
            spans.append(Span(body.author, self.fork_seq(body.author) or 1))
        elif isinstance(body, CheckpointEntry):
            spans.extend(Span(meta.author, meta.seq) for meta, left_out in self.late.values() if mark in left_out)
            spans.extend(Span(target, 1) for target in self.revocations)
            spans.extend(Span(author, 1) for author in self._forked)
        return spans
