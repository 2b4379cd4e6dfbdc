"""The log database: every accepted batch, in order of arrival. It is the truth; all else is rebuilt from it.

WAL with synchronous=FULL: a batch is on the disk when `append` returns. One row a batch and no index beside the key, so
that a group of appends costs little more than its bytes. A batch that was moved to an archive loses its signature and
keeps its payload: what follows from it can always be worked out again here, but it can no longer be proved to others.
One writer; never called from the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw

from appliance.storage.migrations import LOG, open_database, storage_error, transaction

ARCHIVED = "archived"  # meta: the last epoch that was moved to an archive


class LogStore:
    """Append-only rows (arrival, hash, signed batch)."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self.path = path
        self._db = open_database(str(path), LOG, full=True, vfs=vfs)

    def append(self, batches: Sequence[tuple[bytes, bytes]]) -> int:
        """Store (hash, blob) pairs in one durable transaction; returns the arrival number of the last."""
        with self._coded(), transaction(self._db):
            self._db.executemany("INSERT INTO batches (hash, blob) VALUES (?, ?)", batches)
        return self._db.last_insert_rowid()

    def blob(self, arrival: int) -> bytes | None:
        """The signed bytes of one batch; None if they were moved to an archive."""
        with self._coded():
            row = self._db.execute("SELECT blob FROM batches WHERE arrival = ?", (arrival,)).get
        return row if isinstance(row, bytes) else None

    def payload(self, arrival: int) -> bytes | None:
        """What is left of a batch that was moved to an archive."""
        with self._coded():
            row = self._db.execute("SELECT payload FROM batches WHERE arrival = ?", (arrival,)).get
        return row if isinstance(row, bytes) else None

    def after(self, arrival: int, limit: int) -> list[tuple[int, bytes, bytes | None]]:
        """Up to `limit` rows (arrival, hash, blob) that arrived later."""
        query = "SELECT arrival, hash, blob FROM batches WHERE arrival > ? ORDER BY arrival LIMIT ?"
        with self._coded():
            return list(self._db.execute(query, (arrival, limit)))

    def last_arrival(self) -> int:
        """Arrival number of the newest batch; 0 in an empty log."""
        with self._coded():
            return int(self._db.execute("SELECT coalesce(max(arrival), 0) FROM batches").get)

    def prune(self, payloads: Sequence[tuple[int, bytes]], epoch: int) -> None:
        """Keep only (arrival, payload) of batches that the archive of this epoch now holds; durable.

        Rows are removed and put back, because SQLite never gives back the page of a row that merely became smaller.
        """
        find, remove = "SELECT hash FROM batches WHERE arrival = ?", "DELETE FROM batches WHERE arrival = ?"
        put = "INSERT INTO batches (arrival, hash, payload) VALUES (?, ?, ?)"
        with self._coded(), transaction(self._db):
            rows = [(number, self._db.execute(find, (number,)).get, payload) for number, payload in payloads]
            self._db.executemany(remove, [(number,) for number, _ in payloads])
            self._db.executemany(put, rows)
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (ARCHIVED, b"%d" % epoch))

    def archived_epoch(self) -> int:
        """The last epoch of which batches were moved to an archive; 0 before the first."""
        return int(self.get(ARCHIVED) or b"0")

    def signed_up_to(self, arrival: int) -> int:
        """How many batches up to an arrival number still have their signed bytes."""
        query = "SELECT count(*) FROM batches WHERE arrival <= ? AND blob IS NOT NULL"
        with self._coded():
            return int(self._db.execute(query, (arrival,)).get)

    def size_bytes(self) -> int:
        """Bytes that the log takes on the disk, without what a pruning has freed."""
        with self._coded():
            pages, free, size = (
                self._number(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size")
            )
        return (pages - free) * size

    def get(self, key: str) -> bytes | None:
        """A named value kept with the log (mesh, descriptor)."""
        with self._coded():
            found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes) -> None:
        """Keep a named value, durably."""
        with self._coded(), transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def check(self) -> list[str]:
        """SQLite's own integrity check; empty if all is well. Reads the whole file."""
        with self._coded():
            return [str(row[0]) for row in self._db.execute("PRAGMA integrity_check") if row[0] != "ok"]

    def close(self) -> None:
        """Close the database; the WAL is folded back."""
        self._db.close()

    def _number(self, query: str) -> int:
        return int(self._db.execute(query).get)

    @contextmanager
    def _coded(self) -> Iterator[None]:
        """What SQLite reports is raised as a coded error."""
        try:
            yield
        except apsw.Error as err:
            raise storage_error(err, str(self.path)) from err
