"""Authoring: what this node's next batch follows, and the moment that it bears.

A batch of ours follows its predecessor and the tips: batches that nothing follows yet. It names at most as many parents
as the limit allows, those that give or take authority first; what is left out is followed by later batches. A frozen
author's batches are not built upon.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from appliance.core.clock import hlc_next
from appliance.core.errors import error
from appliance.core.limits import LIMITS, Limits
from appliance.replica.ancestry import Meta
from appliance.replica.authority import Authority
from appliance.replica.batch import VERSION, Batch, Entry, short


class Identity(msgspec.Struct, frozen=True):
    """Which mesh this is, and who vouches for it."""

    mesh: bytes
    authority_key: bytes
    channel: str = "control"


class Authoring:
    """Tips and clock of one channel. After a start every head counts as a tip, which costs some parents and no more."""

    def __init__(self, identity: Identity, authority: Authority, limits: Limits = LIMITS) -> None:
        self._identity = identity
        self._authority = authority
        self._limits = limits
        self._tips: dict[bytes, Meta] = {}
        self.clock = 0  # the greatest reading that was seen

    def note(self, meta: Meta, follows: Iterable[bytes]) -> None:
        """A batch entered the log, after these."""
        for digest in follows:
            self._tips.pop(digest, None)
        self._tips[meta.hash] = meta
        self.clock = max(self.clock, meta.hlc)

    def draft(self, author: bytes, entries: Sequence[Entry], now_ms: int) -> Batch:
        """The author's next batch, unsigned. Raises `replica.frozen` if its log is forked and undecided."""
        if self._authority.is_frozen(author):
            raise error("replica.frozen", author=short(author), seq=self._authority.fork_seq(author))
        head = self._authority.live_head(author)
        prev = head.hash if head is not None else None
        return Batch(
            version=VERSION,
            mesh=self._identity.mesh,
            channel=self._identity.channel,
            author=author,
            seq=head.seq + 1 if head is not None else 1,
            prev=prev,
            parents=self._parents(prev),
            hlc=hlc_next(self.clock, now_ms),
            entries=tuple(entries),
        )

    def _parents(self, prev: bytes | None) -> tuple[bytes, ...]:
        frozen = {author for author in self._authority.forked_authors() if self._authority.is_frozen(author)}
        tips = [meta for meta in self._tips.values() if meta.hash != prev and meta.author not in frozen]
        tips.sort(key=lambda meta: (meta.mark, meta.hlc, meta.hash), reverse=True)
        return tuple(sorted(meta.hash for meta in tips[: self._limits.batch_parents]))
