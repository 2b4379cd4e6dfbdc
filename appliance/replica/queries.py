"""Queries: what people and programs ask of a replica. They read and never write.

The functions take an engine and run on the writer's thread, where no fold is half done; `Queries` brings them there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from appliance.core.errors import ERRORS, X0tError, error
from appliance.core.ids import BatchHash, NodeId, TokenId
from appliance.replica.batch import short
from appliance.replica.change_codec import Change, decode_change
from appliance.replica.document_kinds import Name
from appliance.replica.engine import Engine
from appliance.replica.entries import ChangeEntry, parse
from appliance.replica.entry_text import entry_json
from appliance.replica.fold import REASONS
from appliance.replica.history import DocumentChange, History
from appliance.replica.membership import admission_rows, members, names, network, nodes
from appliance.replica.reports import BatchView, ConflictView, EntryView, LogLine, NetworkView, NodeView, Status
from appliance.replica.rows import (
    TABLES,
    ChangeRow,
    FrozenRow,
    GrantRow,
    IdleRow,
    NodeRow,
    NoEffectRow,
    RevocationRow,
    ThawRow,
)
from appliance.replica.service import Replica
from appliance.replica.stores import Indexed, View
from appliance.replica.token_settlement import SPENT

LIMIT = 1_000  # rows of one answer where the caller names no limit
NEWEST = 1 << 62  # above any arrival number
_HEX_MIN = 4  # digits of a hash prefix
_TEXT_DIGITS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"  # BIP-173, "Bech32"
_HASH_BITS = 256

VALUE_REASON = "written concurrently: the greater counter wins, then the greater actor; set the key again to settle it"
FORK_REASON = (
    "two different batches with the number {seq}: the author is frozen from there on until an owner decides with a thaw"
)
OWN_FORK_REASON = (
    "this node's own log has two different batches with the number {seq}. A restored backup or a cloned disk looks "
    "like this: stop the other copy, then an owner decides with a thaw which branch counts"
)


def state_digest(view: View) -> bytes:
    """SHA-256 over the read model: for each table in order and each row by key, MessagePack of [table, *columns].

    Equal on replicas that hold the same batches. Streams: memory does not grow with the rows.
    """
    digest = hashlib.sha256()
    encoder = msgspec.msgpack.Encoder()
    for row in TABLES:
        for values in view.dump(row):
            digest.update(encoder.encode((row.TABLE, *values)))
    return digest.digest()


def log(engine: Engine, author: bytes | None, before: int, limit: int) -> list[LogLine]:
    """Batches that arrived before an arrival number, the last first; of one author, or (None) of all."""
    return [_line(engine, indexed)[0] for indexed in engine.view.newest(author, before, limit)]


def show(engine: Engine, name: bytes | str) -> BatchView | None:
    """The batch with this hash, or whose text or hex form begins like this; None if there is none.

    Raises `replica.ambiguous` if several begin so, `id.text` if no hash can.
    """
    low, high = (name, name) if isinstance(name, bytes) else hash_range(name)
    found = engine.view.between(low, high, 2)
    if len(found) > 1:
        raise error("replica.ambiguous", text=name)
    return _whole(engine, found[0]) if found else None


def hash_range(text: str) -> tuple[bytes, bytes]:
    """The least and the greatest hash whose text (bech32m) or hex form begins so. Raises `id.text`."""
    try:
        whole = BatchHash.parse(text).raw
        return whole, whole
    except X0tError:
        pass
    prefix, digits, size = f"{BatchHash.HRP}1", text.lower(), 4
    if digits.startswith(prefix):
        digits, size = digits[len(prefix) :], 5
    known = _TEXT_DIGITS if size == 5 else "0123456789abcdef"
    bits = len(digits) * size
    if len(digits) < _HEX_MIN or bits > _HASH_BITS or any(digit not in known for digit in digits):
        raise error("id.text", text=text, reason="it is no batch identifier, nor the beginning of one")
    number = 0
    for digit in digits:
        number = number << size | known.index(digit)
    left = _HASH_BITS - bits
    low = number << left
    return low.to_bytes(32, "big"), (low | (1 << left) - 1).to_bytes(32, "big")


def no_effect(engine: Engine, limit: int) -> list[NoEffectRow]:
    """Entries that are kept and have no effect, the last in the fold first."""
    idle = (
        NoEffectRow(row.batch, row.entry, row.author, row.seq, row.hlc, row.kind, row.reason)
        for row in engine.view.rows(IdleRow)
        if isinstance(row, IdleRow)
    )
    found = [*engine.view.without_effect(limit), *idle]
    return sorted(found, key=lambda row: (row.hlc, row.batch, -row.entry), reverse=True)[:limit]


def grants(engine: Engine, now_ms: int) -> list[GrantRow]:
    """All published grants; `reason` says why one gives nothing now."""
    marks = {(mark.meta.hash, mark.index): mark for held in engine.authority.grants.values() for mark in held}
    found: list[GrantRow] = []
    for row in engine.view.rows(GrantRow):
        assert isinstance(row, GrantRow)
        mark = marks.get((row.batch, row.entry))
        if not row.reason and mark is not None and not engine.authority.gives(mark, now_ms):
            reason = "revoked" if row.not_before_ms <= now_ms <= row.not_after_ms else "expired"
            row = msgspec.structs.replace(row, reason=reason)
        found.append(row)
    return found


def read_change(engine: Engine, row: ChangeRow) -> tuple[bytes, Change]:
    """Author and change of a row, out of the log. Raises `replica.corrupt` where the view does not fit the log."""
    indexed = engine.view.lookup(row.batch)
    body = None if indexed is None else parse(*engine.read(indexed.arrival).batch.entries[row.entry])
    if indexed is None or not isinstance(body, ChangeEntry):
        raise error("replica.corrupt", what="view", reason=f"a change of batch {short(row.batch)} is not in the log")
    return indexed.meta.author, decode_change(body.chunk, engine.limits)


def conflicts(engine: Engine, own: bytes) -> list[ConflictView]:
    """What does not agree: document keys with rivals, forked logs, revocations that lost, tokens that were overdrawn.

    `own`: this node's id.
    """
    view = engine.view
    values = [
        ConflictView("value", f"{row.document} {row.key}", row.value, row.rivals, VALUE_REASON)
        for row in view.contested()
    ]
    forks = [_fork(row, engine, own) for row in view.rows(FrozenRow) if isinstance(row, FrozenRow)]
    lost = [_lost(row, engine) for row in view.rows(RevocationRow) if isinstance(row, RevocationRow) and row.reason]
    return [*values, *forks, *lost, *_overdrawn(engine)]


def _overdrawn(engine: Engine) -> Iterator[ConflictView]:
    """Nodes that are held back because others had used their token up, mostly on another island."""
    for row in admission_rows(engine).values():
        if row.reason == SPENT and row.token is not None and row.winner is not None:
            yield ConflictView(
                kind="token",
                subject=str(TokenId(row.token)),
                winner=str(NodeId(row.winner)),
                losers=(str(NodeId(row.node)),),
                reason=ERRORS[SPENT].message,
            )


def _fork(row: FrozenRow, engine: Engine, own: bytes) -> ConflictView:
    thaws = [
        thaw
        for thaw in engine.view.rows(ThawRow)
        if isinstance(thaw, ThawRow) and thaw.author == row.author and not thaw.reason
    ]
    kept = tuple(sorted(str(BatchHash(thaw.keep)) for thaw in thaws)) if row.decided else ()
    reason = (OWN_FORK_REASON if row.author == own else FORK_REASON).format(seq=row.seq)
    return ConflictView(
        kind="fork",
        subject=str(NodeId(row.author)),
        winner=", ".join(kept),
        losers=(str(BatchHash(row.proof_a)), str(BatchHash(row.proof_b))),
        reason="an owner decided: the branch that holds the winner counts again" if kept else reason,
    )


def _lost(row: RevocationRow, engine: Engine) -> ConflictView:
    """A revocation without effect. What stands against it is what revoked its author, if anything did."""
    against = [
        str(BatchHash(other.batch))
        for other in engine.view.rows(RevocationRow)
        if isinstance(other, RevocationRow) and other.target == row.author and not other.reason
    ]
    return ConflictView(
        kind="revocation",
        subject=str(NodeId(row.target)),
        winner=", ".join(against),
        losers=(str(BatchHash(row.batch)),),
        reason=REASONS.get(row.reason, row.reason),
    )


def _line(engine: Engine, indexed: Indexed) -> tuple[LogLine, BatchView]:
    arrival, meta = indexed
    signed = engine.read(arrival)
    line = LogLine(
        arrival=arrival,
        hash=meta.hash,
        author=meta.author,
        seq=meta.seq,
        hlc=meta.hlc,
        kinds=tuple(kind for kind, _ in signed.batch.entries),
        bytes=len(signed.blob or signed.payload),
    )
    return line, BatchView(line, signed.batch.prev, signed.batch.parents, ())


def _whole(engine: Engine, indexed: Indexed) -> BatchView:
    _, view = _line(engine, indexed)
    entries = engine.read(indexed.arrival).batch.entries
    places = [(indexed.meta.hash, index) for index in range(len(entries))]
    rows = [engine.view.get(NoEffectRow, *place) or engine.view.get(IdleRow, *place) for place in places]
    shown = tuple(
        EntryView(index, kind, entry_json(kind, body), row.reason if isinstance(row, NoEffectRow | IdleRow) else None)
        for index, ((kind, body), row) in enumerate(zip(entries, rows, strict=True))
    )
    return msgspec.structs.replace(view, entries=shown)


class Queries:
    """The queries of one replica, awaited on the event loop."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._digest: tuple[tuple[int, int], bytes] | None = None
        self._histories: dict[Name, tuple[tuple[int, int], History]] = {}

    async def status(self) -> Status:
        """The replica as a whole."""
        vector = self._replica.vector.digest()
        return await self._replica.run(lambda engine: self._status(engine, vector))

    async def log(self, author: bytes | None, limit: int, before: int = NEWEST) -> list[LogLine]:
        """Batches, newest first; go on with the arrival number of the last as `before`."""
        return await self._replica.run(lambda engine: log(engine, author, before, limit))

    async def show(self, name: bytes | str) -> BatchView | None:
        """One batch, by its hash or by the beginning of its text."""
        return await self._replica.run(lambda engine: show(engine, name))

    async def no_effect(self, limit: int = LIMIT) -> list[NoEffectRow]:
        """Entries that are kept and have no effect, newest first."""
        return await self._replica.run(lambda engine: no_effect(engine, limit))

    async def conflicts(self) -> list[ConflictView]:
        """What people should look at."""
        return await self._replica.run(lambda engine: conflicts(engine, self._replica.node))

    async def grants(self) -> list[GrantRow]:
        """All grants, in force or not."""
        return await self._replica.run(lambda engine: grants(engine, self._replica.now_ms()))

    async def nodes(self) -> list[NodeRow]:
        """What members said of themselves."""
        return await self._replica.run(nodes)

    async def members(self) -> list[NodeView]:
        """Every node that the mesh knows, with its roles in force."""
        return await self._replica.run(lambda engine: members(engine, self._replica.now_ms()))

    async def names(self) -> dict[bytes, str]:
        """Names that an admin gave, by node."""
        return await self._replica.run(names)

    async def network(self) -> NetworkView:
        """Members, attachments and the secret in force."""
        return await self._replica.run(lambda engine: network(engine, self._replica.now_ms()))

    async def history(self, name: Name, after: int = 0) -> tuple[DocumentChange, ...]:
        """What each change of a document with effect did, in fold order, without the first `after`.

        The same tuple while nothing changes. An arrival from the past may change what was given before.
        """
        changes = await self._replica.run(lambda engine: self._history(engine, name))
        return changes[after:]

    def _history(self, engine: Engine, name: Name) -> tuple[DocumentChange, ...]:
        seen, history = self._histories.get(name, (None, History()))
        now = engine.view.changes()
        if seen != now:
            history.follow(engine.view.changes_of(name), lambda row: read_change(engine, row))
            self._histories[name] = (now, history)
        return history.changes

    def _status(self, engine: Engine, vector: bytes) -> Status:
        view, authority = engine.view, engine.authority
        return Status(
            mesh=engine.identity.mesh,
            batches=view.size(),
            authors=view.authors(),
            digest=self._state(view),
            vector=vector,
            parked=len(engine.parking),
            refused=dict(sorted(engine.refused.items())),
            no_effect=view.count(NoEffectRow) + view.count(IdleRow),
            frozen=tuple(author for author in authority.forked_authors() if authority.is_frozen(author)),
            epoch=engine.authority.epoch(),
            log_bytes=engine.log.size_bytes(),
            max_hlc=engine.max_hlc,
        )

    def _state(self, view: View) -> bytes:
        """The digest, computed again only after something was written."""
        if self._digest is None or self._digest[0] != view.changes():
            self._digest = (view.changes(), state_digest(view))
        return self._digest[1]
