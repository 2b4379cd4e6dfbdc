"""The index of the log inside the view database: where each batch stands, its branch, and what lies in its past.

Like the rows of the read model it can be made again from the log. Branch numbers and arrival numbers are this replica's
own and never leave it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

from appliance.replica.ancestry import Branch, Meta, Reach
from appliance.replica.stores import START, Indexed, Position, Value
from appliance.storage.migrations import storage_error

_PAIR = struct.Struct("<IQ")
INDEX_TABLES = ("batches", "branches", "late", "marks")


class IndexStore:
    """Rows of the index. Writes happen inside the view's transaction."""

    path: Path
    _db: apsw.Connection

    def index(self, rows: Iterable[Indexed]) -> None:
        """Add batches to the index."""
        self._db.executemany(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(a, m.hash, m.branch, m.seq, m.hlc, pack_reach(m.reach), int(m.mark)) for a, m in rows],
        )

    def add_branches(self, rows: Iterable[tuple[int, Branch]]) -> None:
        """Keep branches under their numbers."""
        self._db.executemany(
            "INSERT INTO branches VALUES (?, ?, ?, ?)", [(n, b.author, b.parent, b.from_seq) for n, b in rows]
        )

    def branches(self) -> list[Branch]:
        """All branches, by number."""
        query = "SELECT author, parent, from_seq FROM branches ORDER BY number"
        return [Branch(author=a, parent=p, from_seq=s) for a, p, s in self._rows(query)]

    def lookup(self, digest: bytes) -> Indexed | None:
        """The index row of a batch by its hash."""
        return next(self._select("WHERE batches.hash = ?", (digest,)), None)

    def between(self, low: bytes, high: bytes, limit: int) -> list[Indexed]:
        """Index rows whose hash lies between two, both included."""
        return list(self._select("WHERE batches.hash BETWEEN ? AND ? LIMIT ?", (low, high, limit)))

    def heads(self) -> Iterator[Indexed]:
        """The last batch of each branch."""
        return self._select(
            "WHERE batches.rowid IN (SELECT (SELECT b.rowid FROM batches b WHERE b.branch = branches.number "
            "ORDER BY b.seq DESC LIMIT 1) FROM branches)",
            (),
        )

    def add_marks(self, rows: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Keep (batch, entry, record) of authority entries; the batches are in the index already."""
        self._db.executemany("INSERT INTO marks SELECT arrival, ?2, ?3 FROM batches WHERE hash = ?1", rows)

    def marks(self) -> Iterator[tuple[Meta, int, bytes]]:
        """(batch, entry, record) of all authority entries, in order of arrival."""
        query = (
            "SELECT batches.arrival, hash, author, seq, hlc, branch, reach, mark, entry, record FROM marks "
            "JOIN batches ON batches.arrival = marks.arrival JOIN branches ON branches.number = batches.branch "
            "ORDER BY marks.arrival, entry"
        )
        last: Indexed | None = None
        for row in self._rows(query):
            if last is None or last.arrival != row[0]:
                last = _indexed(row[:-2])
            yield last.meta, row[-2], row[-1]

    def newest(self, author: bytes | None, before: int, limit: int) -> list[Indexed]:
        """Index rows that arrived before an arrival number, the last first; of one author or (None) of all."""
        if author is None:
            return list(self._select("WHERE arrival < ? ORDER BY arrival DESC LIMIT ?", (before, limit)))
        where = (
            "WHERE batches.branch IN (SELECT number FROM branches WHERE author = ?) AND arrival < ? "
            "ORDER BY arrival DESC LIMIT ?"
        )
        return list(self._select(where, (author, before, limit)))

    def from_position(self, position: Position, limit: int) -> list[Indexed]:
        """Index rows at or after a place in the fold, in its order."""
        return list(
            self._select("WHERE (batches.hlc, batches.hash) >= (?, ?) ORDER BY hlc, hash LIMIT ?", (*position, limit))
        )

    def first_position(self, author: bytes, seq: int, after: Position) -> Position | None:
        """Place of the author's first batch with at least this seq that lies after a place."""
        query = (
            "SELECT hlc, hash FROM batches WHERE branch IN (SELECT number FROM branches WHERE author = ?) AND seq >= ? "
            "AND (hlc, hash) > (?, ?) ORDER BY hlc, hash LIMIT 1"
        )
        return next(self._rows(query, (author, seq, *after)), None)

    def at_seq(self, author: bytes, seq: int) -> list[bytes]:
        """Hashes of the author's batches with this seq, sorted: more than one where its log forks."""
        query = (
            "SELECT hash FROM batches WHERE branch IN (SELECT number FROM branches WHERE author = ?) AND seq = ? "
            "ORDER BY hash"
        )
        return [digest for (digest,) in self._rows(query, (author, seq))]

    def batch_at(self, branch: int, seq: int) -> Meta | None:
        """The batch with this seq on a branch."""
        found = next(self._select("WHERE batches.branch = ? AND batches.seq = ?", (branch, seq)), None)
        return None if found is None else found.meta

    def last_position(self) -> Position:
        """Place of the last folded batch."""
        return next(self._rows("SELECT hlc, hash FROM batches ORDER BY hlc DESC, hash DESC LIMIT 1"), START)

    def last_arrival(self) -> int:
        """Arrival number up to which the log was folded."""
        return self._count("SELECT coalesce(max(arrival), 0) FROM batches")

    def late(self) -> list[tuple[bytes, bytes, int]]:
        """(batch, checkpoint batch, entry) for each batch that came too late for an epoch; more than one may say so."""
        return list(self._rows("SELECT hash, checkpoint, entry FROM late"))

    def add_late(self, rows: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Remember batches that came too late for an epoch."""
        self._db.executemany("INSERT INTO late VALUES (?, ?, ?)", rows)

    def size(self) -> int:
        """Number of indexed batches."""
        return self._count("SELECT count(*) FROM batches")

    def authors(self) -> int:
        """Number of authors."""
        return self._count("SELECT count(DISTINCT author) FROM branches")

    def dump_index(self) -> Iterator[tuple[Value, ...]]:
        """Every row of the index, in one order: equal for two views of one log."""
        for table in INDEX_TABLES:
            for row in self._rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3"):
                yield (table, *row)

    def _rows(self, query: str, bindings: Sequence[Value] = ()) -> Iterator[Any]:
        """Rows of a query, whose columns its caller knows; what SQLite reports is raised as coded."""
        try:
            yield from self._db.execute(query, bindings)
        except apsw.Error as err:
            raise storage_error(err, str(self.path)) from err

    def _count(self, query: str) -> int:
        return int(next(self._rows(query))[0])

    def _select(self, where: str, bindings: Sequence[Value]) -> Iterator[Indexed]:
        query = (
            "SELECT arrival, hash, author, seq, hlc, branch, reach, mark FROM batches "
            f"JOIN branches ON branches.number = batches.branch {where}"
        )
        for columns in self._rows(query, bindings):
            yield _indexed(columns)


def _indexed(columns: tuple[int, bytes, bytes, int, int, int, bytes, int]) -> Indexed:
    arrival, digest, author, seq, hlc, branch, reach, mark = columns
    return Indexed(arrival, Meta(digest, author, seq, hlc, branch, unpack_reach(reach), bool(mark)))


def pack_reach(reach: Reach) -> bytes:
    """Pairs (branch u32, seq u64), little-endian."""
    return struct.pack("<" + "IQ" * len(reach), *(number for pair in reach for number in pair))


def unpack_reach(blob: bytes) -> Reach:
    """The inverse of `pack_reach`."""
    return tuple(_PAIR.iter_unpack(blob))
