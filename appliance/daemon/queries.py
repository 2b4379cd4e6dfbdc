"""Scratch until the replica's own queries land."""

from __future__ import annotations

import hashlib

import msgspec

from appliance.core.ids import NodeId
from appliance.replica.documents import NODES
from appliance.replica.reports import BatchView, ConflictView, EntryView, LogLine, Status
from appliance.replica.rows import TABLES, DocumentRow, FrozenRow, GrantRow, NodeRow, NoEffectRow
from appliance.replica.service import Replica


class Queries:
    def __init__(self, replica: Replica) -> None:
        self._r = replica

    async def status(self) -> Status:
        return await self._r.run(self._status)

    def _status(self, e):
        h = hashlib.sha256()
        for t in TABLES:
            for row in sorted(map(repr, e._view.dump(t))):
                h.update(row.encode())
        return Status(self._r.mesh, e._view.size(), len({b.author for b in e.ancestry.branches}), h.digest(), self._r.vector.digest(), len(e.parking), dict(e.refused), e._view.count(NoEffectRow), (), 0, 0, e.max_hlc)

    async def nodes(self):
        return await self._r.run(lambda e: list(e._view.rows(NodeRow)))

    async def grants(self):
        return await self._r.run(lambda e: list(e._view.rows(GrantRow)))

    async def tags(self):
        rows = await self._r.run(lambda e: list(e._view.rows(DocumentRow)))
        out = {}
        for r in rows:
            n, _, t = r.key.partition("/tag/")
            if t:
                out.setdefault(NodeId.parse(n).raw, []).append(t)
        return {k: tuple(sorted(v)) for k, v in out.items()}

    async def names(self):
        rows = await self._r.run(lambda e: list(e._view.rows(DocumentRow)))
        return {NodeId.parse(r.key[:-5]).raw: msgspec.json.decode(r.value) for r in rows if r.key.endswith("/name")}

    async def no_effect(self):
        return await self._r.run(lambda e: list(e._view.rows(NoEffectRow)))

    async def log(self, author, limit):
        def work(e):
            rows = e._view.from_position((0, b""), 100000)
            out = []
            for r in rows:
                s = e._read(r.arrival)
                if author is None or r.meta.author == author:
                    out.append(LogLine(r.arrival, r.meta.hash, r.meta.author, r.meta.seq, r.meta.hlc, tuple(k for k, _ in s.batch.entries), len(s.blob)))
            return out[::-1][:limit]
        return await self._r.run(work)

    async def conflicts(self):
        rows = await self._r.run(lambda e: list(e._view.rows(DocumentRow)))
        return [ConflictView("value", r.key, r.value, r.rivals, "later") for r in rows if r.rivals]
