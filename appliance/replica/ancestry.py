"""Ancestry: who wrote after having seen what, answered in constant space a batch.

The logs form one causal graph. It is cut into chains, one a *branch*: an author's log is one branch, and each fork
(two batches of one author with the same seq) starts another. Questions of authority only ever ask whether a *mark*
(a batch that grants, revokes, thaws or checkpoints) lies in a batch's past, so a batch keeps its *reach*: for each
branch with marks, the seq of the last mark in its past. This is chain decomposition of reachability (Jagadish, 1990),
restricted to the few batches that matter: 10,000 members whose grants one founder wrote need one pair each.

Branch numbers are local to a replica and never leave it. This module never decides what a batch may do.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

Reach = tuple[tuple[int, int], ...]


class Meta(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a batch for ordering and authority. `reach` is sorted by branch and excludes the batch itself."""

    hash: bytes
    author: bytes
    seq: int
    hlc: int
    branch: int
    reach: Reach
    mark: bool

    @property
    def position(self) -> tuple[int, bytes]:
        """The place of the batch in the fold: by clock, ties by hash."""
        return (self.hlc, self.hash)


class Branch(msgspec.Struct, frozen=True, gc=False):
    """One chain. A fork starts at `from_seq` and shares what is before it with `parent`; a log's first has None."""

    author: bytes
    parent: int | None
    from_seq: int


class Fork(NamedTuple):
    """Where a log goes on in more than one way: these branches differ at `seq`, `own` is the one in question."""

    seq: int
    own: int
    branches: tuple[int, ...]


class Ancestry:
    """Branches with their heads, and the questions of lineage and reach."""

    def __init__(self) -> None:
        self.branches: list[Branch] = []
        self.heads: list[Meta | None] = []
        self._by_author: dict[bytes, tuple[int, ...]] = {}
        self._begun: dict[int | bytes, dict[int, tuple[int, ...]]] = {}  # parent (or author) -> seq -> branches
        self._fork_seqs: dict[int, list[int]] = {}  # parent -> seqs at which branches leave it, ascending
        self._first_fork: dict[bytes, int] = {}
        self._interned: dict[Reach, Reach] = {}

    def branches_of(self, author: bytes) -> tuple[int, ...]:
        """Branch numbers of an author's log, oldest first; more than one means that it forked."""
        return self._by_author.get(author, ())

    def head(self, author: bytes) -> Meta | None:
        """The last batch on the author's first branch."""
        branches = self._by_author.get(author)
        return self.heads[branches[0]] if branches else None

    def open_branch(self, author: bytes, parent: int | None, from_seq: int) -> int:
        """Start a chain; returns its number."""
        number = len(self.branches)
        self.branches.append(Branch(author=author, parent=parent, from_seq=from_seq))
        self.heads.append(None)
        self._by_author[author] = (*self._by_author.get(author, ()), number)
        begun = self._begun.setdefault(author if parent is None else parent, {})
        if parent is not None and from_seq not in begun:
            bisect.insort(self._fork_seqs.setdefault(parent, []), from_seq)
        begun[from_seq] = (*begun.get(from_seq, ()), number)
        if len(self._by_author[author]) > 1:
            self._first_fork[author] = min(from_seq, self._first_fork.get(author, from_seq))
        return number

    def fork_seq(self, author: bytes) -> int | None:
        """The first seq at which an author's log forks."""
        return self._first_fork.get(author)

    def forks_again(self, author: bytes, prev: Meta | None) -> bool:
        """True if more than one batch that we hold follows `prev` (None: begins the log)."""
        if prev is None:
            return len(self._begun.get(author, {}).get(1, ())) > 1
        return prev.seq + 1 in self._begun.get(prev.branch, {})

    def place(self, author: bytes, seq: int, prev: Meta | None) -> tuple[int, bool]:
        """Branch for a new batch and whether it forks the log. `prev` is its predecessor, None for a first batch."""
        if prev is None:
            forked = author in self._by_author
            return self.open_branch(author, None, 1), forked
        head = self.heads[prev.branch]
        if head is not None and head.hash == prev.hash:
            return prev.branch, False
        return self.open_branch(author, prev.branch, seq), True

    def extend(self, meta: Meta) -> None:
        """Make a batch the head of its branch."""
        self.heads[meta.branch] = meta

    def reach_of(self, dependencies: Iterable[Meta]) -> Reach:
        """Reach of a batch that has exactly these dependencies."""
        merged: Reach | None = None
        for meta in dependencies:
            closed = self._closed(meta)
            if merged is None or merged is closed:
                merged = closed
            else:
                merged = self._join(merged, closed)
        return merged if merged is not None else ()

    def intern(self, reach: Reach) -> Reach:
        """The one shared object for this reach: most batches share their neighbours'."""
        found = self._interned.get(reach)
        if found is not None:
            return found
        if len(self._interned) >= 65536:  # a bound on memory, not on correctness: equal tuples stay equal
            self._interned.clear()
        self._interned[reach] = reach
        return reach

    def precedes(self, mark: Meta, meta: Meta) -> bool:
        """True if the mark lies strictly in the past of the batch."""
        for branch, seq in meta.reach:
            if branch >= mark.branch:
                return branch == mark.branch and seq >= mark.seq
        return False

    def forks_before(self, meta: Meta) -> Iterator[Fork]:
        """Where the author's log forked at or before a batch, on the way to it."""
        last, below, current = meta.seq, None, meta.branch
        while True:
            branch = self.branches[current]
            for seq in self._fork_seqs.get(current, ()):
                if seq > last:
                    break
                begun = self._begun[current][seq]
                yield Fork(seq, below if below in begun else current, (current, *begun))
            if branch.parent is None:
                break
            last, below, current = branch.from_seq, current, branch.parent
        firsts = self._begun[branch.author][1]
        if len(firsts) > 1:
            yield Fork(1, current, firsts)

    def branch_at(self, branch: int, seq: int) -> int | None:
        """The branch that holds `seq` on the lineage that ends in `branch`; None before a second first batch."""
        current: int | None = branch
        while current is not None and self.branches[current].from_seq > seq:
            current = self.branches[current].parent
        return current

    def within(self, meta: Meta, cut: Meta | None) -> bool:
        """True if the batch is the cut or one of its predecessors in the same log. No cut keeps nothing."""
        return cut is not None and meta.seq <= cut.seq and self.branch_at(cut.branch, meta.seq) == meta.branch

    def _closed(self, meta: Meta) -> Reach:
        return self._join(meta.reach, ((meta.branch, meta.seq),)) if meta.mark else meta.reach

    def _join(self, left: Reach, right: Reach) -> Reach:
        merged = dict(left)
        for branch, seq in right:
            if merged.get(branch, 0) < seq:
                merged[branch] = seq
        return self.intern(tuple(sorted(merged.items())))
