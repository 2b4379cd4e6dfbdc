"""The view database: index of the log and the read model folded from it, with an undo journal.

WAL with synchronous=NORMAL: after a power cut it may lack the newest batches, never be wrong, and is brought up to date
from the log. Every change to a folded row is journalled under the place of the batch that made it, so that an arrival in
the past takes back exactly what follows it: the journal is a snapshot at each batch. One writer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import msgspec

from appliance.replica.ancestry import Branch, Meta, Reach
from appliance.replica.rows import DERIVED, TABLES, Row
from appliance.replica.stores import START, Indexed, Position, Value
from appliance.storage.log import storage_error
from appliance.storage.migrations import VIEW, open_database


class _Table:
    """Statements for one row class, made once."""

    def __init__(self, row: type[Row]) -> None:
        fields = row.__struct_fields__
        columns = ", ".join(f'"{name}"' for name in fields)
        where = " AND ".join(f'"{name}" = ?' for name in fields[: row.KEY])
        self.row = row
        self.key = row.KEY
        self.select = f"SELECT {columns} FROM {row.TABLE} WHERE {where}"
        self.put = f"INSERT OR REPLACE INTO {row.TABLE} ({columns}) VALUES ({', '.join('?' * len(fields))})"
        self.delete = f"DELETE FROM {row.TABLE} WHERE {where}"
        self.dump = f"SELECT {columns} FROM {row.TABLE} ORDER BY {', '.join(str(n + 1) for n in range(row.KEY))}"
        self.tuples = [
            number for number, name in enumerate(fields) if name in {"roles", "scope", "endpoints", "rivals"}
        ]

    def values(self, row: Row) -> tuple[Value, ...]:
        values = list(msgspec.structs.astuple(row))
        for number in self.tuples:
            values[number] = msgspec.json.encode(values[number]).decode()
        return tuple(values)

    def record(self, values: Sequence[Value]) -> Row:
        fields: list[object] = list(values)
        for number in self.tuples:
            fields[number] = tuple(msgspec.json.decode(str(fields[number]), type=list[str]))
        return self.row(*fields)


_TABLES = {row.TABLE: _Table(row) for row in TABLES}


class ViewStore:
    """Index and rows. Writes happen inside `with view.transaction():`."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self.path = path
        self._db = open_database(str(path), VIEW, full=False, vfs=vfs)
        self._place: Position = START
        self._step = 0
        self._journal: list[tuple[int, bytes, int, str, bytes, bytes | None]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; a failure inside leaves the database as it was. What SQLite reports is raised as coded."""
        try:
            with self._db:
                yield
        except apsw.Error as err:
            raise storage_error(err, self.path) from err
        finally:
            self._journal = []

    # -- rows of the read model (the fold's State)

    def begin(self, position: Position) -> None:
        """Rows put from now on are journalled under this place."""
        self._place = position
        self._step = 0

    def get(self, row: type[Row], *key: Value) -> Row | None:
        """The row with this key."""
        table = _TABLES[row.TABLE]
        found = self._db.execute(table.select, key).fetchone()
        return None if found is None else table.record(found)

    def put(self, row: Row) -> None:
        """Insert or replace; what was there before is journalled."""
        table = _TABLES[row.TABLE]
        values = table.values(row)
        key = values[: table.key]
        self._record(row.TABLE, key, self._db.execute(table.select, key).fetchone())
        self._db.execute(table.put, values)

    def _record(self, table: str, key: Sequence[Value], old: Sequence[Value] | None) -> None:
        self._journal.append(
            (
                *self._place,
                self._step,
                table,
                msgspec.msgpack.encode(key),
                None if old is None else msgspec.msgpack.encode(old),
            )
        )
        self._step += 1

    def flush(self) -> None:
        """Write the journal of what was folded since the last flush; due before the transaction ends."""
        if self._journal:
            self._db.executemany("INSERT INTO undo VALUES (?, ?, ?, ?, ?, ?)", self._journal)
            self._journal = []

    def undo_from(self, position: Position) -> None:
        """Take back what batches at or after this place did to the rows."""
        self.flush()
        steps = self._db.execute(
            "SELECT tbl, key, old FROM undo WHERE (hlc, hash) >= (?, ?) ORDER BY hlc DESC, hash DESC, step DESC",
            position,
        ).fetchall()
        for name, key, old in steps:
            table = _TABLES[name]
            if old is None:
                self._db.execute(table.delete, msgspec.msgpack.decode(key))
            else:
                self._db.execute(table.put, msgspec.msgpack.decode(old))
        self._db.execute("DELETE FROM undo WHERE (hlc, hash) >= (?, ?)", position)

    def changes_from(self, position: Position) -> list[tuple[tuple[str, int], bytes]]:
        """((document, epoch), change) of those that took effect at or after a place, the last first."""
        query = (
            "SELECT document, epoch, change FROM document_changes WHERE (hlc, batch) >= (?, ?) "
            "ORDER BY hlc DESC, batch DESC, entry DESC"
        )
        return [((document, epoch), change) for document, epoch, change in self._db.execute(query, position)]

    def replace(self, row: type[Row], keys: Iterable[Sequence[Value]], rows: Iterable[Row]) -> None:
        """Set derived rows: those with these keys go, these come. Derived rows are not journalled."""
        if row not in DERIVED:
            raise TypeError(row.TABLE)
        table = _TABLES[row.TABLE]
        self._db.executemany(table.delete, [tuple(key) for key in keys])
        self._db.executemany(table.put, [table.values(item) for item in rows])

    def rows(self, row: type[Row]) -> Iterator[Row]:
        """All rows of a table in key order."""
        table = _TABLES[row.TABLE]
        for values in self._db.execute(table.dump):
            yield table.record(values)

    def dump(self, row: type[Row]) -> Iterator[tuple[Value, ...]]:
        """Raw column values of a table in key order: what two replicas compare."""
        return iter(self._db.execute(_TABLES[row.TABLE].dump))

    def count(self, row: type[Row]) -> int:
        """Number of rows of a table."""
        return int(self._db.execute(f"SELECT count(*) FROM {row.TABLE}").get)

    def clear(self) -> None:
        """Empty everything, before a rebuild."""
        for name in (*_TABLES, "undo", "batches", "branches", "late", "meta"):
            self._db.execute(f"DELETE FROM {name}")

    # -- index of the log

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
        return [Branch(author=a, parent=p, from_seq=s) for a, p, s in self._db.execute(query)]

    def lookup(self, digest: bytes) -> Indexed | None:
        """The index row of a batch by its hash."""
        return next(self._select("WHERE batches.hash = ?", (digest,)), None)

    def heads(self) -> Iterator[Indexed]:
        """The last batch of each branch."""
        return self._select(
            "WHERE batches.rowid IN (SELECT (SELECT b.rowid FROM batches b WHERE b.branch = branches.number "
            "ORDER BY b.seq DESC LIMIT 1) FROM branches)",
            (),
        )

    def marked(self) -> Iterator[Indexed]:
        """Batches with authority entries, in order of arrival."""
        return self._select("WHERE mark = 1 ORDER BY arrival", ())

    def from_position(self, position: Position, limit: int) -> list[Indexed]:
        """Index rows at or after a place in the fold, in its order."""
        return list(
            self._select("WHERE (batches.hlc, batches.hash) >= (?, ?) ORDER BY hlc, hash LIMIT ?", (*position, limit))
        )

    def first_position(self, author: bytes, seq: int, after: Position) -> Position | None:
        """Place of the author's first batch with at least this seq that lies after a place."""
        return self._db.execute(
            "SELECT hlc, hash FROM batches WHERE branch IN (SELECT number FROM branches WHERE author = ?) AND seq >= ? "
            "AND (hlc, hash) > (?, ?) ORDER BY hlc, hash LIMIT 1",
            (author, seq, *after),
        ).fetchone()

    def at_seq(self, author: bytes, seq: int) -> list[bytes]:
        """Hashes of the author's batches with this seq, sorted: more than one where its log forks."""
        query = (
            "SELECT hash FROM batches WHERE branch IN (SELECT number FROM branches WHERE author = ?) AND seq = ? "
            "ORDER BY hash"
        )
        return [digest for (digest,) in self._db.execute(query, (author, seq))]

    def last_position(self) -> Position:
        """Place of the last folded batch."""
        found: Position | None = self._db.execute(
            "SELECT hlc, hash FROM batches ORDER BY hlc DESC, hash DESC LIMIT 1"
        ).fetchone()
        return found or START

    def last_arrival(self) -> int:
        """Arrival number up to which the log was folded."""
        return int(self._db.execute("SELECT coalesce(max(arrival), 0) FROM batches").get)

    def late(self) -> list[tuple[bytes, bytes, int]]:
        """(batch, checkpoint batch, entry) for each batch that came too late for an epoch."""
        return list(self._db.execute("SELECT hash, checkpoint, entry FROM late"))

    def add_late(self, rows: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Remember batches that came too late for an epoch."""
        self._db.executemany("INSERT OR IGNORE INTO late VALUES (?, ?, ?)", rows)

    def size(self) -> int:
        """Number of indexed batches."""
        return int(self._db.execute("SELECT count(*) FROM batches").get)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _select(self, where: str, bindings: Sequence[Value]) -> Iterator[Indexed]:
        query = (
            "SELECT arrival, hash, author, seq, hlc, branch, reach, mark FROM batches "
            f"JOIN branches ON branches.number = batches.branch {where}"
        )
        for arrival, digest, author, seq, hlc, branch, reach, mark in self._db.execute(query, bindings):
            yield Indexed(
                arrival,
                Meta(
                    hash=digest,
                    author=author,
                    seq=seq,
                    hlc=hlc,
                    branch=branch,
                    reach=unpack_reach(reach),
                    mark=bool(mark),
                ),
            )


def pack_reach(reach: Reach) -> bytes:
    """Pairs (branch u32, seq u64), little-endian."""
    return struct.pack("<" + "IQ" * len(reach), *(number for pair in reach for number in pair))


def unpack_reach(blob: bytes) -> Reach:
    """The inverse of `pack_reach`."""
    flat = struct.unpack("<" + "IQ" * (len(blob) // 12), blob)
    return tuple(zip(flat[::2], flat[1::2], strict=True))
