"""Intake: decides whether a batch enters the log, from the batch and its causal past alone.

Every replica therefore accepts the same batches, in whatever order they come. Two judgements are passing ones and are
not remembered: a clock too far ahead of ours, and a dependency that has not arrived. Intake never judges effect, and
it never writes: the caller makes the batches durable and then lets the fold see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from appliance.core.clock import hlc_ms
from appliance.core.errors import X0tError, error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.ancestry import Ancestry, Branch, Meta
from appliance.replica.authority import Authority
from appliance.replica.batch import Batch, SignedBatch, short
from appliance.replica.entries import AUTHORITY_KINDS, AuthorityBody, RevokeEntry, ThawEntry, parse
from appliance.replica.marking import Marker

RECENT_METAS = 8192  # metas kept in memory; heads of 10,000 authors live in Ancestry and are looked up there first

Marks = Sequence[tuple[int, AuthorityBody]]


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """A batch that passed, with what the replica keeps of it."""

    signed: SignedBatch
    meta: Meta
    forked: bool


class Missing(msgspec.Struct, frozen=True, gc=False):
    """A batch that must wait for these."""

    signed: SignedBatch
    hashes: tuple[bytes, ...]


class Intake:
    """Admission to the log. `find(hash)` is the index on disk, for what is no longer in memory."""

    def __init__(
        self,
        mesh: bytes,
        authority: Authority,
        marker: Marker,
        find: Callable[[bytes], Meta | None],
        limits: Limits = LIMITS,
    ) -> None:
        self.mesh = mesh
        self.authority = authority
        self.ancestry: Ancestry = authority.ancestry
        self.limits = limits
        self.new_branches: list[tuple[int, Branch]] = []
        self._marker = marker
        self._find = find
        self._recent: dict[bytes, Meta] = {}

    def lookup(self, digest: bytes) -> Meta | None:
        """What is kept of a batch that is in the log."""
        return self._recent.get(digest) or self._find(digest)

    def known(self, signed: SignedBatch) -> bool:
        """True if the batch is in the log already."""
        branches = self.ancestry.branches_of(signed.batch.author)
        head = self.ancestry.head(signed.batch.author)
        if not branches or (len(branches) == 1 and head is not None and head.seq < signed.batch.seq):
            return False
        return self.lookup(signed.hash) is not None

    def admit(
        self, signed: SignedBatch, now_ms: int | None, *, wanted: bool = False, verified: bool = True
    ) -> Admitted | Missing | None:
        """None: known already. Raises `batch.*` for a batch that no replica accepts, or (passing) `batch.clock_ahead`.

        `now_ms` None skips the clock check: for batches that this replica accepted before. `wanted`: others wait for
        it, so the bound on a frozen author's branches does not hold it back. A batch that could not be `verified`,
        because no grant names its author's key, may wait but never enters.
        """
        batch = signed.batch
        if batch.mesh != self.mesh:
            raise error("batch.mesh", batch=short(signed.hash))
        if self.known(signed):
            return None
        if now_ms is not None and hlc_ms(batch.hlc) > now_ms + self.limits.clock_ahead_ms:
            ahead_s = (hlc_ms(batch.hlc) - now_ms) // 1000
            raise error("batch.clock_ahead", batch=short(signed.hash), ahead=f"{ahead_s} s")
        marks = authority_entries(batch, self.limits)
        named = (*batch.parents, *references(marks))
        dependencies = [] if batch.prev is None else [self._predecessor(batch.author, batch.prev)]
        dependencies.extend(self.lookup(digest) for digest in named)
        found = [meta for meta in dependencies if meta is not None]
        if len(found) < len(dependencies):
            named = named if batch.prev is None else (batch.prev, *named)
            absent = {digest for digest, meta in zip(named, dependencies, strict=True) if meta is None}
            return Missing(signed, tuple(sorted(absent)))
        if not verified:
            raise error("batch.author", author=short(batch.author))
        if not wanted:
            self._check_branches(signed, found[0] if batch.prev is not None else None)
        return self._enter(signed, found, marks)

    def author_key(self, batch: Batch) -> bytes | None:
        """The public key that must have signed: from a grant in the log, or from the batch's own opening grant."""
        key = self.authority.key_of(batch.author)
        if key is not None or batch.prev is not None:
            return key
        probe = Meta(hash=b"", author=batch.author, seq=1, hlc=batch.hlc, branch=-1, reach=(), mark=True)
        opening = self._marker.opening(probe, authority_entries(batch, self.limits))
        return opening[0].subject_key if opening else None

    def _enter(self, signed: SignedBatch, dependencies: list[Meta], marks: Marks) -> Admitted:
        batch = signed.batch
        prev = dependencies[0] if batch.prev is not None else None
        self._check_chain(signed, prev, dependencies)
        reach = self.ancestry.reach_of(dependencies)
        meta = Meta(
            hash=signed.hash,
            author=batch.author,
            seq=batch.seq,
            hlc=batch.hlc,
            branch=-1,
            reach=reach,
            mark=bool(marks),
        )
        quota = self.limits.author_batches
        if batch.seq > quota and batch.seq > quota * (1 + self.authority.epochs_before(meta)):
            raise error("batch.quota", author=short(batch.author))
        opening = self._marker.opening(meta, marks) if prev is None else []
        if prev is None and not (self.authority.may_write(meta) or opening):
            raise error("batch.author", author=short(batch.author))
        again = self.ancestry.forks_again(batch.author, prev) or (prev is not None and self.authority.is_stuck(prev))
        branch, forked = self.ancestry.place(batch.author, batch.seq, prev)
        if branch == len(self.ancestry.branches) - 1 and self.ancestry.heads[branch] is None:
            self.new_branches.append((branch, self.ancestry.branches[branch]))
        meta = msgspec.structs.replace(meta, branch=branch)
        self.ancestry.extend(meta)
        self._remember(meta)
        if forked and not again:  # else what it rivals has no effect anyway
            self.authority.fork(batch.author, batch.seq)
        for mark in self._marker.marks(meta, marks, self.lookup):
            self.authority.add(mark)
        return Admitted(signed, meta, forked)

    def _check_chain(self, signed: SignedBatch, prev: Meta | None, dependencies: list[Meta]) -> None:
        batch = signed.batch
        if prev is not None and prev.author != batch.author:
            raise error("batch.chain", batch=short(signed.hash))
        if prev is not None and prev.seq != batch.seq - 1:
            raise error("batch.seq", batch=short(signed.hash), seq=batch.seq)
        if any(meta.hlc >= batch.hlc for meta in dependencies):
            raise error("batch.clock_behind", batch=short(signed.hash))

    def _check_branches(self, signed: SignedBatch, prev: Meta | None) -> None:
        """Beyond the bound, a log adds no branch that proves nothing new and can have no effect."""
        author = signed.batch.author
        if len(self.ancestry.branches_of(author)) < self.limits.branches_per_author:
            return
        if prev is not None and self.ancestry.heads[prev.branch] is prev:
            return  # it goes on where a branch ends
        if self.ancestry.forks_again(author, prev) or (prev is not None and self.authority.is_stuck(prev)):
            raise error("replica.frozen", author=short(author))

    def _predecessor(self, author: bytes, prev: bytes) -> Meta | None:
        head = self.ancestry.head(author)
        return head if head is not None and head.hash == prev else self.lookup(prev)

    def _remember(self, meta: Meta) -> None:
        self._recent[meta.hash] = meta
        if len(self._recent) > RECENT_METAS:
            del self._recent[next(iter(self._recent))]


def authority_entries(batch: Batch, limits: Limits) -> Marks:
    """The entries that may give or take authority, with their index; a malformed one is none."""
    found: list[tuple[int, AuthorityBody]] = []
    for index, (kind, body) in enumerate(batch.entries):
        if kind in AUTHORITY_KINDS:
            try:
                found.append((index, parse(kind, body, limits)))  # type: ignore[arg-type]  # AUTHORITY_KINDS narrows it
            except X0tError:
                continue
    return found


def dependencies(batch: Batch, limits: Limits = LIMITS) -> tuple[bytes, ...]:
    """All that lies in a batch's past directly: its predecessor, its parents, and what its authority entries name."""
    return (*batch.dependencies(), *references(authority_entries(batch, limits)))


def references(marks: Marks) -> tuple[bytes, ...]:
    """Batches that authority entries name: they count as dependencies, so a cut is always in its revocation's past."""
    named: list[bytes] = []
    for _, body in marks:
        if isinstance(body, RevokeEntry) and body.cut_head is not None:
            named.append(body.cut_head)
        elif isinstance(body, ThawEntry):
            named.append(body.keep)
    return tuple(named)
