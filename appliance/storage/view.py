"""The view database: index of the log and the read model folded from it, with an undo journal.

WAL with synchronous=NORMAL: after a power cut it may lack the newest batches, never be wrong, and is brought up to
date from the log. Every change to a folded row is journalled under the place of the batch that made it, so that an
arrival in the past takes back exactly what follows it: the journal is a snapshot at each batch. One writer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw
import msgspec

from appliance.replica.rows import DERIVED, LATEST, TABLES, ChangeRow, DocumentRow, NoEffectRow, Row
from appliance.replica.stores import START, Position, Value
from appliance.storage.index import IndexStore
from appliance.storage.migrations import VIEW, open_database, storage_error, transaction

R = TypeVar("R", bound=Row)
TUPLES = frozenset({"endpoints", "rivals", "roles", "scope", "tags", "uris"})  # columns that hold a JSON array


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
        self.all = f"SELECT {columns} FROM {row.TABLE}"
        self.dump = f"{self.all} ORDER BY {', '.join(str(n + 1) for n in range(row.KEY))}"
        self.tuples = [number for number, name in enumerate(fields) if name in TUPLES]

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


class ViewStore(IndexStore):
    """Index and rows. Writes happen inside `with view.transaction():`."""

    def __init__(self, path: Path, *, vfs: str | None = None, sole: bool = True) -> None:
        """`sole`: nobody else has it open, so what a crash has left of a scratch view goes."""
        self.path = path
        self._vfs = vfs
        self._adopted = 0
        self._scratches: set[int] = set()
        if sole:
            for left in path.parent.glob(f"{path.name}*.scratch*"):
                left.unlink()
        self._db = open_database(str(path), VIEW, full=False, vfs=vfs)
        self._place: Position = START
        self._step = 0
        self._past = False
        self._journal: list[tuple[int, bytes, int, str, bytes, bytes | None]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; a failure inside leaves the database as it was. What SQLite reports is raised as coded."""
        try:
            with transaction(self._db):
                yield
        except apsw.Error as err:
            raise storage_error(err, str(self.path)) from err
        finally:
            self._journal = []

    # -- rows of the read model (the fold's State)

    def begin(self, position: Position) -> None:
        """Rows put from now on are journalled under this place, which lies behind all others."""
        self._place = position
        self._step = 0
        self._past = False

    def begin_past(self, position: Position) -> None:
        """As `begin`, among others; of the rows put now, only those of LATEST may have been put again since."""
        self.begin(position)
        self._past = True

    def get(self, row: type[Row], *key: Value) -> Row | None:
        """The row with this key."""
        table = _TABLES[row.TABLE]
        found = next(self._rows(table.select, key), None)
        return None if found is None else table.record(found)

    def put(self, row: Row) -> None:
        """Insert or replace; what was there before is journalled."""
        table = _TABLES[row.TABLE]
        values = table.values(row)
        key = values[: table.key]
        if self._past and isinstance(row, LATEST) and self._put_below(row.TABLE, key, values):
            return
        self._record(row.TABLE, key, next(self._rows(table.select, key), None))
        self._db.execute(table.put, values)

    def _put_below(self, name: str, key: Sequence[Value], values: Sequence[Value]) -> bool:
        """Put a row where a later batch has replaced it already: into the journal of that batch. False if none has."""
        query = (
            f"SELECT hlc, hash, step, old FROM undo WHERE tbl = '{name}' AND key = ? AND (hlc, hash) > (?, ?) "
            "ORDER BY hlc, hash, step LIMIT 1"
        )
        later = next(self._rows(query, (msgspec.msgpack.encode(key), *self._place)), None)
        if later is None:
            return False
        *place, old = later
        self._record(name, key, None if old is None else msgspec.msgpack.decode(old))
        update = "UPDATE undo SET old = ? WHERE (hlc, hash, step) = (?, ?, ?)"
        self._db.execute(update, (msgspec.msgpack.encode(values), *place))
        return True

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
        query = "SELECT tbl, key, old FROM undo WHERE (hlc, hash) >= (?, ?) ORDER BY hlc DESC, hash DESC, step DESC"
        steps: list[tuple[str, bytes, bytes | None]] = list(self._rows(query, position))
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
        return [((document, epoch), change) for document, epoch, change in self._rows(query, position)]

    def changes_of(self, name: tuple[str, int]) -> list[ChangeRow]:
        """Changes of a document that have effect, in the order of the fold."""
        query = f"{_TABLES[ChangeRow.TABLE].all} WHERE document = ? AND epoch = ? ORDER BY hlc, batch, entry"
        return [ChangeRow(*values) for values in self._rows(query, name)]

    def values_of(self, name: tuple[str, int]) -> Iterator[tuple[str, str]]:
        """Keys of a document with their values as JSON text, in key order."""
        query = f"SELECT key, value FROM {DocumentRow.TABLE} WHERE document = ? AND epoch = ? ORDER BY key"
        return self._rows(query, name)

    def document_cache(self, name: tuple[str, int]) -> bytes | None:
        """A saved document; the caller checks whether it still fits."""
        query = "SELECT saved FROM document_caches WHERE document = ? AND epoch = ?"
        return next((saved for (saved,) in self._rows(query, name)), None)

    def keep_documents(self, caches: Iterable[tuple[tuple[str, int], bytes]]) -> None:
        """Save documents for the next start."""
        rows = [(document, epoch, saved) for (document, epoch), saved in caches]
        self._db.executemany("INSERT OR REPLACE INTO document_caches VALUES (?, ?, ?)", rows)

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
        for values in self._rows(table.dump):
            yield table.record(values)

    def select(self, row: type[R], column: str, value: Value) -> list[R]:
        """Rows of a table with this value in one of its columns, in key order."""
        table = _TABLES[row.TABLE]
        order = ", ".join(str(number + 1) for number in range(table.key))
        return [
            found
            for values in self._rows(f'{table.all} WHERE "{column}" = ? ORDER BY {order}', (value,))
            if isinstance(found := table.record(values), row)
        ]

    def dump(self, row: type[Row]) -> Iterator[tuple[Value, ...]]:
        """Raw column values of a table in key order: what two replicas compare."""
        return self._rows(_TABLES[row.TABLE].dump)

    def count(self, row: type[Row]) -> int:
        """Number of rows of a table."""
        return self._count(f"SELECT count(*) FROM {row.TABLE}")

    def without_effect(self, limit: int) -> list[NoEffectRow]:
        """Entries that are kept and have no effect, the last in the fold first."""
        query = f"{_TABLES[NoEffectRow.TABLE].all} ORDER BY hlc DESC, batch DESC, entry LIMIT ?"
        return [NoEffectRow(*values) for values in self._rows(query, (limit,))]

    def enrolled(self, token: bytes) -> int:
        """Number of nodes that enrolled with a token."""
        return int(next(self._rows("SELECT count(DISTINCT node) FROM enrolments WHERE token = ?", (token,)))[0])

    def contested(self) -> list[DocumentRow]:
        """Document keys whose value won over others, in key order."""
        table = _TABLES[DocumentRow.TABLE]
        query = f"{table.all} WHERE rivals != '[]' ORDER BY document, epoch, key"
        return [row for v in self._rows(query) if isinstance(row := table.record(v), DocumentRow)]

    def changes(self) -> tuple[int, int]:
        """Moves whenever something is written: what was computed from the rows holds while it stands still."""
        return (self._adopted, self._db.total_changes())

    def dump_all(self) -> Iterator[tuple[Value, ...]]:
        """Index, journal and every table of the read model, row by row: equal for two views of one log."""
        yield from self.dump_index()
        for row in self._rows("SELECT * FROM undo ORDER BY hlc, hash, step"):
            yield ("undo", *row)
        for name, table in _TABLES.items():
            for row in self._rows(table.dump):
                yield (name, *row)

    # -- other copies

    @contextmanager
    def scratch(self) -> Iterator[ViewStore]:
        """An empty view beside this one, gone at the end; what a crash leaves of it goes at the next start."""
        number = min(set(range(len(self._scratches) + 1)) - self._scratches)
        self._scratches.add(number)
        path = self.path.with_name(f"{self.path.name}{number or ''}.scratch")
        other = ViewStore(path, vfs=self._vfs)
        try:
            other._db.execute("PRAGMA synchronous=OFF")
            yield other
        finally:
            other.close()
            _discard(path)
            self._scratches.discard(number)

    @contextmanager
    def snapshot(self) -> Iterator[ViewStore]:
        """This view as it is now, for reading while it changes."""
        other = ViewStore(self.path, vfs=self._vfs, sole=False)
        try:
            other._db.execute("BEGIN")
            other.size()  # a read transaction begins with its first read
            yield other
        finally:
            other.close()

    def adopt(self, other: ViewStore) -> None:
        """Become a copy of another view, in one transaction: at no moment is there half of it."""
        try:
            with self._db.backup("main", other._db, "main") as copying:
                copying.step(-1)
            self._adopted += 1
        except apsw.Error as err:
            raise storage_error(err, str(self.path)) from err

    def close(self) -> None:
        """Close the database."""
        self._db.close()


def _discard(path: Path) -> None:
    """Remove a database that nobody has open, with its journals."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
